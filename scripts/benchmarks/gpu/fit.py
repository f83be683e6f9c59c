"""Fine-tuning throughput in the shape of Qwen2.5-1.5B against the Hugging Face Trainer."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from benchmarks.common import Result, Setup, take_turns
from benchmarks.gpu.device import count_work, describe_use
from benchmarks.shapes import QWEN_1_5B, make_model
from benchmarks.training import train_ours, train_transformers
from safety_lightning.data import EncodedExample

BATCH_SIZE, ACCUMULATE = 8, 4


def measure_fit(setup: Setup) -> list[Result]:
    """Compares tokens per second with the Hugging Face Trainer: same kernels, rows, order, precision and optimizer."""
    shape, num_tokens = setup.shrink(QWEN_1_5B), setup.choose(512, 32)
    examples = draw_rows(setup.choose(1024, 64), num_tokens, vocab_size=shape["vocab_size"])
    model = make_model(shape, device=setup.device)
    ratios, rates = [], []
    for turn in range(-1, setup.num_pairs):  # the first one warms up
        seconds: dict[str, float] = {}
        for name, side in take_turns(list_sides(setup, model, examples), turn):
            seconds[name], _ = side()
            gc.collect()  # a trainer that is done with holds its moments
        if turn >= 0:
            ratios.append(seconds["transformers"] / seconds["ours"])
            rates.append(len(examples) * num_tokens / seconds["ours"])
    rate = sorted(rates)[len(rates) // 2]
    use = describe_use(rate * count_work(shape, num_tokens), setup.device, size=setup.choose(8192, 128))
    note = (
        f"{len(examples)} rows of {num_tokens} tokens, all scored, batches of {BATCH_SIZE}, accumulation {ACCUMULATE}, "
        f"bf16-mixed, sdpa; ours {rate:.0f} tokens/s, {use}"
    )
    if setup.device == "cuda":
        note += f"; peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB"
    return [Result("GPU, 1.5 B: tokens per second of a fit, ours ÷ Hugging Face Trainer", "≥ 1.0", ratios, note)]


def list_sides(setup: Setup, model: PreTrainedModel, examples: list[EncodedExample]) -> dict[str, Callable[[], Any]]:
    """Returns both trainers, on the same model and rows."""
    batches = [examples[at : at + BATCH_SIZE] for at in range(0, len(examples), BATCH_SIZE)]
    same: dict[str, Any] = {"accumulate": ACCUMULATE, "device": setup.device}
    return {
        "ours": partial(train_ours, model, batches, **same),
        "transformers": partial(train_transformers, model, examples, batch_size=BATCH_SIZE, **same),
    }


def draw_rows(num_rows: int, num_tokens: int, *, vocab_size: int) -> list[EncodedExample]:
    """Draws rows of random tokens of one length, of which all but the first are scored."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocab_size, (num_rows, num_tokens), generator=generator)
    return [EncodedExample(row, 1) for row in ids.tolist()]
