"""Prints what a run measured: one table, the settings that are not the default, and where things lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from safety_lightning.evaluation.results import ResultRow, read_results
from safety_lightning.profiles import name_profile


def print_summary(
    run_folder: Path,
    *,
    settings: Mapping[str, Any],
    subspaces: Sequence[Mapping[str, int]] = (),
    console: Console | None = None,
) -> None:
    """Prints the results of a run folder as a table of models by metrics, with 95 % intervals.

    Args:
        run_folder: The folder with ``results.jsonl``.
        settings: The profile settings that the run had.
        subspaces: Counts of the matrices of each subspace, as `ProjectUpdate.describe` gives them.
        console: Where to print; None is standard output.
    """
    console = console or Console()
    file = run_folder / "results.jsonl"
    rows = read_results(file) if file.is_file() else []
    if rows:
        console.print(make_table(rows))
    for counts in subspaces:
        console.print(
            f"Subspace     {counts['num_matrices']} matrices, {counts['num_zero_delta']} without a delta, "
            f"{counts['num_capped_at_rank']} capped at the rank of their delta",
            highlight=False,
            soft_wrap=True,
        )
    listed = ", ".join(f"{name}: {value}" for name, value in settings.items())
    console.print(f"Profile {name_profile(settings)} ({listed})", highlight=False, soft_wrap=True)
    console.print(f"Run folder   {run_folder}", highlight=False, soft_wrap=True)
    console.print(f"TensorBoard  tensorboard --logdir {run_folder}", highlight=False, soft_wrap=True)


def make_table(rows: list[ResultRow]) -> Table:
    """Makes a table with a line a model and a column a metric, in the order in which they were measured."""
    metrics = list(dict.fromkeys(row.metric for row in rows))
    models = list(dict.fromkeys(row.model for row in rows))
    cells = {(row.model, row.metric): _format_cell(row) for row in rows}
    sizes = ", ".join(str(size) for size in sorted({row.num_total for row in rows}))
    table = Table(title=f"value and 95 % interval over {sizes} cases, all scored unless said", box=SIMPLE_HEAD)
    table.add_column("model")
    for metric in metrics:
        table.add_column(metric.replace("_", "-"), justify="right", no_wrap=True)
    for model in models:
        table.add_row(model, *(cells.get((model, metric), "") for metric in metrics))
    return table


def _format_cell(row: ResultRow) -> str:
    unscored = "" if row.num_scored == row.num_total else f"\n{row.num_scored} of {row.num_total}"
    return f"{row.value:.3f}\n" + rf"\[{row.low:.3g}, {row.high:.3g}]" + unscored
