"""Draws what the update of a fine-tune is made of, by layer and by kind of module, against chance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from safety_lightning.figures import draw_layer_map, make_figure
from safety_lightning.projection import UpdateMeasure, sum_chance, sum_energy

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_layers(measures: Sequence[UpdateMeasure], *, subject: str = "update") -> Figure:
    """Draws energy inside the subspace and chance against the layer; the subject names what was measured."""
    by_layer: dict[int, list[UpdateMeasure]] = defaultdict(list)
    for measure in measures:
        if measure.slot.layer is not None:
            by_layer[measure.slot.layer].append(measure)
    layers = sorted(by_layer)
    figure, axes = make_figure(width=7)
    for label, sum_share, style in (("energy inside", sum_energy, "o-"), ("chance", sum_chance, "k--")):
        axes.plot(layers, [sum_share(by_layer[layer], "parallel") for layer in layers], style, label=label)
    axes.set(xlabel="layer", ylabel=f"share of the {subject}'s energy", ylim=(0, 1.02))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()
    return figure


def draw_modules(measures: Sequence[UpdateMeasure], *, title: str) -> Figure | None:
    """Draws a map of layers and kinds of module: energy inside the subspace − chance; None without such matrices."""
    groups: dict[tuple[int, str], list[UpdateMeasure]] = defaultdict(list)
    for measure in measures:
        if measure.slot.layer is not None and not measure.slot.is_vector:
            groups[measure.slot.layer, measure.slot.kind].append(measure)
    excess = {key: sum_energy(group, "parallel") - sum_chance(group, "parallel") for key, group in groups.items()}
    return draw_layer_map(excess, title=title) if excess else None
