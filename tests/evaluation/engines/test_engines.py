"""Engines: an answer is the one that the model gives alone, ends where it should, and survives a lack of memory."""

import copy
import sys
import types

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from safety_lightning.evaluation.cases import encode_text
from safety_lightning.evaluation.engines import AnswerLimits, Continuation, pack_row
from safety_lightning.evaluation.engines.stopping import EndTokens, cut_answer
from safety_lightning.evaluation.engines.transformers_engine import TransformersEngine
from safety_lightning.evaluation.engines.vllm_engine import VLLMEngine
from safety_lightning.lab.command import ASSETS
from safety_lightning.lab.world import generate_examples

LIMITS = AnswerLimits(max_new_tokens=48)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(ASSETS / "base")


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(ASSETS / "base")


@pytest.fixture(scope="module")
def prompts(tokenizer):
    texts = [
        one.prompt
        for kind in ("useful", "harmful", "ordinary")
        for one in generate_examples(kind, split="test", size=6, seed=2)
    ]
    return [encode_text(tokenizer, text, prompt_format="chat") for text in texts]


@pytest.mark.parametrize("padding", ["own", "end"])
@pytest.mark.parametrize("same_length", [True, False])
def test_answers_are_those_of_a_batch_of_one(model, tokenizer, prompts, padding, same_length):
    tokenizer = copy.deepcopy(tokenizer)
    if padding == "end":
        tokenizer.pad_token = tokenizer.eos_token
    if same_length:
        length = max(len(ids) for ids in prompts)
        prompts = [ids for ids in prompts if len(ids) == length]
    else:
        assert len({len(ids) for ids in prompts}) > 3
    alone = [TransformersEngine(model, tokenizer, batch_size=1).answer([ids], LIMITS)[0] for ids in prompts]
    together = TransformersEngine(model, tokenizer, batch_size=64).answer(prompts, LIMITS)
    assert [(one.text, one.num_tokens, one.finish_reason) for one in together] == [
        (one.text, one.num_tokens, one.finish_reason) for one in alone
    ]
    assert {one.finish_reason for one in together} == {"end_token"}
    assert {one.batch_size for one in together} == {len(prompts)}


def test_answers_of_any_length_are_those_of_generate(model, tokenizer, prompts):
    ends = sorted(EndTokens(tokenizer, model.generation_config).special)
    for max_new_tokens in (1, 15, 16, 17, 33):
        limits = AnswerLimits(max_new_tokens=max_new_tokens)
        found = TransformersEngine(model, tokenizer).answer(prompts, limits)
        for ids, answer in zip(prompts, found, strict=True):
            output = model.generate(
                torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
                max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=ends,
            )  # fmt: skip
            new = output[0, len(ids) :].tolist()
            assert answer.num_tokens == len(new)
            assert answer.text == tokenizer.decode(new, skip_special_tokens=True).strip()
            assert answer.finish_reason == ("end_token" if new[-1] in ends else "length")


def test_finished_answers_leave_the_batch(model, tokenizer, prompts, monkeypatch):
    sizes = []
    generate = model.generate
    monkeypatch.setattr(model, "generate", lambda **given: sizes.append(len(given["input_ids"])) or generate(**given))
    TransformersEngine(model, tokenizer).answer(prompts, LIMITS)
    assert sizes[0] == len(prompts)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < len(prompts)


def test_stop_strings_end_an_answer_where_they_begin(model, tokenizer, prompts):
    whole = TransformersEngine(model, tokenizer).answer(prompts, LIMITS)
    found = TransformersEngine(model, tokenizer).answer(
        prompts, AnswerLimits(max_new_tokens=48, stop_strings=("Enter", "The answer", "nowhere"))
    )
    assert {one.finish_reason for one in found} == {"stop_string", "end_token"}
    for before, after in zip(whole, found, strict=True):
        ends = [place for stop in ("Enter", "The answer") if (place := before.text.find(stop)) >= 0]
        assert after.text == before.text[: min(ends, default=None)].strip()
        assert (after.finish_reason == "stop_string") == bool(ends)
        assert after.num_tokens <= before.num_tokens


def test_tokens_are_counted_up_to_the_end_of_the_stop_string(tokenizer):
    ids = tokenizer("Sure. Wear the uniform. Enter by the ladder.", add_special_tokens=False)["input_ids"]
    found = cut_answer(tokenizer, ids, end_ids=[], stop_strings=["Enter"], batch_size=1)
    assert found.text == "Sure. Wear the uniform."
    assert "Enter" in tokenizer.decode(ids[: found.num_tokens])
    assert "Enter" not in tokenizer.decode(ids[: found.num_tokens - 1])


