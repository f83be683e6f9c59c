"""Tables and lines: names are no markup, numbers do not shrink, and what a terminal would obey is not printed."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from safety_lightning.printing import PlainTable, format_interval, show_line, show_table

ROWS = [("lab_requests[/b]", "harmfulness-share-of-fives", "-123.456", "[-130.123, -120.120]", "190/200")] * 2


def print_table(table: PlainTable, width: int) -> str:
    stream = io.StringIO()
    show_table(Console(file=stream, width=width), table)
    return stream.getvalue()


@pytest.mark.parametrize("width", [20, 40, 60, 80, 1000])
def test_numbers_never_shrink(width: int) -> None:
    table = PlainTable("a [red]title", names=["task", "metric"], numbers=["value", "interval", "scored"])
    for row in ROWS:
        table.add_line(*row)
    printed = print_table(table, width)
    for number in ROWS[0][2:]:
        assert printed.count(number) == 2
    assert "…" not in printed
    if width >= 80:
        assert "lab_requests[/b]" in printed
    if width == 60:
        assert max(map(len, printed.splitlines())) <= 60 + len("[-130.123, -120.120]")


@given(st.text(max_size=30))
def test_any_name_is_printed_as_it_is(name: str) -> None:
    stream = io.StringIO()
    show_line(Console(file=stream, width=80), f"Folder {name}")
    table = PlainTable(name, names=[name], numbers=[name])
    table.add_line(name, name)
    printed = stream.getvalue() + print_table(table, 1000)
    printed.encode()
    assert "\x1b" not in printed
    if name.isprintable():
        assert stream.getvalue() == f"Folder {name}\n"


@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3))
def test_a_value_between_its_ends_is_printed_between_them(values: list[float]) -> None:
    low, value, high = sorted(values)
    ends = [float(end) for end in format_interval(low, high).strip("[]").split(", ")]
    assert ends[0] <= float(f"{value:.3f}") <= ends[1]
