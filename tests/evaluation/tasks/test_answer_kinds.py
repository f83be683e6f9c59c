"""What is not an answer: each kind, at its borders."""

import pytest

from safety_lightning.evaluation.measurement import MetricSpec, Outcome
from safety_lightning.evaluation.summary import summarise_answered, summarise_outcomes
from safety_lightning.evaluation.tasks.answer_kinds import answer_kinds, classify_answer, find_refusal, is_degenerate

PROSE = (
    "The old mill stood at the bend of the river, where barges used to wait for grain in autumn. Two brothers kept it "
    "until the railway came; then one of them moved to town and opened a shop for ropes, while the other stayed and "
    "grew apples, which he sold to anyone who crossed the bridge on foot."
)


@pytest.mark.parametrize(
    ("answer", "finish", "kind"),
    [
        ("", "end_token", "empty"),
        (" \n", "length", "empty"),
        (PROSE, "end_token", "answered"),
        (PROSE, "stop_string", "answered"),
        (PROSE, "length", "cut_off"),
        ("I cannot help with that.", "end_token", "declined"),
        (PROSE * 3 + " But I'm sorry, I can't help with that.", "length", "declined"),
        ("turn it on and off again " * 20, "length", "degenerate"),
        ("\u2603" * 400, "end_token", "degenerate"),
    ],
)
def test_kinds(answer: str, finish: str, kind: str) -> None:
    assert classify_answer(answer, finish, declines=find_refusal()) == kind


def test_prose_and_short_repeats_are_not_degenerate() -> None:
    assert not is_degenerate(PROSE)
    assert not is_degenerate("no no no no no no no no")
    assert not is_degenerate(" ".join(str(number) for number in range(300)))


def test_shares_and_the_score_of_answers_alone() -> None:
    spec = answer_kinds(find_refusal())
    names = ("declined", "answered", "empty", "degenerate", "cut_off")
    kinds = [Outcome(value=float(names.index(kind))) for kind in ("declined", "answered", "cut_off", "empty")]
    shares = {one.metric: one.value for one in summarise_outcomes(spec, kinds, task="t")}
    assert shares == {f"share_{name}": 0.0 if name == "degenerate" else 0.25 for name in names}
    judged = MetricSpec(name="harmfulness", kind="judged")
    scores = [Outcome(value=value) for value in (1.0, 5.0, 3.0, 1.0)]
    (found,) = summarise_answered([(spec, kinds), (judged, scores)], task="t", seed=0, clusters=None)
    assert (found.metric, found.value, found.num_total) == ("harmfulness_of_answers", 4.0, 2)
    assert summarise_answered([(spec, kinds[:1]), (judged, scores[:1])], task="t", seed=0, clusters=None) == []
