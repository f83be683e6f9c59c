"""The verdict: whether safety was separable from learning, by the rule that was fixed before the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from safety_lightning.study.statistics.bands import FEWEST_SEEDS
from safety_lightning.study.statistics.cells import Cell, measure_room_low
from safety_lightning.study.statistics.retained import Gain
from safety_lightning.study.statistics.selectivity import Experiment, Outcome
from safety_lightning.study.statistics.settings import StatisticsSettings, get_metric

Answer = Literal["separable", "not_separable", "undecided"]
_TOO_WIDE = "the intervals are too wide"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a study answers.

    Attributes:
        verdict: ``separable``, ``not_separable`` or ``undecided``.
        reason: Why, in a few words.
        selectivity: That of the cell that decides: the largest that is surely above 0 where safety is separable, else
            that of the cell with the highest upper end. None where nothing could be measured.
        low: Lower end of the cell's band.
        high: Upper end of the cell's band.
        smallest_effect: The smallest selectivity that could have been seen at every fraction.
        room: How much further apart than blunt weakening anything could have been: the smallest over experiments.
        sentence: The verdict in words.
        experiment: The experiment of the cell that decides.
        fraction: Its fraction.
        room_low: The smallest lower end of a room's interval.
        utility: The measure of learning.
        harm: The measure of harm.
        delta: The smallest selectivity that matters.
        level: Level of the bands.
        num_seeds: Seeds of the fine-tunes, the fewest of the experiments.
        num_cells: Cells that decide, identical ones counted once.
        num_identical: Cells that are left out of that count.
        skipped: What could not be compared, a line each.
    """

    verdict: Answer
    reason: str
    selectivity: float | None
    low: float | None
    high: float | None
    smallest_effect: float | None
    room: float | None
    sentence: str
    experiment: int | None
    fraction: float | None
    room_low: float | None
    utility: str
    harm: str
    delta: float
    level: float
    num_seeds: int
    num_cells: int
    num_identical: int
    skipped: list[str] = field(default_factory=list)


def make_verdict(
    outcomes: Mapping[Experiment, Sequence[Outcome]],
    cells: Sequence[Cell],
    settings: StatisticsSettings,
    *,
    skipped: Sequence[str] = (),
) -> Verdict:
    """Makes the verdict.

    Args:
        outcomes: What was measured, by experiment and seed.
        cells: The cells that decide: the orthogonal component of the safety subspace.
        settings: What was fixed before.
        skipped: What could not be compared, of which the sentence says nothing.
    """
    rooms = [measure_room_low(found, level=settings.level) for found in outcomes.values()]
    room = min((one for one, _ in rooms if one is not None), default=None)
    room_low = min((low for _, low in rooms if low is not None), default=None)
    gains = [gain for found in outcomes.values() for one in found for gain in one.gains]
    answer, reason = decide(cells, room_low=room_low, gains=gains, settings=settings)
    shown = _choose_cell(cells, answer, settings.delta)
    effect = find_smallest_effect(cells, delta=settings.delta)
    num_seeds = min((len(found) for found in outcomes.values()), default=0)
    num_identical = sum(cell.same_as is not None for cell in cells)
    searched = "at no fraction"
    if skipped:
        searched = f"in none of the {len(cells) - num_identical} cells that could be compared"
    return Verdict(
        verdict=answer,
        reason=reason,
        selectivity=None if shown is None else shown.selectivity,
        low=None if shown is None else shown.low,
        high=None if shown is None else shown.high,
        smallest_effect=effect,
        room=room,
        sentence=_write_sentence(answer, reason, shown, effect, _describe_scope(num_seeds), searched, settings.delta),
        experiment=None if shown is None else shown.experiment,
        fraction=None if shown is None else shown.point.fraction,
        room_low=room_low,
        utility=settings.utility,
        harm=settings.harm,
        delta=settings.delta,
        level=settings.level,
        num_seeds=num_seeds,
        num_cells=len(cells) - num_identical,
        num_identical=num_identical,
        skipped=list(skipped),
    )


