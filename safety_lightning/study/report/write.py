"""Writes the report of a study: figures, tables and pages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safety_lightning.figures import save_figure
from safety_lightning.files import atomic_path, write_atomically
from safety_lightning.study.report.chart import Chart
from safety_lightning.study.report.figures import list_charts
from safety_lightning.study.report.page import Drawn, format_markdown, format_page, pack_spec
from safety_lightning.study.report.paper import list_paper_sheets
from safety_lightning.study.report.plots import draw_chart
from safety_lightning.study.report.results import read_results
from safety_lightning.study.report.sheet import Sheet
from safety_lightning.study.report.tables import list_sheets
from safety_lightning.study.report.vega import draw_png, draw_svg, get_bundle, has_vega, make_spec
from safety_lightning.study.statistics.write import RESULTS

PAGE, TEXT = "report.html", "report.md"
_WRITTEN = {Path(name).stem for name in RESULTS}  # by the statistics, in full


def write_report(study: Path) -> list[Path]:
    """Makes the report of a study anew, from its results alone.

    Writes ``report.html``, ``report.md``, ``figures/`` (PNG and SVG; with the extra ``report`` the specifications too)
    and ``tables/`` (CSV, Markdown and LaTeX).

    Args:
        study: The folder of a study whose statistics are done.

    Returns:
        All files that it wrote, the page first.

    Raises:
        UserError: If the folder holds no results, or they cannot be read. Nothing has been written then.
    """
    results = read_results(study)
    sheets, paper = list_sheets(results), list_paper_sheets(results)
    has_hover = has_vega()
    draw = _draw_by_vega if has_hover else _draw_by_matplotlib
    figures = [draw(chart, study / "figures") for chart in list_charts(results)]
    bundle = get_bundle() if has_hover else ""
    texts = {
        study / PAGE: format_page(results, sheets, paper, figures, bundle=bundle),
        study / TEXT: format_markdown(results, sheets, paper, figures),
        **_format_tables(study / "tables", [*sheets, *paper]),
    }
    for file, text in texts.items():
        write_atomically(file, text)
    return [*texts, *(file for drawn in figures for file in drawn.files)]


def _format_tables(folder: Path, sheets: Sequence[Sheet]) -> dict[Path, str]:
    """Formats tables as Markdown and LaTeX, and as CSV where the statistics have not written the same in full."""
    texts = {}
    for sheet in sheets:
        if sheet.name not in _WRITTEN:
            texts[folder / f"{sheet.name}.csv"] = sheet.to_csv()
        texts[folder / f"{sheet.name}.md"] = f"{sheet.to_markdown()}\n{sheet.note}\n"
        texts[folder / f"{sheet.name}.tex"] = sheet.to_latex()
    return texts


def _draw_by_vega(chart: Chart, folder: Path) -> Drawn:
    spec = make_spec(chart)
    svg, packed = draw_svg(spec), pack_spec(spec)
    as_svg, as_spec, as_png = (folder / f"{chart.name}{ending}" for ending in (".svg", ".vl.json", ".png"))
    write_atomically(as_svg, svg)
    write_atomically(as_spec, packed + "\n")
    with atomic_path(as_png) as partial:
        partial.write_bytes(draw_png(spec))
    return Drawn(chart, svg, packed, (as_svg, as_spec, as_png))


def _draw_by_matplotlib(chart: Chart, folder: Path) -> Drawn:
    save_figure(draw_chart(chart), folder / chart.name)
    as_svg, as_png = (folder / f"{chart.name}{ending}" for ending in (".svg", ".png"))
    svg = as_svg.read_text(encoding="utf-8")
    return Drawn(chart, svg[svg.index("<svg") :], "", (as_svg, as_png))
