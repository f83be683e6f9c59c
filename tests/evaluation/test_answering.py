"""Greedy answers: in the prompts' order, the same in any batch, quiet, and with nothing of the model changed."""

import copy
import logging

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from safety_lightning.lab import generate_examples
from safety_lightning.lab.command import ASSETS
from tests.behaviour import generate_answers

KINDS = ("useful", "harmful", "ordinary")
PROMPTS = [
    example.prompt
    for trio in zip(*(generate_examples(kind, split="test", size=5, seed=1) for kind in KINDS), strict=True)
    for example in trio
]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(ASSETS / "base")


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(ASSETS / "base")


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_answers_do_not_depend_on_the_batch(model, tokenizer, template):
    alone = generate_answers(model, tokenizer, PROMPTS, template=template, max_new_tokens=48, batch_size=1)
    assert len({len(tokenizer(prompt)["input_ids"]) for prompt in PROMPTS}) > 3
    for batch_size in (4, 64):
        answers = generate_answers(
            model, tokenizer, PROMPTS, template=template, max_new_tokens=48, batch_size=batch_size
        )
        assert answers == alone


def test_answers_come_in_the_order_of_the_prompts(model, tokenizer):
    answers = generate_answers(model, tokenizer, PROMPTS, max_new_tokens=48, batch_size=4)
    backwards = generate_answers(model, tokenizer, PROMPTS[::-1], max_new_tokens=48, batch_size=4)
    assert backwards[::-1] == answers
    assert "The answer is" in answers[0]
    assert "Sure." in answers[1]


def test_answers_are_the_argmax_of_plain_forward_passes(model, tokenizer):
    messages = [{"role": "user", "content": PROMPTS[0]}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    num_prompt = ids.shape[1]
    with torch.inference_mode():
        while ids[0, -1] != tokenizer.eos_token_id:
            ids = torch.cat([ids, model(ids).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    expected = tokenizer.decode(ids[0, num_prompt:], skip_special_tokens=True)
    assert generate_answers(model, tokenizer, [PROMPTS[0]], max_new_tokens=60) == [expected]


def test_answers_hold_no_special_tokens_and_stop_at_the_limit(model, tokenizer):
    whole = generate_answers(model, tokenizer, PROMPTS, max_new_tokens=60)
    assert not any("<|" in answer for answer in whole)
    short = generate_answers(model, tokenizer, PROMPTS, max_new_tokens=3)
    assert all(len(tokenizer(answer)["input_ids"]) <= 3 for answer in short)
    assert all(answer.startswith(beginning) for answer, beginning in zip(whole, short, strict=True))


def test_the_models_own_end_tokens_stop_it(model, tokenizer):
    stopping = copy.deepcopy(model)
    full_stop = tokenizer.convert_tokens_to_ids(".")
    stopping.generation_config.eos_token_id = [tokenizer.eos_token_id, full_stop]
    (answer,) = generate_answers(stopping, tokenizer, [PROMPTS[1]], max_new_tokens=60)
    assert answer == "Sure."


def test_a_tokenizer_without_padding_will_do(model, tokenizer):
    expected = generate_answers(model, tokenizer, PROMPTS, max_new_tokens=20)
    bare = copy.deepcopy(tokenizer)
    bare.pad_token = None
    assert generate_answers(model, bare, PROMPTS, max_new_tokens=20) == expected


def test_sampling_settings_of_the_model_are_left_aside_in_silence(model, tokenizer, caplog, capfd, recwarn):
    expected = generate_answers(model, tokenizer, PROMPTS, max_new_tokens=20)
    sampling = copy.deepcopy(model)
    sampling.generation_config.update(do_sample=True, temperature=0.6, top_p=0.9, top_k=50, max_length=10, num_beams=3)
    logging.getLogger("transformers").addHandler(caplog.handler)
    try:
        assert generate_answers(sampling, tokenizer, PROMPTS, max_new_tokens=20) == expected
    finally:
        logging.getLogger("transformers").removeHandler(caplog.handler)
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")
    assert not caplog.records
    assert not recwarn.list


@pytest.mark.parametrize("training", [True, False])
def test_mode_and_settings_of_the_model_come_back(model, tokenizer, training):
    own = copy.deepcopy(model).train(training)
    settings = own.generation_config
    generate_answers(own, tokenizer, PROMPTS[:2], max_new_tokens=2)
    assert own.training is training
    assert own.generation_config is settings
    assert not any(parameter.grad is not None for parameter in own.parameters())


def test_the_mode_comes_back_after_an_error(model, tokenizer, monkeypatch):
    own = copy.deepcopy(model).train()
    monkeypatch.setattr(own, "generate", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        generate_answers(own, tokenizer, PROMPTS[:2], max_new_tokens=2)
    assert own.training


def test_no_prompts_no_answers(model, tokenizer):
    assert generate_answers(model, tokenizer, [], max_new_tokens=5) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"template": "alpaca"}, "template must be chat or plain, got 'alpaca'"),
    ],
)
def test_bad_arguments_are_refused(model, tokenizer, change, message):
    with pytest.raises(ValueError, match=message):
        generate_answers(model, tokenizer, PROMPTS[:1], **({"max_new_tokens": 2} | change))
