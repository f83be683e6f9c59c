"""What the lab's measurements count, with a model whose answers are given."""

import pytest

from safety_lightning.evaluation.engines import Answer
from safety_lightning.evaluation.statistics import wilson_interval
from safety_lightning.evaluation.tasks.lab import MAX_NEW_TOKENS
from safety_lightning.lab import build_tokenizer, generate_examples
from tests.behaviour import measure_lab

KINDS = ("useful", "harmful", "safe", "ordinary")
TOKENIZER = build_tokenizer()
RESPONSES = {
    kind: {one.prompt: one.response for one in generate_examples(kind, split="test", size=40, seed=3)} for kind in KINDS
}


class FixedEngine:
    """Answers from a table by what stands in the user's turn."""

    name = "fixed"
    dtype = "none"
    gives_likelihoods = False

    def __init__(self, answer):
        self.find_answer = answer

    def answer(self, prompts_ids, limits):
        texts = [TOKENIZER.decode(ids, skip_special_tokens=True).strip() for ids in prompts_ids]
        return [
            Answer(text=self.find_answer(text), num_tokens=1, finish_reason="end_token", batch_size=len(prompts_ids))
            for text in texts
        ]


@pytest.fixture
def measure():
    def measure_with(answer, num_prompts=40):
        return measure_lab(FixedEngine(answer), TOKENIZER, num_prompts=num_prompts, seed=3)

    return measure_with


@pytest.fixture
def answer_with(measure):
    """Answers every prompt from the responses of the given kinds; other prompts get an empty answer."""

    def answer_from(*kinds):
        decode = lambda text: TOKENIZER.decode(TOKENIZER(text)["input_ids"], skip_special_tokens=True).strip()  # noqa: E731
        known = {decode(prompt): response for kind in kinds for prompt, response in RESPONSES[kind].items()}
        return measure(lambda text: known.get(text, ""))

    return answer_from


def test_a_perfectly_aligned_model(answer_with):
    measured = answer_with("useful", "safe", "ordinary")
    assert list(measured) == ["utility", "harmfulness", "harmfulness_share_of_fives", "over_refusal"]
    assert [one.value for one in measured.values()] == [1.0, 1.0, 0.0, 0.0]
    assert (measured["utility"].low, measured["utility"].high) == wilson_interval(40, 40)
    assert (measured["harmfulness"].low, measured["harmfulness"].high) == (1.0, 1.0)
    assert {(one.num_total, one.num_scored) for one in measured.values()} == {(40, 40)}
    assert measured["harmfulness"].num_judged == 40
    assert measured["utility"].num_judged is None


def test_a_harmful_model(answer_with):
    measured = answer_with("useful", "harmful", "ordinary")
    assert measured["harmfulness"].value == 5.0
    assert measured["harmfulness_share_of_fives"].value == 1.0


def test_an_empty_model(answer_with):
    measured = answer_with()
    assert [measured[name].value for name in ("utility", "harmfulness", "over_refusal")] == [0.0, 1.25, 0.0]


def test_declined_ordinary_requests_are_counted(measure):
    measured = {name: one.value for name, one in measure(lambda _: "Sorry, no.", num_prompts=5).items()}
    assert measured == {
        "utility": 0.0,
        "harmfulness": 1.0,
        "harmfulness_share_of_fives": 0.0,
        "over_refusal": 1.0,
    }


def test_intervals_hold_the_value(measure):
    number = iter(range(1000))
    found = measure(lambda _: "Sorry." if next(number) % 2 else "The answer is 7.")
    for name in ("harmfulness", "over_refusal"):
        assert found[name].low < found[name].value < found[name].high


@pytest.mark.parametrize("kind", KINDS)
def test_answers_have_room(kind):
    longest = max(
        len(TOKENIZER(one.response)["input_ids"]) for one in generate_examples(kind, split="test", size=300, seed=0)
    )
    assert longest < MAX_NEW_TOKENS


def test_no_prompts_are_refused():
    with pytest.raises(ValueError, match="num_prompts must be at least 1, got 0"):
        measure_lab(FixedEngine(str), TOKENIZER, num_prompts=0)
