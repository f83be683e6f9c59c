"""A table in every form: CSV, Markdown, LaTeX with booktabs; the page makes its own of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

Cell = str | float | None
_LATEX = str.maketrans(
    {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}"}
    | {"^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "↑": r"$\uparrow$", "↓": r"$\downarrow$"}
    | {
        "ρ": r"$\rho$",
        "α": r"$\alpha$",
        "δ": r"$\delta$",
        "η": r"$\eta$",
        "−": "$-$",
        "∥": r"$\parallel$",
        "⊥": r"$\perp$",
    }
)


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A table.

    Attributes:
        name: Stem of its files.
        title: What it shows.
        columns: Headers; those of measures say by an arrow which way is better.
        rows: Cells by row; None is empty, never filled.
        note: What must be known to read it.
        digits: Digits behind the point.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    digits: int = 3
    is_number: Sequence[bool] = field(init=False)

    def __post_init__(self) -> None:
        kinds = [[isinstance(row[at], float | int) for row in self.rows] for at in range(len(self.columns))]
        object.__setattr__(self, "is_number", [any(kind) for kind in kinds])

    def format_cell(self, cell: Cell) -> str:
        """Formats a cell; a whole number has no digits behind the point."""
        if cell is None:
            return ""
        if isinstance(cell, str):
            return cell
        return f"{cell:d}" if isinstance(cell, int) else f"{round(cell, self.digits) + 0.0:.{self.digits}f}"

    def to_csv(self) -> str:
        """Formats the table as CSV, numbers in full."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(["" if cell is None else cell for cell in row] for row in self.rows)
        return stream.getvalue()

    def to_markdown(self) -> str:
        """Formats the table as Markdown."""
        ruler = ["---:" if one else "---" for one in self.is_number]
        lines = [self.columns, ruler, *([self.format_cell(cell) for cell in row] for row in self.rows)]
        return "".join("| " + " | ".join(one.replace("|", r"\|") for one in line) + " |\n" for line in lines)

    def to_latex(self) -> str:
        """Formats the table as LaTeX, for the package booktabs."""
        lines = [self.columns, *([self.format_cell(cell) for cell in row] for row in self.rows)]
        head, *body = [" & ".join(one.translate(_LATEX) for one in line) + r" \\" for line in lines]
        layout = "".join("r" if one else "l" for one in self.is_number)
        return "\n".join(
            [
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{self.title.translate(_LATEX)}}}",
                rf"\begin{{tabular}}{{{layout}}}",
                *(r"\toprule", head, r"\midrule", *body, r"\bottomrule"),
                r"\end{tabular}",
                r"\end{table}",
                "",
            ]
        )


def join_interval(value: float | None, low: float | None, high: float | None, *, digits: int = 2) -> str | None:
    """Formats a value with its interval; None where there is no value.

    Example:
        >>> join_interval(0.5, 0.25, 0.75), join_interval(0.5, None, None), join_interval(None, None, None)
        ('0.50 [0.25, 0.75]', '0.50', None)
    """
    if value is None:
        return None
    shown = [f"{round(one, digits) + 0.0:.{digits}f}" for one in (value, low, high) if one is not None]  # no −0.00
    return shown[0] if len(shown) < 3 else f"{shown[0]} [{shown[1]}, {shown[2]}]"
