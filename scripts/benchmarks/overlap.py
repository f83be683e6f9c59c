"""Weight overlap: three updates, all pairs and shares of energy, against a decomposition for each of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import Result, Setup, take_turns, time_call
from benchmarks.shapes import SHALLOW_QWEN, list_shapes
from benchmarks.training import draw_delta
from safety_lightning.overlap import WeightSettings
from safety_lightning.overlap.weights.compare import MatrixMeasure, measure_matrix

UPDATES = ("useful", "harmful", "delta")
PAIRS = list(itertools.combinations(UPDATES, 2))
ETA = 0.9  # at which the yardstick is timed: its decompositions cost the same at every share


def measure_overlap(setup: Setup) -> list[Result]:
    """Times all overlaps of a two-layer model of Qwen2.5-0.5B's shape, matrix by matrix.

    The yardstick decomposes both updates wholly for every pair and share. It is timed once a matrix, for one pair at
    one share, and multiplied by their number.
    """
    settings = WeightSettings().resolve("sound")
    num_repeats = len(PAIRS) * len(settings.etas)
    tensors = list_shapes(setup.shrink(SHALLOW_QWEN))
    ratios, largest = [], 0.0
    for repeat in range(setup.num_pairs):
        seconds = {"ours": 0.0, "yardstick": 0.0}
        for number, (name, (num_rows, *rest)) in enumerate(tensors.items()):
            deltas = draw_updates((num_rows, rest[0] if rest else 1), seed=10 * number)  # vectors are M x 1
            sides: dict[str, Callable[[], Any]] = {
                "ours": partial(measure_matrix, name, deltas, PAIRS, settings),
                "yardstick": partial(compare_straightforwardly, deltas["useful"], deltas["harmful"], ETA),
            }
            timed = {side: time_call(call) for side, call in take_turns(sides, number + repeat)}
            seconds["ours"] += timed["ours"][0]
            seconds["yardstick"] += timed["yardstick"][0] * num_repeats
            largest = max(largest, abs(find_overlap(timed["ours"][1]) - timed["yardstick"][1]))
        ratios.append(seconds["yardstick"] / seconds["ours"])
    note = (
        f"{len(tensors)} tensors, {len(PAIRS)} pairs, {len(settings.etas)} shares; the yardstick is timed for "
        f"one pair and share and multiplied by {num_repeats}; largest difference {largest:.0e}"
    )
    return [Result("weight overlap: a full SVD per tensor, side and share ÷ ours", "≥ 40", ratios, note)]


def draw_updates(shape: tuple[int, int], *, seed: int) -> dict[str, Tensor]:
    """Draws three updates that have something in common."""
    common = draw_delta(*shape, seed=seed)
    return {name: common + draw_delta(*shape, seed=seed + place) for place, name in enumerate(UPDATES, start=1)}


def compare_straightforwardly(update_a: Tensor, update_b: Tensor, eta: float) -> float:
    """Computes one overlap at one share from two whole decompositions."""
    bases = []
    for update in (update_a, update_b):
        left, values, _ = torch.linalg.svd(update, full_matrices=False)
        energy = values.double().square().cumsum(0)
        rank = int((energy < eta * energy[-1]).sum()) + 1
        bases.append(left[:, :rank])
    return float((bases[0].mT @ bases[1]).square().sum()) / min(bases[0].shape[1], bases[1].shape[1])


def find_overlap(measure: MatrixMeasure) -> float:
    """Returns what the yardstick computes."""
    overlaps: Mapping[float, float] = {one.eta: one.mso for one in measure.exact[PAIRS[0]]}
    return overlaps[ETA]
