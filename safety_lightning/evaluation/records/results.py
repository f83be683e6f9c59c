"""The rows of `results.jsonl`: one measurement of one model each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safety_lightning.evaluation.measurement import Measurement
from safety_lightning.files import read_rows, write_rows

ROW_VERSION = 3


@dataclass(frozen=True, kw_only=True)
class ResultRow(Measurement):
    """A measurement, and of what model it is.

    Attributes:
        model: ``reference``, ``finetuned`` or ``projected`` of a fine-tune; in an evaluation, the name of the model.
        step: Optimizer steps done, where a model was measured during its fine-tune.
        engine: What generated the answers, where answers were generated.
        dtype: The dtype computed in.
        key: Hash of the steps and settings that a measurement during a fine-tune depends on, which `holds` compares.
        version: Version of the row's form; rows of version 1 had neither task, judge, step nor engine, those of
            version 2 no key.
    """

    model: str
    step: int | None = None
    engine: str | None = None
    dtype: str | None = None
    key: str | None = None
    version: int = ROW_VERSION


class ResultFile:
    """The results of one run, in a file that is whole after every measurement.

    Several callbacks of a run may share the file.

    Args:
        file: A ``.jsonl`` file; one that exists is added to.

    Raises:
        UserError: If a line of the file is no result.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows = self._read()

    def holds(self, model: str, *, step: int | None = None, key: str | None = None) -> bool:
        """Whether a model has been measured by these settings, at a step of its fine-tune or at its end."""
        return any((row.model, row.step, row.key) == (model, step, key) for row in self._read())

    def add(
        self,
        model: str,
        measurements: Sequence[Measurement],
        *,
        step: int | None = None,
        engine: str | None = None,
        dtype: str | None = None,
        key: str | None = None,
    ) -> None:
        """Adds a model's measurements, all of them or none; those of an earlier time are replaced."""
        others = [row for row in self._read() if (row.model, row.step) != (model, step)]
        told: dict[str, Any] = {"model": model, "step": step, "engine": engine, "dtype": dtype, "key": key}
        new = [ResultRow(**told, **asdict(one)) for one in measurements]
        self.rows = [*others, *new]
        write_rows(self.file, self.rows, to_json=_order_fields)

    def _read(self) -> list[ResultRow]:
        return read_results(self.file) if self.file.is_file() else []


def read_results(file: Path) -> list[ResultRow]:
    """Reads a file of results; rows of an older version are read too.

    Raises:
        UserError: If a line is no result; the line's number is named.
    """
    return read_rows(file, lambda **values: ResultRow(**({"version": 1} | values)), what="a result")


def _order_fields(row: ResultRow) -> dict[str, Any]:
    fields = asdict(row)
    return {"model": fields.pop("model"), **fields}
