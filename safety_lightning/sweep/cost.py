"""Says what a sweep will cost before it reads a weight: from the checkpoints' headers and a short calibration.

Shapes in this file: M = the dimension that bases lie in, N = the other, K = directions, S = the smaller of M and N.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from safety_lightning.checkpoints import MatrixSlot
from safety_lightning.methods import Variant
from safety_lightning.methods.delta import BasisRecipe
from safety_lightning.subspaces import rank_from_fraction
from safety_lightning.sweep.inputs import SweepInputs, SweepSettings

_EIGEN_WORK = 9.0  # floating-point operations of a symmetric decomposition with vectors, over S cubed
_PROCESS_BYTES = 400_000_000  # Python, torch and what they map
_CALIBRATION_SIZE = 768


@dataclass(frozen=True, kw_only=True)
class MatrixCost:
    """What one matrix costs.

    Attributes:
        slot: The matrix.
        ranks: Directions at each fraction of the methods, at most.
        gram_work: Floating-point operations of float64 products.
        eigen_work: Floating-point operations of float64 symmetric decompositions.
        product_work: Floating-point operations of float32 products.
        num_bytes: Memory while it is worked on.
    """

    slot: MatrixSlot
    ranks: tuple[int, ...]
    gram_work: float
    eigen_work: float
    product_work: float
    num_bytes: int

    @property
    def work(self) -> float:
        """One number to compare matrices by: a float64 product takes twice the time, a decomposition more."""
        return 2 * self.gram_work + 4 * self.eigen_work + self.product_work


@dataclass(frozen=True, kw_only=True)
class SweepCost:
    """What a sweep costs.

    Attributes:
        costs: A cost a matrix.
        read_bytes: What is read.
        disk_bytes: What is written, saved models almost alone.
        peak_bytes: Largest memory.
        seconds: Estimated time on this device without reads and writes; None without calibration.
    """

    costs: Sequence[MatrixCost]
    read_bytes: int
    disk_bytes: int
    peak_bytes: int
    seconds: float | None

    @property
    def work(self) -> float:
        """Floating-point operations of everything."""
        return sum(cost.gram_work + cost.eigen_work + cost.product_work for cost in self.costs)


def estimate_cost(
    inputs: SweepInputs,
    settings: SweepSettings,
    recipe: BasisRecipe,
    variants: Sequence[Variant],
    *,
    num_saved: dict[str, int],
    saved_bytes: int,
    device: torch.device | None = None,
) -> SweepCost:
    """Plans a sweep from headers.

    Args:
        inputs: The checkpoints.
        settings: What is done with them.
        recipe: Which bases are made.
        variants: All variants.
        num_saved: How many variants are saved, by finetuned model.
        saved_bytes: What they take on the disk.
        device: Where to calibrate; None estimates no time.
    """
    costs = [_cost_matrix(slot, settings, recipe, variants, num_saved) for slot in inputs.slots]
    readers = [inputs.base, inputs.reference, *([inputs.unaligned] if inputs.unaligned else [])]
    files = [file for reader in readers for file in reader.files]
    for model in (*inputs.finetuned, *([inputs.safety_tuned] if inputs.safety_tuned else [])):
        files += [model.adapter.file] if model.adapter is not None else model.reader.files
    seconds = None
    if device is not None:
        rates = calibrate(device)
        seconds = sum(
            cost.gram_work / rates[0] + cost.eigen_work / rates[1] + cost.product_work / rates[2] for cost in costs
        )
    return SweepCost(
        costs=costs,
        read_bytes=sum(file.stat().st_size for file in files),
        disk_bytes=saved_bytes,
        peak_bytes=_PROCESS_BYTES + max(cost.num_bytes for cost in costs),
        seconds=seconds,
    )


def calibrate(device: torch.device) -> tuple[float, float, float]:
    """Measures this device for a second.

    Returns:
        Floating-point operations a second of float64 products, float64 symmetric decompositions and float32 products.
    """
    size = _CALIBRATION_SIZE
    wide = torch.randn(size, size, dtype=torch.float64, device=device)
    narrow, symmetric = wide.float(), wide @ wide.mT
    product, decomposition = 2.0 * size**3, _EIGEN_WORK * size**3
    return (
        product / _time(lambda: wide @ wide, device),
        decomposition / _time(lambda: torch.linalg.eigh(symmetric), device),
        product / _time(lambda: narrow @ narrow, device),
    )


def cost_tensor(slots: Sequence[MatrixSlot], settings: SweepSettings, recipe: BasisRecipe, num_models: int) -> float:
    """Returns what a tensor costs to compare with others, in any unit."""
    variants: list[Variant] = []
    return sum(_cost_matrix(slot, settings, recipe, variants, {"": 0}, num_models=num_models).work for slot in slots)


def _cost_matrix(
    slot: MatrixSlot,
    settings: SweepSettings,
    recipe: BasisRecipe,
    variants: Sequence[Variant],
    num_saved: dict[str, int],
    *,
    num_models: int | None = None,
) -> MatrixCost:
    num_models = len(num_saved) if num_models is None else num_models
    m, n = (slot.rows, slot.columns) if recipe.side == "left" else (slot.columns, slot.rows)
    small, large = min(m, n), max(m, n)
    ranks = tuple(rank_from_fraction(fraction, m, n) for fraction in list_fractions(variants))
    largest = rank_from_fraction(recipe.largest_fraction, m, n)
    num_modes = (small if recipe.need_all or "random_k" in recipe.sources else largest) if recipe.need_modes else 0
    num_random = largest if "random" in recipe.sources else 0
    gram = 1.25 * small**2 * large if num_modes else 0.0
    gram += 2.0 * small * large * num_modes if m > n else 0.0
    gram += (3.0 if num_random <= m // 2 else 8.0) * m * num_random**2
    product = 2.0 * m * n * (num_modes + num_random) * (num_models + 1)
    sampled = min(n, settings.num_leak_columns or n)
    mean_rank = sum(ranks) / max(1, len(ranks))
    product += 4.0 * m * mean_rank * sampled * sum(one.method.describe().component is not None for one in variants)
    product += 6.0 * m * n * mean_rank * sum(num_saved.values())
    widths = num_modes * (1 + ("random_k" in recipe.sources)) + num_random
    num_bytes = 4 * m * n * (5 + num_models) + (16 + 4) * m * num_modes + 32 * small**2 + 8 * m * num_random
    num_bytes += 4 * (m + 2 * n) * widths
    return MatrixCost(
        slot=slot,
        ranks=ranks,
        gram_work=gram,
        eigen_work=_EIGEN_WORK * small**3 if num_modes else 0.0,
        product_work=product,
        num_bytes=int(num_bytes),
    )


def list_fractions(variants: Sequence[Variant]) -> list[float]:
    """Returns the fractions of the smaller dimension that methods take of their directions, rising."""
    return sorted({one.method.needs.fraction for one in variants if one.method.needs.fraction is not None})


def _time(call: Callable[[], object], device: torch.device) -> float:
    """Returns the shortest of a few calls' seconds."""
    best = math.inf
    for _ in range(4):
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return best
