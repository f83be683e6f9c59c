"""Greedy answers in the shape of Qwen2.5-1.5B: continuous batching against left-padded batches."""

from __future__ import annotations

from functools import partial

import torch
from transformers import PreTrainedModel

from benchmarks.common import Result, Setup, take_turns
from benchmarks.gpu.device import time_on
from benchmarks.shapes import QWEN_1_5B, make_model
from benchmarks.training import draw_examples
from safety_lightning.evaluation.engines import AnswerLimits, ContinuousEngine, TransformersEngine
from safety_lightning.lab import build_tokenizer

BATCH_SIZE = 64
END_SHARE = 100  # one token of so many ends an answer, so that random weights give answers of many lengths


def measure_generation(setup: Setup) -> list[Result]:
    """Compares tokens per second of both engines, in bfloat16."""
    shape = setup.shrink(QWEN_1_5B)
    model = make_ending_model(setup, shape["vocab_size"])
    num_prompts, limits = setup.choose(256, 4), AnswerLimits(max_new_tokens=setup.choose(256, 8))
    prompts = sorted((one.input_ids[: one.num_prompt_tokens] for one in draw_examples(num_prompts, shape)), key=len)
    tokenizer = build_tokenizer()
    engines = {
        "continuous": ContinuousEngine(model, tokenizer, batch_size=num_prompts),  # which makes room by itself
        "transformers": TransformersEngine(model, tokenizer, batch_size=BATCH_SIZE),
    }
    ratios, rates = [], {}
    for turn in range(-1, setup.num_pairs):  # the first one warms up
        sides = {name: partial(engine.generate, prompts, limits) for name, engine in engines.items()}
        for name, side in take_turns(sides, turn):
            seconds, answers = time_on(setup.device, side)
            rates[name] = sum(len(ids) for ids in answers) / seconds
        if turn >= 0:
            ratios.append(rates["continuous"] / rates["transformers"])
    note = (
        f"{num_prompts} prompts of GSM8K's lengths, up to {limits.max_new_tokens} tokens, bfloat16, random weights; "
        f"the last: {rates['continuous']:.0f} tokens/s, and {rates['transformers']:.0f} by batches of {BATCH_SIZE}"
    )
    return [Result("GPU, 1.5 B: tokens per second, continuous ÷ transformers engine", "told", ratios, note)]


def make_ending_model(setup: Setup, vocab_size: int) -> PreTrainedModel:
    """Makes the model, some of whose tokens end an answer."""
    model = make_model(setup.shrink(QWEN_1_5B), device=setup.device, dtype=torch.bfloat16).eval()
    assert model.generation_config is not None
    model.generation_config.eos_token_id = [*range(0, vocab_size, END_SHARE)]
    return model
