"""Makes the rows of activations out of what was measured: a row per layer, and averages over a range of depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from safety_lightning.overlap.activations.compare import LayerMeasure
from safety_lightning.overlap.activations.draws import measure_spread
from safety_lightning.overlap.activations.sets import ActivationSets
from safety_lightning.overlap.depth import find_averaged_layers, name_marked_layers
from safety_lightning.overlap.parts import Pair
from safety_lightning.overlap.rows import ActivationRow, AverageRow, list_values, name_pair
from safety_lightning.overlap.settings import ActivationSettings
from safety_lightning.tables import average, drop_nan

Measures = Mapping[int, Mapping[Pair, LayerMeasure]]


def make_activation_rows(
    sets: ActivationSets, measures: Measures, settings: ActivationSettings, *, profile: str
) -> list[ActivationRow]:
    """Makes a row per pair, layer and share of energy.

    Args:
        sets: What was compared.
        measures: What was measured, by layer and pair.
        settings: How it was measured.
        profile: The name of the profile in the rows.
    """
    marked = name_marked_layers(sets.num_layers)
    rows = []
    for pair in sets.pairs:
        for layer, found in measures.items():
            known: dict[str, Any] = {
                "profile": profile,
                "pair": name_pair(*pair),
                "layer": layer,
                "depth": layer / sets.num_layers,
                "percentile": marked.get(layer),
                "num_a": len(sets.sets[pair[0]].rows),
                "num_b": len(sets.sets[pair[1]].rows),
            }
            rows += [ActivationRow(**known, **values) for values in _list_layer_values(found[pair], len(settings.etas))]
    return rows


def make_average_rows(
    sets: ActivationSets, measures: Measures, settings: ActivationSettings, *, profile: str
) -> list[AverageRow]:
    """Averages each pair over the range of depth; layers in which a set does not vary are left out and counted.

    Args:
        sets: What was compared.
        measures: What was measured, by layer and pair.
        settings: Which range.
        profile: The name of the profile in the rows.
    """
    layers = find_averaged_layers(sets.num_layers, settings.depth)
    rows = []
    for pair in sets.pairs:
        found = [measures[layer][pair] for layer in layers if measures[layer][pair].overlaps[0].is_defined]
        known: dict[str, Any] = {
            "profile": profile,
            "pair": name_pair(*pair),
            "first_layer": layers[0],
            "last_layer": layers[-1],
            "num_layers": len(found),
            "num_excluded": len(layers) - len(found),
        }
        rows += [AverageRow(**known, eta=eta, **_average_layers(found, at)) for at, eta in enumerate(settings.etas)]
    return rows


def _list_layer_values(measure: LayerMeasure, num_etas: int) -> list[dict[str, Any]]:
    null, resampled = _stack_draws(measure.null, num_etas), _stack_draws(measure.resampled, num_etas)
    return [
        {
            **(values := list_values(overlap)),
            "mso_uncentred": drop_nan(plain.mso),
            "chance_uncentred": drop_nan(plain.chance),
            **vars(measure_spread(values["mso"], null[:, at], resampled[:, at])),
        }
        for at, (overlap, plain) in enumerate(zip(measure.overlaps, measure.uncentred, strict=True))
    ]


def _average_layers(found: Sequence[LayerMeasure], at: int) -> dict[str, Any]:
    """Averages layers at one share of energy; draws are averaged over the layers before their ends are read."""
    num_etas = len(found[0].overlaps) if found else 0
    values = [list_values(one.overlaps[at]) for one in found]
    means = {name: average([one[name] for one in values]) for name in ("mso", "chance", "excess")}
    null, resampled = (
        torch.stack([_stack_draws(draws, num_etas)[:, at] for draws in several]).mean(dim=0)
        if found
        else torch.empty(0)
        for several in ([one.null for one in found], [one.resampled for one in found])
    )
    return {
        **means,
        "mso_uncentred": average([drop_nan(one.uncentred[at].mso) for one in found]),
        "chance_uncentred": average([drop_nan(one.uncentred[at].chance) for one in found]),
        **vars(measure_spread(means["mso"], null, resampled)),
    }


def _stack_draws(draws: Sequence[Sequence[float]], num_etas: int) -> Tensor:
    return torch.tensor(draws, dtype=torch.float64).reshape(-1, num_etas)
