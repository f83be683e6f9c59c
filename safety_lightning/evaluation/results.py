"""The rows of `results.jsonl`: one measurement of one model each."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from safety_lightning.evaluation.measurement import Measurement
from safety_lightning.runs import write_atomically

ModelName = Literal["reference", "finetuned", "projected"]


@dataclass(frozen=True, kw_only=True)
class ResultRow(Measurement):
    """A measurement, and which model of the run it is of."""

    model: ModelName


class ResultFile:
    """The results of one run, in a file that is whole after every measurement.

    Args:
        file: A ``.jsonl`` file; one that exists goes on.

    Raises:
        ValueError: If a line of the file is no result.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows = read_results(file) if file.is_file() else []

    def holds(self, model: ModelName) -> bool:
        """Whether a model has been measured."""
        return any(row.model == model for row in self.rows)

    def add(self, model: ModelName, measurements: list[Measurement]) -> None:
        """Adds a model's measurements, all of them or none."""
        self.rows += [ResultRow(model=model, **asdict(measurement)) for measurement in measurements]
        lines = [json.dumps({"model": row.model, **_without_model(row)}) + "\n" for row in self.rows]
        write_atomically(self.file, "".join(lines))


def read_results(file: Path) -> list[ResultRow]:
    """Reads a file of results.

    Raises:
        ValueError: If a line is no result; the line's number is named.
    """
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            rows.append(ResultRow(**json.loads(line)))
        except (json.JSONDecodeError, TypeError) as error:
            raise ValueError(f"{file}, line {number}, must be a result, it is not: {error}") from error
    return rows


def _without_model(row: ResultRow) -> dict[str, object]:
    return {name: value for name, value in asdict(row).items() if name != "model"}
