"""What came of one prompt under one metric, and what many outcomes add up to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from safety_lightning.evaluation.judges.protocol import Judgement, Unjudged
from safety_lightning.evaluation.judges.summary import summarise_judgements
from safety_lightning.evaluation.measurement import Measurement
from safety_lightning.evaluation.statistics.agreement import measure_agreement
from safety_lightning.evaluation.statistics.intervals import bootstrap_interval, wilson_interval
from safety_lightning.evaluation.statistics.loss import bootstrap_ratio_interval

MetricKind = Literal["share", "judged", "log_likelihood"]
UNJUDGED: tuple[Unjudged, ...] = get_args(Unjudged)
_NUM_RESAMPLES = 500


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """One thing that a task measures.

    Attributes:
        name: ``utility``, ``harmfulness``, ``over_refusal``, ...
        kind: ``share`` of outcomes that are 1, mean score of a judge (``judged``), or ``log_likelihood``.
        judge: The judge's name and model.
        rubric_hash: The judge's rubric.
    """

    name: str
    kind: MetricKind
    judge: str | None = None
    rubric_hash: str | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one prompt.

    Attributes:
        value: 0 or 1, a score in [1, 5], or a log-likelihood in nats; None where a judge gave no score.
        weight: The tokens that a log-likelihood is the sum of; 1 for all else.
        unjudged: Why there is no score.
        reason: The judge's words.
    """

    value: float | None
    weight: float = 1.0
    unjudged: Unjudged | None = None
    reason: str = ""


def summarise_outcomes(
    spec: MetricSpec, outcomes: Sequence[Outcome], *, task: str, seed: int, max_unjudged_share: float
) -> list[Measurement]:
    """Adds the outcomes of all prompts of a task up.

    Args:
        spec: What was measured.
        outcomes: One a prompt, in the prompts' order.
        task: The task's name.
        seed: Seed of the bootstrap.
        max_unjudged_share: Largest share that may be unjudged, in [0, 1].

    Returns:
        One measurement, or two that belong together: a mean score and the share of fives; a log-likelihood per token
        and per solution.

    Raises:
        UserError: If too many are unjudged; see `summarise_judgements`.
    """
    if spec.kind == "judged":
        return _summarise_scores(spec, outcomes, task, seed, max_unjudged_share)
    values = [outcome.value for outcome in outcomes if outcome.value is not None]
    if len(values) != len(outcomes):
        raise RuntimeError(f"{spec.name} of {task} must have a value for each of {len(outcomes)}, got {len(values)}")
    if spec.kind == "share":
        return [_summarise_share(spec, values, task)]
    return _summarise_log_likelihood(spec, values, [outcome.weight for outcome in outcomes], task, seed)


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
    pairable = [place for place, values in enumerate(zip(*scores, strict=True)) if None not in values]
    if not pairable or (alpha := measure_agreement(scores).alpha) is None:
        return []
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(pairable), (_NUM_RESAMPLES, len(pairable)), generator=generator).tolist()
    resampled = [
        measure_agreement([[values[pairable[place]] for place in places] for values in scores]).alpha
        for places in drawn
    ]
    found = torch.tensor([value for value in resampled if value is not None], dtype=torch.float64)
    low, high = torch.quantile(found, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return [
        Measurement(
            metric="judge_agreement",
            task=task,
            value=alpha,
            low=low,
            high=high,
            num_total=len(scores[0]),
            num_scored=len(pairable),
        )
    ]


def _summarise_share(spec: MetricSpec, values: Sequence[float], task: str) -> Measurement:
    num_total, num_true = len(values), round(sum(values))
    low, high = wilson_interval(num_true, num_total)
    return Measurement(
        metric=spec.name,
        task=task,
        value=num_true / num_total,
        low=low,
        high=high,
        num_total=num_total,
        num_scored=num_total,
        judge=spec.judge,
        rubric_hash=spec.rubric_hash,
        num_judged=None if spec.judge is None else num_total,
    )


def _summarise_scores(
    spec: MetricSpec, outcomes: Sequence[Outcome], task: str, seed: int, max_unjudged_share: float
) -> list[Measurement]:
    judgements = [Judgement(score=one.value, unjudged=one.unjudged, reason=one.reason) for one in outcomes]
    found = summarise_judgements(judgements, seed=seed, max_unjudged_share=max_unjudged_share)
    common = {
        "task": task,
        "num_total": found.num_total,
        "num_scored": found.num_judged,
        "judge": spec.judge,
        "rubric_hash": spec.rubric_hash,
        "num_judged": found.num_judged,
        "unjudged": dict(found.unjudged),
    }
    mean = Measurement(
        metric=spec.name,
        value=found.mean,
        low=found.low,
        high=found.high,
        lowest=found.lowest_mean,
        highest=found.highest_mean,
        **common,  # type: ignore[arg-type]
    )
    fives = Measurement(
        metric=f"{spec.name}_share_of_fives",
        value=found.share_of_fives,
        low=found.share_of_fives_low,
        high=found.share_of_fives_high,
        **common,  # type: ignore[arg-type]
    )
    return [mean, fives]


def _summarise_log_likelihood(
    spec: MetricSpec, values: Sequence[float], weights: Sequence[float], task: str, seed: int
) -> list[Measurement]:
    sums_B = torch.tensor(values, dtype=torch.float64)
    counts_B = torch.tensor(weights, dtype=torch.float64)
    num_total = len(values)
    whole = bootstrap_interval(sums_B, generator=torch.Generator().manual_seed(seed))
    by_token = bootstrap_ratio_interval(sums_B, counts_B, seed=seed)
    found = {
        "per_token": (float(sums_B.sum() / counts_B.sum()), by_token),
        "per_solution": (float(sums_B.mean()), whole),
    }
    return [
        Measurement(
            metric=f"{spec.name}_{name}",
            task=task,
            value=value,
            low=low,
            high=high,
            num_total=num_total,
            num_scored=num_total,
        )
        for name, (value, (low, high)) in found.items()
    ]
