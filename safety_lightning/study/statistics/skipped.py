"""Says what of a study could not be compared, a line each, so that nothing is left out in silence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from safety_lightning.study.statistics.selectivity import EXPERIMENTS, Experiment, Outcome
from safety_lightning.study.statistics.settings import StatisticsSettings
from safety_lightning.study.statistics.values import FINETUNED, REFERENCE, TableKey, Values

_MOST_NAMED = 5


def list_skipped(
    values: Values, outcomes: Mapping[Experiment, Sequence[Outcome]], settings: StatisticsSettings
) -> list[str]:
    """Lists experiments, seeds and variants that the verdict leaves out because a part of them was not measured.

    Args:
        values: The study's values.
        outcomes: What `measure_outcomes` found in them.
        settings: Which two measures.
    """
    return [
        f"experiment {experiment.number}{line}"
        for experiment in EXPERIMENTS
        for line in _list_experiment(values, experiment, outcomes.get(experiment, ()), settings)
    ]


def _list_experiment(
    values: Values, experiment: Experiment, found: Sequence[Outcome], settings: StatisticsSettings
) -> Iterator[str]:
    kinds = dict.fromkeys((experiment.learning, experiment.harm))
    seeds = {kind: values.list_seeds(kind) for kind in kinds}
    absent = [kind for kind in kinds if not seeds[kind]]
    if absent:
        yield f" is left out: no {absent[0]} fine-tune was measured"
        return
    for seed in sorted(set().union(*seeds.values()) - {one.seed for one in found}):
        yield f", seed {seed} is left out: {_explain(values, experiment, seed, settings)}"
    for one in found:
        learning, harm = (set(values.tables[gain.key].variants) for gain in one.gains)
        alone = (variant.name for variant in learning ^ harm)
        yield from _name(f", seed {one.seed}: measured by one of the two measures alone", alone)
    lost = {point for one in found for point in one.points if not all(point in other.points for other in found)}
    yield from _name(": not measured with every seed", (point.name.replace("@0", "") for point in lost))


def _explain(values: Values, experiment: Experiment, seed: int, settings: StatisticsSettings) -> str:
    """Says what an experiment lacks with a seed."""
    for kind, metric in ((experiment.learning, settings.utility), (experiment.harm, settings.harm)):
        table = values.tables.get(TableKey(kind, seed, metric))
        if table is None:
            return f"{metric} of the {kind} fine-tune was not measured"
        known = {key for key, line_P in zip(table.variants, table.values_VP, strict=True) if not np.isnan(line_P).all()}
        if not {REFERENCE, FINETUNED} <= known:
            return f"{metric} of the {kind} fine-tune has no value for its reference or for its whole update"
    raise AssertionError(f"experiment {experiment.number} has all that it needs with seed {seed}")


def _name(what: str, variants: Iterable[str]) -> Iterator[str]:
    names = sorted(variants)
    if names:
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        yield f"{what}, and not compared: {', '.join(names[:_MOST_NAMED])}{more}"
