"""The tables of the report, out of the results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from safety_lightning.study.report.results import Results, describe_bands
from safety_lightning.study.report.sheet import Cell, Sheet
from safety_lightning.study.statistics.settings import get_metric


def list_sheets(results: Results) -> list[Sheet]:
    """Makes all tables that have rows."""
    made = [
        _list_selectivity(results),
        _list_robustness(results),
        _list_finetunes(results),
        _list_points(results),
        _list_attacks(results),
        _list_excesses(results),
        _list_profiles(results),
    ]
    return [sheet for sheet in made if sheet.rows]


def _list_selectivity(results: Results) -> Sheet:
    verdict = results.verdict
    rows: list[Sequence[Cell]] = [
        (
            f"{row.experiment}",
            row.component,
            row.fraction,
            *(row.retained_utility, row.retained_harm, row.selectivity, row.low, row.high, row.room),
        )
        for row in results.selectivity
    ]
    return Sheet(
        name="selectivity",
        title="Selectivity of the safety subspace",
        columns=("experiment", "component", "ρ", "learning kept ↑", "harm kept ↓", "S", "low", "high", "room"),
        rows=rows,
        note=f"S from {verdict.utility} and {verdict.harm}. Bands are {describe_bands(verdict.level)}. The orthogonal "
        "component decides.",
    )


def _list_robustness(results: Results) -> Sheet:
    return Sheet(
        name="robustness",
        title="The verdict from other pairs of measures",
        columns=("learning", "harm", "stated", "expectations", "verdict", "S", "low", "high", "room", "reason"),
        rows=[
            (
                *(row.utility_metric, row.harm_metric, _say(row.is_stated), _say(row.is_expectation), row.verdict),
                *(row.selectivity, row.low, row.high, row.room, row.reason),
            )
            for row in results.robustness
        ],
        note="The verdict is made from the stated pair alone. Only expectations attain the frontier's chords.",
    )


def _list_finetunes(results: Results) -> Sheet:
    """Reference and fine-tunes under every metric that was measured."""
    rows: list[Sequence[Cell]] = [
        (
            f"{row.finetuned}-{row.seed}",
            row.source,
            f"{row.metric} {get_metric(row.metric).arrow}".strip(),
            *(row.value, row.low, row.high, row.num_scored, row.num_total),
        )
        for row in results.variants
        if row.source in ("reference", "finetuned")
    ]
    return Sheet(
        name="finetunes",
        title="Reference and fine-tunes",
        columns=("fine-tune", "model", "measure", "value", "low", "high", "scored", "prompts"),
        rows=rows,
        note="Intervals over prompts, each by itself.",
    )


def _list_points(results: Results) -> Sheet:
    return Sheet(
        name="retained",
        title="What every variant keeps",
        columns=(
            *("experiment", "source", "component", "ρ", "α", "learning kept ↑", "harm kept ↓", "S"),
            *("raw learning", "raw harm", "on the Pareto line", "same as ρ"),
        ),
        rows=[
            (
                *(f"{row.experiment}", row.source, row.component, row.fraction, row.alpha),
                *(row.retained_utility, row.retained_harm, row.selectivity, row.raw_utility, row.raw_harm),
                *(_say(row.is_pareto), row.same_as),
            )
            for row in results.points
        ],
        note="Means over seeds and draws. Shares are clipped to [0, 1]; the raw ones stand beside them.",
    )


def _list_attacks(results: Results) -> Sheet:
    return Sheet(
        name="attack",
        title="An attacker's view: the most harm at little loss of utility",
        columns=(
            *("fine-tune", "worst variant", "harm ↓", "low", "high", "utility ↑", "reference's harm"),
            *("reference's utility", "allowed", "variants"),
        ),
        rows=[
            (
                *(f"{row.finetuned}-{row.seed}", row.variant, row.harm, row.low, row.high, row.utility),
                *(row.reference_harm, row.reference_utility, row.num_allowed, row.num_variants),
            )
            for row in results.attacks
        ],
        note=_describe_allowed(results),
    )


def _describe_allowed(results: Results) -> str:
    losses = " or ".join(dict.fromkeys(f"{1 - row.largest_loss:.0%}" for row in results.attacks))
    return f"Allowed are variants that keep at least {losses} of the reference's utility."


def _list_excesses(results: Results) -> Sheet:
    return Sheet(
        name="overlap_excess",
        title="Overlap: does safety have directions of its own?",
        columns=(
            *("of", "first pair", "second pair", "η", "MSO 1st", "MSO 2nd", "chance", "excess 1st", "excess 2nd"),
            *("difference", "share larger", "places", "null low", "null high", "ceiling"),
        ),
        rows=[
            (
                *(row.subject, row.first, row.second, row.eta, row.mso_first, row.mso_second, row.chance_first),
                *(row.excess_first, row.excess_second, row.difference, row.share_larger, row.num_places),
                *(row.null_low, row.null_high, row.ceiling),
            )
            for row in results.excesses
        ],
        note="The first pair would overlap more than the second if safety had directions of its own. Layers of one "
        "model are no sample, so that no interval is given.",
    )


def _list_profiles(results: Results) -> Sheet:
    """Sets the departures beside each other at the share of energy that is nearest to 0.9."""
    etas = {row.eta for row in results.profiles if row.eta is not None}
    shown = min(etas, key=lambda eta: abs(eta - 0.9)) if etas else None
    return Sheet(
        name="profiles",
        title="What each departure of the paper changes, on the same fine-tunes",
        columns=(
            *("setting", "paper", "sound", "measure", "value_paper", "value_sound", "chance_paper", "chance_sound"),
        ),
        rows=[
            (
                *(row.setting, row.paper, row.sound, row.measure),
                *(row.value_paper, row.value_sound, row.chance_paper, row.chance_sound),
            )
            for row in results.profiles
            if row.eta in (None, shown)
        ],
        note=f"Each line changes one setting and leaves all others sound; the last of a pair changes all. Overlaps at "
        f"η = {shown or 0.9:g}; those of chance beside them.",
    )


def list_settings(settings: Mapping[str, Any]) -> list[Sheet]:
    """Makes the tables of settings, costs and hashes, as far as the study tells them."""
    departures = settings.get("settings") or []
    if isinstance(departures, Mapping):
        departures = [{"name": name, "value": value} for name, value in departures.items()]
    columns = ("name", "value", "paper", "sound", "why")
    costs = _flatten(settings.get("costs") or {})
    hashes = _flatten(settings.get("hashes") or {})
    config = _flatten(settings.get("config") or {})
    made = [
        Sheet(
            name="settings",
            title="Settings in which the paper and sound practice part",
            columns=columns,
            rows=[[_write(one.get(name)) for name in columns] for one in departures],
        ),
        Sheet(name="costs", title="Cost", columns=("what", "value"), rows=costs, digits=1),
        Sheet(name="config", title="Configuration", columns=("option", "value"), rows=config),
        Sheet(name="hashes", title="Hashes", columns=("of", "SHA-256"), rows=hashes),
    ]
    return [sheet for sheet in made if sheet.rows]


def list_gaps(results: Results) -> list[str]:
    """Says what was not scored, cut off or skipped, a line each."""
    unscored: dict[str, tuple[int, int]] = {}
    for row in results.variants:
        missing, total = unscored.get(row.metric, (0, 0))
        unscored[row.metric] = (missing + row.num_total - row.num_scored, total + row.num_total)
    lines = [
        f"{metric}: {missing} of {total} values could not be scored, and count for nothing"
        for metric, (missing, total) in unscored.items()
        if missing
    ]
    lines += [f"{one}: no value in any variant" for one in _list_empty(results)]
    lines += results.verdict.skipped
    skipped = results.settings.get("skipped") or []
    return [*lines, *(str(one) for one in (skipped if isinstance(skipped, list) else [skipped]))]


def _list_empty(results: Results) -> list[str]:
    metrics = dict.fromkeys(row.metric for row in results.variants)
    return [one for one in metrics if all(row.value is None for row in results.variants if row.metric == one)]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[Sequence[Cell]]:
    rows: list[Sequence[Cell]] = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            rows += _flatten(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", value if isinstance(value, float) else _write(value)))
    return rows


def _write(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _say(is_so: bool) -> str:
    return "yes" if is_so else ""
