"""Outcomes: sums over processes that lose and double none, and what many outcomes add up to.

Nothing unjudged is in a mean, and too much of it stops the run.
"""

from math import isnan
from types import SimpleNamespace

import pytest
import scipy.stats

from safety_lightning.evaluation.judges import UNJUDGED
from safety_lightning.evaluation.measurement import Measurement, MetricSpec, Outcome
from safety_lightning.evaluation.prompt_outcomes import PromptOutcomes
from safety_lightning.evaluation.records import ResultRow
from safety_lightning.evaluation.report import list_unscored
from safety_lightning.evaluation.statistics import bootstrap_interval, wilson_interval
from safety_lightning.evaluation.summary import summarise_agreement, summarise_outcomes

JUDGED = MetricSpec(name="harmfulness", kind="judged", judge=SimpleNamespace(name="j", model="m", rubric_hash="r"))
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
    assert (mean.low, mean.high) == bootstrap_interval([1.0, 4.2, 5.0], seed=0)
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


def scored(*scores: float) -> list[Outcome]:
    return [Outcome(value=score) for score in scores]


def unjudged(*reasons: str) -> list[Outcome]:
    return [Outcome(value=None, unjudged=reason, reason=f"words about {reason}") for reason in reasons]


def summarise_scores(outcomes: list[Outcome], **settings: float) -> list[Measurement]:
    return summarise_outcomes(JUDGED, outcomes, task="t", **settings)


def test_all_numbers_of_a_judge() -> None:
    outcomes = scored(1, 1, 5, 2, 5, 5) + unjudged("refused", "timed_out", "refused", "unparsable")
    mean, fives = summarise_scores(outcomes, seed=3, max_unjudged_share=0.4)
    assert mean.value == pytest.approx(19 / 6)
    assert mean.low < mean.value < mean.high
    assert (mean.num_judged, mean.num_total) == (6, 10)
    assert mean.unjudged == dict.fromkeys(UNJUDGED, 0) | {"refused": 2, "timed_out": 1, "unparsable": 1}
    assert (mean.lowest, mean.highest) == pytest.approx((2.3, 3.9))
    assert fives.value == 0.5
    wilson = scipy.stats.binomtest(3, 6).proportion_ci(method="wilson")
    assert (fives.low, fives.high) == pytest.approx((wilson.low, wilson.high))


def test_the_unjudged_change_nothing_but_counts_and_bounds() -> None:
    alone = summarise_scores(scored(1, 3, 4, 5), max_unjudged_share=0)
    beside = summarise_scores(scored(1, 3, 4, 5) + unjudged("failed"), max_unjudged_share=0.5)
    for one, other in zip(alone, beside, strict=True):
        assert (one.value, one.low, one.high, one.num_judged) == (other.value, other.low, other.high, other.num_judged)
    assert alone[0].lowest == alone[0].value == alone[0].highest
    assert beside[0].lowest < beside[0].value < beside[0].highest


def test_the_seed_repeats() -> None:
    means = [summarise_scores(scored(1, 2, 3, 4, 5, 1, 1), seed=seed)[0] for seed in (1, 1, 2)]
    assert (means[0].low, means[0].high) == (means[1].low, means[1].high)


def test_a_share_at_the_bound_passes_and_one_above_does_not() -> None:
    outcomes = scored(*[1] * 9) + unjudged("refused")
    assert summarise_scores(outcomes, max_unjudged_share=0.1)[0].num_judged == 9
    with pytest.raises(
        ValueError,
        match=r"at most 9\.0% of the answers may be unjudged \(max_unjudged_share\), got 1 of 10 unjudged: 1 refused\. "
        "The first: words about refused",
    ):
        summarise_scores(outcomes, max_unjudged_share=0.09)


def test_zero_judged_is_an_error_whatever_the_share() -> None:
    outcomes = unjudged("refused", "timed_out", "over_budget", "refused")
    message = "at least one answer must be judged, got 4 of 4 unjudged: 2 refused, 1 timed out, 1 over budget"
    with pytest.raises(ValueError, match=message):
        summarise_scores(outcomes, max_unjudged_share=1.0)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="judgements must be one or more, got none"):
        summarise_scores([])
    with pytest.raises(ValueError, match=r"max_unjudged_share must be in \[0, 1\], got 10"):
        summarise_scores(scored(1), max_unjudged_share=10)


def test_a_judge_of_expected_scores_has_no_share_of_fives() -> None:
    judge = SimpleNamespace(name="j", model="m", rubric_hash="r", gives_expectations=True)
    spec = MetricSpec(name="harmfulness", kind="judged", judge=judge)
    (mean,) = summarise_outcomes(spec, [Outcome(value=4.7), Outcome(value=1.2)], task="t")
    assert mean.value == pytest.approx(2.95)


def test_yes_for_all_has_wilsons_interval_over_clusters() -> None:
    judge = SimpleNamespace(name="j", model="m", rubric_hash="r", scale="yes-no")
    spec = MetricSpec(name="harmfulness", kind="judged", judge=judge)
    (mean,) = summarise_outcomes(spec, [Outcome(value=1.0)] * 6, task="t", clusters=[0, 0, 1, 1, 2, 2])
    wilson = scipy.stats.binomtest(3, 3).proportion_ci(method="wilson")
    assert (mean.low, mean.high) == pytest.approx((wilson.low, wilson.high))


@pytest.mark.parametrize("kind", ["mean", "log_likelihood"])
def test_numbers_that_are_none_are_in_no_value_and_are_counted(kind: str) -> None:
    spec = MetricSpec(name="x", kind=kind)
    none = Outcome(value=None, unjudged="failed")
    some = summarise_outcomes(spec, [Outcome(value=-2.0, weight=2.0), none, Outcome(value=-4.0)], task="t")
    assert [one.value for one in some] == ([-3.0] if kind == "mean" else [-2.0, -3.0])
    assert {(one.num_scored, one.num_total) for one in some} == {(2, 3)}
    rows = [ResultRow(**vars(one), model="m") for one in some]
    assert list_unscored(rows)[0].startswith("Unscored     1 of 3 prompts: t x")
    for one in summarise_outcomes(spec, [none], task="t"):
        assert isnan(one.value)
        assert one.num_scored == 0
