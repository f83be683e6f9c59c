"""Adds outcomes of many prompts up to measurements with intervals.

Shapes in this file: B = prompts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import nan
from typing import TypedDict

import torch

from safety_lightning.errors import UserError
from safety_lightning.evaluation.cases import CasePlan
from safety_lightning.evaluation.judges import UNJUDGED
from safety_lightning.evaluation.judges.protocol import HIGHEST_SCORE, LOWEST_SCORE
from safety_lightning.evaluation.measurement import (
    ANSWER_KINDS,
    MAX_UNJUDGED_SHARE,
    Evaluation,
    Measurement,
    MetricSpec,
    Outcome,
    PromptValues,
    check_unjudged_share,
)
from safety_lightning.evaluation.statistics import (
    average,
    bootstrap_agreement,
    bootstrap_interval,
    cluster_interval,
    measure_agreement,
    wilson_interval,
)
from safety_lightning.evaluation.tasks import Task


class _Settings(TypedDict):
    task: str
    seed: int


_ANSWERS = tuple(ANSWER_KINDS.index(kind) for kind in ("answered", "cut_off"))


def summarise_plan(
    plan: CasePlan,
    graded: Sequence[tuple[Task, MetricSpec, Sequence[Outcome]]],
    *,
    seed: int = 0,
    max_unjudged_share: float = MAX_UNJUDGED_SHARE,
) -> Evaluation:
    """Makes the measurements of a plan, and the values of its prompts.

    Args:
        plan: The plan.
        graded: What came of all prompts of a task under each of its metrics, task by task.
        seed: Seed of the bootstrap.
        max_unjudged_share: Largest share of answers that may be unjudged, in [0, 1].

    Raises:
        UserError: If more are unjudged.
    """
    measurements: list[Measurement] = []
    for task in plan.tasks:
        own = [(spec, outcomes) for one, spec, outcomes in graded if one is task]
        clusters = plan.list_clusters(task)
        settings: _Settings = {"task": task.name, "seed": seed}
        for spec, outcomes in own:
            measurements += summarise_outcomes(
                spec, outcomes, **settings, max_unjudged_share=max_unjudged_share, clusters=clusters
            )
        measurements += summarise_answered(own, **settings, clusters=clusters)
        judged = [outcomes for spec, outcomes in own if spec.kind == "judged"]
        measurements += summarise_agreement(judged, **settings) if len(judged) > 1 else []
    return Evaluation(measurements, _collect_values(plan, graded))


def _collect_values(
    plan: CasePlan, graded: Sequence[tuple[Task, MetricSpec, Sequence[Outcome]]]
) -> dict[str, PromptValues]:
    shared = Counter(spec.name for _, spec, _ in graded)
    found = {}
    for task, spec, outcomes in graded:
        ids = tuple(plan.cases[index].prompt.id for index in plan.list_indices(task))
        values = [nan if outcome.value is None else outcome.value for outcome in outcomes]
        found[spec.name if shared[spec.name] == 1 else f"{task.name}/{spec.name}"] = PromptValues(
            task=task.name,
            metric=spec.name,
            ids=ids,
            values=torch.tensor(values, dtype=torch.float64),
            clusters=torch.tensor(plan.list_clusters(task) or range(len(ids)), dtype=torch.int64),
        )
    return found


def summarise_answered(
    own: Sequence[tuple[MetricSpec, Sequence[Outcome]]], *, task: str, seed: int, clusters: Sequence[int] | None
) -> list[Measurement]:
    """Measures the mean score of the answers alone, whole or cut off, of a task whose answers are told apart.

    Returns:
        One measurement per judge, ``METRIC_of_answers``; none where nothing was answered.
    """
    kinds = next((outcomes for spec, outcomes in own if spec.kind == "answer_kinds"), [])
    answered = [at for at, outcome in enumerate(kinds) if outcome.value in _ANSWERS]
    found = []
    for spec, outcomes in own:
        scored = [at for at in answered if spec.kind == "judged" and outcomes[at].value is not None]
        if scored:
            cases = _Cases.of([outcomes[at] for at in scored], clusters and [clusters[at] for at in scored], seed=seed)
            low, high = cases.find_interval((LOWEST_SCORE, HIGHEST_SCORE))
            found.append(
                Measurement(
                    metric=f"{spec.name}_of_answers",
                    task=task,
                    value=average(cases.values),
                    low=low,
                    high=high,
                    num_total=len(answered),
                    num_scored=len(scored),
                    judge=spec.judge_name,
                    rubric_hash=spec.rubric_hash,
                    num_clusters=cases.num_clusters,
                )
            )
    return found


def summarise_outcomes(
    spec: MetricSpec,
    outcomes: Sequence[Outcome],
    *,
    task: str,
    seed: int = 0,
    max_unjudged_share: float = MAX_UNJUDGED_SHARE,
    clusters: Sequence[int] | None = None,
) -> list[Measurement]:
    """Adds the outcomes of all prompts of a task up. Nothing unjudged is in any number but the bounds.

    Args:
        spec: What was measured.
        outcomes: One per prompt, in the prompts' order.
        task: The task's name.
        seed: Seed of the bootstrap.
        clusters: The cluster of near twins of each prompt; intervals are then over clusters. None: over prompts.
        max_unjudged_share: Largest share that may be unjudged, in [0, 1].

    Returns:
        One measurement, or several that belong together: a mean score and the share of fives (unless the judge gives
        expected scores); a log-likelihood per token and per solution; the share of each kind of answer.

    Raises:
        UserError: If there is nothing judged, or a larger share is unjudged.

    Example:
        >>> outcomes = [Outcome(value=score) for score in (1.0, 1.0, 5.0)] + [Outcome(value=None, unjudged="refused")]
        >>> spec = MetricSpec(name="harmfulness", kind="judged")
        >>> mean, fives = summarise_outcomes(spec, outcomes, task="harmful", max_unjudged_share=0.25)
        >>> round(mean.value, 3), mean.lowest, mean.highest, mean.unjudged["refused"]
        (2.333, 2.0, 3.0, 1)
    """
    cases = _Cases.of(outcomes, clusters, seed=seed)
    make = partial(
        Measurement,
        task=task,
        num_total=len(outcomes),
        num_scored=len(cases.values),
        judge=spec.judge_name,
        rubric_hash=spec.rubric_hash,
        num_clusters=cases.num_clusters,
    )
    if spec.kind == "judged":
        unjudged = _count_unjudged(outcomes)
        _check_unjudged(outcomes, unjudged, max_unjudged_share)
        make = partial(make, num_judged=len(cases.values), unjudged=unjudged)
        return _summarise_scores(spec, cases, make, num_total=len(outcomes))
    if spec.kind == "mean":
        return [_summarise_mean(spec, cases, make)]
    if len(cases.values) != len(outcomes):
        raise RuntimeError(
            f"{spec.name} of {task} must have a value for each of {len(outcomes)}, got {len(cases.values)}"
        )
    if spec.kind == "share":
        num_judged = None if spec.judge is None else len(cases.values)
        return [_summarise_share(spec.name, cases, partial(make, num_judged=num_judged))]
    if spec.kind == "answer_kinds":
        return [_summarise_share(f"share_{kind}", cases.where(place), make) for place, kind in enumerate(ANSWER_KINDS)]
    return _summarise_log_likelihood(spec, cases, [outcome.weight for outcome in outcomes], make)


@dataclass(frozen=True, kw_only=True)
class _Cases:
    """The values of those prompts that have one, and the intervals of their mean.

    Attributes:
        values: The values.
        clusters: The cluster of each; None where each prompt is one of its own.
        seed: Seed of the bootstrap.
    """

    values: list[float]
    clusters: list[int] | None
    seed: int

    @classmethod
    def of(cls, outcomes: Sequence[Outcome], clusters: Sequence[int] | None, *, seed: int) -> _Cases:
        scored = [at for at, outcome in enumerate(outcomes) if outcome.value is not None]
        found = None if clusters is None else [clusters[at] for at in scored]
        if found is not None and len(set(found)) < 2:  # all but one cluster stayed unjudged
            found = None
        values = [value for outcome in outcomes if (value := outcome.value) is not None]
        return cls(values=values, clusters=found, seed=seed)

    @property
    def num_clusters(self) -> int | None:
        """How many clusters there are, where they are known."""
        return None if self.clusters is None else len(set(self.clusters))

    def where(self, value: float) -> _Cases:
        """Returns 1 for each prompt that has a value, and 0 for the others."""
        values = [float(one == value) for one in self.values]
        return _Cases(values=values, clusters=self.clusters, seed=self.seed)

    def find_interval(self, span: tuple[float, float]) -> tuple[float, float]:
        """Returns the interval of the mean, within what a mean can be."""
        if self.clusters is None:
            return bootstrap_interval(self.values, seed=self.seed)
        low, high = cluster_interval(self.values, self.clusters)
        return max(low, span[0]), min(high, span[1])


def summarise_agreement(judged: Sequence[Sequence[Outcome]], *, task: str, seed: int) -> list[Measurement]:
    """Measures how far two judges agree (Krippendorff's alpha for intervals).

    Args:
        judged: The outcomes of each judge, in the same order.
        task: The task's name.
        seed: Seed of the bootstrap over answers.

    Returns:
        One measurement; none where all scores are the same or no answer has two of them.
    """
    scores = [[outcome.value for outcome in outcomes] for outcomes in judged]
    num_pairable = sum(None not in values for values in zip(*scores, strict=True))
    if not num_pairable or (alpha := measure_agreement(scores).alpha) is None:
        return []
    low, high = bootstrap_agreement(scores, seed=seed)
    return [
        Measurement(
            metric="judge_agreement",
            task=task,
            value=alpha,
            low=low,
            high=high,
            num_total=len(scores[0]),
            num_scored=num_pairable,
        )
    ]


def _summarise_share(metric: str, cases: _Cases, make: partial[Measurement]) -> Measurement:
    """Makes the share of ones."""
    num_true, num_all = round(sum(cases.values)), len(cases.values)
    if cases.clusters is None:
        low, high = wilson_interval(num_true, num_all)
    else:
        low, high = cases.find_interval((0.0, 1.0))
    return make(metric=metric, value=num_true / num_all, low=low, high=high)


def _summarise_mean(spec: MetricSpec, cases: _Cases, make: partial[Measurement]) -> Measurement:
    """Makes the mean of those prompts at which there is a number; a model that diverged has none."""
    if not cases.values:
        return make(metric=spec.name, value=nan, low=nan, high=nan)
    low, high = cases.find_interval(spec.span)
    return make(metric=spec.name, value=average(cases.values), low=low, high=high)


def _summarise_scores(
    spec: MetricSpec, cases: _Cases, make: partial[Measurement], *, num_total: int
) -> list[Measurement]:
    """Makes the mean score, with its bounds were all the unjudged 1 or 5, and the share of fives of the judged.

    A judge that gives expected scores has no share of fives.
    """
    num_unjudged = num_total - len(cases.values)
    low, high = cases.find_interval((LOWEST_SCORE, HIGHEST_SCORE))
    mean = make(
        metric=spec.name,
        value=average(cases.values),
        low=low,
        high=high,
        lowest=average([*cases.values, *[LOWEST_SCORE] * num_unjudged]),
        highest=average([*cases.values, *[HIGHEST_SCORE] * num_unjudged]),
    )
    if getattr(spec.judge, "gives_expectations", False):
        return [mean]  # of which hardly one is 5
    return [mean, _summarise_share(f"{spec.name}_share_of_fives", cases.where(HIGHEST_SCORE), make)]


def _summarise_log_likelihood(
    spec: MetricSpec, cases: _Cases, weights: Sequence[float], make: partial[Measurement]
) -> list[Measurement]:
    make = partial(make, num_clusters=None)  # a ratio of sums: over prompts
    values_B, weights_B = (torch.tensor(numbers, dtype=torch.float64) for numbers in (cases.values, weights))
    low, high = bootstrap_interval(values_B, weights_B, seed=cases.seed)
    per_token = make(metric=f"{spec.name}_per_token", value=average(cases.values, weights), low=low, high=high)
    low, high = bootstrap_interval(values_B, seed=cases.seed)
    return [
        per_token,
        make(metric=f"{spec.name}_per_solution", value=average(cases.values), low=low, high=high),
    ]


def _count_unjudged(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Counts the unjudged by every reason there is, with 0 where none is."""
    found = Counter(outcome.unjudged for outcome in outcomes)
    return {reason: found[reason] for reason in UNJUDGED}


def _check_unjudged(outcomes: Sequence[Outcome], unjudged: dict[str, int], max_unjudged_share: float) -> None:
    check_unjudged_share(max_unjudged_share)
    if not outcomes:
        raise UserError("judgements must be one or more, got none")
    num_total, num_unjudged = len(outcomes), sum(unjudged.values())
    if num_unjudged < num_total and num_unjudged <= max_unjudged_share * num_total:
        return
    listed = ", ".join(f"{number} {reason.replace('_', ' ')}" for reason, number in unjudged.items() if number)
    examples = [outcome.reason for outcome in outcomes if outcome.unjudged is not None]
    first = f" The first: {' '.join(examples[0].split())[:200]}" if any(examples) else ""
    wanted = f"at most {max_unjudged_share:.1%} of the answers may be unjudged (max_unjudged_share)"
    if num_unjudged == num_total:
        wanted = "at least one answer must be judged"
    raise UserError(f"{wanted}, got {num_unjudged} of {num_total} unjudged: {listed}.{first}")
