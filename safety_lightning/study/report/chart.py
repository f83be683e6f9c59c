"""A figure before it is drawn: what it shows, said once for the page, for print and for whoever cannot see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["curves", "scatter", "map"]
PALETTE = ("#2a78c2", "#d5692a", "#2c9c73", "#b5639a", "#b88a1a", "#6b76d6", "#9a6a52", "#4a9fb0")
PARETO = "Pareto line: the least harm at no less learning"
"""The series that is drawn in steps: learning and harm of two variants are not mixed along it."""

_LINES = ("#7a8794", "#c04a5e")
"""Colours that have a contrast of three or more on white and on the page's dark ground."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A point of a curve, a point of a scatter, or a cell of a map.

    Attributes:
        panel: The panel that it belongs to.
        series: The curve, or the group of points; the line of a map.
        x: Where it is; a name in a map.
        y: Where it is; the value in a map.
        low: Lower end of its interval along y.
        high: Upper end.
        x_low: Lower end of its interval along x.
        x_high: Upper end.
        label: What it is called when it is pointed at.
        is_dashed: Whether the curve is a level to compare with, such as chance.
        is_line: Whether a scatter joins it with others of its series by a line.
    """

    panel: str
    series: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    x_low: float | None = None
    x_high: float | None = None
    label: str = ""
    is_dashed: bool = False
    is_line: bool = False


@dataclass(frozen=True)
class Rule:
    """A level across panels.

    Attributes:
        y: Where.
        label: What it is.
        panel: The panel; empty for all.
    """

    y: float
    label: str
    panel: str = ""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A figure.

    Attributes:
        name: Stem of its files.
        title: What it shows.
        text: What there is to see in it, in sentences.
        kind: Curves over x, a scatter, or a map of lines by x.
        x_title: Of the horizontal axis.
        y_title: Of the vertical axis; of the colour in a map.
        marks: What is drawn.
        rules: Levels to compare with.
        is_unit: Whether both axes reach from 0 to 1.
    """

    name: str
    title: str
    text: str
    kind: Kind
    x_title: str
    y_title: str
    marks: Sequence[Mark]
    rules: Sequence[Rule] = field(default_factory=list)
    is_unit: bool = False

    @property
    def panels(self) -> list[str]:
        """The panels, in the order of the marks."""
        return list(dict.fromkeys(mark.panel for mark in self.marks))

    @property
    def series(self) -> list[str]:
        """The series, in the order of the marks."""
        return list(dict.fromkeys(mark.series for mark in self.marks))

    @property
    def lines(self) -> list[str]:
        """The series of a scatter that are lines."""
        return list(dict.fromkeys(mark.series for mark in self.marks if mark.is_line))

    @property
    def shapes(self) -> dict[str, int]:
        """The number of each series' shape, below the palette's size: where colours come again, shapes are moved on."""
        size = len(PALETTE)
        return {name: (at + at // size) % size for at, name in enumerate(self.series)}

    @property
    def colours(self) -> dict[str, str]:
        """The colour of each series; lines of a scatter have colours that no points have."""
        points = [name for name in self.series if name not in self.lines]
        colours = {name: PALETTE[at % len(PALETTE)] for at, name in enumerate(points)}
        return colours | {name: _LINES[at % len(_LINES)] for at, name in enumerate(self.lines)}
