"""Draws prompts anew: labels shuffled between two sets for a null, prompts resampled for intervals.

Every draw has a generator of its own that depends on the seed, the sets' names and the draw's number, but not on the
layer: the same prompts are drawn in every layer, so that draws can be averaged over layers.

Shapes in this file: P = prompts, D = hidden size, S = draws, E = shares of energy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from safety_lightning.overlap.parts import Pair
from safety_lightning.subspaces import Modes, Overlap, compare_all, compare_modes, span_modes
from safety_lightning.subspaces.decomposition import NOISE_FLOOR
from safety_lightning.system.randomness import seed_generator

_BAND = (0.025, 0.975)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """What draws say of one overlap; None where there were no draws.

    Attributes:
        null_low: Lower end of the band in which 95 % of the shuffles lie.
        null_high: Upper end of it.
        p_value: (1 + shuffles with an overlap as low as the value's) / (1 + shuffles).
        low: Lower end of the 95 % interval.
        high: Upper end of it.
        resampled_mean: Mean over the resamples.
    """

    null_low: float | None = None
    null_high: float | None = None
    p_value: float | None = None
    low: float | None = None
    high: float | None = None
    resampled_mean: float | None = None


def find_modes(hidden_PD: Tensor, etas: Sequence[float], *, centred: bool) -> Modes:
    """Finds the modes of activations, one a row, with or without their mean taken off.

    Activations that only rounding tells from their mean (as the embeddings of one and the same last token) have none.
    """
    return span_modes(centre(hidden_PD) if centred else hidden_PD, etas=etas, side="right")


def centre(hidden_PD: Tensor) -> Tensor:
    """Takes the mean off activations; what is left of equal ones is zero and no rounding noise."""
    wide = hidden_PD.double()
    centred = wide - wide.mean(dim=0)
    if torch.linalg.vector_norm(centred) <= NOISE_FLOOR * torch.linalg.vector_norm(wide):
        centred.zero_()
    return centred.to(hidden_PD.dtype)


def draw_null(
    hidden_a: Tensor, hidden_b: Tensor, pair: Pair, *, etas: Sequence[float], centred: bool, num_draws: int, seed: int
) -> list[list[float]]:
    """Measures the overlap of two sets whose labels are shuffled.

    It is what sets of these sizes from one and the same distribution have, so that it lies high; sets whose overlap
    is below it span other directions. Where means are taken off, they are taken off each set before labels are
    shuffled: a difference of means, which the value does not see, would otherwise be a direction that all shuffles
    share.

    Args:
        hidden_a: Activations of the first set, shape ``(P_a, D)``.
        hidden_b: Activations of the second set, shape ``(P_b, D)``.
        pair: The sets' names, which the draws depend on beside the seed.
        etas: Shares of energy.
        centred: Whether means are taken off.
        num_draws: S.
        seed: The seed.

    Returns:
        Overlaps, S lists of E numbers, NaN where one is not defined.
    """
    pooled = torch.cat([centre(hidden) if centred else hidden for hidden in (hidden_a, hidden_b)])
    drawn = []
    for number in range(num_draws):
        order = torch.randperm(len(pooled), generator=seed_generator(f"{seed}:shuffle {pair[0]} {pair[1]} {number}"))
        order = order.to(pooled.device)
        halves = pooled[order[: len(hidden_a)]], pooled[order[len(hidden_a) :]]
        drawn.append(_list_mso(compare_modes(*(find_modes(half, etas, centred=centred) for half in halves))))
    return drawn


def draw_resamples(
    hidden: Mapping[str, Tensor],
    pairs: Sequence[Pair],
    *,
    etas: Sequence[float],
    centred: bool,
    num_draws: int,
    seed: int,
) -> dict[Pair, list[list[float]]]:
    """Measures the overlap of sets whose prompts are drawn anew with replacement, as many as there are.

    Args:
        hidden: Activations by the sets' names, shape ``(P, D)``.
        pairs: Which to compare.
        etas: Shares of energy.
        centred: Whether means are taken off.
        num_draws: S.
        seed: The seed.

    Returns:
        Overlaps by pair, S lists of E numbers.
    """
    drawn: dict[Pair, list[list[float]]] = {pair: [] for pair in pairs}
    for number in range(num_draws):
        modes = {}
        for name, found in hidden.items():
            generator = seed_generator(f"{seed}:resample {name} {number}")
            rows = torch.randint(len(found), (len(found),), generator=generator).to(found.device)
            modes[name] = find_modes(found[rows], etas, centred=centred)
        for pair, overlaps in compare_all(modes, pairs).items():
            drawn[pair].append(_list_mso(overlaps))
    return drawn


def measure_spread(value: float | None, null_S: Tensor, resampled_S: Tensor) -> Spread:
    """Reads a band, a p-value and an interval from draws.

    Resampled sets hold each prompt several times or not at all: they have fewer distinct prompts, and overlap less
    than the sets do. The plain percentile interval lies too low for it (with 100 prompts in 48 dimensions it held the
    expected overlap in 8 % of trials at a share of 0.95); the interval is therefore shifted by the distance of the
    resamples' mean from the value (95 % of the same trials). It says how much the value would move with other prompts,
    as many, of the same kind.

    Args:
        value: The overlap of the sets; None when it is not defined, and then nothing else is.
        null_S: Overlaps under shuffled labels; empty without a null.
        resampled_S: Overlaps of resampled sets; empty without an interval.
    """
    null_S, resampled_S = (draws[~draws.isnan()] for draws in (null_S, resampled_S))
    if value is None:
        return Spread()
    found: dict[str, float] = {}
    if len(null_S):
        found["null_low"], found["null_high"] = _find_ends(null_S)
        found["p_value"] = (1 + int((null_S <= value).sum())) / (1 + len(null_S))
    if len(resampled_S):
        found["resampled_mean"] = mean = float(resampled_S.mean())
        low, high = _find_ends(resampled_S - mean + value)
        found["low"], found["high"] = max(0.0, low), min(1.0, high)
    return Spread(**found)


def _find_ends(draws_S: Tensor) -> tuple[float, float]:
    low, high = torch.quantile(draws_S, draws_S.new_tensor(_BAND)).tolist()
    return low, high


def _list_mso(overlaps: Sequence[Overlap]) -> list[float]:
    return [one.mso for one in overlaps]
