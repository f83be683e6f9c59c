"""Reads the values of a study: one per fine-tune, seed, variant, metric and prompt.

Shapes in this file: V = variants, P = prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from safety_lightning.errors import UserError

if TYPE_CHECKING:
    import pyarrow

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

COLUMNS = (
    *("finetuned", "seed", "source", "draw", "component", "fraction", "alpha", "energy_kept"),
    *("metric", "prompt", "cluster", "value"),
)
"""The columns of ``values.parquet``."""

SAFETY: Final = "top_k"
RANDOM: Final = "random"
"""The source that the verdict is about, and random subspaces, one of which stands in for it under ``null``."""

SOURCES = (SAFETY, "random_k", RANDOM)
"""The sources of directions, in the order of tables and figures."""


class VariantKey(NamedTuple):
    """Which variant of a fine-tune: as in the columns of the file."""

    source: str
    draw: int = 0
    component: str = ""
    fraction: float | None = None
    alpha: float | None = None

    @property
    def name(self) -> str:
        """What it is called: ``SOURCE/COMPONENT/FRACTION`` as far as they apply, ``@DRAW`` behind a random source.

        Example:
            >>> VariantKey("random", 3, "orthogonal", 0.25).name, VariantKey("scale", alpha=0.5).name
            ('random@3/orthogonal/0.25', 'scale/0.5')
        """
        source = f"{self.source}@{self.draw}" if self.draw or self.source == RANDOM else self.source
        numbers = [f"{one:g}" for one in (self.fraction, self.alpha) if one is not None]
        return "/".join([source, *([self.component] if self.component else []), *numbers])

    def without_draw(self) -> VariantKey:
        """Returns the key that all draws share."""
        return self._replace(draw=0)


REFERENCE, FINETUNED = VariantKey("reference"), VariantKey("finetuned")


class TableKey(NamedTuple):
    """Whose values a table holds."""

    finetuned: str
    seed: int
    metric: str


@dataclass(frozen=True)
class PromptSet:
    """The prompts of a metric.

    Attributes:
        names: Their names, in the order of the file.
        clusters_P: The cluster of near twins that each belongs to, shape ``(P,)``.
    """

    names: tuple[str, ...]
    clusters_P: Integers


@dataclass(frozen=True)
class ValueTable:
    """The values of one metric in the variants of one fine-tune.

    Attributes:
        variants: The variants, in the order of the file.
        values_VP: Shape ``(V, P)``; NaN where a prompt was not scored.
    """

    variants: tuple[VariantKey, ...]
    values_VP: Floats


@dataclass(frozen=True)
class Values:
    """All values of a study.

    Attributes:
        tables: By fine-tune, seed and metric.
        prompts: By metric; all tables of a metric have the same columns.
        energies: The share of the update's squared norm that a variant keeps, by fine-tune, seed and variant; None
            where it was not measured.
    """

    tables: Mapping[TableKey, ValueTable]
    prompts: Mapping[str, PromptSet]
    energies: Mapping[tuple[str, int, VariantKey], float | None]

    def list_seeds(self, *kinds: str) -> list[int]:
        """Lists the seeds that fine-tunes of all these kinds have."""
        found = [{key.seed for key in self.tables if key.finetuned == kind} for kind in kinds]
        return sorted(set.intersection(*found)) if found else []

    def list_metrics(self) -> list[str]:
        """Lists the metrics in the order of the file."""
        return list(self.prompts)


def read_values(file: Path) -> Values:
    """Reads ``values.parquet``.

    Raises:
        UserError: If it is missing or unreadable, lacks a column, is empty, holds a variant's prompt twice or a value
            that is not finite, or one prompt in two clusters.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{file} must be the Parquet file of a study's values, got an error: {error}") from error
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise UserError(f"{file} must have the columns {', '.join(COLUMNS)}, it lacks {', '.join(missing)}")
    if table.num_rows == 0:
        raise UserError(f"{file} must hold values, it has no rows")
    return _gather(table, file)


