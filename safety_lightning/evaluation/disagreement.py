"""Shows where two judges of the same answers part: counts, and no text of any answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from safety_lightning.evaluation.judges import DEFAULT_SCALE, Scale, is_harmful
from safety_lightning.evaluation.records import ScoreRow, read_scores
from safety_lightning.evaluation.statistics import measure_agreement
from safety_lightning.evaluation.summary import align_scores
from safety_lightning.printing import PlainTable, show_line, show_table

_UNJUDGED = "none"


def print_disagreements(run_folder: Path, *, console: Console) -> None:
    """Prints, for each task that two judges judged, how often each pair of scores came."""
    for first, second in find_pairs(read_scores(run_folder)):
        show_line(console, f"Scores of {first[0].judge} in lines, of {second[0].judge} in columns, to {first[0].task}:")
        show_table(console, make_disagreement_table(first, second))
        for line in describe_agreement(first, second):
            show_line(console, line)


def find_pairs(rows: Sequence[ScoreRow]) -> list[tuple[list[ScoreRow], list[ScoreRow]]]:
    """Finds the tasks that two judges judged, and returns the rows of both, by the same prompts in the same order."""
    judged: dict[str, dict[str, list[ScoreRow]]] = {}
    for row in rows:
        if row.kind == "judged":
            judged.setdefault(row.task, {}).setdefault(row.metric, []).append(row)
    pairs = []
    for metrics in judged.values():
        if len(metrics) == 2:
            first, second = metrics.values()
            places = {row.id: row for row in second}
            pairs.append(([row for row in first if row.id in places], [places[r.id] for r in first if r.id in places]))
    return pairs


def make_disagreement_table(first: Sequence[ScoreRow], second: Sequence[ScoreRow]) -> PlainTable:
    """Makes a table with the first judge's scores in lines and the second's in columns; scores are rounded."""
    pairs = Counter(zip(map(_name_score, first), map(_name_score, second), strict=True))
    lines, columns = (sorted({pair[at] for pair in pairs}) for at in (0, 1))
    table = PlainTable("answers", names=[""], numbers=columns)
    for line in lines:
        table.add_line(line, *(str(pairs[line, column] or "") for column in columns))
    return table


def describe_agreement(first: Sequence[ScoreRow], second: Sequence[ScoreRow]) -> list[str]:
    """Says how far two judges agree, and how many answers one of them alone takes for harmful."""
    both = [
        (a.value, b.value) for a, b in zip(first, second, strict=True) if a.value is not None and b.value is not None
    ]
    counts = f"{len(both)} of {len(first)} answers with both scores"
    if not both:
        return [f"Agreement    none to be measured: {counts}"]
    scales = _find_scale(first[0]), _find_scale(second[0])
    harmful = [(is_harmful(a, scales[0]), is_harmful(b, scales[1])) for a, b in both]
    alone = [sum(one[at] and not one[1 - at] for one in harmful) for at in (0, 1)]
    lines = [f"Taken for harmful by {first[0].judge} alone: {alone[0]}, by {second[0].judge} alone: {alone[1]}"]
    scores = align_scores([[one[at] for one in both] for at in (0, 1)], scales)
    if scales[0] != scales[1]:
        alpha = measure_agreement(scores, level="nominal").alpha
        level = f"harmful or not, for scales {scales[0]} and {scales[1]} are not mixed"
        return [*lines, f"Krippendorff's alpha ({level}): {_write_alpha(alpha)}, over {counts}"]
    interval, ordinal = measure_agreement(scores).alpha, measure_agreement(scores, level="ordinal").alpha
    alphas = f"{_write_alpha(interval)} (interval), {_write_alpha(ordinal)} (ordinal)"
    return [*lines, f"Krippendorff's alpha: {alphas}, over {counts}"]


def _write_alpha(alpha: float | None) -> str:
    return "undefined, all scores are the same" if alpha is None else f"{alpha:.3f}"


def _find_scale(row: ScoreRow) -> Scale:
    return row.scale or DEFAULT_SCALE


def _name_score(row: ScoreRow) -> str:
    """Names a score so that few columns hold all: a whole level from 1 to 5, a quarter from 0 to 1, yes or no."""
    if row.value is None:
        return _UNJUDGED
    scale = _find_scale(row)
    if scale == "yes-no":
        return "yes" if row.value else "no"
    return f"{row.value:.0f}" if scale == "1-5" else f"{round(row.value * 4) / 4:.2f}"
