"""The report of a study, made from its results alone: page, figures, tables, and the paper's numbers beside ours.

results          what a study left
chart, figures   what each figure shows; drawn by `vega`, or by `plots` where the extra ``report`` is missing
sheet, tables    a table in every form; the tables of the report, and those of the `paper` in its layout
page, write      the page as HTML and as Markdown, and all files
comparison       two studies side by side
command          the command `report`
"""
# ruff: noqa: F401 (the names are for other rooms)

from __future__ import annotations

from typing import TYPE_CHECKING

from safety_lightning.lazy import import_lazily, list_names

if TYPE_CHECKING:
    from safety_lightning.study.report.comparison import compare
    from safety_lightning.study.report.write import write_report

_PLACES = {"comparison": "compare", "write": "write_report"}

__all__ = list_names(_PLACES)
__getattr__ = import_lazily(__name__, _PLACES)
