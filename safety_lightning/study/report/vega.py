"""Figures as Vega-Lite specifications: one gives the chart with hover values, the SVG for print and the PNG."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from safety_lightning.study.report.chart import PARETO, Chart

VERSION = "6.4"
"""The version of Vega-Lite that specifications are written for, which vl-convert brings."""

Spec = dict[str, Any]
_WIDTH, _HEIGHT = 340, 210
_PIXELS_PER_POINT = 2.0
_SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left"]
_CONFIG = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "aria": False,  # the page describes the whole figure; a mark each would have to be tabbed through
    "view": {"stroke": "#88888855"},
    "axis": {"gridColor": "#88888833", "domainColor": "#888888", "tickColor": "#888888", "titleFontWeight": "normal"},
    "legend": {"orient": "bottom", "columns": 3, "labelLimit": 300, "title": None, "symbolOpacity": 1},
    "header": {"title": None, "labelFontWeight": "bold", "labelFontSize": 11, "labelLimit": 320},
}


def make_spec(chart: Chart) -> Spec:
    """Makes the specification of a figure."""
    make_layers = {"curves": _layer_curves, "scatter": _layer_scatter, "map": _layer_map}[chart.kind]
    size = {"width": _WIDTH, "height": _HEIGHT if chart.kind != "scatter" else _WIDTH}
    if chart.kind == "map":
        size = {"width": 460, "height": max(60, 22 * len(chart.series))}
    spec: Spec = {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "config": _CONFIG,
        "data": {"values": [*_list_marks(chart), *_list_rules(chart)]},
        "facet": {"field": "panel", "type": "nominal", "sort": chart.panels, "title": None},
        "columns": 1 if chart.kind == "map" else 2,
        "bounds": "flush",
        "spacing": {"row": 88, "column": 96},
        "spec": {**size, "layer": make_layers(chart)},
    }
    if chart.kind == "curves" and not chart.is_unit:
        spec["resolve"] = {"scale": {"y": "independent"}, "axis": {"x": "independent", "y": "independent"}}
    else:
        spec["resolve"] = {"axis": {"x": "independent", "y": "independent"}}
    return spec


def get_bundle() -> str:
    """Returns the script that draws specifications in a browser, which fetches nothing."""
    import vl_convert

    script = "window.vegaEmbed = vegaEmbed;"
    bundle: str = vl_convert.javascript_bundle(snippet=script, vl_version=VERSION)
    return bundle


def draw_svg(spec: Spec) -> str:
    """Draws a specification as SVG."""
    import vl_convert

    svg: str = vl_convert.vegalite_to_svg(json.dumps(spec), vl_version=VERSION)
    return svg


def draw_png(spec: Spec) -> bytes:
    """Draws a specification as PNG on white."""
    import vl_convert

    on_white = spec | {"background": "white"}
    png: bytes = vl_convert.vegalite_to_png(json.dumps(on_white), vl_version=VERSION, scale=_PIXELS_PER_POINT)
    return png


def has_vega() -> bool:
    """Whether the extra ``report`` is installed."""
    from importlib.util import find_spec

    return find_spec("vl_convert") is not None


def _list_marks(chart: Chart) -> list[Spec]:
    """Lists what is drawn, without what is not there, and with as many digits as can be seen."""
    names = ("panel", "series", "x", "y", "low", "high", "x_low", "x_high", "label", "is_dashed", "is_line")
    marks = [{name: getattr(mark, name) for name in names} for mark in chart.marks]
    return [{name: _shorten(value) for name, value in mark.items() if not _is_absent(value)} for mark in marks]


def _is_absent(value: Any) -> bool:
    """Whether there is nothing to draw; JSON knows no NaN, and 0.0 equals False but is there."""
    return value is None or value is False or value == "" or (isinstance(value, float) and math.isnan(value))


def _list_rules(chart: Chart) -> list[Spec]:
    panels = chart.panels
    return [
        {"panel": panel, "rule": round(rule.y, 5), "label": rule.label}
        for rule in chart.rules
        for panel in ([rule.panel] if rule.panel else panels)
        if panel in panels
    ]


def _shorten(value: Any) -> Any:
    return round(value, 5) if isinstance(value, float) else value


def _encode(chart: Chart, **more: Any) -> Spec:
    unit = {"scale": {"domain": [0, 1]}} if chart.is_unit else {"scale": {"zero": False}}
    return {
        "x": {
            "field": "x",
            "type": "quantitative",
            "title": chart.x_title,
            "axis": {"tickCount": 6, "tickMinStep": 1 if chart.x_title == "layer" else 0},
            **unit,
        },
        "y": {"field": "y", "type": "quantitative", "title": chart.y_title, "axis": {"tickCount": 5}, **unit},
        **more,
    }


def _colour(chart: Chart) -> Spec:
    scale = {"domain": chart.series, "range": list(chart.colours.values())}
    return {"field": "series", "type": "nominal", "scale": scale, "title": None}


def _shape(chart: Chart) -> Spec:
    shapes = ["stroke" if name in chart.lines else _SHAPES[at] for name, at in chart.shapes.items()]
    scale = {"domain": chart.series, "range": shapes}
    return {"field": "series", "type": "nominal", "scale": scale, "title": None}


def _tooltip(chart: Chart, *names: str) -> list[Spec]:
    titles = {
        "x": chart.x_title,
        "y": chart.y_title,
        "low": "low",
        "high": "high",
        "series": "what",
        "label": "variant",
    }
    texts = ("series", "label")
    return [{"field": name, "title": titles[name]} | ({} if name in texts else {"format": ".3~f"}) for name in names]


def _rules() -> list[Spec]:
    return [
        {
            "transform": [{"filter": "isValid(datum.rule)"}],
            "mark": {"type": "rule", "strokeDash": [2, 3], "color": "#888888"},
            "encoding": {"y": {"field": "rule", "type": "quantitative"}, "tooltip": [{"field": "label", "title": " "}]},
        },
        {
            "transform": [{"filter": "isValid(datum.rule)"}],
            "mark": {"type": "text", "align": "left", "dx": 4, "fontSize": 9, "color": "#888888", "x": "width"},
            "encoding": {"y": {"field": "rule", "type": "quantitative"}, "text": {"field": "label"}},
        },
    ]


def _layer_curves(chart: Chart) -> list[Spec]:
    colour = _colour(chart)
    dash = {"condition": {"test": "datum.is_dashed", "value": [5, 3]}, "value": [1, 0]}
    return [
        {
            "transform": [{"filter": "isValid(datum.low) && isValid(datum.high)"}],
            "mark": {"type": "area", "opacity": 0.16},
            "encoding": _encode(chart, color=colour)
            | {"y": {"field": "low", "type": "quantitative", "title": chart.y_title}, "y2": {"field": "high"}},
        },
        *[
            {
                "transform": [{"filter": f"isValid(datum.x) && {test}datum.is_dashed"}],
                "mark": {"type": "line", "strokeWidth": 1.6, "strokeDash": dashes},
                "encoding": _encode(chart, color=colour),
            }
            for test, dashes in (("!", [1, 0]), ("", dash["condition"]["value"]))  # type: ignore[index]
        ],
        {
            "transform": [{"filter": "isValid(datum.x)"}],
            "mark": {"type": "point", "filled": True, "size": 42, "opacity": 1},
            "encoding": _encode(
                chart, color=colour, shape=_shape(chart), tooltip=_tooltip(chart, "series", "x", "y", "low", "high")
            ),
        },
        *(_rules() if chart.rules else []),
    ]


def _layer_scatter(chart: Chart) -> list[Spec]:
    colour = _colour(chart)
    bar: Callable[..., Spec] = lambda test, **ends: {  # noqa: E731
        "transform": [{"filter": f"!datum.is_line && isValid(datum.{test})"}],
        "mark": {"type": "rule", "opacity": 0.35},
        "encoding": _encode(chart, color=colour) | ends,
    }
    x, y = ({"type": "quantitative", "field": name} for name in ("x_low", "low"))
    return [
        bar("low", y=y | {"title": chart.y_title}, y2={"field": "high"}),
        bar("x_low", x=x | {"title": chart.x_title}, x2={"field": "x_high"}),
        *[
            {
                "transform": [{"filter": f"datum.is_line && datum.series {sign} {json.dumps(PARETO)}"}],
                "mark": {"type": "line", "strokeWidth": 1.8, "interpolate": interpolate},
                "encoding": _encode(chart, color=colour, order={"field": "x", "type": "quantitative"}),
            }
            for sign, interpolate in (("!=", "linear"), ("==", "step-before"))
        ],
        {
            "transform": [{"filter": "!datum.is_line"}],
            "mark": {"type": "point", "filled": True, "size": 50, "opacity": 0.9},
            "encoding": _encode(chart, color=colour, shape=_shape(chart), tooltip=_tooltip(chart, "label", "x", "y")),
        },
    ]


def _layer_map(chart: Chart) -> list[Spec]:
    return [
        {
            "mark": {"type": "rect"},
            "encoding": {
                "x": {"field": "x", "type": "ordinal", "title": chart.x_title, "axis": {"labelAngle": 0}},
                "y": {"field": "series", "type": "nominal", "title": None, "sort": chart.series},
                "color": {
                    "field": "y",
                    "type": "quantitative",
                    "title": chart.y_title,
                    "scale": {"scheme": "cividis", "domain": [0, 1]},
                    "legend": {"title": chart.y_title, "gradientLength": 200},
                },
                "tooltip": _tooltip(chart, "series", "x", "y"),
            },
        }
    ]
