"""Outcomes: sums over processes that lose and double none, and what many outcomes add up to."""

import pytest
import torch

from safety_lightning.evaluation.judges.protocol import UNJUDGED
from safety_lightning.evaluation.outcomes import MetricSpec, Outcome, summarise_agreement, summarise_outcomes
from safety_lightning.evaluation.prompt_outcomes import PromptOutcomes
from safety_lightning.evaluation.statistics.intervals import bootstrap_interval, wilson_interval

JUDGED = MetricSpec(name="harmfulness", kind="judged", judge="j m", rubric_hash="r")
SHARE = MetricSpec(name="utility", kind="share")
LIKELIHOOD = MetricSpec(name="log_likelihood", kind="log_likelihood")
MIXED = [
    Outcome(value=1.0),
    Outcome(value=4.2, weight=3.0),
    Outcome(value=None, unjudged="refused"),
    Outcome(value=None, unjudged="over_budget"),
    Outcome(value=5.0),
]


def summarise(spec: MetricSpec, outcomes: list[Outcome], share: float = 1.0) -> dict:
    found = summarise_outcomes(spec, outcomes, task="t", seed=0, max_unjudged_share=share)
    return {one.metric: one for one in found}


def test_sums_of_processes_are_the_whole() -> None:
    whole = PromptOutcomes(5)
    whole.update(range(5), MIXED)
    assert whole.collect() == MIXED
    parts = [PromptOutcomes(5) for _ in range(2)]
    for rank, part in enumerate(parts):
        part.update(range(rank, 5, 2), MIXED[rank::2])
    for name in ("values_P", "weights_P", "codes_P", "counts_P"):  # as torchmetrics' own sum over processes does
        setattr(parts[0], name, getattr(parts[0], name) + getattr(parts[1], name))
    assert parts[0].collect() == MIXED


def test_every_reason_survives_the_sum() -> None:
    outcomes = [Outcome(value=None, unjudged=reason) for reason in UNJUDGED]
    metric = PromptOutcomes(len(outcomes))
    metric.update(range(len(outcomes)), outcomes)
    assert metric.collect() == outcomes


@pytest.mark.parametrize("places", [[0, 0, 1], [0, 1]])
def test_doubled_and_lost_prompts_are_found(places: list[int]) -> None:
    metric = PromptOutcomes(3)
    metric.update(places, [Outcome(value=1.0)] * len(places))
    with pytest.raises(RuntimeError, match="each prompt must be counted once"):
        metric.compute()


def test_one_prompt_is_enough() -> None:
    metric = PromptOutcomes(1)
    metric.update([0], [Outcome(value=2.0)])
    assert metric.collect() == [Outcome(value=2.0)]


def test_shares_have_wilson_intervals() -> None:
    found = summarise(SHARE, [Outcome(value=float(n < 3)) for n in range(10)])["utility"]
    assert (found.value, found.low, found.high) == (0.3, *wilson_interval(3, 10))
    assert (found.num_total, found.num_scored, found.num_judged) == (10, 10, None)


def test_nothing_unjudged_is_scored() -> None:
    found = summarise(JUDGED, MIXED)
    mean, fives = found["harmfulness"], found["harmfulness_share_of_fives"]
    assert mean.value == pytest.approx((1 + 4.2 + 5) / 3)
    assert (mean.low, mean.high) == bootstrap_interval([1.0, 4.2, 5.0], generator=torch.Generator().manual_seed(0))
    assert (mean.num_judged, mean.num_total) == (3, 5)
    assert mean.unjudged == dict.fromkeys(UNJUDGED, 0) | {"refused": 1, "over_budget": 1}
    assert mean.lowest == pytest.approx((10.2 + 2) / 5)
    assert mean.highest == pytest.approx((10.2 + 10) / 5)
    assert fives.value == pytest.approx(1 / 3)
    assert (mean.judge, mean.rubric_hash) == ("j m", "r")


def test_too_many_unjudged_are_an_error() -> None:
    with pytest.raises(ValueError, match="got 2 of 5 unjudged: 1 refused, 1 over budget"):
        summarise(JUDGED, MIXED, share=0.3)


def test_log_likelihood_by_token_and_by_solution() -> None:
    found = summarise(LIKELIHOOD, [Outcome(value=-10.0, weight=5.0), Outcome(value=-1.0, weight=6.0)])
    assert found["log_likelihood_per_token"].value == pytest.approx(-1.0)
    assert found["log_likelihood_per_solution"].value == pytest.approx(-5.5)
    for one in found.values():
        assert one.low <= one.value <= one.high


def test_share_without_a_value_is_a_fault() -> None:
    with pytest.raises(RuntimeError, match="must have a value for each of 1, got 0"):
        summarise(SHARE, [Outcome(value=None, unjudged="failed")])


def test_agreement_of_judges() -> None:
    first = [Outcome(value=value) for value in (1.0, 2.0, 5.0, 5.0, 1.0, 3.0)]
    (same,) = summarise_agreement([first, first], task="t", seed=0)
    assert (same.value, same.low, same.high, same.num_scored) == (1.0, 1.0, 1.0, 6)
    second = [*first[:4], Outcome(value=4.0), Outcome(value=None, unjudged="refused")]
    (other,) = summarise_agreement([first, second], task="t", seed=0)
    assert other.low < other.value < 1
    assert (other.num_scored, other.num_total) == (5, 6)
    assert summarise_agreement([first[:1], first[:1]], task="t", seed=0) == []