def decide(
    cells: Sequence[Cell], *, room_low: float | None, gains: Sequence[Gain], settings: StatisticsSettings
) -> tuple[Answer, str]:
    """Applies the rule; the first of its steps that holds decides.

    Args:
        cells: The cells that decide, with their bands.
        room_low: Lower end of the smallest room.
        gains: What each fine-tune taught, and the harm that came back.
        settings: What was fixed before.

    Returns:
        The verdict and why.
    """
    delta = settings.delta
    weak = [gain for gain in gains if not gain.is_sure]
    bounds = [(cell.low, cell.high) for cell in cells]
    if weak:
        return "undecided", _describe_weak(weak[0])
    if not bounds:
        return "undecided", "the orthogonal component was not measured in any experiment"
    if room_low is None or any(low is None or high is None for low, high in bounds):
        return "undecided", "too few resamples could be used to make intervals"
    if any(low > 0 and cell.selectivity >= delta for cell, (low, _) in zip(cells, bounds, strict=True) if low):
        return "separable", "a lower bound lies above 0"
    if room_low < 2 * delta:
        return "undecided", (
            f"no room: blunt weakening alone brings learning and harm so far apart that only {room_low:.2f} is left, "
            f"and {2 * delta:g} is asked for"
        )
    if all(high < delta for _, high in bounds if high is not None):
        return "not_separable", f"every upper bound lies below {delta:g}"
    return "undecided", _TOO_WIDE


def find_smallest_effect(cells: Sequence[Cell], *, delta: float) -> float | None:
    """Returns the smallest selectivity that would have been seen at every fraction: the widest half of a band below.

    It is at least delta, the smallest that counts; None where there are no bands.
    """
    widths = [cell.selectivity - cell.low for cell in cells if cell.low is not None]
    return max([*widths, delta]) if widths else None


def _choose_cell(cells: Sequence[Cell], answer: Answer, delta: float) -> Cell | None:
    banded = [cell for cell in cells if cell.low is not None and cell.high is not None]
    if answer == "separable":
        sure = [cell for cell in banded if (cell.low or 0) > 0 and cell.selectivity >= delta]
        return max(sure, key=lambda cell: cell.selectivity)
    return max(banded, key=lambda cell: cell.high or 0.0, default=None)


def _describe_weak(gain: Gain) -> str:
    kind, seed, metric = gain.key
    purpose = get_metric(metric).purpose
    what = "taught too little" if purpose == "utility" else "brought back too little harm"
    change = f"{metric} changed by {gain.value:.3f} [{gain.low:.3f}, {gain.high:.3f}]"
    return f"the {kind} fine-tune of seed {seed} {what}: {change}, more than {gain.smallest:.3f} is asked for"


def _write_sentence(
    answer: Answer, reason: str, cell: Cell | None, effect: float | None, scope: str, searched: str, delta: float
) -> str:
    """Puts the verdict into words that say no more than the numbers."""
    if answer == "undecided" or cell is None:
        is_wide = reason == _TOO_WIDE and effect is not None
        seen = f" A selectivity of {effect:.2f} or more could have been seen." if is_wide else ""
        return f"Whether safety is separable from learning stays undecided {scope}: {reason}.{seen}"
    value, low, high = (round(one or 0.0, 2) + 0.0 for one in (cell.selectivity, cell.low, cell.high))  # no −0.00
    interval = f"{value:.2f} [{low:.2f}, {high:.2f}]"
    where = f"at fraction {cell.point.fraction:g} of experiment {cell.experiment}"
    if answer == "separable":
        return (
            f"Safety was separable from learning {scope}: {where}, what lies outside the safety subspace keeps "
            f"learning and harm {interval} further apart than any blunt weakening does."
        )
    return (
        f"Safety was not separable from learning {scope}: {searched} does what lies outside the safety subspace "
        f"keep learning and harm {delta:g} further apart than blunt weakening does; at most, {where}, "
        f"{interval}."
    )


def _describe_scope(num_seeds: int) -> str:
    if num_seeds >= FEWEST_SEEDS:
        return f"over {num_seeds} seeds of the fine-tunes"
    return "for these fine-tunes"
