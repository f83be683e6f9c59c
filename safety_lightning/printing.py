"""Prints tables and lines as they are: no name acts as markup, and no number gives way to the width of a terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

_NARROWEST = 8  # characters that a name is folded to
_WIDE = 1000  # characters: a file or a pipe takes a table at its own width


class PlainTable(Table):
    """A table of names and numbers. Where the terminal is narrow, names are folded; columns of numbers never shrink.

    Args:
        title: What stands above it.
        names: Headers of the columns of names, which come first.
        numbers: Headers of the columns of numbers, on the right.
    """

    def __init__(self, title: str, *, names: Sequence[str], numbers: Sequence[str]) -> None:
        super().__init__(title=to_text(title), box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        self._num_names = len(names)
        for name in names:
            self.add_column(to_text(name), overflow="fold")
        for name in numbers:
            self.add_column(
                to_text(name), justify="right", no_wrap=True, min_width=max(map(cell_len, name.split("\n")))
            )

    def add_line(self, *cells: str, style: str = "") -> None:
        """Adds a row of texts; a text may have several lines."""
        texts = [to_text(cell, style=style) for cell in cells]
        for at, (column, text) in enumerate(zip(self.columns, texts, strict=False)):
            longest = max(cell_len(line) for line in text.plain.split("\n"))
            bound = longest if at >= self._num_names else min(longest, _NARROWEST)
            column.min_width = max(column.min_width or 0, bound)
        self.add_row(*texts)


def to_text(text: str, *, style: str = "") -> Text:
    """Makes text that is shown as it is; what cannot be printed, such as the codes of a terminal, is replaced."""
    return Text("".join(one if one.isprintable() or one == "\n" else "\ufffd" for one in text), style=style)


def open_console(console: Console | None = None) -> Console:
    """Returns a console: the given one, or standard output, whose width is bounded in a terminal alone."""
    if console is not None:
        return console
    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=_WIDE)


def show_table(console: Console, table: Table) -> None:
    """Prints a table; one that is wider than the terminal is not cut."""
    needed = sum((column.min_width or 0) + 2 for column in table.columns)
    if needed > console.width:
        table.width = needed
    console.print(table, crop=False)


def show_line(console: Console, line: str) -> None:
    """Prints a line, which is wrapped by nobody but the terminal."""
    console.print(to_text(line), highlight=False, soft_wrap=True)


def format_interval(low: float, high: float) -> str:
    """Formats an interval with as many digits as the value beside it, which must not seem to lie outside.

    Example:
        >>> format_interval(1.0, 3.33333)
        '[1.000, 3.333]'
    """
    return f"[{low:.3f}, {high:.3f}]"


def format_seconds(seconds: float) -> str:
    """Formats a duration.

    Example:
        >>> format_seconds(5400)
        '1 h 30 min'
    """
    if seconds < 60:
        return f"{max(seconds, 1):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
