"""The figures of a study, out of its results; one that nothing was measured for is left out and named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from safety_lightning.overlap.rows import AverageRow, LayerRow, name_layers
from safety_lightning.study.report.chart import PARETO, Chart, Mark, Rule
from safety_lightning.study.report.results import Results, describe_bands
from safety_lightning.study.statistics.frontier import evaluate_frontier
from safety_lightning.study.statistics.selectivity import BLUNT
from safety_lightning.study.statistics.settings import get_metric
from safety_lightning.study.statistics.tables import PointRow, VariantRow
from safety_lightning.study.statistics.values import RANDOM, SAFETY, SOURCES
from safety_lightning.tables import average

NAMES = {
    "measures_orthogonal": "utility and harm by fraction, orthogonal component",
    "measures_parallel": "utility and harm by fraction, parallel component",
    "selectivity": "selectivity by fraction",
    "tradeoff": "learning against harm",
    "energy": "energy by fraction",
    "energy_by_layer": "energy by layer",
    "mso_weights": "overlap of weights",
    "mso_activations": "overlap of activations",
    "activation_map": "overlap of activations by layer",
}
"""All figures by the stem of their files."""

_SUBSPACES = {SAFETY: "safety subspace (top_k)", "random_k": "random singular vectors (random_k)"}
_CHANCE = "random subspace (chance)"


def list_charts(results: Results) -> list[Chart]:
    """Makes the figures that the results allow."""
    made = [
        _draw_measures(results, "orthogonal"),
        _draw_measures(results, "parallel"),
        _draw_selectivity(results),
        _draw_tradeoff(results),
        _draw_energy(results),
        _draw_layers(results),
        _draw_overlap(results.weights, "mso_weights", "weights", where="all layers"),
        _draw_overlap(results.activations, "mso_activations", "activations", where=_name_averaged(results)),
        _draw_activation_map(results),
    ]
    return [chart for chart in made if chart.marks]


def name_source(source: str) -> str:
    """Returns what a source is called in figures."""
    return _CHANCE if source == RANDOM else _SUBSPACES.get(source, source)


def _draw_measures(results: Results, component: str) -> Chart:
    verdict = results.verdict
    panels = [(kind, metric) for kind, metric in _list_panels(results) if metric in (verdict.utility, verdict.harm)]
    marks: list[Mark] = []
    rules: list[Rule] = []
    for kind, metric in panels:
        panel = f"{kind} fine-tune: {metric} {get_metric(metric).arrow}"
        rows = [row for row in results.variants if (row.finetuned, row.metric) == (kind, metric)]
        found = list(_curve(rows, component, panel))
        marks += found
        if found:
            rules += [Rule(level, name, panel) for name in ("reference", "finetuned") for level in _levels(rows, name)]
    return Chart(
        name=f"measures_{component}",
        title=f"What the {component} component keeps",
        text=f"Each measure when only the {component} component of the update is kept, by the fraction of directions "
        "that the subspace spans; means over seeds and draws; bands are the means of their "
        "intervals over prompts. Dotted levels: the reference and the whole "
        "update. A safety subspace worth its name would part from the dashed random one.",
        kind="curves",
        x_title="fraction of directions",
        y_title="value",
        marks=marks,
        rules=rules,
    )


def _list_panels(results: Results) -> list[tuple[str, str]]:
    """Lists the measure that each fine-tune was made for; both for the contaminated one."""
    utility, harm = results.verdict.utility, results.verdict.harm
    return [("useful", utility), ("harmful", harm), ("contaminated", utility), ("contaminated", harm)]


def _levels(rows: Sequence[VariantRow], source: str) -> Iterator[float]:
    level = average(row.value for row in rows if row.source == source)
    if level is not None:
        yield level


def _curve(rows: Sequence[VariantRow], component: str, panel: str) -> Iterator[Mark]:
    for source in SOURCES:
        shown = [row for row in rows if row.source == source and row.component == component and row.fraction]
        for fraction in sorted({row.fraction for row in shown if row.fraction is not None}):
            own = [row for row in shown if row.fraction == fraction]
            value = average(row.value for row in own)
            if value is not None:
                yield Mark(
                    panel=panel,
                    series=name_source(source),
                    x=fraction,
                    y=value,
                    low=average(row.low for row in own),
                    high=average(row.high for row in own),
                    is_dashed=source == RANDOM,
                )


def _draw_selectivity(results: Results) -> Chart:
    verdict = results.verdict
    marks = [
        Mark(
            panel=f"experiment {row.experiment}",
            series="orthogonal (decides)" if row.component == "orthogonal" else "parallel (describes)",
            x=row.fraction or 0.0,
            y=row.selectivity,
            low=row.low,
            high=row.high,
            is_dashed=row.component == "parallel",
        )
        for row in results.selectivity
        if row.selectivity is not None
    ]
    return Chart(
        name="selectivity",
        title="Selectivity of the safety subspace",
        text="How much further apart the component brings learning and harm than any blunt weakening of the same "
        f"strength; bands are {describe_bands(verdict.level)}. Safety is separable where the lower "
        f"end of the orthogonal component is above 0 and its value at least {verdict.delta:g}.",
        kind="curves",
        x_title="fraction of directions",
        y_title="selectivity S",
        marks=marks,
        rules=[Rule(0.0, "blunt weakening"), Rule(verdict.delta, f"δ = {verdict.delta:g}")],
    )


def _draw_tradeoff(results: Results) -> Chart:
    marks: list[Mark] = []
    for number in dict.fromkeys(row.experiment for row in results.points):
        panel = f"experiment {number}"
        rows = [row for row in results.points if row.experiment == number]
        places = [(row, u, h) for row in rows for u, h in _find_shares(row)]
        if not places:
            continue
        marks += [_place(row, u, h, panel) for row, u, h in places]
        blunt = [(u, h) for row, u, h in places if row.source in BLUNT]
        marks += _join(_trace_frontier(blunt), panel, "blunt frontier")
        marks += _join(sorted((u, h) for row, u, h in places if row.is_pareto), panel, PARETO)
    return Chart(
        name="tradeoff",
        title="Learning against harm",
        text="What every variant keeps of the learning (right is better) and of the harm (low is better), with "
        "intervals over prompts. The blunt frontier is what weakening reaches that knows nothing of safety; a "
        "selective variant lies below and right of it.",
        kind="scatter",
        x_title="learning kept →",
        y_title="← harm kept",
        marks=marks,
        is_unit=True,
    )


def _find_shares(row: PointRow) -> Iterator[tuple[float, float]]:
    """Yields what a variant keeps of learning and harm, where both are known."""
    if row.retained_utility is not None and row.retained_harm is not None:
        yield row.retained_utility, row.retained_harm


def _place(row: PointRow, learning: float, harm: float, panel: str) -> Mark:
    numbers = [f"{name} {value:g}" for name, value in (("ρ", row.fraction), ("α", row.alpha)) if value is not None]
    return Mark(
        panel=panel,
        series=f"{row.source} {row.component}".strip(),
        x=learning,
        y=harm,
        low=row.harm_low,
        high=row.harm_high,
        x_low=row.utility_low,
        x_high=row.utility_high,
        label=" ".join([row.source, row.component, *numbers]),
    )


def _trace_frontier(blunt: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Traces the frontier of blunt points' means as learning and harm: U = r + J / 2, H = r − J / 2."""
    shares = np.array(blunt, dtype=np.float64).reshape(-1, 2)
    retention, advantage = shares.mean(1)[:, None], (shares[:, 0] - shares[:, 1])[:, None]
    asked = np.unique(np.concatenate([np.linspace(0, 1, 21), retention[:, 0]]))
    heights = evaluate_frontier(retention, advantage, asked[:, None])[:, 0]
    return [(float(r + height / 2), float(r - height / 2)) for r, height in zip(asked, heights, strict=True)]


