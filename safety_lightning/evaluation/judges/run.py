"""Has answers judged: each once, what is known from the cache, the rest by the judge, kept in SQLite as it comes."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from safety_lightning.errors import UserError
from safety_lightning.evaluation.judges.protocol import DEFAULT_SCALE, Judge, Judgement, JudgeRequest, Scale
from safety_lightning.system.disks import explain_full_disk

if TYPE_CHECKING:
    from tqdm import tqdm

_TABLE = """
CREATE TABLE IF NOT EXISTS judgements (
    key TEXT PRIMARY KEY,
    score REAL NOT NULL,
    reason TEXT NOT NULL,
    judge TEXT NOT NULL,
    model TEXT NOT NULL,
    rubric_hash TEXT NOT NULL,
    settings TEXT NOT NULL,
    judged_at TEXT NOT NULL
) WITHOUT ROWID
"""
_WAIT_SECONDS = 60.0  # for another process's write, which takes milliseconds


def judge_answers(
    judge: Judge, requests: Sequence[JudgeRequest], *, cache: JudgementCache | None = None, progress: bool = True
) -> list[Judgement]:
    """Judges answers, asking the judge only for those that the cache does not know.

    Requests that are the same in prompt and answer are asked once. A score goes into the cache as soon as it comes, so
    that a killed run asks for no stored score again; only requests that were in flight, or whose score was not stored
    yet, can repeat. What stays unjudged is never stored and is asked again in the next run.

    Args:
        judge: The judge.
        requests: The answers with their prompts.
        cache: Where scores are kept; None keeps none.
        progress: Whether a progress bar is shown.

    Returns:
        One judgement a request, in their order.

    Raises:
        UserError: If nothing can be judged; see `Judge.judge`.
        RuntimeError: If the judge left an index out, gave one twice or gave one that there is not.
    """
    from tqdm import tqdm

    places: dict[JudgeRequest, list[int]] = {}
    for index, request in enumerate(requests):
        places.setdefault(request, []).append(index)
    known = {} if cache is None else _look_up(judge, list(places), cache)
    waiting = [request for request in places if request not in known]
    with tqdm(
        total=len(places), initial=len(known), desc=f"Judging ({judge.name})", unit="answer", disable=not progress
    ) as bar:
        known |= _ask(judge, waiting, cache, bar)
    judgements = {index: known[request] for request, indices in places.items() for index in indices}
    return [judgements[index] for index in range(len(requests))]


def is_known(judge: Judge, requests: Sequence[JudgeRequest], cache: JudgementCache) -> bool:
    """Says whether the cache has a score for every answer, so that the judge would not be asked."""
    return all(cache.get(make_key(judge, request), scale=judge.scale) is not None for request in requests)


def _look_up(judge: Judge, requests: Sequence[JudgeRequest], cache: JudgementCache) -> dict[JudgeRequest, Judgement]:
    found = {request: cache.get(make_key(judge, request), scale=judge.scale) for request in requests}
    return {request: judgement for request, judgement in found.items() if judgement is not None}


def _ask(
    judge: Judge, requests: Sequence[JudgeRequest], cache: JudgementCache | None, bar: tqdm
) -> dict[JudgeRequest, Judgement]:
    judged: dict[JudgeRequest, Judgement] = {}
    for index, judgement in judge.judge(requests) if requests else ():
        if not 0 <= index < len(requests) or requests[index] in judged:
            raise RuntimeError(f"judge {judge.name} must give each index once, got {index} again or out of range")
        if judgement.score is not None and judgement.scale != judge.scale:
            raise RuntimeError(f"judge {judge.name} must score on its scale {judge.scale}, got {judgement.scale}")
        request = requests[index]
        if cache is not None and judgement.score is not None:
            judgement = cache.put(make_key(judge, request), judge, judgement)
        judged[request] = judgement
        bar.update()
    if len(judged) != len(requests):
        raise RuntimeError(f"judge {judge.name} must judge {len(requests)} requests, got {len(judged)}")
    return judged


class JudgementCache:
    """Scores on disk, by the hash of everything that determines them.

    Prompts and answers are not stored, only their hash. Several processes can share a file: the first score of a key
    stands. A process that is killed leaves a sound file with every score that it had put.

    Args:
        file: The database; made, with its folder, if it does not exist.

    Raises:
        UserError: If the file is no such database, or cannot be written.
    """

    def __init__(self, file: Path | str) -> None:
        self.file = Path(file).expanduser()
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.file, timeout=_WAIT_SECONDS, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode=WAL")  # readers wait for no writer, a kill leaves no half row
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute(_TABLE)
            self._connection.execute("SELECT key, score, reason, judge, model FROM judgements LIMIT 0")
        except (OSError, sqlite3.Error) as error:
            raise UserError(f"cache must be a writable database of judgements, got {self.file}: {error}") from error

    def get(self, key: str, *, scale: Scale = DEFAULT_SCALE) -> Judgement | None:
        """Returns the score of a key with its reason, None if there is none yet; the key's judge says the scale."""
        row = self._connection.execute("SELECT score, reason FROM judgements WHERE key = ?", (key,)).fetchone()
        return None if row is None else Judgement(score=row[0], unjudged=None, reason=row[1], scale=scale)

    def put(self, key: str, judge: Judge, judgement: Judgement) -> Judgement:
        """Stores a score, unless another process has stored one before; on disk when it returns.

        Returns:
            The score that stands.

        Raises:
            UserError: If there is no score: what is unjudged is never stored.
        """
        if judgement.score is None:
            raise UserError(f"only scores are stored, got an unjudged answer ({judgement.unjudged})")
        reason = judgement.reason.encode("utf-8", "replace").decode()  # SQLite takes no lone surrogates
        row = (
            key,
            judgement.score,
            reason,
            judge.name,
            judge.model,
            judge.rubric_hash,
            _write_json(dict(judge.settings)),
            datetime.now(UTC).isoformat(timespec="seconds"),
        )
        with explain_full_disk(self.file):
            self._connection.execute("INSERT OR IGNORE INTO judgements VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        standing = self.get(key, scale=judgement.scale)
        assert standing is not None
        return standing

    def __len__(self) -> int:
        return int(self._connection.execute("SELECT COUNT(*) FROM judgements").fetchone()[0])

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def __enter__(self) -> JudgementCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_cache(judges: Sequence[Judge], file: Path | str | None) -> AbstractContextManager[JudgementCache | None]:
    """Opens the cache of judgements where one of the judges costs something, or where a file is named; else none."""
    if file is None and not any(judge.is_costly for judge in judges):
        return nullcontext()
    return JudgementCache(file or find_cache_file())


def find_cache_file() -> Path:
    """Returns ``judgements.sqlite`` in ``SAFETY_LIGHTNING_CACHE``, or in ``~/.cache/safety_lightning`` without it."""
    root = os.environ.get("SAFETY_LIGHTNING_CACHE") or "~/.cache/safety_lightning"
    return Path(root).expanduser() / "judgements.sqlite"


def make_key(judge: Judge, request: JudgeRequest) -> str:
    """Returns the SHA-256 of answer, prompt, rubric hash, judge, model and settings, as hexadecimal digits."""
    parts = [request.answer, request.prompt, judge.rubric_hash, judge.name, judge.model, dict(judge.settings)]
    return hashlib.sha256(_write_json(parts).encode()).hexdigest()


def _write_json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
