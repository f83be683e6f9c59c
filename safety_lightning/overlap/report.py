"""Prints what an overlap command measured: one table, what was left out, and where things lie."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from safety_lightning.overlap.rows import (
    ActivationRow,
    AverageRow,
    LayerRow,
    OverlapMatrixRow,
    name_layers,
)
from safety_lightning.printing import PlainTable, open_console, show_line, show_table
from safety_lightning.tables import average

_MAX_ETAS = 5
_QUANTITIES = {
    "mso": "overlap",
    "chance": "chance",
    "excess": "excess",
    "mso_uncentred": "uncentred",
    "ceiling": "ceiling",
}


def print_report(
    table: Table | None,
    *,
    notes: Sequence[str],
    settings: Mapping[str, Mapping[str, Any]],
    out: Path,
    console: Console | None,
) -> None:
    """Prints a table, what there is to say about it, the settings by profile, and where things lie.

    Args:
        table: The table; None when there is nothing to average.
        notes: A line each: what was left out, and what does not fit.
        settings: The settings in which profiles part, by the name of the profile in the rows.
        out: The folder.
        console: Where to print; None is standard output.
    """
    console = open_console(console)
    if table is not None:
        show_table(console, table)
    for note in notes:
        show_line(console, note)
    for profile, values in settings.items():
        listed = ", ".join(f"{name}: {value}" for name, value in values.items())
        show_line(console, f"Profile {profile} ({listed})")
    show_line(console, f"Folder       {out}")
    show_line(console, f"TensorBoard  tensorboard --logdir {shlex.quote(str(out))}")


def note_forced(rows: Sequence[OverlapMatrixRow] | Sequence[ActivationRow]) -> list[str]:
    """Says how many rows have forced overlap; nothing where none has."""
    if not any(row.is_forced for row in rows):
        return []
    share = sum(row.is_forced for row in rows) / len(rows)
    return [f"{share:.1%} of the rows have forced overlap: their two ranks add up to more than the dimension"]


def make_weight_table(rows: Sequence[LayerRow]) -> Table:
    """Makes a table of the means over decoder layers, or over what there is when nothing lies in a layer."""
    placed = [row for row in rows if row.layer is not None] or list(rows)
    what = "decoder layers" if placed[0].layer is not None else "matrices outside the layers"
    names = ["mso", "chance", "excess"]
    values = {
        key: {name: average([getattr(row, name) for row in found]) for name in names}
        | {"ceiling": average([one for row in found for one in (row.ceiling_a, row.ceiling_b)])}
        for key, found in _group(placed).items()
    }
    return _make_table(f"Mode Subspace Overlap of weights, mean over {what}", values, {})


def make_activation_table(rows: Sequence[AverageRow]) -> Table:
    """Makes a table of the averages over a range of depth, with the null's band and the interval."""
    names = ["mso", "chance", "excess", "mso_uncentred"]
    groups = {key: found[0] for key, found in _group(rows).items()}
    values = {
        key: {name: getattr(row, name) for name in names if name != "mso_uncentred" or row.mso_uncentred != row.mso}
        for key, row in groups.items()
    }
    ranges = {
        key: {"interval": (row.low, row.high), "null band": (row.null_low, row.null_high)}
        for key, row in groups.items()
    }
    title = f"Mode Subspace Overlap of activations, mean over {name_layers(rows[0])}"
    return _make_table(title, values, ranges)


_Key = tuple[str, str, float]


def _group(rows: Sequence[Any]) -> dict[_Key, list[Any]]:
    groups: dict[_Key, list[Any]] = {}
    for row in rows:
        groups.setdefault((row.pair, row.profile, row.eta), []).append(row)
    return groups


def _make_table(
    title: str,
    values: Mapping[_Key, Mapping[str, float | None]],
    ranges: Mapping[_Key, Mapping[str, tuple[float | None, float | None]]],
) -> Table:
    """Makes a block per pair: a column per share, a line per quantity and profile, profiles side by side."""
    etas = _choose_etas([key[2] for key in values])
    profiles = list(dict.fromkeys(key[1] for key in values))
    title += "\nintervals and bands hold 95 %" * bool(ranges)
    table = PlainTable(title, names=["share of energy"], numbers=[f"{eta:g}" for eta in etas])
    for pair in dict.fromkeys(key[0] for key in values):
        table.add_line(pair, style="bold")
        for (name, profile), line in _list_lines(pair, values, ranges, etas, profiles).items():
            table.add_line(f"{name}, {profile}" if len(profiles) > 1 else name, *line)
        table.add_section()
    return table


def _list_lines(
    pair: str,
    values: Mapping[_Key, Mapping[str, float | None]],
    ranges: Mapping[_Key, Mapping[str, tuple[float | None, float | None]]],
    etas: Sequence[float],
    profiles: Sequence[str],
) -> dict[tuple[str, str], list[str]]:
    """Returns the cells of a pair's lines by quantity and profile; lines without anything are left out."""
    cells = {
        key: {_QUANTITIES[name]: _format(value) for name, value in found.items()}
        | {name: _format_range(*ends) for name, ends in ranges.get(key, {}).items()}
        for key, found in values.items()
        if key[0] == pair
    }
    names = dict.fromkeys(name for found in cells.values() for name in found)
    lines = {
        (name, profile): [cells.get((pair, profile, eta), {}).get(name, "") for eta in etas]
        for name in names
        for profile in profiles
    }
    return {key: line for key, line in lines.items() if any(line)}


def _choose_etas(etas: Sequence[float]) -> list[float]:
    """Chooses a few shares that a table has room for, the first and the last among them."""
    ordered = sorted(set(etas))
    if len(ordered) <= _MAX_ETAS:
        return ordered
    return [ordered[round(at * (len(ordered) - 1) / (_MAX_ETAS - 1))] for at in range(_MAX_ETAS)]


def _format(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _format_range(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.2f}–{high:.2f}"