def _join(places: Sequence[tuple[float, float]], panel: str, series: str) -> list[Mark]:
    return [Mark(panel=panel, series=series, x=x, y=y, is_line=True) for x, y in places]


def _draw_energy(results: Results) -> Chart:
    utility, harm = results.verdict.utility, results.verdict.harm
    rows = [row for row in results.variants if row.metric in (utility, harm) and row.energy_kept is not None]
    marks = []
    for kind in dict.fromkeys(row.finetuned for row in rows):
        for component in ("parallel", "orthogonal"):
            for source in SOURCES:
                own = [row for row in rows if (row.finetuned, row.component, row.source) == (kind, component, source)]
                for fraction in sorted({row.fraction for row in own if row.fraction is not None}):
                    value = average(row.energy_kept for row in own if row.fraction == fraction)
                    marks.append(
                        Mark(
                            panel=f"{kind} fine-tune, {component}",
                            series=name_source(source),
                            x=fraction,
                            y=value or 0.0,
                            is_dashed=source == RANDOM,
                        )
                    )
    return Chart(
        name="energy",
        title="Energy of the update that each component holds",
        text="Share of the update's squared norm that a component keeps, by the fraction of directions; the random "
        "subspace is chance.",
        kind="curves",
        x_title="fraction of directions",
        y_title="energy kept",
        marks=marks,
        is_unit=True,
    )


