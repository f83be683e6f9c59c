"""Makes and saves figures without a display, as PNG and SVG."""

from __future__ import annotations

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
