"""Selectivity: how much further a variant brings learning and harm apart than any blunt weakening does.

Shapes in this file: K = points, B = 1 + resamples, of which the first is the sample itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from safety_lightning.study.statistics.frontier import evaluate_frontier, measure_room
from safety_lightning.study.statistics.resampling import Resamples
from safety_lightning.study.statistics.retained import Gain, average_draws, measure_gain, measure_shares
from safety_lightning.study.statistics.settings import StatisticsSettings
from safety_lightning.study.statistics.values import RANDOM, Floats, TableKey, Values, VariantKey

BLUNT = ("scale", RANDOM)
"""The sources that know nothing of safety."""


@dataclass(frozen=True)
class Experiment:
    """Where an experiment takes learning and harm from.

    Attributes:
        number: As in the paper.
        learning: The kind of fine-tune whose learning is kept.
        harm: The kind whose harm is kept.
    """

    number: int
    learning: str
    harm: str


EXPERIMENTS = (Experiment(1, "useful", "harmful"), Experiment(2, "contaminated", "contaminated"))


@dataclass(frozen=True)
class Outcome:
    """What an experiment came to with one seed of its fine-tunes.

    Attributes:
        experiment: The experiment.
        seed: The seed.
        points: Variants, those of several draws taken together.
        learning_KB: Share of the learning that each point keeps, not clipped, shape ``(K, B)``.
        harm_KB: Share of the harm.
        selectivity_KB: S = J − J⁺(r).
        room_B: Maximum of 2 min(r, 1 − r) − J⁺(r), shape ``(B,)``.
        gains: What the fine-tunes taught, and the harm that came back.
    """

    experiment: Experiment
    seed: int
    points: tuple[VariantKey, ...]
    learning_KB: Floats
    harm_KB: Floats
    selectivity_KB: Floats
    room_B: Floats
    gains: tuple[Gain, ...]


def measure_outcomes(
    values: Values, resamples: Resamples, settings: StatisticsSettings
) -> dict[Experiment, list[Outcome]]:
    """Measures every experiment that has both of its fine-tunes, with every seed that both have.

    Args:
        values: The study's values.
        resamples: Its resamples.
        settings: Which two measures, and which gain counts.
    """
    outcomes = {}
    for experiment in EXPERIMENTS:
        seeds = values.list_seeds(experiment.learning, experiment.harm)
        found = [measure_outcome(values, resamples, experiment, seed, settings) for seed in seeds]
        if any(found):
            outcomes[experiment] = [one for one in found if one is not None]
    return outcomes


def measure_outcome(
    values: Values, resamples: Resamples, experiment: Experiment, seed: int, settings: StatisticsSettings
) -> Outcome | None:
    """Measures an experiment with one seed, in the variants (draws too) that were measured by both metrics.

    None where reference or finetuned model were not measured by both.
    """
    keys = (
        TableKey(experiment.learning, seed, settings.utility),
        TableKey(experiment.harm, seed, settings.harm),
    )
    level, smallest = settings.level, settings.smallest_gain
    gains = [measure_gain(key, values, resamples, level=level, smallest_gain=smallest) for key in keys]
    known = tuple(gain for gain in gains if gain is not None)
    if len(known) < len(keys):
        return None
    tables = [values.tables[key].variants for key in keys]
    common = [one for one in tables[0] if one in tables[1]]
    learning, harm = (
        measure_shares(average_draws(resamples.mean(key)[[table.index(one) for one in common]], common, resamples))
        for key, table in zip(keys, tables, strict=True)
    )
    points = tuple(learning)
    learning_KB = np.stack([learning[point] for point in points])
    harm_KB = np.stack([harm[point] for point in points])
    selectivity_KB, room_B = compute_selectivity(points, learning_KB, harm_KB)
    return Outcome(experiment, seed, points, learning_KB, harm_KB, selectivity_KB, room_B, known)


def compute_selectivity(points: Sequence[VariantKey], learning_KB: Floats, harm_KB: Floats) -> tuple[Floats, Floats]:
    """Returns the selectivity of every point and the room, with the frontier made anew in each resample.

    Args:
        points: The points, which say what is blunt.
        learning_KB: Share of the learning that each keeps, not clipped, shape ``(K, B)``.
        harm_KB: Share of the harm.

    Returns:
        Selectivities of shape ``(K, B)``, and the room of shape ``(B,)``; NaN in resamples in which a fine-tune moved
        its metric the wrong way.
    """
    learning_KB, harm_KB = np.clip(learning_KB, 0, 1), np.clip(harm_KB, 0, 1)
    retention_KB, advantage_KB = (learning_KB + harm_KB) / 2, learning_KB - harm_KB
    blunt = [at for at, point in enumerate(points) if point.source in BLUNT]
    frontier_KB = evaluate_frontier(retention_KB[blunt], advantage_KB[blunt], retention_KB)
    selectivity_KB = advantage_KB - frontier_KB  # NaN where a share is
    room_B = measure_room(retention_KB[blunt], advantage_KB[blunt])
    return selectivity_KB, np.where(np.isnan(retention_KB).all(0), np.nan, room_B)
