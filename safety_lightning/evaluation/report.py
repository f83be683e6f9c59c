"""Shows what a run measured: one table, its settings and where things lie; and some answers, for TensorBoard."""

from __future__ import annotations

import html
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from safety_lightning.evaluation.cases import CasePlan
from safety_lightning.evaluation.measurement import find_direction
from safety_lightning.evaluation.records import ComparisonRow, Generation, ResultRow, ScoreRow, read_results
from safety_lightning.evaluation.tasks import Task
from safety_lightning.files import read_rows
from safety_lightning.printing import PlainTable, format_interval, open_console, show_line, show_table
from safety_lightning.profiles import name_profile

_MOST_COLUMNS = 4  # that a terminal of 80 characters holds
_NAME_WIDTH, _CELL_WIDTH = 15, 16  # characters of a table's first column, and of each other
_KIND = "share_"  # how the shares of the kinds of answers begin
_LONGEST_CELL = 600  # characters of a prompt or an answer
HIDDEN = "(hidden: model.show_harmful)"
_BESIDE = ("_share_of_fives", "_per_solution", "_of_answers")  # in results.jsonl and in the table of one model
_ARROWS = {"higher": " \N{UPWARDS ARROW}", "lower": " \N{DOWNWARDS ARROW}", None: ""}


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
    print_results(run_folder, console=console)
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


def print_results(run_folder: Path, *, console: Console) -> None:
    """Prints the tables of ``results.jsonl``, what is unjudged, and who judged; nothing where there is no such file."""
    file = run_folder / "results.jsonl"
    rows = read_results(file) if file.is_file() else []
    if not rows:
        return
    is_evaluation = len({row.model for row in rows}) == 1 and any(row.engine or row.judge for row in rows)
    shown = [row for row in rows if not _is_listed(row)]
    for table in [make_metric_table(shown)] if is_evaluation else make_tables(shown, width=console.width):
        show_table(console, table)
    for list_lines in (list_answers, list_clusters, list_unjudged, list_unscored, list_judges):
        for line in list_lines(rows):
            show_line(console, line)


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
    computed = ", ".join(one for one in (first.engine, first.dtype) if one)
    title = f"{first.model}{f' ({computed})' if computed else ''}, 95 % intervals"
    table = PlainTable(title, names=["task", "metric"], numbers=["value", "interval", "scored"])
    for row in rows:
        table.add_line(
            row.task.replace("_", "-"),
            _write_metric(row.metric),
            f"{row.value:.3f}",
            format_interval(row.low, row.high),
            f"{row.num_scored}/{row.num_total}",
        )
    return table


def list_answers(rows: Sequence[ResultRow]) -> list[str]:
    """Lists how many answers are of which kind, by model and task; not where all are answered whole."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.metric.startswith(_KIND):
            share = f"{row.metric.removeprefix(_KIND).replace('_', ' ')} {row.value:.1%}"
            found.setdefault((_name_model(row), row.task), []).extend([share] if row.value else [])
    models = {model for model, _ in found}
    return [
        f"Answers      {f'{model}, ' if len(models) > 1 else ''}{task.replace('_', '-')}: {', '.join(shares)}"
        for (model, task), shares in found.items()
        if shares != ["answered 100.0%"]
    ]


def list_clusters(rows: Sequence[ResultRow]) -> list[str]:
    """Lists in how many clusters of near twins the prompts of a task come."""
    found = {row.task: row for row in rows if row.num_clusters is not None and not row.metric.endswith("_of_answers")}
    return [
        f"Clusters     {row.num_clusters} of {row.num_total} prompts: {task.replace('_', '-')}, intervals are over them"
        for task, row in found.items()
    ]


def list_unjudged(rows: Sequence[ResultRow]) -> list[str]:
    """Lists why answers are unjudged, and what they could change."""
    lines = []
    for row in rows:
        reasons = [f"{number} {reason.replace('_', ' ')}" for reason, number in (row.unjudged or {}).items() if number]
        if reasons and row.lowest is not None and row.highest is not None:
            where = " ".join(one for one in (row.task, row.metric, "of", _name_model(row)) if one)
            lines.append(f"Unjudged     {', '.join(reasons)}: {where} is in {row.lowest:.3f} to {row.highest:.3f}")
    return lines


def list_unscored(rows: Sequence[ResultRow]) -> list[str]:
    """Lists the likelihoods that are no number at some prompts: their values are of the others alone."""
    found: dict[tuple[str, str, int, int], list[str]] = {}
    for row in rows:
        if row.task and row.unjudged is None and row.num_scored < row.num_total and not row.metric.endswith(_BESIDE):
            key = (_name_model(row), row.task, row.num_total - row.num_scored, row.num_total)
            found.setdefault(key, []).append(row.metric.replace("_", "-"))
    return [
        f"Unscored     {number} of {num_total} prompts: {task.replace('_', '-')} {', '.join(metrics)} of {model}, no "
        "numbers there and not in the values"
        for (model, task, number, num_total), metrics in found.items()
    ]


def list_judges(rows: Sequence[ResultRow]) -> list[str]:
    """Lists who judged what, by which rubric."""
    found = dict.fromkeys((row.task, row.judge, row.rubric_hash, row.scale) for row in rows if row.judge is not None)
    return [
        f"Judge        {judge} ({f'scale {scale}, ' if scale else ''}rubric {rubric_hash}) of {task}"
        for task, judge, rubric_hash, scale in found
    ]


def _name_model(row: ResultRow) -> str:
    return row.model if row.step is None else f"step {row.step}"


def _name_metric(row: ResultRow | ComparisonRow, rows: Sequence[ResultRow | ComparisonRow]) -> str:
    """Names a metric, with its task where several tasks have it."""
    is_shared = len({one.task for one in rows if one.metric == row.metric}) > 1
    return f"{row.task.replace('_', '-')} {_write_metric(row.metric)}" if is_shared else _write_metric(row.metric)


def _write_metric(metric: str) -> str:
    """Writes a metric's name, with an arrow that says which way is better."""
    return metric.replace("_per_", "/").replace("_", "-") + _ARROWS[find_direction(metric)]


