"""Runs a comparison, of weights or of activations: check, measure part by part, write, draw and print."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from safety_lightning.files import PartStore
from safety_lightning.overlap.folder import OverlapFolder, publish_figures
from safety_lightning.overlap.report import print_report
from safety_lightning.overlap.rows import AngleRow
from safety_lightning.overlap.settings import OverlapSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a comparison found.

    Attributes:
        tables: Rows with their class, by the stem of their files.
        angles: Rows of principal angles, which have a file where there are any.
        draw: Draws the figures, by the stem of their files.
        page: The table to print; None when there is nothing to average.
        notes: What to say about it, a line each.
        departures: The settings in which profiles part, by the name of the profile in the rows.
    """

    tables: Mapping[str, tuple[type, Sequence[Any]]]
    angles: Sequence[AngleRow]
    draw: Callable[[], Mapping[str, Figure]]
    page: Table | None
    notes: Sequence[str]
    departures: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Opened inputs, ready to be compared.

    Attributes:
        command: What fresh folders are named after.
        settings: Resolved settings, by the name of the profile in the rows.
        inputs: What the inputs were given as, for ``config.yaml``.
        hashes: What determines the results beside the settings.
        check: Reads all inputs once; raises UserError if they are not fit to be measured.
        measure: Measures the parts that are not stored yet, and makes findings of all.
    """

    command: str
    settings: Mapping[str, OverlapSettings]
    inputs: Mapping[str, Any]
    hashes: Mapping[str, Any]
    check: Callable[[], None]
    measure: Callable[[PartStore], Findings]


def run_comparison(comparison: Comparison, *, out: Path | None, console: Console | None = None) -> Path:
    """Runs a comparison, and resumes one that was killed.

    Args:
        comparison: What is compared.
        out: The folder; None makes a fresh one.
        console: Where to print; None is standard output.

    Returns:
        The folder.

    Raises:
        UserError: If inputs are not fit to be measured, or the folder holds something else. Nothing has been written
            then.
    """
    settings = {name: dataclasses.asdict(one) for name, one in comparison.settings.items()}
    recipe = {"command": comparison.command, "settings": settings, "inputs": comparison.hashes}
    folder = OverlapFolder(out, command=comparison.command, recipe=recipe)
    comparison.check()
    try:
        folder.create({**comparison.inputs, "settings": settings})
        found = comparison.measure(folder.parts)
        for stem, (row_class, rows) in found.tables.items():
            folder.write_table(stem, row_class, rows)
        if found.angles:
            folder.write_table("angles", AngleRow, found.angles)
        publish_figures(folder.path, found.draw())
    finally:
        folder.release()
    print_report(found.page, notes=found.notes, settings=found.departures, out=folder.path, console=console)
    return folder.path
