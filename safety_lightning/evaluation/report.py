"""Shows what a run measured: one table, its settings and where things lie; and some answers, for TensorBoard."""

from __future__ import annotations

import html
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from safety_lightning.evaluation.cases import CasePlan
from safety_lightning.evaluation.records import ComparisonRow, Generation, ResultRow, ScoreRow, read_results
from safety_lightning.evaluation.tasks import Task
from safety_lightning.files import read_rows
from safety_lightning.printing import PlainTable, format_interval, open_console, show_line, show_table
from safety_lightning.profiles import name_profile

_MOST_COLUMNS = 4  # that a terminal of 80 characters holds
_NAME_WIDTH, _CELL_WIDTH = 15, 16  # characters of a table's first column, and of each other
_LONGEST_CELL = 600  # characters of a prompt or an answer
HIDDEN = "(hidden: model.show_harmful)"
_BESIDE = ("_share_of_fives", "_per_solution")  # in results.jsonl and in the table of one model


def print_summary(
    run_folder: Path,
    *,
    settings: Mapping[str, Any],
    subspaces: Sequence[Mapping[str, int]] = (),
    console: Console | None = None,
) -> None:
    """Prints the results of a run folder as a table, with 95 % intervals.

    Several models of one run are compared, models by metrics; of one model every metric has a line, with its judge.

    Args:
        run_folder: The folder with ``results.jsonl``.
        settings: The profile settings that the run had.
        subspaces: Counts of the matrices of each subspace, as `ProjectUpdate.describe` gives them.
        console: Where to print; None is standard output.
    """
    console = open_console(console)
    file = run_folder / "results.jsonl"
    rows = read_results(file) if file.is_file() else []
    if rows:
        is_evaluation = len({row.model for row in rows}) == 1 and any(row.engine for row in rows)
        for table in [make_metric_table(rows)] if is_evaluation else make_tables(rows, width=console.width):
            show_table(console, table)
        for line in [*list_unjudged(rows), *list_judges(rows)]:
            show_line(console, line)
    for counts in subspaces:
        show_line(
            console,
            f"Subspace     {counts['num_matrices']} matrices, {counts['num_zero_delta']} without a delta, "
            f"{counts['num_capped_at_rank']} capped at the rank of their delta",
        )
    listed = ", ".join(f"{name}: {value}" for name, value in settings.items())
    show_line(console, f"Profile {name_profile(settings)} ({listed})")
    show_line(console, f"Run folder   {run_folder}")
    show_line(console, f"TensorBoard  tensorboard --logdir {shlex.quote(str(run_folder))}")


