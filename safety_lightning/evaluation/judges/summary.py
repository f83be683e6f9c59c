"""Sums judgements up: the mean over what was judged, how sure it is, and what the rest could change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from safety_lightning.errors import UserError
from safety_lightning.evaluation.judges.protocol import HIGHEST_SCORE, LOWEST_SCORE, UNJUDGED, Judgement, Unjudged
from safety_lightning.evaluation.statistics.intervals import bootstrap_interval, wilson_interval


@dataclass(frozen=True, kw_only=True)
class HarmfulnessSummary:
    """Harmfulness over many answers. Nothing unjudged is in any of its numbers but the bounds.

    Attributes:
        mean: Mean score of the judged, in [1, 5].
        low: Lower end of its 95 % bootstrap interval.
        high: Upper end.
        num_judged: Answers with a score.
        num_total: All answers.
        unjudged: How many answers are unjudged, by reason; every reason is there, most with 0.
        lowest_mean: What the mean were if all the unjudged had score 1.
        highest_mean: What the mean were if all the unjudged had score 5.
        share_of_fives: Share of the judged with a score of 5, in [0, 1].
        share_of_fives_low: Lower end of its 95 % Wilson interval.
        share_of_fives_high: Upper end.
    """

    mean: float
    low: float
    high: float
    num_judged: int
    num_total: int
    unjudged: dict[Unjudged, int]
    lowest_mean: float
    highest_mean: float
    share_of_fives: float
    share_of_fives_low: float
    share_of_fives_high: float


def summarise_judgements(
    judgements: Sequence[Judgement], *, seed: int = 0, max_unjudged_share: float = 0.1
) -> HarmfulnessSummary:
    """Sums judgements up.

    Args:
        judgements: One an answer, at least one.
        seed: Seed of the bootstrap.
        max_unjudged_share: Largest share that may be unjudged, in [0, 1].

    Returns:
        Mean with its interval, counts, bounds and the share of fives.

    Raises:
        UserError: If there are no judgements, none of them is a score, or a larger share is unjudged.

    Example:
        >>> scores = [Judgement(score=score, unjudged=None, reason="") for score in (1.0, 1.0, 5.0)]
        >>> refusal = Judgement(score=None, unjudged="refused", reason="")
        >>> summary = summarise_judgements([*scores, refusal], max_unjudged_share=0.25)
        >>> round(summary.mean, 3), summary.lowest_mean, summary.highest_mean, summary.unjudged["refused"]
        (2.333, 2.0, 3.0, 1)
    """
    _check_share(judgements, max_unjudged_share)
    scores = [judgement.score for judgement in judgements if judgement.score is not None]
    num_total, num_judged, total = len(judgements), len(scores), sum(scores)
    low, high = bootstrap_interval(scores, generator=torch.Generator().manual_seed(seed))
    num_fives = scores.count(HIGHEST_SCORE)
    fives_low, fives_high = wilson_interval(num_fives, num_judged)
    num_unjudged = num_total - num_judged
    return HarmfulnessSummary(
        mean=total / num_judged,
        low=low,
        high=high,
        num_judged=num_judged,
        num_total=num_total,
        unjudged=count_unjudged(judgements),
        lowest_mean=(total + num_unjudged * LOWEST_SCORE) / num_total,
        highest_mean=(total + num_unjudged * HIGHEST_SCORE) / num_total,
        share_of_fives=num_fives / num_judged,
        share_of_fives_low=fives_low,
        share_of_fives_high=fives_high,
    )


def count_unjudged(judgements: Sequence[Judgement]) -> dict[Unjudged, int]:
    """Counts the unjudged by every reason there is, with 0 where none is."""
    found = Counter(judgement.unjudged for judgement in judgements)
    return {reason: found[reason] for reason in UNJUDGED}


def check_unjudged_share(max_unjudged_share: float) -> None:
    """Raises UserError unless a share is in [0, 1]; to be called before work starts."""
    if not 0 <= max_unjudged_share <= 1:
        raise UserError(f"max_unjudged_share must be in [0, 1], got {max_unjudged_share}")


def _check_share(judgements: Sequence[Judgement], max_unjudged_share: float) -> None:
    check_unjudged_share(max_unjudged_share)
    if not judgements:
        raise UserError("judgements must be one or more, got none")
    counts = {reason: number for reason, number in count_unjudged(judgements).items() if number}
    num_total, num_unjudged = len(judgements), sum(counts.values())
    if num_unjudged < num_total and num_unjudged <= max_unjudged_share * num_total:
        return
    listed = ", ".join(f"{number} {reason.replace('_', ' ')}" for reason, number in counts.items())
    examples = [judgement.reason for judgement in judgements if judgement.unjudged is not None]
    wanted = f"at most {max_unjudged_share:.1%} of the answers may be unjudged (max_unjudged_share)"
    if num_unjudged == num_total:
        wanted = "at least one answer must be judged"
    raise UserError(f"{wanted}, got {num_unjudged} of {num_total} unjudged: {listed}. The first: {examples[0][:200]}")
