"""Compares sets of activations at one layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from safety_lightning.overlap.activations.draws import draw_null, draw_resamples, find_modes
from safety_lightning.overlap.parts import Pair, unpack_overlaps, unpack_pairs
from safety_lightning.overlap.rows import AngleRow, make_angle_row, name_pair
from safety_lightning.overlap.settings import ActivationSettings
from safety_lightning.subspaces import Overlap, compare_all
from safety_lightning.system.devices import in_full_precision

Draws = Sequence[Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class LayerMeasure:
    """What was measured of one pair at one layer.

    Attributes:
        overlaps: An overlap per share of energy, with or without the mean as the settings say.
        uncentred: The same with no mean taken off.
        null: Overlaps under shuffled labels, a list per draw.
        resampled: Overlaps of resampled prompts, a list per draw.
        angles: Rows of principal angles, where they were asked for.
    """

    overlaps: Sequence[Overlap]
    uncentred: Sequence[Overlap]
    null: Draws = ()
    resampled: Draws = ()
    angles: Sequence[AngleRow] = ()


@in_full_precision()
def measure_layer(
    hidden: Mapping[str, Tensor],
    pairs: Sequence[Pair],
    settings: ActivationSettings,
    *,
    layer: int,
    with_draws: bool = True,
) -> dict[Pair, LayerMeasure]:
    """Measures every pair of sets at one layer.

    Args:
        hidden: Activations by the sets' names, float32 or float64, shape ``(P, D)``.
        pairs: Which to compare.
        settings: How.
        layer: The layer's number, which names the rows of angles.
        with_draws: Whether to draw for the null and the intervals.
    """
    etas, centred = settings.etas, settings.centred
    modes = {name: find_modes(found, etas, centred=centred) for name, found in hidden.items()}
    overlaps = compare_all(modes, pairs)
    plain = overlaps
    if centred:
        plain = compare_all({n: find_modes(found, etas, centred=False) for n, found in hidden.items()}, pairs)
    drawing: dict[str, Any] = {"etas": etas, "centred": centred, "seed": settings.seed}
    num_resamples, num_shuffles = settings.num_resamples * with_draws, settings.num_permutations * with_draws
    resampled = draw_resamples(hidden, pairs, num_draws=num_resamples, **drawing)
    return {
        pair: LayerMeasure(
            overlaps=overlaps[pair],
            uncentred=plain[pair],
            null=draw_null(hidden[pair[0]], hidden[pair[1]], pair, num_draws=num_shuffles, **drawing),
            resampled=resampled[pair],
            angles=[
                make_angle_row(name_pair(*pair), f"layer {layer}", eta, *(modes[name] for name in pair))
                for eta in settings.angle_etas
                if overlaps[pair][0].is_defined
            ],
        )
        for pair in pairs
    }


def unpack_layer(packed: Sequence[Any]) -> dict[Pair, LayerMeasure]:
    """Makes measures of the part that holds those of one layer."""
    return unpack_pairs(packed, _unpack_measure)


def _unpack_measure(packed: Mapping[str, Any]) -> LayerMeasure:
    overlaps = {name: unpack_overlaps(packed[name]) for name in ("overlaps", "uncentred")}
    return LayerMeasure(**{**packed, **overlaps, "angles": [AngleRow(**row) for row in packed["angles"]]})
