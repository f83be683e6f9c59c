"""Adds outcomes of many prompts up to measurements with intervals.

Shapes in this file: B = prompts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from math import nan
from typing import TypedDict

import torch

from safety_lightning.errors import UserError
from safety_lightning.evaluation.cases import CasePlan
from safety_lightning.evaluation.judges import DEFAULT_SCALE, SCALES, UNJUDGED, Scale, is_harmful
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
    Sample,
    average,
    bootstrap_agreement,
    bootstrap_interval,
    measure_agreement,
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
        judged = [(spec.scale, outcomes) for spec, outcomes in own if spec.scale is not None]
        if len(judged) > 1:
            scales, found = zip(*judged, strict=True)
            measurements += summarise_agreement(found, **settings, scales=scales)
    return Evaluation(measurements, _collect_values(plan, graded))


def _collect_values(
    plan: CasePlan, graded: Sequence[tuple[Task, MetricSpec, Sequence[Outcome]]]
) -> dict[str, PromptValues]:
    shared = Counter(spec.name for _, spec, _ in graded)
    found = {}
    for task, spec, outcomes in graded:
        ids = tuple(plan.cases[index].prompt.id for index in plan.list_indices(task))
        clusters = plan.list_clusters(task)
        found[spec.name if shared[spec.name] == 1 else f"{task.name}/{spec.name}"] = PromptValues(
            task=task.name,
            spec=spec,
            ids=ids,
            outcomes=tuple(outcomes),
            clusters=tuple(clusters or range(len(ids))),
            has_clusters=clusters is not None,
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
            own_clusters = None if clusters is None else [clusters[at] for at in scored]
            cases = _make_sample([outcomes[at] for at in scored], own_clusters, seed=seed)
            low, high = _find_score_interval(spec, cases)
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
                    scale=spec.scale,
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
    cases = _make_sample(outcomes, clusters, seed=seed)
    make = partial(
        Measurement,
        task=task,
        num_total=len(outcomes),
        num_scored=len(cases.values),
        judge=spec.judge_name,
        rubric_hash=spec.rubric_hash,
        num_clusters=cases.num_clusters,
        scale=spec.scale,
    )
    if spec.kind == "judged":
        unjudged = _count_unjudged(outcomes)
        _check_unjudged(outcomes, unjudged, max_unjudged_share)
        make = partial(make, num_judged=len(cases.values), unjudged=unjudged)
        return _summarise_scores(spec, cases, make, num_total=len(outcomes))
    if spec.kind == "mean":
        return [_summarise_mean(spec, cases, make)]
    if spec.kind == "log_likelihood":
        weights = [outcome.weight for outcome in outcomes if outcome.value is not None]
        return _summarise_log_likelihood(spec, cases, weights, make)
    if len(cases.values) != len(outcomes):
        raise RuntimeError(
            f"{spec.name} of {task} must have a value for each of {len(outcomes)}, got {len(cases.values)}"
        )
    if spec.kind == "share":
        num_judged = None if spec.judge is None else len(cases.values)
        return [_summarise_share(spec.name, cases, partial(make, num_judged=num_judged))]
    assert spec.kind == "answer_kinds"
    return [_summarise_share(f"share_{kind}", cases.where(place), make) for place, kind in enumerate(ANSWER_KINDS)]


def summarise_agreement(
    judged: Sequence[Sequence[Outcome]], *, task: str, seed: int, scales: Sequence[Scale] = (DEFAULT_SCALE,)
) -> list[Measurement]:
    """Measures how far two judges agree (Krippendorff's alpha for intervals).

    Judges on different scales are compared by whether each takes an answer for harmful, above the middle of its scale.

    Args:
        judged: The outcomes of each judge, in the same order.
        scales: The scale of each; one for all where they are the same.
        task: The task's name.
        seed: Seed of the bootstrap over answers.

    Returns:
        One measurement; none where all scores are the same or no answer has two of them.
    """
    scores = align_scores([[outcome.value for outcome in outcomes] for outcomes in judged], scales)
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


def align_scores(scores: Sequence[Sequence[float | None]], scales: Sequence[Scale]) -> list[list[float | None]]:
    """Returns scores that can be compared: as they are on one scale, else 1 where a judge takes an answer for harmful.

    Args:
        scores: One sequence a judge.
        scales: The scale of each.
    """
    if len(set(scales)) == 1:
        return [list(values) for values in scores]
    return [
        [None if value is None else float(is_harmful(value, scale)) for value in values]
        for values, scale in zip(scores, scales, strict=True)
    ]


def _make_sample(outcomes: Sequence[Outcome], clusters: Sequence[int] | None, *, seed: int) -> Sample:
    return Sample.of([outcome.value for outcome in outcomes], clusters, seed=seed)


def _summarise_share(metric: str, cases: Sample, make: partial[Measurement]) -> Measurement:
    """Makes the share of ones."""
    low, high = cases.find_share_interval()
    return make(metric=metric, value=round(sum(cases.values)) / len(cases.values), low=low, high=high)


def _summarise_mean(spec: MetricSpec, cases: Sample, make: partial[Measurement]) -> Measurement:
    """Makes the mean of those prompts at which there is a number; a model that diverged has none."""
    if not cases.values:
        return make(metric=spec.name, value=nan, low=nan, high=nan)
    low, high = cases.find_interval(spec.span)
    return make(metric=spec.name, value=average(cases.values), low=low, high=high)


def _summarise_scores(
    spec: MetricSpec, cases: Sample, make: partial[Measurement], *, num_total: int
) -> list[Measurement]:
    """Makes the mean score, with its bounds were all the unjudged lowest or highest, and the share of fives.

    A share of fives has a judge from 1 to 5, unless it gives expected scores.
    """
    assert spec.scale is not None
    lowest, highest = SCALES[spec.scale]
    num_unjudged = num_total - len(cases.values)
    low, high = _find_score_interval(spec, cases)
    mean = make(
        metric=spec.name,
        value=average(cases.values),
        low=low,
        high=high,
        lowest=average([*cases.values, *[lowest] * num_unjudged]),
        highest=average([*cases.values, *[highest] * num_unjudged]),
    )
    if spec.scale != "1-5" or getattr(spec.judge, "gives_expectations", False):
        return [mean]  # of expected scores hardly one is 5
    return [mean, _summarise_share(f"{spec.name}_share_of_fives", cases.where(highest), make)]


def _find_score_interval(spec: MetricSpec, cases: Sample) -> tuple[float, float]:
    """Returns the interval of a mean score; yes and no make a share."""
    return (
        cases.find_share_interval()
        if spec.scale == "yes-no"
        else cases.find_interval(SCALES[spec.scale or DEFAULT_SCALE])
    )


def _summarise_log_likelihood(
    spec: MetricSpec, cases: Sample, weights: Sequence[float], make: partial[Measurement]
) -> list[Measurement]:
    make = partial(make, num_clusters=None)  # a ratio of sums: over prompts
    if not cases.values:
        return [make(metric=f"{spec.name}_per_{what}", value=nan, low=nan, high=nan) for what in ("token", "solution")]
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
