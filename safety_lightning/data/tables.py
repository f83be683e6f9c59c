"""Reads files (JSONL, JSON, CSV, Parquet) and data sets of the hub as tables, and says where a broken one is broken."""

from __future__ import annotations

import ast
import csv
import difflib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safety_lightning.errors import UserError
from safety_lightning.files import hash_file
from safety_lightning.strict import check_finite_numbers, parse_json

if TYPE_CHECKING:
    from datasets import Dataset

NumberedRow = tuple[int, dict[str, Any] | None]
"""A row with its number; None for a line that holds nothing."""

TOXIC_ABOVE = 5.5  # of human and machine toxicity, each from 1 to 5: the threshold of ToxiGen's authors
_NAME = re.compile(r"[\w.:#/-]{1,40}")
_BYTES_LITERAL = re.compile(r"b(['\"]).*\1", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows with named columns.

    Attributes:
        name: The file, or the data set.
        columns: The columns' names, in the order in which they first appear.
        rows: One dictionary per row.
        numbers: Each row's line in the file, or its number.
        unit: What ``numbers`` counts, ``line`` or ``row``.
        version: What the content can be told by: ``sha256:...`` of a file, the revision of a data set.
        blank_lines: The lines before the last row of a JSONL or CSV file that hold nothing.
    """

    name: str
    columns: list[str]
    rows: list[dict[str, Any]]
    numbers: list[int]
    unit: str
    version: str
    blank_lines: Sequence[int] = ()

    def list_blank(self) -> list[str]:
        """Says where each line is that holds nothing."""
        return [f"{self.name}, line {number}, is blank" for number in self.blank_lines]

    def locate(self, index: int) -> str:
        """Says in words where a row is."""
        return f"{self.name}, {self.unit} {self.numbers[index]}"


def read_table(path: Path, *, columns: Sequence[str] = ()) -> Table:
    """Reads a file whose suffix says what it holds.

    Args:
        path: A ``.jsonl``, ``.json`` (a list of objects, or one object per line), ``.csv`` or ``.parquet`` file.
        columns: Names for the columns of a CSV file without a header line. A first line that repeats them is a header.

    Returns:
        The table, with at least one row.

    Raises:
        UserError: If the file does not exist, has another suffix, is broken or is empty.
    """
    reader = _READERS.get(path.suffix.lower())
    try:
        if path.is_dir():
            raise UserError(f"a data file must be a file, got the folder {path}")
        if not path.exists():
            raise UserError(f"data file {path} does not exist{_suggest_file(path)}")
        if reader is None:
            raise UserError(f"a data file must end in one of {', '.join(_READERS)}, got {path}")
        if not path.is_file():  # a pipe would be waited for without end
            raise UserError(f"a data file must be an ordinary file, {path} is none")
        numbered = reader(path, columns)
        is_by_row = path.suffix.lower() == ".parquet" or _is_list(path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} must be UTF-8 text, got {error}") from error
    except OSError as error:
        raise UserError(f"data file {path} must be readable, got an error: {error}") from error
    filled = [(number, row) for number, row in numbered if row is not None]
    if not filled:
        raise UserError(f"{path} must hold at least one row of data, got none")
    numbers, rows = zip(*filled, strict=True)
    return Table(
        name=str(path),
        columns=list(dict.fromkeys(name for row in rows for name in row)),
        rows=list(rows),
        numbers=list(numbers),
        unit="row" if is_by_row else "line",
        version=f"sha256:{hash_file(path)}",
        blank_lines=[number for number, row in numbered if row is None and number < numbers[-1]],
    )


def read_hub_table(name: str, *, config: str | None, split: str, revision: str | None) -> Table:
    """Downloads a data set (or finds it in the Hugging Face cache) and returns it as a table.

    A column that holds records (BeaverTails' ``category``) becomes one column per field (``category.self_harm``).
    ToxiGen's annotated part gets a column ``is_toxic``: whether human and machine scores add up to more than 5.5;
    and ``sentence``: its text, which part of its rows hold as Python writes bytes (``b'...'``).

    Args:
        name: ``org/name``.
        config: The data set's configuration, if it has several.
        split: For example ``train`` or ``30k_train``.
        revision: Commit, tag or branch; ``None`` is the newest.

    Raises:
        UserError: If there is no such data set, configuration or split, or no hub.
    """
    import datasets

    try:
        data = datasets.load_dataset(name, config, split=split, revision=revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:  # OSError: no such data set, no network
        raise UserError(
            f"data set {name} (config {config}, split {split}, revision {revision}) must be readable from the hub, "
            f"got {type(error).__name__}: {error}; a local file can be given as `path`"
        ) from error
    if len(data) == 0:
        raise UserError(f"data set {name}, split {split}, must hold at least one row of data, got none")
    version = f"hub:{_find_revision(data) or revision or 'unknown'}"
    data = data.flatten()
    made = _MADE_COLUMNS.get((name, config), {})
    return Table(
        name=f"{name}:{split}",
        columns=[*data.column_names, *made],
        rows=[row | {column: make(row) for column, make in made.items()} for row in data.to_list()],
        numbers=list(range(1, len(data) + 1)),
        unit="row",
        version=version,
    )


def check_column(table: Table, column: str) -> None:
    """Raises UserError, naming the columns found and the nearest, if the table lacks a column."""
    if column in table.columns:
        return
    is_csv = table.name.lower().endswith(".csv")
    shown = _show_names(table.columns) if is_csv else ", ".join(map(repr, table.columns))
    close = difflib.get_close_matches(column, table.columns, n=1) if repr(table.columns[0]) in shown else []
    hint = f"; did you mean {close[0]}?" if close else ""
    if is_csv:
        hint += " (a CSV file without a header line needs its names in `columns`)"
    raise UserError(f"{table.name} must have a column {column!r}, got {shown}{hint}")


def _show_names(names: Sequence[str]) -> str:
    """Lists the cells of a CSV file's first line, unless they read like text: a file without a header begins with data.

    Such data may be harmful text, which is shown nowhere unless it is asked for.
    """
    if all(map(_NAME.fullmatch, names)):
        return ", ".join(map(repr, names))
    return f"a first line of {len(names)} cells that read like text and are not shown"


def _read_jsonl(path: Path, _: Sequence[str]) -> list[NumberedRow]:
    with path.open(encoding="utf-8-sig") as file:
        return [
            (number, _parse_object(line, f"{path}, line {number}") if line.strip() else None)
            for number, line in enumerate(file, start=1)
        ]


def _read_json(path: Path, columns: Sequence[str]) -> list[NumberedRow]:
    if not _is_list(path):
        return _read_jsonl(path, columns)  # what the hub calls .json is often one object per line
    try:
        items = parse_json(path.read_text(encoding="utf-8-sig"))
        check_finite_numbers(items)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}, must be JSON, got an error: {error.msg}") from error
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        raise UserError(f"{path} must be JSON, got an error: {error}") from error
    for number, item in enumerate(items, start=1):
        if not isinstance(item, dict):
            raise UserError(f"{path}, row {number}, must be a JSON object, got {_shorten(json.dumps(item))}")
    return list(enumerate(items, start=1))


def _is_list(path: Path) -> bool:
    if path.suffix.lower() != ".json":
        return False
    with path.open(encoding="utf-8-sig") as file:
        return file.read(4096).lstrip()[:1] == "["


def _parse_object(line: str, place: str) -> dict[str, Any]:
    try:
        value = parse_json(line)
        check_finite_numbers(value)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{place}, must be one JSON object, got {_shorten(line.strip())} ({error.msg} at column {error.colno})"
        ) from error
    except ValueError as error:
        raise UserError(f"{place}, must be one JSON object, got {_shorten(line.strip())} ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{place}, must be one JSON object, got {_shorten(line.strip())}")
    return value


def _read_csv(path: Path, columns: Sequence[str]) -> list[NumberedRow]:
    names = list(columns)
    rows: list[NumberedRow] = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        last_line = 0
        try:
            for cells in reader:
                number, last_line = last_line + 1, reader.line_num  # a quoted cell may span lines
                if not cells and not (rows or names):
                    continue  # above the header
                if not rows and cells == names:
                    continue
                if not cells:
                    rows.append((number, None))
                    continue
                if any("\0" in cell for cell in cells):
                    raise UserError(f"{path}, line {number}, must be text, got a zero byte")
                if not names:
                    names = _check_header(cells, path)
                    continue
                if len(cells) != len(names):
                    raise UserError(f"{path}, line {number}, must have {len(names)} cells, got {len(cells)}")
                rows.append((number, dict(zip(names, cells, strict=True))))
        except csv.Error as error:
            raise UserError(f"{path}, line {last_line + 1}, must be CSV, got an error: {error}") from error
    return rows


def _check_header(names: list[str], path: Path) -> list[str]:
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise UserError(f"{path} must name each column once, got {_show_names(twice)} more than once")
    return names


def _read_parquet(path: Path, _: Sequence[str]) -> list[NumberedRow]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path, page_checksum_verification=True)
        rows = table.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        words = " ".join(str(error).split())
        raise UserError(f"{path} must be a sound Parquet file, got an error: {words}") from error
    _check_header(table.column_names, path)
    return list(enumerate(rows, start=1))


def _suggest_file(path: Path) -> str:
    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {path.parent / close[0]}?" if close else ""


def _shorten(text: str, length: int = 60) -> str:
    return repr(text if len(text) <= length else text[:length] + "...")


def _is_toxic(row: Mapping[str, Any]) -> bool:
    return float(row["toxicity_human"]) + float(row["toxicity_ai"]) > TOXIC_ABOVE


def _read_sentence(row: Mapping[str, Any]) -> str:
    """Returns the text; part of the rows hold it as Python writes bytes (``b'...'``)."""
    text = str(row["text"])
    try:
        literal = ast.literal_eval(text) if _BYTES_LITERAL.fullmatch(text) else text
    except (SyntaxError, ValueError):
        return text
    return literal.decode("utf-8", errors="replace") if isinstance(literal, bytes) else text


def _find_revision(data: Dataset) -> str | None:
    """Reads the commit from the addresses that the data was downloaded from."""
    for address in data.info.download_checksums or {}:
        if match := re.search(r"@([0-9a-f]{40})", address):
            return match[1]
    return None


_READERS: dict[str, Callable[[Path, Sequence[str]], list[NumberedRow]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
_MADE_COLUMNS: dict[tuple[str, str | None], dict[str, Callable[[Mapping[str, Any]], Any]]] = {
    ("toxigen/toxigen-data", "annotated"): {"is_toxic": _is_toxic, "sentence": _read_sentence},
}
