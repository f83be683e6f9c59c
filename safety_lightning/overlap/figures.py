"""Draws Mode Subspace Overlap: curves over the share of energy, and maps of layers by shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from safety_lightning.figures import PALETTE, make_figure
from safety_lightning.overlap.rows import ActivationRow, AverageRow, LayerRow, name_layers
from safety_lightning.tables import average

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANEL_INCHES = 3.4
_MAX_LAYER_TICKS = 12
_ETA_LABEL = "share of energy η"
LineStyle = Literal["-", "--", ":"]
_CurveRow = TypeVar("_CurveRow", LayerRow, AverageRow)


def draw_layer_curves(rows: Sequence[LayerRow]) -> Figure:
    """Draws overlap over η at the marked layers, a panel per layer and a line of panels per profile.

    A curve per pair, with its chance level dashed and, where ceilings are known, their mean dotted.
    """
    profiles = list(dict.fromkeys(row.profile for row in rows))
    marked = sorted({(row.layer, row.percentile) for row in rows if row.layer is not None and row.percentile})
    figure, axes = _make_panels(len(profiles), len(marked))
    for panels, profile in zip(axes, profiles, strict=True):
        for panel, (layer, percentile) in zip(panels, marked, strict=True):
            shown = [row for row in rows if row.profile == profile and row.layer == layer]
            _draw_pairs(panel, shown, _draw_layer_curve)
            panel.set_title(_join_title(f"layer {layer} ({percentile})", profile, profiles), fontsize="medium")
    styles: dict[str, LineStyle] = {"overlap": "-", "chance": "--"}
    if any(row.ceiling_a is not None or row.ceiling_b is not None for row in rows):
        styles["ceiling: two seeds of one update"] = ":"
    _finish(figure, axes, rows, styles)
    return figure


def draw_average_curves(rows: Sequence[AverageRow]) -> Figure:
    """Draws the overlap of activations over η, averaged over a range of depth, a panel per profile.

    A curve per pair, with bars for its interval, its chance level dashed, and a band for the null.
    """
    profiles = list(dict.fromkeys(row.profile for row in rows))
    figure, axes = _make_panels(1, len(profiles), width=4.6)
    for panel, profile in zip(axes[0], profiles, strict=True):
        shown = [row for row in rows if row.profile == profile]
        _draw_pairs(panel, shown, _draw_average_curve)
        title = _join_title(f"mean over {name_layers(shown[0])}", profile, profiles)
        panel.set_title(title, fontsize="medium")
    curve = "overlap, 95 % interval" if any(row.low is not None for row in rows) else "overlap"
    has_band = any(row.null_low is not None for row in rows)
    _finish(figure, axes, rows, {curve: "-", "chance": "--"}, has_band=has_band)
    return figure


def draw_maps(rows: Sequence[LayerRow | ActivationRow]) -> dict[str, Figure]:
    """Draws the map of each profile that has rows of layers, by the stem of its file."""
    profiles = list(dict.fromkeys(row.profile for row in rows if row.layer is not None))
    stems = ["mso_by_layer"] if len(profiles) == 1 else [f"mso_by_layer_{profile}" for profile in profiles]
    return {
        stem: draw_map([row for row in rows if row.profile == profile])
        for stem, profile in zip(stems, profiles, strict=True)
    }


def draw_map(rows: Sequence[LayerRow | ActivationRow]) -> Figure:
    """Draws the overlap by layer and η, a map per pair, with the layers at the marked percentiles of depth named.

    Args:
        rows: Rows of one profile; those outside the layers are not shown.
    """
    placed = [row for row in rows if row.layer is not None]
    pairs = list(dict.fromkeys(row.pair for row in placed))
    num_columns = min(3, len(pairs))
    num_lines = -(-len(pairs) // num_columns)
    figure, axes = _make_panels(num_lines, num_columns, height=3.8)
    image: Any = None
    for number, panel in enumerate(axes.flat):
        if number < len(pairs):
            image = _draw_pair_map(panel, [row for row in placed if row.pair == pairs[number]])
            panel.set_title(pairs[number], fontsize="medium")
        else:
            panel.set_visible(False)
    for panel in axes[:, 0]:
        panel.set_ylabel("layer")
    figure.colorbar(image, ax=axes, label="Mode Subspace Overlap", shrink=0.9, pad=0.02)
    return figure


def _make_panels(num_lines: int, num_columns: int, *, width: float = 0, height: float = 0) -> tuple[Figure, Any]:
    wide, high = width or _PANEL_INCHES, height or _PANEL_INCHES
    return make_figure(
        width=max(5.6, 0.8 + wide * num_columns),
        height=0.6 + high * num_lines,
        nrows=num_lines,
        ncols=num_columns,
        squeeze=False,
    )


def _draw_pairs(
    panel: Axes, rows: Sequence[_CurveRow], draw_curve: Callable[[Axes, Sequence[_CurveRow], str], None]
) -> None:
    for pair, colour in _choose_colours(rows).items():
        shown = sorted((row for row in rows if row.pair == pair and row.mso is not None), key=lambda row: row.eta)
        draw_curve(panel, shown, colour)
    panel.set_ylim(-0.02, 1.02)
    panel.grid(alpha=0.25)


def _draw_layer_curve(panel: Axes, rows: Sequence[LayerRow], colour: str) -> None:
    etas = [row.eta for row in rows]
    panel.plot(etas, [row.mso or 0.0 for row in rows], color=colour, marker="o", markersize=3)
    panel.plot(etas, [_or_nan(row.chance) for row in rows], color=colour, linestyle="--", linewidth=1)
    ceilings = [_or_nan(average([row.ceiling_a, row.ceiling_b])) for row in rows]
    panel.plot(etas, ceilings, color=colour, linestyle=":", linewidth=1.2)


def _draw_average_curve(panel: Axes, rows: Sequence[AverageRow], colour: str) -> None:
    etas = [row.eta for row in rows]
    values = [row.mso or 0.0 for row in rows]
    lows, highs = ([_or_nan(getattr(row, name)) for row in rows] for name in ("low", "high"))
    bars = [
        [value - low for value, low in zip(values, lows, strict=True)],
        [high - value for value, high in zip(values, highs, strict=True)],
    ]
    panel.errorbar(etas, values, yerr=bars, color=colour, marker="o", markersize=3, capsize=2, linewidth=1.5)
    panel.plot(etas, [_or_nan(row.chance) for row in rows], color=colour, linestyle="--", linewidth=1)
    null_lows, null_highs = ([_or_nan(getattr(row, name)) for row in rows] for name in ("null_low", "null_high"))
    panel.fill_between(etas, null_lows, null_highs, color=colour, alpha=0.2, linewidth=0)


def _draw_pair_map(panel: Axes, rows: Sequence[LayerRow | ActivationRow]) -> Any:
    etas = sorted({row.eta for row in rows})
    layers = sorted({row.layer for row in rows if row.layer is not None})
    values = {(row.layer, row.eta): _or_nan(row.mso) for row in rows}
    grid = [[values.get((layer, eta), float("nan")) for eta in etas] for layer in layers]
    image = panel.imshow(grid, origin="lower", aspect="auto", cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
    panel.set_facecolor("0.85")  # what has no overlap is grey
    panel.set_xticks(range(len(etas)), [f"{eta:g}" for eta in etas], rotation=90, fontsize="small")
    step = -(-len(layers) // _MAX_LAYER_TICKS)
    panel.set_yticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]], fontsize="small")
    panel.set_xlabel(_ETA_LABEL)
    _name_marked(panel, {row.layer: row.percentile for row in rows if row.layer is not None and row.percentile}, layers)
    return image


def _name_marked(panel: Axes, marked: Mapping[int, str], layers: Sequence[int]) -> None:
    """Names the marked layers on the right."""
    right = panel.secondary_yaxis("right")
    right.set_yticks([layers.index(layer) for layer in marked], list(marked.values()), fontsize="small")


def _finish(
    figure: Figure, axes: Any, rows: Sequence[_CurveRow], styles: Mapping[str, LineStyle], *, has_band: bool = False
) -> None:
    """Labels the axes and puts one legend under all panels: colours are pairs, lines are what they show."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    for panel in axes[:, 0]:
        panel.set_ylabel("Mode Subspace Overlap")
    for panel in axes[-1]:
        panel.set_xlabel(_ETA_LABEL)
    handles: list[Any] = [Line2D([], [], color=c, marker="o", label=pair) for pair, c in _choose_colours(rows).items()]
    handles += [Line2D([], [], color="0.3", linestyle=style, label=name) for name, style in styles.items()]
    if has_band:
        handles.append(Patch(color="0.3", alpha=0.2, linewidth=0, label="null: labels shuffled, 95 %"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)), frameon=False)


def _choose_colours(rows: Sequence[_CurveRow]) -> dict[str, str]:
    pairs = list(dict.fromkeys(row.pair for row in rows))
    return {pair: PALETTE[number % len(PALETTE)] for number, pair in enumerate(pairs)}


def _join_title(text: str, profile: str, profiles: Sequence[str]) -> str:
    return text if len(profiles) == 1 else f"{profile}: {text}"


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
