"""Studies side by side: verdicts, what they were told, and the selectivity of every cell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from safety_lightning.errors import UserError
from safety_lightning.printing import PlainTable, open_console, show_line, show_table
from safety_lightning.study.report.results import Results, read_results
from safety_lightning.study.report.sheet import Sheet, join_interval
from safety_lightning.study.report.tables import list_settings


def compare(studies: Sequence[Path], *, console: Console | None = None) -> None:
    """Prints studies side by side.

    Args:
        studies: Their folders, two or more.
        console: Where to print; None is standard output.

    Raises:
        UserError: If there are fewer than two, or one is no study with a verdict.
    """
    if len(studies) < 2:
        raise UserError(f"--compare must name two studies or more, got {len(studies)}")
    found = [read_results(study) for study in studies]
    names = name_studies(studies)
    console = open_console(console)
    for results, name in zip(found, names, strict=True):
        show_line(console, f"{name}: {results.verdict.sentence}")
    for sheet in (_list_verdicts(found, names), _list_cells(found, names), _list_differences(found, names)):
        if sheet.rows:
            _show(console, sheet)


def name_studies(studies: Sequence[Path]) -> list[str]:
    """Returns the last parts of paths, as many as tell them apart."""
    paths = [study.resolve() for study in studies]
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    twin = next(study for study, path in zip(studies, paths, strict=True) if paths.count(path) > 1)
    raise UserError(f"--compare must name different studies, got {twin} twice")


def _list_verdicts(found: Sequence[Results], names: Sequence[str]) -> Sheet:
    verdicts = [results.verdict for results in found]
    rows = [
        ("verdict", *(one.verdict for one in verdicts)),
        ("selectivity", *(join_interval(one.selectivity, one.low, one.high) for one in verdicts)),
        ("smallest effect", *(join_interval(one.smallest_effect, None, None) for one in verdicts)),
        ("room", *(join_interval(one.room, None, None) for one in verdicts)),
        ("seeds", *(f"{one.num_seeds}" for one in verdicts)),
        ("learning", *(one.utility for one in verdicts)),
        ("harm", *(one.harm for one in verdicts)),
    ]
    return Sheet(name="verdicts", title="Verdicts", columns=("", *names), rows=rows)


def _list_cells(found: Sequence[Results], names: Sequence[str]) -> Sheet:
    cells = [
        {
            (row.experiment, row.fraction): join_interval(row.selectivity, row.low, row.high)
            for row in results.selectivity
            if row.component == "orthogonal"
        }
        for results in found
    ]
    keys = sorted({key for one in cells for key in one}, key=str)
    rows = [
        (f"experiment {number}, ρ = {fraction}", *(one.get((number, fraction)) for one in cells))
        for number, fraction in keys
    ]
    return Sheet(name="cells", title="Selectivity, orthogonal component", columns=("cell", *names), rows=rows)


def _list_differences(found: Sequence[Results], names: Sequence[str]) -> Sheet:
    """Lists the settings, options and hashes that are not the same in all studies."""
    tables = [_gather_settings(results) for results in found]
    keys = dict.fromkeys(key for one in tables for key in one)
    rows = [(key, *(one.get(key) for one in tables)) for key in keys if len({str(one.get(key)) for one in tables}) > 1]
    return Sheet(name="differences", title="What differs", columns=("setting", *names), rows=rows)


def _gather_settings(results: Results) -> dict[str, Any]:
    sheets = [sheet for sheet in list_settings(results.settings) if sheet.name != "costs"]
    return {str(row[0]): row[1] for sheet in sheets for row in sheet.rows}


def _show(console: Console, sheet: Sheet) -> None:
    table = PlainTable(sheet.title, names=list(sheet.columns), numbers=[])
    for row in sheet.rows:
        table.add_line(*(sheet.format_cell(cell) or "–" for cell in row))
    show_table(console, table)
