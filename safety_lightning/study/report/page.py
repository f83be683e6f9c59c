"""The page of a study as HTML, one file that fetches nothing, and as Markdown."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from safety_lightning.study.report.chart import Chart
from safety_lightning.study.report.figures import NAMES
from safety_lightning.study.report.paper import find_model
from safety_lightning.study.report.results import Results
from safety_lightning.study.report.sheet import Sheet, join_interval
from safety_lightning.study.report.tables import list_gaps, list_settings
from safety_lightning.study.report.vega import Spec

ANSWERS = {"separable": "Separable", "not_separable": "Not separable", "undecided": "Undecided"}
_SECTIONS = [
    *(("verdict", "Verdict"), ("settings", "Settings and cost"), ("tables", "Tables"), ("figures", "Figures")),
    *(("paper", "The paper's tables"), ("gaps", "Gaps"), ("repeat", "Repeat")),
]


@dataclass(frozen=True)
class Drawn:
    """A figure, drawn.

    Attributes:
        chart: What it shows.
        svg: As SVG, for print and for a page without scripts.
        spec: As a specification in JSON; empty where matplotlib drew it.
        files: The files that it was written to.
    """

    chart: Chart
    svg: str
    spec: str
    files: tuple[Path, ...]

    @property
    def sheet(self) -> Sheet:
        """Its values as a table."""
        rows = [
            (mark.panel, mark.label or mark.series, mark.x, mark.y, mark.low, mark.high) for mark in self.chart.marks
        ]
        columns = ("panel", "what", self.chart.x_title, self.chart.y_title, "low", "high")
        return Sheet(name=self.chart.name, title=f"Values of {self.chart.title}", columns=columns, rows=rows)


def format_page(
    results: Results, sheets: Sequence[Sheet], paper: Sequence[Sheet], figures: Sequence[Drawn], *, bundle: str
) -> str:
    """Formats the page as HTML.

    Args:
        results: The results.
        sheets: Tables.
        paper: The paper's tables.
        figures: Figures.
        bundle: The script that draws specifications; empty where there are none.
    """
    context = _make_context(results, sheets, paper, figures)
    scripts = {"css": _read("page.css"), "script": _read("page.js"), "bundle": bundle.replace("</script", r"<\/script")}
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(_read("report.html.j2"))
    return template.render(**context, **scripts)


def format_markdown(results: Results, sheets: Sequence[Sheet], paper: Sequence[Sheet], figures: Sequence[Drawn]) -> str:
    """Formats the page as Markdown; figures are those of the folder ``figures``."""
    environment = Environment(autoescape=False, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(_read("report.md.j2")).render(**_make_context(results, sheets, paper, figures))


def pack_spec(spec: Spec) -> str:
    """Packs a specification as JSON that may stand inside a script."""
    return json.dumps(spec, ensure_ascii=False, separators=(",", ":")).replace("</", r"<\/")


def list_numbers(results: Results) -> list[tuple[str, str]]:
    """Lists what the verdict stands on."""
    verdict = results.verdict
    shown = [
        ("selectivity that decides", join_interval(verdict.selectivity, verdict.low, verdict.high)),
        ("room", join_interval(verdict.room, None, None)),
        ("smallest effect that could have been seen", join_interval(verdict.smallest_effect, None, None)),
        ("measures", f"{verdict.utility}, {verdict.harm}"),
        ("seeds", f"{verdict.num_seeds}"),
        ("cells", f"{verdict.num_cells}" + (f" (+ {verdict.num_identical} identical)" * bool(verdict.num_identical))),
        ("level", f"{verdict.level:.0%}"),
        ("null: random subspaces that are called separable", _count_false(results)),
    ]
    return [(label, value) for label, value in shown if value is not None]


def _count_false(results: Results) -> str | None:
    num_false = sum(row.verdict == "separable" for row in results.nulls)
    return f"{num_false} of {len(results.nulls)} (tables/null.csv)" if results.nulls else None


def _make_context(
    results: Results, sheets: Sequence[Sheet], paper: Sequence[Sheet], figures: Sequence[Drawn]
) -> dict[str, Any]:
    settings, drawn = results.settings, {figure.chart.name for figure in figures}
    return {
        "name": results.study.resolve().name,
        "study": str(results.study),
        "subject": _describe_subject(results),
        "answer": ANSWERS[results.verdict.verdict],
        "verdict": results.verdict,
        "numbers": list_numbers(results),
        "sections": _SECTIONS,
        "settings": list_settings(settings),
        "sheets": sheets,
        "paper": paper,
        "figures": figures,
        "has_vega": all(figure.spec for figure in figures),
        "gaps": list_gaps(results),
        "missing": [title for name, title in NAMES.items() if name not in drawn],
        "command": _join_command(settings.get("command")),
        "commit": settings.get("git_commit") or "unknown",
    }


def _describe_subject(results: Results) -> str:
    config = results.settings.get("config") or {}
    base, reference = config.get("base") or "an unnamed base", config.get("reference")
    model, _ = find_model(config)
    known = f", one of the paper's models ({model})" if model else ""
    start = f"reference {reference}" if reference else "a reference trained from it"
    kinds = ", ".join(dict.fromkeys(row.finetuned for row in results.variants))
    return f"Base {base}{known}, {start}; fine-tunes: {kinds}."


def _join_command(command: Any) -> str:
    if isinstance(command, list) and command:
        return " ".join([str(command[0]), *(shlex.quote(str(word)) for word in command[1:])])
    return str(command) if command else "(the study did not record its command)"


def _read(name: str) -> str:
    return files("safety_lightning.study.report").joinpath(f"assets/{name}").read_text(encoding="utf-8")
