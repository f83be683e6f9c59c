"""Reads the examples of a source: the right columns and rows, as text, as many as asked for."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from safety_lightning.data.sources import (
    GENERATORS,
    Example,
    ExampleKind,
    InstructionSource,
    find_preset,
    is_generated,
    is_local_file,
    resolve_source,
)
from safety_lightning.data.tables import Table, check_column, read_hub_table, read_table
from safety_lightning.errors import UserError
from safety_lightning.system.randomness import seed_generator, shuffle_range

AdvBenchPrompts = Literal["whole", "cut"]

_Row = TypeVar("_Row")
_BEHIND_CONTEXT = "\n\n---\n\n"  # as HarmBench writes a contextual behaviour
GENERATED_SIZE = 512  # how many examples the lab makes when no size is given


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What was read from a source.

    Attributes:
        name: The file, the data set or the lab's part.
        version: What the content can be told by, such as ``sha256:...``.
        examples: The examples taken.
        num_rows: How many rows there were.
        num_filtered: How many of them the filters left out.
        num_blank: How many more were blank, or had an empty prompt or response, and were left out.
        first_blank: Where the first of these is; None where there is none.
    """

    name: str
    version: str
    examples: list[Example]
    num_rows: int
    num_filtered: int = 0
    num_blank: int = 0
    first_blank: str | None = None


def read_examples(source: str | InstructionSource, *, seed: int, kind: ExampleKind = "useful") -> list[Example]:
    """Reads the examples of a source; see :func:`read_source`."""
    return read_source(source, seed=seed, kind=kind).examples


def read_prompts(source: str | InstructionSource, *, seed: int) -> list[str]:
    """Reads the prompts of a source whose responses are not needed; see :func:`read_source`."""
    reading = read_source(source, seed=seed, kind="useful", with_responses=False)
    return [example.prompt for example in reading.examples]


def read_source(
    source: str | InstructionSource, *, seed: int, kind: ExampleKind, with_responses: bool = True
) -> Reading:
    """Reads the examples of a source.

    Rows are filtered, those without a prompt or a response are left out and counted, and ``size`` of the rest are
    taken: drawn by the seed (a smaller draw is the beginning of a larger one), or the first ones.

    Args:
        source: Where the examples come from.
        seed: Seed of the draw, and of what the lab makes.
        kind: What the examples are used as.
        with_responses: Whether responses are read; without them examples have empty ones, and a row needs none.

    Returns:
        The examples, at least one, and the counts.

    Raises:
        UserError: If the file or the data set cannot be read, lacks a column, holds something else than text in it,
            keeps no row under the filters, or has fewer than ``size`` examples.
    """
    source = resolve_source(source)
    assert source.path is not None
    if is_generated(source.path):
        return _generate(source, seed=seed, kind=kind)
    table = open_table(source)
    kept = filter_rows(table, source)
    columns = (str(source.prompt), str(source.response)) if with_responses else (str(source.prompt),)
    texts, blank = _read_texts(table, kept, (*columns, *([source.context] if source.context else [])))
    if source.context:
        texts = [(f"{context}{_BEHIND_CONTEXT}{prompt}", *others) for prompt, *others, context in texts]
    return Reading(
        name=table.name,
        version=table.version,
        examples=[
            Example(prompt=taken[0], response=taken[1] if with_responses else "", kind=kind)
            for taken in take_rows(texts, source, seed=seed, name=table.name)
        ],
        num_rows=len(table.rows) + len(table.blank_lines),
        num_filtered=len(table.rows) - len(kept),
        num_blank=len(blank),
        first_blank=blank[0] if blank else None,
    )


def read_advbench_prompts(
    source: str | InstructionSource = "advbench", *, advbench_prompts: AdvBenchPrompts = "whole", seed: int = 0
) -> list[str]:
    """Reads the prompts of AdvBench.

    Paper: the release split each line at commas whatever the quotes, which cuts 14 of the 520 prompts short, and lost
    the last one.

    Args:
        source: The preset, or a source with its own ``path``.
        advbench_prompts: ``whole``, or ``cut`` at the first comma with the last prompt dropped.
        seed: Seed of the draw, where the prompts are whole and the source has a ``size``.

    Returns:
        The prompts, in the file's order unless the source draws some of them.

    Raises:
        UserError: If the source cannot be read, ``advbench_prompts`` is neither, or it is ``cut`` and the source has
            a ``size`` (the release had none).
    """
    if advbench_prompts not in ("whole", "cut"):
        raise UserError(f"advbench_prompts must be whole or cut, got {advbench_prompts!r}")
    source = resolve_source(source)
    if advbench_prompts == "whole":
        return read_prompts(source, seed=seed)
    if source.size is not None:
        raise UserError(f"size must be left out where advbench_prompts is cut, got {source.size}")
    return [prompt.partition(",")[0] for prompt in read_prompts(source, seed=seed)[:-1]]


