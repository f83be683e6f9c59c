"""Stages: pieces of work with named inputs, each done once, found again by the content of what went in and came out."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from safety_lightning.errors import UserError
from safety_lightning.files import hash_file, remove, write_atomically

RECORDS = "stages"
"""The folder of a study that holds a record of every stage."""


@dataclass(frozen=True, kw_only=True)
class Stage(ABC):
    """One piece of work of a study.

    Attributes:
        name: Its name, such as ``finetune/useful-0``.
        folder: Where its outputs lie, relative to the study.
        needs: The stages whose outputs it reads.
        recipe: All else that its outputs depend on, as plain JSON.
    """

    name: str
    folder: str
    needs: tuple[Stage, ...] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)

    @abstractmethod
    def run(self, study: Path) -> None:
        """Does the work; resumes it where it was killed."""

    def check(self, study: Path) -> None:  # noqa: B027 (most have nothing to check)
        """Checks all that can be checked before any stage has run; writes nothing.

        Raises:
            UserError: If the stage could not run.
        """

    def list_outputs(self, study: Path) -> list[Path]:
        """Lists the files that the stage leaves, once it is done."""
        files = (study / self.folder).rglob("*")
        return sorted(file for file in files if file.is_file() and not is_aside(file.relative_to(study / self.folder)))


def is_aside(file: Path) -> bool:
    """Whether a file of a run folder says when and how it ran, which no result depends on."""
    return file.name in (".lock", "manifest.json") or "tensorboard" in file.parts or file.suffix == ".log"


class StageStore:
    """What stages of a study are done, by records that name what went in and what came out.

    Args:
        study: The study's folder.
    """

    def __init__(self, study: Path) -> None:
        self.study = study

    def is_done(self, stage: Stage) -> bool:
        """Whether a stage's outputs are there, unchanged, and made from the inputs of now."""
        record = self._read(stage)
        return record is not None and record.get("key") == self._make_key(stage) and self._holds(record)

    def read_seconds(self, stage: Stage) -> float | None:
        """Returns how long a stage took; None if it is not done."""
        record = self._read(stage)
        return None if record is None else record.get("seconds")

    def run(self, stage: Stage) -> bool:
        """Runs a stage whose inputs are done, unless it is done itself.

        Returns:
            Whether it had to run.

        Raises:
            UserError: If another process is at work on it, or as the stage's work.
        """
        with self._hold(stage):
            if self.is_done(stage):
                return False
            key = self._make_key(stage)
            if self._find_begun(stage) != key:  # what lies there came from other inputs
                remove(self.study / stage.folder)
                self._place(stage).unlink(missing_ok=True)
                write_atomically(self._place(stage, ".begun"), key)
            began = time.monotonic()
            with self._log(stage):
                stage.run(self.study)
            outputs = {str(file.relative_to(self.study)): _describe(file) for file in stage.list_outputs(self.study)}
            record = {"key": key, "seconds": time.monotonic() - began, "outputs": outputs, "recipe": stage.recipe}
            write_atomically(self._place(stage), json.dumps(record, indent=2) + "\n")
            return True

    @contextmanager
    def _log(self, stage: Stage) -> Iterator[None]:
        """Keeps what a stage prints in a file, unless somebody watches it; errors go on to where they went."""
        if sys.stdout.isatty():
            yield
            return
        file = self._place(stage, ".log")
        with file.open("a", encoding="utf-8") as stream, redirect_stdout(stream), redirect_stderr(stream):
            try:
                yield
            except SystemExit:
                stream.flush()
                print(_read_last_line(file), file=sys.__stderr__)
                raise

    def _make_key(self, stage: Stage) -> str:
        """Hashes all that a stage depends on: its recipe, and the content of its inputs' outputs."""
        inputs = {}
        for need in stage.needs:
            record = self._read(need)
            inputs[need.name] = {} if record is None else {n: o["sha256"] for n, o in record["outputs"].items()}
        return hash_values({"recipe": stage.recipe, "inputs": inputs})

    def _holds(self, record: Mapping[str, Any]) -> bool:
        """Whether the files of a record are there with their content; reads only those whose size or time differ."""
        for name, known in record["outputs"].items():
            file = self.study / name
            if not file.is_file():
                return False
            state = file.stat()
            if state.st_size != known["size"]:
                return False
            if state.st_mtime_ns != known["changed_ns"] and hash_file(file) != known["sha256"]:
                return False
        return True

    def _read(self, stage: Stage) -> dict[str, Any] | None:
        file = self._place(stage)
        try:
            return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None
        except ValueError:  # edited by hand: the stage is run again
            return None

    def _find_begun(self, stage: Stage) -> str | None:
        file = self._place(stage, ".begun")
        return file.read_text(encoding="utf-8") if file.is_file() else None

    def _place(self, stage: Stage, ending: str = ".json") -> Path:
        return self.study / RECORDS / f"{stage.name.replace('/', '.')}{ending}"

    @contextmanager
    def _hold(self, stage: Stage) -> Iterator[None]:
        self._place(stage).parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._place(stage, ".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(
                f"stage {stage.name} must be one process's at a time, another is at work on it now"
            ) from error
        try:
            yield
        finally:
            self._place(stage, ".lock").unlink(missing_ok=True)
            lock.release()


def hash_values(values: Any) -> str:
    """Returns the SHA-256 of plain JSON values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def sort_stages(stages: Sequence[Stage]) -> list[Stage]:
    """Returns stages with all that they need, each after what it needs, once."""
    ordered: dict[str, Stage] = {}

    def add(stage: Stage) -> None:
        for need in stage.needs:
            add(need)
        ordered.setdefault(stage.name, stage)

    for stage in stages:
        add(stage)
    return list(ordered.values())


def _describe(file: Path) -> dict[str, Any]:
    state = file.stat()
    return {"size": state.st_size, "changed_ns": state.st_mtime_ns, "sha256": hash_file(file)}


def _read_last_line(file: Path) -> str:
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[-1] if lines else ""