def _is_listed(row: ResultRow) -> bool:
    """Whether a row is told below the table, or stands in the file alone: kinds of answers, and single refusals."""
    return row.metric.startswith(_KIND) or _is_single(row.metric)


def _is_single(metric: str) -> bool:
    """Whether a metric is of one refusal of a list: the mean of all stands in the tables."""
    return metric.startswith("refusal_token_probability_")


def _format_cell(row: ResultRow) -> str:
    unscored = "" if row.num_scored == row.num_total else f"\n{row.num_scored} of {row.num_total}"
    return f"{row.value:.3f}\n{format_interval(row.low, row.high)}{unscored}"


def print_comparisons(run_folder: Path, *, console: Console | None = None) -> None:
    """Prints the differences to the baseline, where the run has one, or between the models of a fine-tune."""
    file = run_folder / "comparison.jsonl"
    if not file.is_file():
        return
    rows = read_rows(file, ComparisonRow, what="a comparison")
    console = open_console(console)
    for model, baseline in dict.fromkeys((row.model, row.baseline) for row in rows):
        title = "difference to the baseline" if model is None else f"{model} minus {baseline}"
        own = [row for row in rows if (row.model, row.baseline) == (model, baseline)]
        show_table(console, make_difference_table(own, title=title))
        if model is None:
            show_line(console, f"Baseline     {baseline}")
    if rows:
        show_line(console, "Visible is the smallest true difference that so many prompts show with a power of 80 %")
        if any(row.p_value is not None for row in rows):
            show_line(console, "p is that of McNemar's exact test")


def make_difference_table(rows: Sequence[ComparisonRow], *, title: str) -> PlainTable:
    """Makes a table of the differences of two models, with the smallest that could have been seen."""
    rows = [row for row in rows if not _is_single(row.metric)]
    has_tests = any(row.p_value is not None for row in rows)
    has_gaps = any(row.num_pairs < row.num_total for row in rows)
    numbers = ["difference", "interval", "visible", *(["pairs"] if has_gaps else []), *(["p"] if has_tests else [])]
    sizes = ", ".join(str(size) for size in sorted({row.num_total for row in rows}))
    table = PlainTable(f"{title}: 95 % intervals over {sizes} pairs", names=["metric"], numbers=numbers)
    for row in rows:
        cells = [
            f"{row.difference:+.3f}",
            format_interval(row.low, row.high),
            "" if row.smallest_difference is None else f"{row.smallest_difference:.3f}",
            *([f"{row.num_pairs}/{row.num_total}"] if has_gaps else []),
            *(["" if row.p_value is None else f"{row.p_value:.2g}"] if has_tests else []),
        ]
        table.add_line(_name_metric(row, rows), *cells)
    return table


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
