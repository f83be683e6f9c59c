"""Makes and saves figures without a display, as PNG and SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safety_lightning.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito: for any eyes
_DOTS_PER_INCH = 150


def make_figure(*, width: float = 6.4, height: float = 4.0, **subplots: Any) -> tuple[Figure, Any]:
    """Makes a figure whose labels make room for themselves.

    Args:
        width: Inches.
        height: Inches.
        subplots: Arguments of matplotlib's ``Figure.subplots``.

    Returns:
        The figure and its axes, as ``Figure.subplots`` returns them.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(**subplots)


def draw_layer_map(excess: Mapping[tuple[int, str], float], *, title: str) -> Figure:
    """Draws a map of layers and kinds of module: energy kept − chance.

    Args:
        excess: Energy kept − chance by layer and kind, in [-1, 1]; NaN, or absent, where there is none.
        title: What is mapped.
    """
    layers = sorted({layer for layer, _ in excess})
    kinds = list(dict.fromkeys(kind for _, kind in excess))
    values = [[excess.get((layer, kind), math.nan) for kind in kinds] for layer in layers]
    figure, axes = make_figure(width=1.8 + 0.62 * len(kinds), height=1.8 + 0.2 * len(layers))
    reach = max((abs(value) for value in excess.values() if not math.isnan(value)), default=1.0) or 1.0
    image = axes.imshow(values, cmap="PuOr", vmin=-reach, vmax=reach, aspect="auto", origin="lower")
    axes.set_xticks(range(len(kinds)), kinds, rotation=45, ha="right", fontsize=8)
    step = max(1, len(layers) // 16)
    axes.set_yticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]], fontsize=8)
    axes.set_ylabel("layer")
    axes.set_title(title, fontsize=10)
    figure.colorbar(image, ax=axes, label="energy kept − chance")
    return figure


def save_figure(figure: Figure, stem: Path) -> None:
    """Writes ``stem.png`` and ``stem.svg``; the same figure gives the same bytes."""
    import matplotlib as mpl

    for kind in ("png", "svg"):
        metadata = {"Date": None} if kind == "svg" else None
        with (
            mpl.rc_context({"svg.hashsalt": "safety_lightning"}),
            atomic_path(stem.with_name(f"{stem.name}.{kind}")) as partial,
        ):
            figure.savefig(partial, format=kind, dpi=_DOTS_PER_INCH, metadata=metadata)