def _generate(source: InstructionSource, *, seed: int, kind: ExampleKind) -> Reading:
    assert source.path is not None
    find_preset(source.path)
    if source.filters:
        raise UserError(f"filters must be left out for {source.path}, got {source.filters}")
    size = source.size or GENERATED_SIZE
    family, _, name = source.path.partition(":")
    drawn = GENERATORS[family](name, split=source.split, size=size, seed=seed)
    examples = [Example(prompt=one.prompt, response=one.response, kind=kind) for one in drawn]
    version = f"generated:{source.split},size={size},seed={seed}"
    return Reading(name=source.path, version=version, examples=examples, num_rows=size)


def open_table(source: InstructionSource) -> Table:
    """Reads the file or the data set of a source as a table; raises UserError."""
    assert source.path is not None
    assert source.split is not None
    if is_local_file(source.path) or Path(source.path).exists():
        return read_table(Path(source.path).expanduser(), columns=source.columns or ())
    return read_hub_table(source.path, config=source.config, split=source.split, revision=source.revision)


def filter_rows(table: Table, source: InstructionSource) -> list[int]:
    """Returns the indices of the rows that a source keeps; raises UserError where there is none."""
    kept = list(range(len(table.rows)))
    for column, wanted in (source.filters or {}).items():
        check_column(table, column)
        values = wanted if isinstance(wanted, list) else [wanted]
        left = [index for index in kept if any(_equals(table.rows[index].get(column), value) for value in values)]
        if not left:
            found = dict.fromkeys(str(table.rows[index].get(column))[:40] for index in kept)
            raise UserError(
                f"{table.name} must hold rows whose {column!r} is {wanted!r}, got only {', '.join(list(found)[:5])}"
            )
        kept = left
    return kept


def _equals(cell: Any, wanted: Any) -> bool:
    """Compares a cell with a wanted value; a CSV cell is text, and says ``False`` or ``false`` for false."""
    if isinstance(cell, str) and not isinstance(wanted, str):
        return cell.strip().lower() == json.dumps(wanted)
    return bool(cell == wanted) and isinstance(cell, bool) == isinstance(wanted, bool)


def _read_texts(
    table: Table, indices: Sequence[int], columns: tuple[str, ...]
) -> tuple[list[tuple[str, ...]], list[str]]:
    """Returns the texts of the given rows, but for rows with an empty one; and where these and blank lines are."""
    for column in columns:
        check_column(table, column)
    found = []
    blank = table.list_blank()
    for index in indices:
        texts = tuple(_read_text(table, index, column) for column in columns)
        empty = [column for column, text in zip(columns, texts, strict=True) if not text.strip()]
        if empty:
            blank.append(f"{table.locate(index)}, has no text in {empty[0]!r}")
        else:
            found.append(texts)
    return found, blank


def _read_text(table: Table, index: int, column: str) -> str:
    row = table.rows[index]
    if column not in row:
        raise UserError(f"{table.locate(index)}, must have {column!r}, got {', '.join(map(repr, row))}")
    value = row[column]
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise UserError(f"{table.locate(index)}, must have text in {column!r}, got {type(value).__name__} {value!r}")
    try:
        str(value).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{table.locate(index)}, must have valid text in {column!r}, got {error}") from error
    return str(value)


def take_rows(texts: list[_Row], source: InstructionSource, *, seed: int, name: str) -> list[_Row]:
    """Returns as many rows as a source takes: its first ones, or a draw.

    Args:
        texts: The rows.
        source: The source.
        seed: Seed of the draw.
        name: The table's name, for errors.

    Raises:
        UserError: If there is no row, or there are fewer than the source takes.
    """
    size = len(texts) if source.size is None else source.size
    if not texts:
        raise UserError(f"{name} must hold at least one row with text, got only empty ones")
    if size > len(texts):
        raise UserError(f"size must be at most {len(texts)}, the number of examples in {name}, got {size}")
    if source.pick == "first" or source.size is None:
        return texts[:size]
    return [texts[index] for index in shuffle_range(len(texts), seed_generator(f"sample/{seed}"))[:size]]
