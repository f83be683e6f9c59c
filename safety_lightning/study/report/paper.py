"""The paper's tables in its layout: our numbers, with the paper's own beside them where the model is one of its five.

Facts read from the tables of arXiv 2505.14185 lie in ``assets/paper_tables.csv``, each with its table. Tables 1 and 2
are excerpts of Tables 4 and 5.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from safety_lightning.study.report.results import Results
from safety_lightning.study.report.sheet import Cell, Sheet
from safety_lightning.study.statistics.settings import get_metric
from safety_lightning.study.statistics.tables import VariantRow
from safety_lightning.study.statistics.values import RANDOM, SAFETY, SOURCES
from safety_lightning.tables import average

FRACTIONS = (0.01, 0.25, 0.5, 0.75, 0.99)
_PLAIN = ("base", "reference", "finetuned")


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper.

    Attributes:
        number: Its number.
        facts: The table that our copy of its numbers comes from.
        component: Which component it shows.
        sources: Its sources of directions.
        measures: The fine-tune and the measure of each of its blocks.
        title: What it shows.
    """

    number: int
    facts: int
    component: str
    sources: Sequence[str]
    measures: Sequence[tuple[str, str]]
    title: str


_ALONE = (("useful", "utility"), ("harmful", "harmfulness"))
_MIXED = (("contaminated", "utility"), ("contaminated", "harmfulness"))
TABLES = (
    PaperTable(1, 4, "parallel", (SAFETY, RANDOM), _ALONE, "Useful and harmful fine-tunes, an excerpt of Table 4"),
    PaperTable(2, 5, "parallel", (SAFETY, RANDOM), _MIXED, "Contaminated fine-tune, an excerpt of Table 5"),
    PaperTable(4, 4, "parallel", SOURCES, _ALONE, "Useful and harmful fine-tunes"),
    PaperTable(5, 5, "parallel", SOURCES, _MIXED, "Contaminated fine-tune"),
)


def list_paper_sheets(results: Results) -> list[Sheet]:
    """Makes the paper's tables; what was not measured is empty."""
    model, reference = find_model(results.settings.get("config") or {})
    return [_make_sheet(table, results.variants, model, reference) for table in TABLES]


def find_model(config: Mapping[str, Any]) -> tuple[str | None, str]:
    """Returns which of the paper's models a study is about, None if none, and where its fine-tuning started.

    Example:
        >>> find_model({"base": "Qwen/Qwen2.5-1.5B", "reference": "Qwen/Qwen2.5-1.5B-Instruct"})
        ('Qwen2.5-1.5B', 'aligned')
    """
    names = {row["model"] for row in read_facts()}
    base = str(config.get("base") or "").lower()
    ends = [name for name in names if base.partition("@")[0].removesuffix("-hf").endswith(name.lower())]
    is_tuned = config.get("reference") is None and config.get("reference_fit") is not None
    return (ends[0] if ends else None), ("safety_tuned" if is_tuned else "aligned")


@functools.cache
def read_facts() -> list[dict[str, str]]:
    """Reads the paper's numbers."""
    text = files("safety_lightning.study.report").joinpath("assets/paper_tables.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def _make_sheet(table: PaperTable, variants: Sequence[VariantRow], model: str | None, reference: str) -> Sheet:
    facts = {
        (row["training"], row["metric"], row["source"], float(row["fraction"]) if row["fraction"] else None): float(
            row["value"]
        )
        for row in read_facts()
        if (row["table"], row["model"], row["reference"]) == (str(table.facts), model, reference)
    }
    rows: list[Sequence[Cell]] = []
    for kind, metric in table.measures:
        own = [row for row in variants if (row.finetuned, row.metric) == (kind, metric)]
        label = f"{metric} {get_metric(metric).arrow}"
        for source in table.sources:
            places = [(name, None) for name in _PLAIN] + [(source, fraction) for fraction in FRACTIONS]
            for who, cells in (
                ("ours", _measure(own, table.component, places)),
                ("paper", _recall(facts, kind, metric, places)),
            ):
                if who == "ours" or facts:
                    rows.append((kind, label, source, who, *cells))
    beside = f" beside those of the paper's Table {table.facts} for {model}, {reference}" if facts else ""
    return Sheet(
        name=f"paper_table_{table.number}",
        title=f"Table {table.number} of the paper: {table.title}",
        columns=(
            "fine-tune",
            "measure",
            "source",
            "whose",
            "base",
            "reference",
            "fine-tuned",
            *(f"ρ = {f:g}" for f in FRACTIONS),
        ),
        rows=rows,
        note=f"Our numbers{beside}; the {table.component} component; means over seeds and draws. What was not "
        "measured is empty.",
        digits=2,
    )


def _measure(
    rows: Sequence[VariantRow], component: str, places: Sequence[tuple[str, float | None]]
) -> Iterator[float | None]:
    for source, fraction in places:
        yield average(
            row.value
            for row in rows
            if (row.source, row.fraction) == (source, fraction) and row.component in ("", component)
        )


def _recall(
    facts: Mapping[tuple[str, str, str, float | None], float],
    kind: str,
    metric: str,
    places: Sequence[tuple[str, float | None]],
) -> Iterator[float | None]:
    for source, fraction in places:
        yield facts.get((kind, metric, source, fraction))
