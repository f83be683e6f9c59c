"""The same care for overlap: how much more the pairs overlap that should, if safety had directions of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from safety_lightning.overlap.rows import ActivationRow, AverageRow, LayerRow
from safety_lightning.study.statistics.tables.rows import ExcessRow
from safety_lightning.tables import average, read_csv

WEIGHTS, ACTIVATIONS = "overlap_weights.csv", "overlap_activations.csv"
ACTIVATION_LAYERS = "overlap_activation_layers.csv"
"""The files of a study that hold what `overlap` wrote: weights by layer; activations averaged, and by layer."""

HARMFUL_SETS = ("harmful", "advbench", "toxigen", "beavertails")
"""What the names of harmful prompt sets begin with."""

USEFUL_SETS = ("useful", "gsm8k", "math", "metamath")
"""What the names of useful prompt sets begin with."""

_DELTA = "delta"
Row = TypeVar("Row", LayerRow, AverageRow, ActivationRow)
Compared = LayerRow | AverageRow


def list_excesses(study: Path) -> list[ExcessRow]:
    """Compares the overlaps of a study, as far as it holds any.

    In weights: harmful with the alignment delta, held against useful with the alignment delta, layer by layer. In
    activations: two sets of harmful prompts, held against a harmful and a useful set, in the mean over the layers that
    `overlap` averages.

    Raises:
        UserError: If a file cannot be read.
    """
    weights, activations = read_overlap(study / WEIGHTS, LayerRow), read_overlap(study / ACTIVATIONS, AverageRow)
    return [
        *(row for first, second in _pair_weights(weights) for row in _compare("weights", first, second, weights)),
        *(
            row
            for first, second in _pair_activations(activations)
            for row in _compare("activations", first, second, activations)
        ),
    ]


def read_overlap(file: Path, row_class: type[Row]) -> list[Row]:
    """Reads the rows of the first profile; none where there is no file.

    Raises:
        UserError: If the file cannot be read.
    """
    rows = read_csv(file, row_class) if file.is_file() else []
    return [row for row in rows if row.profile == rows[0].profile]


def split_pair(pair: str) -> tuple[str, str]:
    """Returns the two names of a pair.

    Example:
        >>> split_pair("useful vs harmful")
        ('useful', 'harmful')
    """
    first, _, second = pair.partition(" vs ")
    return first, second


def _pair_weights(rows: Iterable[LayerRow]) -> Iterator[tuple[str, str]]:
    pairs = dict.fromkeys(row.pair for row in rows)
    by_kind = {name: pair for pair in pairs for name in split_pair(pair) if _DELTA in split_pair(pair)}
    for kind in ("harmful", "contaminated"):
        if kind in by_kind and "useful" in by_kind:
            yield by_kind[kind], by_kind["useful"]


def _pair_activations(rows: Iterable[AverageRow]) -> Iterator[tuple[str, str]]:
    pairs = dict.fromkeys(row.pair for row in rows)
    alike = [pair for pair in pairs if all(name.startswith(HARMFUL_SETS) for name in split_pair(pair))]
    for first in alike:
        for second in pairs:
            shared = set(split_pair(first)) & set(split_pair(second))
            if len(shared) == 1 and any(name.startswith(USEFUL_SETS) for name in split_pair(second)):
                yield first, second


def _compare(subject: str, first: str, second: str, rows: Sequence[Compared]) -> Iterator[ExcessRow]:
    """Compares two pairs at every share of energy, in the places in which both have an excess."""
    for eta in sorted({row.eta for row in rows}):
        one, other = (
            {_find_place(row): row for row in rows if (row.pair, row.eta) == (pair, eta) and row.excess is not None}
            for pair in (first, second)
        )
        both = [(one[place], other[place]) for place in one if place in other]
        if not both:
            continue
        differences = [(a.excess or 0.0) - (b.excess or 0.0) for a, b in both]
        by_layer = [a for a, _ in both if isinstance(a, LayerRow)]
        averaged = [b for _, b in both if isinstance(b, AverageRow)]
        yield ExcessRow(
            subject=subject,
            first=first,
            second=second,
            eta=eta,
            mso_first=average(a.mso for a, _ in both),
            mso_second=average(b.mso for _, b in both),
            chance_first=average(a.chance for a, _ in both),
            chance_second=average(b.chance for _, b in both),
            excess_first=average(a.excess for a, _ in both),
            excess_second=average(b.excess for _, b in both),
            difference=average(differences),
            share_larger=sum(value > 0 for value in differences) / len(both) if by_layer else None,
            num_places=len(by_layer) or min(row.num_layers for row in averaged),
            null_low=average(row.null_low for row in averaged),
            null_high=average(row.null_high for row in averaged),
            ceiling=average(average([row.ceiling_a, row.ceiling_b]) for row in by_layer),
        )


def _find_place(row: Compared) -> int | None:
    """Returns the layer of a row; an average is of one place."""
    return row.layer if isinstance(row, LayerRow) else None
