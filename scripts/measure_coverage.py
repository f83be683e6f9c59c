"""Measures how often the bands of a study hold the selectivity that is true, in simulated studies where it is known.

    python scripts/measure_coverage.py                                  # the numbers of docs/study.md, a few minutes
    python scripts/measure_coverage.py --num_trials 40 --num_resamples 500

A simulated study has one contaminated fine-tune with one seed, five fractions, nine scales and five draws of random
subspaces. Each variant keeps known shares of learning and harm; prompts differ, and each variant's values have noise.

Shapes in this file: V = variants, P = prompts, K = cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jsonargparse import auto_cli

from safety_lightning.study.statistics.cells import make_cells
from safety_lightning.study.statistics.resampling import Resamples
from safety_lightning.study.statistics.selectivity import compute_selectivity, measure_outcomes
from safety_lightning.study.statistics.settings import StatisticsSettings
from safety_lightning.study.statistics.values import (
    FINETUNED,
    RANDOM,
    REFERENCE,
    SAFETY,
    Floats,
    PromptSet,
    TableKey,
    Values,
    ValueTable,
    VariantKey,
)

FRACTIONS = (0.01, 0.25, 0.5, 0.75, 0.99)
NUM_DRAWS = 5
NOISE, DRAW_NOISE = 0.2, 0.02  # of a prompt's value in a variant, of what a draw keeps; a fine-tune moves by 0.6
Share = Callable[[float], float]


@dataclass(frozen=True, kw_only=True)
class World:
    """What variants keep of learning and harm.

    Attributes:
        learning: Outside the safety subspace, by its fraction.
        harm: The same of harm.
        blunt: Share of the harm that a blunt treatment keeps, by the share of the learning that it keeps.
        num_prompts: Prompts of each measure.
    """

    learning: Share = lambda fraction: 1 - fraction
    harm: Share = lambda fraction: 1 - fraction
    blunt: Share = lambda learning: learning
    num_prompts: int = 100

    def list_variants(self) -> Iterator[tuple[VariantKey, float, float]]:
        """Lists the variants with what each keeps of learning and harm."""
        yield REFERENCE, 0.0, 0.0
        yield FINETUNED, 1.0, 1.0
        for alpha in np.linspace(0.1, 0.9, 9).tolist():
            yield VariantKey("scale", alpha=alpha), alpha, self.blunt(alpha)
        for fraction in FRACTIONS:
            yield VariantKey(SAFETY, 0, "orthogonal", fraction), self.learning(fraction), self.harm(fraction)
            for draw in range(NUM_DRAWS):
                yield VariantKey(RANDOM, draw, "orthogonal", fraction), 1 - fraction, self.blunt(1 - fraction)


WORLDS = {
    "entangled, 100 prompts": World(),
    "entangled, 40 prompts": World(num_prompts=40),
    "selective, 100 prompts": World(learning=lambda fraction: 1 - 0.3 * fraction, harm=lambda fraction: 1 - fraction),
    "bowed frontier, 100 prompts": World(harm=lambda fraction: (1 - fraction) ** 2, blunt=lambda share: share**1.5),
}


def measure_coverage(num_trials: int = 400, num_resamples: int = 2000) -> None:
    """Measure the coverage in every world and print it as a table.

    Args:
        num_trials: Simulated studies a world.
        num_resamples: Resamples of each.
    """
    settings = StatisticsSettings(num_resamples=num_resamples)
    print("| world | all five cells | each cell | missed below | missed above |\n| --- | ---: | ---: | ---: | ---: |")
    for at, (name, world) in enumerate(WORLDS.items()):
        seeds = range(at * num_trials, (at + 1) * num_trials)
        below, above = np.array([try_once(world, settings, seed=seed) for seed in seeds]).transpose(1, 0, 2)
        missed = below | above
        each = [f"{1 - share:.1%}" for share in (missed.mean(0).max(), missed.mean(0).min())]
        print(
            f"| {name} | {1 - missed.any(1).mean():.1%} | {' to '.join(each)} "
            f"| {below.mean():.1%} | {above.mean():.1%} |",
            flush=True,
        )


def try_once(world: World, settings: StatisticsSettings, *, seed: int) -> tuple[list[bool], list[bool]]:
    """Says of each cell whether the truth lies below its band, and whether it lies above."""
    values = simulate(world, settings, seed=seed)
    resamples = Resamples(values, num_resamples=settings.num_resamples, seed=seed)
    cells = make_cells(measure_outcomes(values, resamples, settings), "orthogonal", level=settings.level)
    true = find_truth(world)
    ends = [(true[cell.point], cell.low, cell.high) for cell in cells]
    known = [(truth, low, high) for truth, low, high in ends if low is not None and high is not None]
    if len(known) < len(FRACTIONS):
        raise RuntimeError(f"a simulated study must have a band in each of {len(FRACTIONS)} cells, got {len(known)}")
    return [truth < low for truth, low, _ in known], [truth > high for truth, _, high in known]


def find_truth(world: World) -> dict[VariantKey, float]:
    """Returns the selectivity of every variant without noise."""
    points, learning_V, harm_V = zip(*world.list_variants(), strict=True)
    found_V1, _ = compute_selectivity(points, np.array(learning_V)[:, None], np.array(harm_V)[:, None])
    return dict(zip(points, found_V1[:, 0].tolist(), strict=True))


def simulate(world: World, settings: StatisticsSettings, *, seed: int) -> Values:
    """Draws the values of a study."""
    generator = np.random.default_rng(seed)
    variants, *shares = zip(*world.list_variants(), strict=True)
    is_random_V = np.array([one.source == RANDOM for one in variants])
    tables, prompts = {}, {}
    for metric, kept in zip((settings.utility, settings.harm), shares, strict=True):
        names = tuple(f"{metric}-{number}" for number in range(world.num_prompts))
        shift_V = generator.normal(0, DRAW_NOISE, len(variants)) * is_random_V
        level_V1: Floats = 0.2 + 0.6 * (np.array(kept) + shift_V)[:, None]
        noise_VP = generator.normal(0, NOISE, (len(variants), world.num_prompts))
        values_VP = level_V1 + generator.normal(0, 0.1, world.num_prompts) + noise_VP
        span = 4 if metric == settings.harm else 1  # harm is a score from 1 to 5
        prompts[metric] = PromptSet(names, np.arange(world.num_prompts))
        tables[TableKey("contaminated", 0, metric)] = ValueTable(variants, span * values_VP)
    return Values(tables, prompts, {})


if __name__ == "__main__":
    auto_cli(measure_coverage)
