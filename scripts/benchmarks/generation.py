"""Generation against the plain loop that one would write: `generate` on batches of 8 in file order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.common import NotHereError, Result, Setup, take_turns, time_call
from safety_lightning.checkpoints import load_model, load_tokenizer
from safety_lightning.data import InstructionSource
from safety_lightning.evaluation.cases import CasePlan, make_plan
from safety_lightning.evaluation.engines import AnswerLimits, TransformersEngine
from safety_lightning.evaluation.engines.stopping import EndTokens, cut_answer
from safety_lightning.evaluation.grading import answer_cases
from safety_lightning.evaluation.tasks import GSM8K

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "smollm2"  # scripts/prepare_smollm2.py makes it
DATA = ROOT.parent / "shared" / "data"
NUM_PROMPTS, MAX_NEW_TOKENS, BATCH_SIZE, PLAIN_BATCH_SIZE = 32, 96, 32, 8


def measure_generation(setup: Setup) -> list[Result]:
    """Times answers to GSM8K problems with one worked example against a plain loop, same model, same answers.

    Raises:
        NotHereError: If model or data are absent.
        RuntimeError: If the answers differ.
    """
    for path in (MODEL, DATA):
        if not path.exists():
            raise NotHereError(f"the section generation needs {path}, it does not exist")
    model, tokenizer = load_model(MODEL, dtype=torch.float32), load_tokenizer(MODEL)
    num_prompts, max_new_tokens = setup.choose(NUM_PROMPTS, 2), setup.choose(MAX_NEW_TOKENS, 8)
    task = make_task(num_prompts, max_new_tokens)
    plan = make_plan([task], tokenizer, batch_size=BATCH_SIZE, max_context_tokens=None)
    ratios = []
    for turn in range(setup.num_pairs):
        sides: Mapping[str, Callable[[], Any]] = {
            "ours": partial(answer_ours, model, tokenizer, plan),
            "plain": partial(answer_plainly, model, tokenizer, plan),
        }
        timed = {name: time_call(side) for name, side in take_turns(sides, turn)}
        differing = sum(a != b for a, b in zip(timed["ours"][1], timed["plain"][1], strict=True))
        if differing:
            raise RuntimeError(f"both sides must give the same answers, {differing} of {num_prompts} differ")
        ratios.append(timed["plain"][0] / timed["ours"][0])
    note = f"SmolLM2-135M, {num_prompts} GSM8K problems, up to {max_new_tokens} tokens, float32; same answers"
    return [Result("answers per second: ours ÷ plain loop of batches of 8", "≥ 1.5", ratios, note)]


def make_task(num_prompts: int, max_new_tokens: int) -> GSM8K:
    """Makes the task: the first problems of the test file."""
    columns: dict[str, Any] = {"prompt": "question", "response": "answer"}
    return GSM8K(
        source=InstructionSource(path=str(DATA / "gsm8k_test.jsonl"), size=num_prompts, pick="first", **columns),
        examples=InstructionSource(path=str(DATA / "gsm8k_train.jsonl"), **columns),
        max_new_tokens=max_new_tokens,
    )


def answer_ours(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, plan: CasePlan) -> list[str]:
    """Answers by the project's engine and plan, without the log-likelihoods; in file order."""
    engine = TransformersEngine(model, tokenizer, batch_size=BATCH_SIZE)
    engine.gives_likelihoods = False
    answers: dict[int, str] = {}
    for batch in plan.batches:
        found = answer_cases(engine, [plan.cases[index] for index in batch])
        answers |= {index: one.answer for index, one in zip(batch, found, strict=True)}
    return [answers[index] for index in range(len(plan.cases))]


@torch.inference_mode()
def answer_plainly(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, plan: CasePlan) -> list[str]:
    """Answers in file order, 8 at a time, by one call of `generate` each, with the library's own stop strings."""
    limits = plan.tasks[0].limits
    end_ids = EndTokens(tokenizer, model.generation_config).find(limits)
    tokenizer.padding_side = "left"
    answers = []
    for start in range(0, len(plan.cases), PLAIN_BATCH_SIZE):
        texts = [case.prompt.text for case in plan.cases[start : start + PLAIN_BATCH_SIZE]]
        encoded = tokenizer(texts, return_tensors="pt", padding=True)
        output = model.generate(  # type: ignore[operator]  # a mixin that torch.nn.Module hides
            **encoded,
            max_new_tokens=limits.max_new_tokens,
            do_sample=False,
            eos_token_id=sorted(end_ids),
            stop_strings=list(limits.stop_strings),
            tokenizer=tokenizer,
        )
        new_ids = output[:, encoded["input_ids"].shape[1] :].tolist()
        answers += [_cut(tokenizer, ids, end_ids, limits) for ids in new_ids]
    return answers


def _cut(
    tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int], end_ids: frozenset[int], limits: AnswerLimits
) -> str:
    found = cut_answer(tokenizer, token_ids, end_ids=end_ids, stop_strings=limits.stop_strings, batch_size=1)
    return found.text