def _draw_layers(results: Results) -> Chart:
    marks = [
        Mark(panel=row.finetuned, series=f"ρ = {row.fraction:g}", x=row.layer, y=row.energy_kept)
        for row in results.layers
    ]
    return Chart(
        name="energy_by_layer",
        title="Energy outside the safety subspace, by layer",
        text="Mean over the matrices of each decoder layer of the energy that the orthogonal component keeps.",
        kind="curves",
        x_title="layer",
        y_title="energy kept",
        marks=marks,
    )


def _name_averaged(results: Results) -> str:
    return " and ".join(dict.fromkeys(name_layers(row) for row in results.activations))


def _draw_overlap(rows: Sequence[LayerRow] | Sequence[AverageRow], name: str, subject: str, *, where: str) -> Chart:
    marks = []
    panels = ("overlap (dashed: chance)", "excess over chance")
    for pair in dict.fromkeys(row.pair for row in rows):
        for eta in sorted({row.eta for row in rows}):
            own = [row for row in rows if (row.pair, row.eta) == (pair, eta)]
            for column, panel in (("mso", panels[0]), ("chance", panels[0]), ("excess", panels[1])):
                value = average(getattr(row, column) for row in own)
                if value is not None:
                    is_chance = column == "chance"
                    label = f"chance: {pair}" if is_chance else ""
                    marks.append(Mark(panel=panel, series=pair, x=eta, y=value, label=label, is_dashed=is_chance))
    marks.sort(key=lambda mark: (panels.index(mark.panel), mark.is_dashed))
    return Chart(
        name=name,
        title=f"Mode Subspace Overlap of {subject}",
        text=f"Overlap of the leading subspaces of each pair, the mean over {where}, by the share of energy that they "
        "hold. If safety had directions of its own, what is harmful would overlap more.",
        kind="curves",
        x_title="share of energy η",
        y_title="overlap",
        marks=marks,
    )


def _draw_activation_map(results: Results) -> Chart:
    rows = results.activation_layers
    etas = sorted({row.eta for row in rows})
    eta = min(etas, key=lambda one: abs(one - 0.9)) if etas else 0.0
    marks = [
        Mark(panel=f"η = {eta:g}", series=row.pair, x=row.layer, y=row.mso)
        for row in rows
        if row.eta == eta and row.mso is not None
    ]
    return Chart(
        name="activation_map",
        title="Overlap of activations, by layer",
        text="Each line is a pair of prompt sets, each column a layer (0 is the embedding).",
        kind="map",
        x_title="layer",
        y_title="overlap",
        marks=marks,
    )
