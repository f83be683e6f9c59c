"""Writes typed rows as CSV and Parquet, and reads them back."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import types
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safety_lightning.errors import UserError
from safety_lightning.files import atomic_path, write_atomically

if TYPE_CHECKING:
    import pyarrow

Row = TypeVar("Row")


def format_csv(row_class: type, rows: Iterable[Any]) -> str:
    """Formats rows as CSV with a header; None is an empty cell.

    Args:
        row_class: The dataclass that all rows are of, which names the columns.
        rows: The rows.
    """
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _list_columns(row_class), lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(row) for row in rows)
    return stream.getvalue()


def write_csv(file: Path, row_class: type, rows: Iterable[Any]) -> None:
    """Writes rows as CSV, atomically."""
    write_atomically(file, format_csv(row_class, rows))


def write_parquet(file: Path, row_class: type, rows: Sequence[Any]) -> None:
    """Writes rows as Parquet, atomically; the columns have the types of the dataclass, however many rows there are."""
    import pyarrow as pa
    from pyarrow import parquet

    columns = {name: [getattr(row, name) for row in rows] for name in _list_columns(row_class)}
    table = pa.table(columns, schema=_make_schema(row_class))
    with atomic_path(file) as partial:
        parquet.write_table(table, partial)


def read_parquet(file: Path, row_class: type[Row]) -> list[Row]:
    """Reads rows that `write_parquet` wrote.

    Raises:
        UserError: If the file cannot be read, or its columns are not those of the dataclass.
    """
    table = read_arrow(file)
    wanted = _list_columns(row_class)
    if table.column_names != wanted:
        raise UserError(f"{file} must have the columns {', '.join(wanted)}, got {', '.join(table.column_names)}")
    return [row_class(**values) for values in table.to_pylist()]


def read_arrow(file: Path, *, columns: Sequence[str] | None = None) -> pyarrow.Table:
    """Reads a Parquet file as it is.

    Args:
        file: The file.
        columns: The columns to read, all of which it must have; None reads all.

    Raises:
        UserError: If the file cannot be read, or lacks a column.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(file, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{file} must be a Parquet file, got an error: {error}") from error
    missing = [name for name in columns or () if name not in table.column_names]
    if missing:
        raise UserError(f"{file} must have the columns {', '.join(columns or ())}, it lacks {', '.join(missing)}")
    return table


def read_csv(file: Path, row_class: type[Row]) -> list[Row]:
    """Reads rows that `write_csv` wrote; an empty cell is None, or an empty text where the column holds no None.

    Raises:
        UserError: If the file cannot be read, its columns are not those of the dataclass, or a cell is of another type.
    """
    hints = typing.get_type_hints(row_class)
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            lines = list(reader)
        if list(reader.fieldnames or []) != _list_columns(row_class):
            raise ValueError(f"its columns are {', '.join(reader.fieldnames or [])}")
        broken = [at for at, line in enumerate(lines, start=1) if None in line or None in line.values()]
        if broken:
            raise ValueError(f"row {broken[0]} has not as many cells as the header")
        return [row_class(**{name: _parse_cell(text, hints[name]) for name, text in line.items()}) for line in lines]
    except (OSError, ValueError, csv.Error) as error:
        wanted = ", ".join(_list_columns(row_class))
        raise UserError(f"{file} must be a table with the columns {wanted}, it is not: {error}") from error


def drop_nan(value: float) -> float | None:
    """Returns None, which is an empty cell, for NaN."""
    return None if math.isnan(value) else float(value)


def average(values: Iterable[float | None]) -> float | None:
    """Returns the mean of the values that are there, None if none is."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _parse_cell(text: str, hint: Any) -> Any:
    plain = _find_plain_type(hint)
    if text == "" and (plain is not hint or plain is not str):
        return None
    return text == "True" if plain is bool else plain(text)


def _list_columns(row_class: type) -> list[str]:
    return [field.name for field in dataclasses.fields(row_class)]


def _make_schema(row_class: type) -> pyarrow.Schema:
    import pyarrow as pa

    hints = typing.get_type_hints(row_class)
    arrow_types = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    return pa.schema([(name, arrow_types[_find_plain_type(hints[name])]) for name in _list_columns(row_class)])


def _find_plain_type(hint: Any) -> type:
    """Returns str, int, float or bool for a hint that is one, a literal of strings, or either or None."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        [inner] = [one for one in typing.get_args(hint) if one is not type(None)]
        return _find_plain_type(inner)
    if origin is typing.Literal:
        return type(typing.get_args(hint)[0])
    return hint