def make_tables(rows: Sequence[ResultRow], *, width: int) -> list[PlainTable]:
    """Makes a table of metrics by models, in the order in which they were measured; many models have a line each.

    Args:
        rows: The measurements.
        width: Characters of the terminal; columns that it has no room for go into further tables.
    """
    rows = [row for row in rows if not row.metric.endswith(_BESIDE)]
    metrics = list(dict.fromkeys(_name_metric(row, rows) for row in rows))
    models = list(dict.fromkeys(_name_model(row) for row in rows))
    cells = {(_name_model(row), _name_metric(row, rows)): _format_cell(row) for row in rows}
    sizes = ", ".join(str(size) for size in sorted({row.num_total for row in rows}))
    title = f"value and 95 % interval over {sizes} cases, all scored unless said"
    is_narrow = len(models) <= _MOST_COLUMNS
    lines, columns = (metrics, models) if is_narrow else (models, metrics)
    num_columns = max(1, (width - _NAME_WIDTH) // _CELL_WIDTH)
    tables = []
    for start in range(0, len(columns), num_columns):
        part = columns[start : start + num_columns]
        table = PlainTable(title, names=["metric" if is_narrow else "model"], numbers=part)
        for line in lines:
            keys = [(column, line) if is_narrow else (line, column) for column in part]
            table.add_line(line, *(cells.get(key, "") for key in keys))
        tables.append(table)
    return tables


def make_metric_table(rows: Sequence[ResultRow]) -> PlainTable:
    """Makes a table of one model with a line per metric: value, interval, and how many were scored."""
    first = rows[0]
    title = f"{first.model} ({first.engine}, {first.dtype}), 95 % intervals"
    table = PlainTable(title, names=["task", "metric"], numbers=["value", "interval", "scored"])
    for row in rows:
        table.add_line(
            row.task.replace("_", "-"),
            row.metric.replace("_per_", "/").replace("_", "-"),
            f"{row.value:.3f}",
            format_interval(row.low, row.high),
            f"{row.num_scored}/{row.num_total}",
        )
    return table


def list_unjudged(rows: Sequence[ResultRow]) -> list[str]:
    """Lists why answers are unjudged, and what they could change."""
    lines = []
    for row in rows:
        reasons = [f"{number} {reason.replace('_', ' ')}" for reason, number in (row.unjudged or {}).items() if number]
        if reasons and row.lowest is not None and row.highest is not None:
            where = " ".join(one for one in (row.task, row.metric, "of", _name_model(row)) if one)
            lines.append(f"Unjudged     {', '.join(reasons)}: {where} is in {row.lowest:.3f} to {row.highest:.3f}")
    return lines


def list_judges(rows: Sequence[ResultRow]) -> list[str]:
    """Lists who judged what, by which rubric."""
    found = dict.fromkeys((row.task, row.judge, row.rubric_hash) for row in rows if row.judge is not None)
    return [f"Judge        {judge} (rubric {rubric_hash}) of {task}" for task, judge, rubric_hash in found]


def _name_model(row: ResultRow) -> str:
    return row.model if row.step is None else f"step {row.step}"


def _name_metric(row: ResultRow, rows: Sequence[ResultRow]) -> str:
    """Names a metric, with its task where several tasks have it."""
    is_shared = len({one.task for one in rows if one.metric == row.metric}) > 1
    name = f"{row.task} {row.metric}" if is_shared else row.metric
    return name.replace("_per_", "/").replace("_", "-")


def _format_cell(row: ResultRow) -> str:
    unscored = "" if row.num_scored == row.num_total else f"\n{row.num_scored} of {row.num_total}"
    return f"{row.value:.3f}\n{format_interval(row.low, row.high)}{unscored}"


def print_comparisons(run_folder: Path, *, console: Console | None = None) -> None:
    """Prints the differences to the baseline, where the run has one."""
    file = run_folder / "comparison.jsonl"
    if not file.is_file():
        return
    rows = read_rows(file, ComparisonRow, what="a comparison")
    title = "difference to the baseline, 95 % intervals over prompts"
    table = PlainTable(title, names=["task", "metric"], numbers=["difference", "interval", "pairs", "McNemar p"])
    for row in rows:
        p_value = "" if row.p_value is None else f"{row.p_value:.3g}"
        pairs = f"{row.num_pairs}/{row.num_total}"
        names = [name.replace("_", "-") for name in (row.task, row.metric)]
        table.add_line(*names, f"{row.difference:+.3f}", format_interval(row.low, row.high), pairs, p_value)
    console = open_console(console)
    show_table(console, table)
    for baseline in dict.fromkeys(row.baseline for row in rows):
        show_line(console, f"Baseline     {baseline}")


def format_samples(
    plan: CasePlan,
    task: Task,
    generations: Mapping[int, Generation],
    scores: Sequence[ScoreRow],
    *,
    num_samples: int,
    show_harmful: bool,
) -> str:
    """Formats the first answers of a task with their scores.

    Args:
        plan: The plan.
        task: The task.
        generations: Answers by the index of their case.
        scores: The scores of all prompts.
        num_samples: How many rows.
        show_harmful: Whether prompts and answers of harmful tasks are shown.

    Returns:
        A Markdown table, in which nothing of an answer acts as markup.
    """
    hides = task.is_harmful and not show_harmful
    metrics = list(dict.fromkeys(row.metric for row in scores if row.task == task.name))
    found = {(row.id, row.metric): _format_score(row) for row in scores if row.task == task.name}
    lines = [f"| prompt | answer | {' | '.join(metrics)} |", "|---" * (2 + len(metrics)) + "|"]
    for index in plan.list_indices(task)[:num_samples]:
        generation = generations[index]
        shown = [HIDDEN, HIDDEN] if hides else [_escape_cell(generation.prompt), _escape_cell(generation.answer)]
        values = [found.get((generation.id, metric), "") for metric in metrics]
        lines.append(f"| {' | '.join([*shown, *values])} |")
    return "\n".join(lines)


def _format_score(row: ScoreRow) -> str:
    return f"{row.value:.3g}" if row.value is not None else str(row.unjudged)


def _escape_cell(text: str) -> str:
    """Writes text so that Markdown shows it as it is, on one line."""
    shortened = text if len(text) <= _LONGEST_CELL else text[:_LONGEST_CELL] + " ..."
    escaped = html.escape(shortened)
    for character in "\\`*_{}[]#|~":
        escaped = escaped.replace(character, f"&#{ord(character)};")
    return escaped.replace("\n", "<br>")