def _gather(table: pyarrow.Table, file: Path) -> Values:
    """Groups rows by table and variant, and places each value by its prompt."""
    tables_R, table_keys = _number_rows(table, ("finetuned", "seed", "metric"))
    variants_R, variant_keys = _number_rows(table, ("source", "draw", "component", "fraction", "alpha"))
    prompts_R, prompt_keys = _number_rows(table, ("metric", "prompt"))
    values_R = table["value"].to_numpy().astype(np.float64)
    if np.isinf(values_R).any():
        raise UserError(f"{file} must hold finite values, one is infinite")
    prompts = _gather_prompts(table, prompts_R, prompt_keys, file)
    places = _place_prompts(prompts, prompt_keys)
    energies_R = table["energy_kept"].to_numpy().astype(np.float64)
    tables: dict[TableKey, ValueTable] = {}
    energies: dict[tuple[str, int, VariantKey], float | None] = {}
    for number, key in enumerate(TableKey(*one) for one in table_keys):
        rows = np.flatnonzero(tables_R == number)
        found, first, lines = np.unique(variants_R[rows], return_index=True, return_inverse=True)
        order = np.argsort(first, kind="stable")  # as in the file
        columns = places[prompts_R[rows]]
        shape = (len(found), len(prompts[key.metric].names))
        if len(np.unique(lines * shape[1] + columns)) < len(rows):
            raise UserError(f"{file} must hold each prompt of a variant once, {key} holds one twice")
        values_VP = np.full(shape, np.nan)
        values_VP[lines, columns] = values_R[rows]
        variants = tuple(VariantKey(*variant_keys[found[at]]) for at in order)
        tables[key] = ValueTable(variants, values_VP[order])
        for at, variant in zip(order, variants, strict=True):
            energy = float(energies_R[rows[first[at]]])
            energies[key.finetuned, key.seed, variant] = None if np.isnan(energy) else energy
    return Values(tables, prompts, energies)


def _number_rows(table: pyarrow.Table, columns: tuple[str, ...]) -> tuple[Integers, list[tuple[Any, ...]]]:
    """Numbers the different combinations of some columns in the order of the file; returns each row's number too."""
    codes_R = np.zeros(table.num_rows, dtype=np.int64)
    for name in columns:
        encoded = table[name].combine_chunks().dictionary_encode()
        codes_R = codes_R * (len(encoded.dictionary) + 1) + encoded.indices.fill_null(-1).to_numpy() + 1
    _, first, numbers_R = np.unique(codes_R, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    ranks = np.empty_like(order)
    ranks[order] = np.arange(len(order))
    keys = table.select(list(columns)).take(first[order])
    return ranks[numbers_R], list(zip(*(keys[name].to_pylist() for name in columns), strict=True))


def _gather_prompts(
    table: pyarrow.Table, prompts_R: Integers, keys: list[tuple[Any, ...]], file: Path
) -> dict[str, PromptSet]:
    clusters_R = table["cluster"].to_numpy().astype(np.int64)
    clusters = np.zeros(len(keys), dtype=np.int64)
    clusters[prompts_R] = clusters_R
    if (clusters[prompts_R] != clusters_R).any():
        name = keys[int(prompts_R[np.flatnonzero(clusters[prompts_R] != clusters_R)[0]])]
        raise UserError(f"{file} must hold each prompt in one cluster, {name[1]} of {name[0]} is in two")
    numbers: dict[str, list[int]] = {}
    for number, (metric, _) in enumerate(keys):
        numbers.setdefault(metric, []).append(number)
    return {metric: PromptSet(tuple(keys[n][1] for n in own), clusters[own]) for metric, own in numbers.items()}


def _place_prompts(prompts: Mapping[str, PromptSet], keys: list[tuple[Any, ...]]) -> Integers:
    columns = {(metric, name): at for metric, own in prompts.items() for at, name in enumerate(own.names)}
    return np.array([columns[metric, name] for metric, name in keys], dtype=np.int64)