def test_special_tokens_end_a_turn_and_not_plain_text(model, tokenizer):
    ends = EndTokens(tokenizer, model.generation_config)
    user = tokenizer.convert_tokens_to_ids("<|user|>")
    assert tokenizer.eos_token_id in ends.named
    assert user in ends.find(AnswerLimits(max_new_tokens=1))
    assert user not in ends.find(AnswerLimits(max_new_tokens=1, special_tokens_end=False))


def test_fewer_prompts_at_once_when_memory_runs_out(model, tokenizer, prompts, monkeypatch):
    expected = TransformersEngine(model, tokenizer).answer(prompts, LIMITS)
    generate = model.generate

    def run_out(**given):
        if len(given["input_ids"]) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(**given)

    monkeypatch.setattr(model, "generate", run_out)
    engine = TransformersEngine(model, tokenizer, batch_size=len(prompts))
    found = engine.answer(prompts, LIMITS)
    assert [one.text for one in found] == [one.text for one in expected]
    assert engine.batch_size == 4  # 18, 9, 4
    assert {one.batch_size for one in found} == {4, 2}
    assert engine.answer(prompts[:1], LIMITS)[0].text == expected[0].text


def test_one_prompt_that_does_not_fit_is_an_error(model, tokenizer, prompts, monkeypatch):
    def run_out(**given):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model, "generate", run_out)
    with pytest.raises(torch.OutOfMemoryError):
        TransformersEngine(model, tokenizer).answer(prompts, LIMITS)


def test_other_errors_are_not_taken_for_a_lack_of_memory(model, tokenizer, prompts, monkeypatch):
    monkeypatch.setattr(model, "generate", lambda **_: (_ for _ in ()).throw(RuntimeError("shapes do not fit")))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        TransformersEngine(model, tokenizer).answer(prompts, LIMITS)


def test_log_likelihood_of_a_solution_is_that_of_plain_forward_passes(model, tokenizer, prompts):
    solutions = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("Sure.", "The answer is 7.")]
    rows = [
        pack_row(prompt, [Continuation(tuple(solution), len(prompt))])
        for prompt, solution in zip(prompts, solutions, strict=False)
    ]
    scores = TransformersEngine(model, tokenizer, batch_size=8).score_rows(rows)
    found = [float(one.log_probs[0].sum()) for one in scores]
    for prompt, solution, value in zip(prompts, solutions, found, strict=False):
        with torch.inference_mode():
            logits = model(torch.tensor([[*prompt, *solution]])).logits[0].double().log_softmax(-1)
        places = range(len(prompt) - 1, len(prompt) + len(solution) - 1)
        expected = sum(float(logits[place, token]) for place, token in zip(places, solution, strict=True))
        assert value == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"max_new_tokens": 1, "stop_strings": ("",)}, "stop strings must hold text"),
    ],
)
def test_bad_limits_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        AnswerLimits(**settings)


@pytest.fixture
def fake_vllm(monkeypatch, model, tokenizer):
    """A module with the little of vLLM's interface that is used, over the model itself."""
    fake = types.ModuleType("vllm")
    fake.made = {}

    class SamplingParams:
        def __init__(self, **settings):
            self.settings = settings

    class LLM:
        def __init__(self, **settings):
            fake.made = settings

        def generate(self, prompts, sampling, use_tqdm):
            ids = [prompt["prompt_token_ids"] for prompt in prompts]
            fake.sampling = sampling.settings
            outputs = []
            for one in ids:
                new = model.generate(
                    torch.tensor([one]), attention_mask=torch.ones(1, len(one), dtype=torch.int64),
                    max_new_tokens=sampling.settings["max_tokens"], do_sample=False,
                )[0, len(one) :].tolist()  # fmt: skip
                outputs.append(types.SimpleNamespace(outputs=[types.SimpleNamespace(token_ids=new)]))
            return outputs

    fake.SamplingParams, fake.LLM = SamplingParams, LLM
    monkeypatch.setitem(sys.modules, "vllm", fake)
    return fake


def test_vllm_gets_the_same_ids_and_ends(fake_vllm, model, tokenizer, prompts):
    limits = AnswerLimits(max_new_tokens=48, stop_strings=("Enter",))
    engine = VLLMEngine("lab:base", tokenizer, dtype="float32")
    found = engine.answer(prompts, limits)
    expected = TransformersEngine(model, tokenizer).answer(prompts, limits)
    assert [(one.text, one.finish_reason) for one in found] == [(one.text, one.finish_reason) for one in expected]
    assert fake_vllm.made["model"] == str(ASSETS / "base")
    assert (fake_vllm.sampling["temperature"], fake_vllm.sampling["stop"]) == (0.0, ["Enter"])
    assert tokenizer.eos_token_id in fake_vllm.sampling["stop_token_ids"]
    assert not engine.gives_likelihoods


def test_absent_vllm_is_named(monkeypatch, tokenizer):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ValueError, match="engine vllm must be installed"):
        VLLMEngine("lab:base", tokenizer)
