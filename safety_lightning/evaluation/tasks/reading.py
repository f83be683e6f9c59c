"""Reads the prompts of a task, of which none may be dropped in silence."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

from safety_lightning.data import (
    Example,
    InstructionSource,
    check_column,
    is_local_file,
    read_examples,
    read_prompts,
    read_table,
    resolve_source,
)
from safety_lightning.errors import UserError


def read_task_prompts(source: str | InstructionSource, *, seed: int) -> list[str]:
    """Reads prompts alone; see `read_task_examples`."""
    source = _open_source(source)
    _check_rows(source, (str(source.prompt),))
    return read_prompts(source, seed=seed)


def read_task_examples(source: str | InstructionSource, *, seed: int) -> list[Example]:
    """Reads prompts with their responses.

    A fine-tune leaves rows without text out and counts them; in an evaluation they are an error, for its numbers
    would be of other cases than the file says.

    Args:
        source: A preset, a local file, a data set on the hub, or a source.
        seed: Seed of the draw, where the source has a ``size`` and no ``pick: first``.

    Raises:
        UserError: If the source cannot be read, lacks a column, has no rows, or has an empty line or cell.
    """
    source = _open_source(source)
    _check_rows(source, (str(source.prompt), str(source.response)))
    return read_examples(source, seed=seed)


def _open_source(source: str | InstructionSource) -> InstructionSource:
    """Resolves a source; the lab is read from its test split unless the source says otherwise."""
    given = InstructionSource(path=source) if isinstance(source, str) and source.startswith("lab:") else source
    if isinstance(given, InstructionSource) and given.split is None:
        named = given.preset or given.path or ""
        if named.startswith("lab:"):
            given = replace(given, split="test")
    return resolve_source(given)


def _check_rows(source: InstructionSource, columns: tuple[str, ...]) -> None:
    assert source.path is not None
    if source.path.startswith("lab:") or not is_local_file(source.path):
        return
    file = Path(source.path).expanduser()
    table = read_table(file, columns=source.columns or ())
    _check_blank_lines(file)
    for column in columns:
        check_column(table, column)
        for index, row in enumerate(table.rows):
            if not str(row.get(column) or "").strip():
                raise UserError(f"{table.locate(index)}, must have text in {column!r}, got none")


def _check_blank_lines(file: Path) -> None:
    """Raises UserError at an empty line that is not at the end."""
    if file.suffix.lower() not in (".csv", ".jsonl"):
        return
    last_blank = 0
    with file.open(encoding="utf-8-sig", newline="") as stream:
        lines = csv.reader(stream) if file.suffix.lower() == ".csv" else ([line.strip()] for line in stream)
        for number, cells in enumerate(lines, start=1):
            is_blank = not any(cells)
            if last_blank and not is_blank:
                raise UserError(f"{file}, row {last_blank}, must hold a prompt, got an empty line")
            last_blank = last_blank or (number if is_blank else 0)
