"""The same care for overlap: how much more the pairs overlap that should, if safety had directions of its own."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from safety_lightning.study.statistics.tables.rows import ExcessRow
from safety_lightning.tables import average

WEIGHTS, ACTIVATIONS = "overlap_weights.csv", "overlap_activations.csv"
"""The files of a study that hold what `overlap` wrote."""

HARMFUL_SETS = ("harmful", "advbench", "toxigen", "beavertails")
"""What the names of harmful prompt sets begin with."""

USEFUL_SETS = ("useful", "gsm8k", "math", "metamath")
"""What the names of useful prompt sets begin with."""

_DELTA = "delta"
Line = Mapping[str, str]


def list_excesses(study: Path) -> list[ExcessRow]:
    """Compares the overlaps of a study, as far as it holds any.

    In weights: harmful with the alignment delta, held against useful with the alignment delta. In activations: two sets
    of harmful prompts, held against a harmful and a useful set.
    """
    rows: list[ExcessRow] = []
    for name, subject, list_pairs in (
        (WEIGHTS, "weights", _pair_weights),
        (ACTIVATIONS, "activations", _pair_activations),
    ):
        lines = read_overlap(study / name)
        for first, second in list_pairs(dict.fromkeys(line["pair"] for line in lines)):
            rows += _compare(subject, first, second, lines)
    return rows


def read_overlap(file: Path) -> list[Line]:
    """Reads the rows of the first profile; none where there is no file."""
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    return [line for line in lines if line.get("profile") == lines[0].get("profile")]


def read_number(line: Line, column: str) -> float | None:
    """Returns a number of a row, None where the column or the value is absent."""
    text = line.get(column) or ""
    return float(text) if text else None


def split_pair(pair: str) -> tuple[str, str]:
    """Returns the two names of a pair.

    Example:
        >>> split_pair("useful vs harmful")
        ('useful', 'harmful')
    """
    first, _, second = pair.partition(" vs ")
    return first, second


def _pair_weights(pairs: Mapping[str, None]) -> Iterator[tuple[str, str]]:
    by_kind = {name: pair for pair in pairs for name in split_pair(pair) if _DELTA in split_pair(pair)}
    for kind in ("harmful", "contaminated"):
        if kind in by_kind and "useful" in by_kind:
            yield by_kind[kind], by_kind["useful"]


def _pair_activations(pairs: Mapping[str, None]) -> Iterator[tuple[str, str]]:
    alike = [pair for pair in pairs if all(name.startswith(HARMFUL_SETS) for name in split_pair(pair))]
    for first in alike:
        for second in pairs:
            shared = set(split_pair(first)) & set(split_pair(second))
            if len(shared) == 1 and any(name.startswith(USEFUL_SETS) for name in split_pair(second)):
                yield first, second


def _compare(subject: str, first: str, second: str, lines: Sequence[Line]) -> Iterator[ExcessRow]:
    for eta in sorted({float(line["eta"]) for line in lines}):
        one, other = (
            {_place(line): line for line in lines if line["pair"] == pair and float(line["eta"]) == eta}
            for pair in (first, second)
        )
        both = [place for place in one if place in other]
        excesses = [(read_number(one[place], "excess"), read_number(other[place], "excess")) for place in both]
        differences = [a - b for a, b in excesses if a is not None and b is not None]
        if not differences:
            continue
        means = {
            f"{column}_{name}": average([read_number(found[place], column) for place in both])
            for column in ("mso", "chance", "excess")
            for name, found in (("first", one), ("second", other))
        }
        yield ExcessRow(
            subject=subject,
            first=first,
            second=second,
            eta=eta,
            **means,
            difference=average(differences),
            share_larger=sum(value > 0 for value in differences) / len(differences),
            num_places=len(differences),
            null_low=average([read_number(other[place], "null_low") for place in both]),
            null_high=average([read_number(other[place], "null_high") for place in both]),
            ceiling=average([_read_ceiling(one[place]) for place in both]),
        )


def _place(line: Line) -> tuple[str, str]:
    return line.get("tensor") or "", line.get("layer") or line.get("first_layer") or ""


def _read_ceiling(line: Line) -> float | None:
    """Returns the ceiling of the update that is not the alignment delta, which has no second seed."""
    return average([read_number(line, "ceiling_a"), read_number(line, "ceiling_b")])
