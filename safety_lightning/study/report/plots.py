"""Figures drawn by matplotlib, where the extra ``report`` is missing: for print alone, without hover values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from safety_lightning.figures import make_figure
from safety_lightning.study.report.chart import PARETO, Chart, Mark

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = "os^DXvP*"


def draw_chart(chart: Chart) -> Figure:
    """Draws a figure: the same panels, series and levels as its specification."""
    panels = chart.panels
    columns = min(2, len(panels)) if chart.kind != "map" else 1
    lines = -(-len(panels) // columns)
    figure, axes = make_figure(
        width=1.0 + 3.6 * columns, height=0.9 + 2.9 * lines, nrows=lines, ncols=columns, squeeze=False
    )
    draw = {"curves": _draw_curves, "scatter": _draw_scatter, "map": _draw_map}[chart.kind]
    for panel, place in zip(panels, axes.flat, strict=False):
        draw(place, chart, [mark for mark in chart.marks if mark.panel == panel])
        place.set_title(panel, fontsize=9)
        place.set_xlabel(chart.x_title, fontsize=8)
        _draw_rules(place, chart, panel)
    for place in list(axes.flat)[len(panels) :]:
        place.set_visible(False)
    if chart.kind != "map":
        handles = {label: handle for place in axes.flat for handle, label in zip(*_list_handles(place), strict=True)}
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure


def _list_handles(place: Axes) -> tuple[list[Any], list[str]]:
    handles, labels = place.get_legend_handles_labels()
    return list(handles), list(labels)


def _draw_rules(place: Axes, chart: Chart, panel: str) -> None:
    for rule in chart.rules:
        if rule.panel in ("", panel):
            place.axhline(rule.y, color="0.5", linestyle=":", linewidth=1)
            place.annotate(rule.label, (1, rule.y), xycoords=("axes fraction", "data"), ha="right", fontsize=7)


def _draw_curves(place: Axes, chart: Chart, marks: Sequence[Mark]) -> None:
    for at, (series, colour) in enumerate(chart.colours.items()):
        for style, is_dashed in (("--", True), ("-", False)):
            drawn = [mark for mark in marks if mark.series == series and mark.is_dashed == is_dashed]
            if drawn:
                x, y, marker = [mark.x for mark in drawn], [mark.y for mark in drawn], _MARKERS[at % len(_MARKERS)]
                place.plot(x, y, style, color=colour, marker=marker, markersize=4, linewidth=1.4, label=series)
        own = [mark for mark in marks if mark.series == series and mark.low is not None]
        if not own:
            continue
        x = [mark.x for mark in own]
        low, high = ([np.nan if end is None else end for end in ends] for ends in zip(*_list_ends(own), strict=True))
        place.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
    place.set_ylabel(chart.y_title, fontsize=8)
    place.grid(alpha=0.25)


def _list_ends(marks: Sequence[Mark]) -> list[tuple[float | None, float | None]]:
    return [(mark.low, mark.high) for mark in marks]


def _draw_scatter(place: Axes, chart: Chart, marks: Sequence[Mark]) -> None:
    for series, colour in chart.colours.items():
        at = chart.shapes[series]
        own = [mark for mark in marks if mark.series == series]
        x, y = [mark.x for mark in own], [mark.y for mark in own]
        if own and own[0].is_line:
            style = "steps-pre" if series == PARETO else "default"
            place.plot(x, y, color=colour, linewidth=1.6, label=series, drawstyle=style)
        elif own:
            place.plot(x, y, _MARKERS[at % len(_MARKERS)], color=colour, markersize=4, label=series)
            for mark in own:
                if mark.low is not None and mark.high is not None:
                    place.plot([mark.x, mark.x], [mark.low, mark.high], color=colour, alpha=0.35, linewidth=1)
    place.set_ylabel(chart.y_title, fontsize=8)
    place.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    place.grid(alpha=0.25)


def _draw_map(place: Axes, chart: Chart, marks: Sequence[Mark]) -> None:
    columns = sorted({mark.x for mark in marks})
    values = {(mark.series, mark.x): mark.y for mark in marks}
    grid = [[values.get((series, x), np.nan) for x in columns] for series in chart.series]
    image = place.imshow(grid, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    place.set_xticks(range(len(columns)), [f"{x:g}" for x in columns], fontsize=7)
    place.set_yticks(range(len(chart.series)), chart.series, fontsize=7)
    figure = place.get_figure()
    if figure is not None:
        figure.colorbar(image, ax=place, label=chart.y_title)
