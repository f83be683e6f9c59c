"""All bases of the shapes of Qwen2.5-1.5B and 7B, in seconds."""

from __future__ import annotations

from collections import Counter
from functools import partial

from benchmarks.common import Result, Setup
from benchmarks.gpu.device import time_on
from benchmarks.shapes import QWEN_1_5B, QWEN_7B, Shape, list_shapes
from benchmarks.training import FRACTION, draw_delta
from safety_lightning.subspaces import decompose_delta, rank_from_fraction


def measure_bases(setup: Setup) -> list[Result]:
    """Times the decomposition of a delta of each shape that a model's matrices have, as often as it has them."""
    return [
        measure_model(setup, setup.shrink(shape), name, bound)
        for name, shape, bound in (("1.5 B", QWEN_1_5B, "seconds"), ("7 B", QWEN_7B, "told"))
    ]


def measure_model(setup: Setup, shape: Shape, name: str, bound: str) -> Result:
    """Times all bases of one model."""
    counts = Counter(one for one in list_shapes(shape).values() if len(one) == 2)
    totals = [0.0] * setup.num_pairs
    for (num_rows, num_columns), count in counts.items():
        delta = draw_delta(num_rows, num_columns, seed=0, device=setup.device)
        rank = rank_from_fraction(FRACTION, num_rows, num_columns)
        decompose_delta(delta, rank=rank)  # readies the library's handles
        for turn in range(setup.num_pairs):
            seconds, _ = time_on(setup.device, partial(decompose_delta, delta, rank=rank))
            totals[turn] += count * seconds
    note = (
        f"fraction {FRACTION}; one matrix of each of {len(counts)} shapes is timed and multiplied by their number, "
        f"{counts.total()} in all"
    )
    return Result(f"GPU, {name}: all bases", bound, totals, note, "seconds")
