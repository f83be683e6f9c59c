"""The rows of `scores.jsonl`: what came of each prompt under each metric."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from safety_lightning.errors import UserError
from safety_lightning.evaluation.judges import DEFAULT_SCALE, Scale, Unjudged, check_score
from safety_lightning.evaluation.measurement import Evaluation, MetricKind, MetricSpec, Outcome
from safety_lightning.files import append_rows, read_rows, write_rows

FILE_NAME = "scores.jsonl"


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """What came of one prompt.

    Attributes:
        id: The prompt's name.
        task: Its task.
        metric: What was measured.
        kind: How it adds up; see `MetricSpec`.
        judge: Name and model of the judge, where one judged.
        rubric_hash: Hash of its rubric; of a likelihood, that of the texts and the reference that it was read from.
        value: The score; None where there is none.
        unjudged: Why there is none.
        reason: The judge's words.
        scale: What the judge's scores are on; rows of before have none, and are from 1 to 5.
        cluster: The number of the prompt's cluster of near twins, where they were looked for.
        model: Of which model, where a fine-tune was measured: ``reference``, ``finetuned`` or ``projected``.
        step: Optimizer steps done, where it was measured during its fine-tune.

    Raises:
        UserError: If there is not exactly one of a value and a reason why there is none, or the value is none that
            such a metric has.
    """

    id: str
    task: str
    metric: str
    kind: MetricKind
    judge: str | None
    rubric_hash: str | None
    value: float | None
    unjudged: Unjudged | None
    reason: str
    scale: Scale | None = None
    cluster: int | None = None
    model: str | None = None
    step: int | None = None

    def __post_init__(self) -> None:
        if (self.value is None) == (self.unjudged is None):
            raise UserError(f"exactly one of value and unjudged must be set, got {self.value} and {self.unjudged}")
        if self.value is not None and self.kind in ("share", "judged"):
            scale = "0-1" if self.kind == "share" else self.scale or DEFAULT_SCALE
            check_score(self.value, scale, name=f"value of {self.metric}")


def make_score_row(
    prompt_id: str,
    task: str,
    spec: MetricSpec,
    outcome: Outcome,
    *,
    cluster: int | None = None,
    likelihood_hash: str | None = None,
) -> ScoreRow:
    """Makes the row of one outcome; of a likelihood, with the hash of what it was read from."""
    return ScoreRow(
        id=prompt_id,
        task=task,
        metric=spec.name,
        kind=spec.kind,
        judge=spec.judge_name,
        rubric_hash=spec.rubric_hash or likelihood_hash,
        value=outcome.value,
        unjudged=outcome.unjudged,
        reason=outcome.reason,
        scale=spec.scale,
        cluster=cluster,
    )


def list_score_rows(evaluation: Evaluation, *, model: str, step: int | None) -> list[ScoreRow]:
    """Lists the rows of a model that was measured during a fine-tune."""
    return [
        replace(
            make_score_row(name, one.task, one.spec, outcome, cluster=cluster if one.has_clusters else None),
            model=model,
            step=step,
        )
        for one in evaluation.values.values()
        for name, outcome, cluster in zip(one.ids, one.outcomes, one.clusters, strict=True)
    ]


def add_scores(folder: Path, rows: Sequence[ScoreRow]) -> None:
    """Adds the rows of a model to ``scores.jsonl``, in the place of those of an earlier time.

    They are appended, and on disk when it returns. The file is written anew only where there is none, it has rows of
    the same model and step, or a kill has torn a line.
    """
    file = folder / FILE_NAME
    new = {(row.model, row.step) for row in rows}
    there = read_rows(file, ScoreRow, what="a score", is_torn_allowed=True) if file.is_file() else []
    others = [row for row in there if (row.model, row.step) not in new]
    if len(others) < len(there) or not _ends_whole(file):
        write_rows(file, [*others, *rows])
    else:
        append_rows(file, rows)


def _ends_whole(file: Path) -> bool:
    """Whether there is a file, and its last line is whole."""
    if not file.is_file() or not file.stat().st_size:
        return False
    with file.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read() == b"\n"


def write_scores(
    folder: Path, rows: Sequence[ScoreRow], *, metrics: Sequence[tuple[str, str]], prompts: Sequence[str]
) -> None:
    """Writes ``scores.jsonl``, the same whatever order the processes gave the rows in.

    Args:
        folder: The run folder.
        rows: The rows.
        metrics: Task and name of each metric, in their order.
        prompts: The prompts' names, in their order.
    """
    first = {metric: place for place, metric in enumerate(metrics)}
    second = {name: place for place, name in enumerate(prompts)}
    ordered = sorted(rows, key=lambda row: (first[row.task, row.metric], second[row.id]))
    write_rows(folder / FILE_NAME, ordered)


def read_scores(folder: Path) -> list[ScoreRow]:
    """Reads ``scores.jsonl`` of a run folder.

    Raises:
        UserError: If there is none, or a line is no score.
    """
    file = folder / FILE_NAME
    if not file.is_file():
        raise UserError(f"run folder {folder} must hold {FILE_NAME} of a finished test, it does not")
    return read_rows(file, ScoreRow, what="a score")
