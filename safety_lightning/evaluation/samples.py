"""Shows some answers with their scores as a table in Markdown, harmful ones hidden unless asked for."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from safety_lightning.evaluation.cases import Plan
from safety_lightning.evaluation.records.generations import Generation
from safety_lightning.evaluation.records.scores import ScoreRow
from safety_lightning.evaluation.tasks.protocol import Task

_LONGEST_CELL = 600  # characters
HIDDEN = "(hidden: model.show_harmful)"


def format_samples(
    plan: Plan,
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
        shown = [HIDDEN, HIDDEN] if hides else [_format_cell(generation.prompt), _format_cell(generation.answer)]
        values = [found.get((generation.id, metric), "") for metric in metrics]
        lines.append(f"| {' | '.join([*shown, *values])} |")
    return "\n".join(lines)


def _format_score(row: ScoreRow) -> str:
    return f"{row.value:.3g}" if row.value is not None else str(row.unjudged)


def _format_cell(text: str) -> str:
    """Writes text so that Markdown shows it as it is, on one line."""
    shortened = text if len(text) <= _LONGEST_CELL else text[:_LONGEST_CELL] + " ..."
    escaped = html.escape(shortened)
    for character in "\\`*_{}[]#|~":
        escaped = escaped.replace(character, f"&#{ord(character)};")
    return escaped.replace("\n", "<br>")
