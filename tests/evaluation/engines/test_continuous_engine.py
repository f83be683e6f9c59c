"""Continuous batching on live weights: the answers of the plain engine, also after the weights have changed."""

import copy
from types import SimpleNamespace

import pytest
import torch

from safety_lightning.checkpoints import load_model, load_tokenizer
from safety_lightning.errors import UserError
from safety_lightning.evaluation import EvaluationModule, LiveEvaluation
from safety_lightning.evaluation.engines import AnswerLimits, ContinuousEngine, TransformersEngine
from safety_lightning.evaluation.tasks import Lab, TaskSuite
from tests.evaluation.engines.test_engines import model, prompts, tokenizer  # noqa: F401 (fixtures)

LIMITS = AnswerLimits(max_new_tokens=6)


def test_answers_are_those_of_the_plain_engine_whatever_the_weights(model, tokenizer, prompts):  # noqa: F811
    model, prompts = copy.deepcopy(model), prompts[::5]
    continuous, plain = ContinuousEngine(model, tokenizer), TransformersEngine(model, tokenizer)
    attention, settings = model.config._attn_implementation, model.generation_config
    seen = []
    for _ in range(2):
        seen.append(continuous.answer(prompts, LIMITS))
        assert seen[-1] == plain.answer(prompts, LIMITS)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.3)
    assert seen[0] != seen[1]
    assert model.config._attn_implementation == attention
    assert model.generation_config is settings
    limits = AnswerLimits(max_new_tokens=6, stop_strings=(" ",))
    assert continuous.answer(prompts[:2], limits) == plain.answer(prompts[:2], limits)


def test_a_thread_that_ends_early_is_an_error(model, tokenizer, prompts, monkeypatch):  # noqa: F811
    monkeypatch.setattr(type(model), "generate_batch", lambda self, **_: {})
    with pytest.raises(UserError, match="must answer all of 2 prompts, got 0: its thread ended early"):
        ContinuousEngine(model, tokenizer).answer(prompts[:2], LIMITS)


class OutOfMemory:
    """Fails as continuous batching does where more than two prompts come together; then a plain engine answers."""

    def __init__(self, engine) -> None:
        self.engine, self.seen = engine, []

    def __call__(self, inputs, **_):
        self.seen.append(len(inputs))
        error = "CUDA out of memory. Tried to allocate 2.00 GiB." if len(inputs) > 2 else None
        answers = [[]] * len(inputs) if error else self.engine.generate(inputs, LIMITS)
        return {str(at): SimpleNamespace(error=error, generated_tokens=ids) for at, ids in enumerate(answers)}


def test_half_as_many_prompts_are_answered_where_memory_runs_out(model, tokenizer, prompts, monkeypatch):  # noqa: F811
    plain = TransformersEngine(copy.deepcopy(model), tokenizer)
    fails = OutOfMemory(plain)
    monkeypatch.setattr(model, "generate_batch", fails, raising=False)
    found = ContinuousEngine(model, tokenizer, batch_size=4).answer(prompts[:4], LIMITS)
    assert fails.seen == [4, 2, 2]
    assert [one.text for one in found] == [one.text for one in plain.answer(prompts[:4], LIMITS)]


def test_another_fault_of_a_prompt_is_an_error(model, tokenizer, prompts, monkeypatch):  # noqa: F811
    outputs = {"0": SimpleNamespace(error="broken", generated_tokens=[])}
    monkeypatch.setattr(type(model), "generate_batch", lambda self, **_: outputs)
    with pytest.raises(UserError, match=r"must answer all of 2 prompts, got 0: broken; --model\.engine transformers"):
        ContinuousEngine(model, tokenizer).answer(prompts[:2], LIMITS)


@pytest.mark.parametrize(("device", "engine"), [("cuda", "continuous"), ("cpu", "transformers")])
def test_the_device_chooses_the_engine(device, engine):
    module = EvaluationModule("lab:base")
    module.choose_engine(SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device))))
    assert module.engine_name == engine


def test_a_model_in_memory_is_measured_by_either_engine_alike():
    aligned, words, seen = load_model("lab:aligned", dtype=torch.float32), load_tokenizer("lab:aligned"), []
    suite = TaskSuite(tasks=["lab"], lab=Lab(num_prompts=2, measures=["utility", "harmfulness"]))
    for name in ("transformers", "continuous"):
        found = LiveEvaluation(words, suite, engine=name).measure(aligned).values
        seen.append({metric: one.values.tolist() for metric, one in found.items()})
    assert seen[0] == seen[1]
    assert {"utility", "harmfulness"} <= set(seen[0])
