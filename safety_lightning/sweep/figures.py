"""Draws what a sweep found: energy against fraction with its chance level, and energy by layer and module."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from safety_lightning.figures import PALETTE, draw_layer_map, make_figure, save_figure
from safety_lightning.sweep.rows import EnergyRow, SweepMatrixRow

_LABELS = {"top_k": "top k", "random_k": "random k", "random": "random"}
_MAP_FRACTION = 0.25  # the fraction nearest to this is mapped


def draw_energy(rows: Sequence[EnergyRow], stem: Path) -> None:
    """Draws the energy kept against the fraction: a panel a finetuned model and component, a curve a source.

    Args:
        rows: Rows of a sweep; only splits by fraction are drawn.
        stem: Where the files go, without their endings.
    """
    drawn = [row for row in rows if row.source in _LABELS]
    models = list(dict.fromkeys(row.finetuned for row in drawn))
    components = list(dict.fromkeys(row.component for row in drawn))
    if not drawn:
        return
    figure, axes = make_figure(
        width=1.2 + 3.6 * len(components),
        height=0.9 + 2.8 * len(models),
        nrows=len(models),
        ncols=len(components),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for line, model in enumerate(models):
        for column, component in enumerate(components):
            panel = axes[line][column]
            _draw_panel(panel, [row for row in drawn if (row.finetuned, row.component) == (model, component)])
            panel.set_title(f"{model}: {component}", fontsize=10)
            panel.set_ylim(-0.03, 1.03)
            panel.grid(alpha=0.25)
            if line == len(models) - 1:
                panel.set_xlabel("fraction of the smaller dimension")
        axes[line][0].set_ylabel("energy kept")
    axes[0][0].legend(fontsize=8)
    save_figure(figure, stem)


def draw_layers(rows: Sequence[SweepMatrixRow], stem: Path) -> None:
    """Draws a map of layers and module kinds: energy that the leading directions keep, over its chance level.

    Args:
        rows: Rows of one finetuned model; the parallel rows of ``top_k`` at the fraction nearest to a quarter count.
        stem: Where the files go, without their endings.
    """
    chosen = [row for row in rows if row.source == "top_k" and row.component == "parallel" and row.layer is not None]
    chosen = [row for row in chosen if row.columns > 1 and not math.isnan(row.energy_kept)]
    if not chosen:
        return
    fraction = min((row.fraction or 0.0 for row in chosen), key=lambda one: abs(one - _MAP_FRACTION))
    chosen = [row for row in chosen if row.fraction == fraction]
    keys = dict.fromkeys((row.layer, row.kind) for row in chosen if row.layer is not None)
    excess = {(layer, kind): _find_excess(chosen, layer, kind) for layer, kind in keys}
    figure = draw_layer_map(excess, title=f"{chosen[0].finetuned}: top k, fraction {fraction:g}")
    save_figure(figure, stem)


def _draw_panel(panel, rows: Sequence[EnergyRow]) -> None:  # type: ignore[no-untyped-def]
    for colour, marker, source in zip(PALETTE, "osD", _LABELS, strict=False):
        own = sorted((row for row in rows if row.source == source), key=lambda row: row.fraction or 0.0)
        fractions, energies = [row.fraction for row in own], [row.energy_kept for row in own]
        panel.plot(fractions, energies, f"{marker}-", color=colour, label=_LABELS[source], ms=4, alpha=0.9)
    chances = sorted({(row.fraction or 0.0, row.chance) for row in rows if row.source == rows[0].source})
    panel.plot(*zip(*chances, strict=True), "--", color="black", label="chance", lw=1, zorder=3)


def _find_excess(rows: Sequence[SweepMatrixRow], layer: int, kind: str) -> float:
    """Returns energy kept − chance of the matrices of one kind in one layer, summed before dividing."""
    own = [row for row in rows if (row.layer, row.kind) == (layer, kind)]
    total = sum(row.update_norm**2 for row in own)
    if total == 0:
        return math.nan
    return sum(row.update_norm**2 * (row.energy_kept - (row.chance or 0.0)) for row in own) / total
