"""What the lab's measurements count, with a model whose answers are given."""

import pytest

from safety_lightning.evaluation import lab_tasks
from safety_lightning.evaluation.lab_tasks import measure_lab_behaviour
from safety_lightning.evaluation.statistics import wilson_interval
from safety_lightning.lab.tokenizer import build_tokenizer
from safety_lightning.lab.world import generate_examples

KINDS = ("useful", "harmful", "safe", "ordinary")
RESPONSES = {
    kind: {one.prompt: one.response for one in generate_examples(kind, split="test", size=40, seed=3)} for kind in KINDS
}


@pytest.fixture
def answer_with(monkeypatch):
    """Answers every prompt from the responses of the given kinds; other prompts get an empty answer."""

    def answer_from(*kinds):
        known = {prompt: response for kind in kinds for prompt, response in RESPONSES[kind].items()}
        monkeypatch.setattr(
            lab_tasks, "generate_answers", lambda m, t, prompts, **_: [known.get(p, "") for p in prompts]
        )
        return {one.metric: one for one in measure_lab_behaviour(None, None, num_prompts=40, seed=3)}

    return answer_from


def test_a_perfectly_aligned_model(answer_with):
    measured = answer_with("useful", "safe", "ordinary")
    assert list(measured) == ["utility", "harmfulness", "over_refusal"]
    assert [one.value for one in measured.values()] == [1.0, 1.0, 0.0]
    assert (measured["utility"].low, measured["utility"].high) == wilson_interval(40, 40)
    assert (measured["harmfulness"].low, measured["harmfulness"].high) == (1.0, 1.0)
    assert {(one.num_total, one.num_scored) for one in measured.values()} == {(40, 40)}


def test_a_harmful_model(answer_with):
    assert answer_with("useful", "harmful", "ordinary")["harmfulness"].value == 5.0


def test_an_empty_model(answer_with):
    measured = answer_with()
    assert [one.value for one in measured.values()] == [0.0, 1.25, 0.0]


def test_declined_ordinary_requests_are_counted(monkeypatch):
    monkeypatch.setattr(lab_tasks, "generate_answers", lambda m, t, prompts, **_: ["Sorry, no."] * len(prompts))
    measured = {one.metric: one.value for one in measure_lab_behaviour(None, None, num_prompts=5)}
    assert measured == {"utility": 0.0, "harmfulness": 1.0, "over_refusal": 1.0}


def test_intervals_hold_the_value(monkeypatch):
    responses = RESPONSES["useful"] | RESPONSES["harmful"] | RESPONSES["ordinary"]
    half = lambda m, t, prompts, **_: [responses[p] if i % 2 else "Sorry." for i, p in enumerate(prompts)]  # noqa: E731
    monkeypatch.setattr(lab_tasks, "generate_answers", half)
    for one in measure_lab_behaviour(None, None, num_prompts=40, seed=3):
        assert one.low < one.value < one.high


@pytest.mark.parametrize("kind", KINDS)
def test_answers_have_room(kind):
    tokenizer = build_tokenizer()
    longest = max(
        len(tokenizer(one.response)["input_ids"]) for one in generate_examples(kind, split="test", size=300, seed=0)
    )
    assert longest < lab_tasks.MAX_NEW_TOKENS


def test_no_prompts_are_refused():
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        measure_lab_behaviour(None, None, num_prompts=0)
