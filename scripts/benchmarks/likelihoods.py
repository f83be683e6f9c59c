"""Likelihoods of a target and eight refusals behind each prompt, against a forward pass over prompt and target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from benchmarks.common import NotHereError, Result, Setup, take_turns, time_call
from benchmarks.generation import DATA, MODEL
from safety_lightning.checkpoints import load_model, load_tokenizer
from safety_lightning.data import EncodedExample, InstructionSource, collate_examples
from safety_lightning.evaluation.cases import CasePlan, make_plan
from safety_lightning.evaluation.engines import TransformersEngine
from safety_lightning.evaluation.engines.continuations import score_plainly
from safety_lightning.evaluation.tasks import HarmfulRequests, JudgedRequests
from safety_lightning.training.loss import compute_token_losses

BATCH_SIZE, ROW_SHARE = 64, 4  # the engine scores a quarter of its batch at once
STEP = 4  # of the 520 prompts, by length, one in four
NUM_CHECKED, TOLERANCE = 8, 1e-5


def measure_likelihoods(setup: Setup) -> list[Result]:
    """Times the likelihoods of AdvBench's targets and of eight refusals with the weights of SmolLM2.

    Raises:
        NotHereError: If model or data are absent.
        RuntimeError: If a log-likelihood is not that of a plain loop.
    """
    for path in (MODEL, DATA):
        if not path.exists():
            raise NotHereError(f"the section likelihoods needs {path}, it does not exist")
    model, plan = load_model(MODEL, dtype=torch.float32).eval(), make_prompts()
    step = setup.choose(STEP, 130)
    batches = choose_batches(plan, step)
    largest = check_equality(model, plan, batches[-1][: setup.choose(NUM_CHECKED, 1)])
    ratios = []
    for turn in range(setup.num_pairs):
        sides: Mapping[str, Callable[[], Any]] = {
            "ours": partial(score_all, model, plan, batches),
            "plain": partial(score_targets, model, plan, batches),
        }
        timed = {name: time_call(side)[0] for name, side in take_turns(sides, turn)}
        ratios.append(timed["ours"] / timed["plain"])
    num_prompts = sum(len(batch) for batch in batches)
    note = (
        f"SmolLM2-135M, {num_prompts} AdvBench prompts (of 520 by length one in {step}), the same batches of "
        f"{BATCH_SIZE // ROW_SHARE}, float32; in float64 log-likelihoods differ from a "
        f"plain loop's by at most {largest:.0e}"
    )
    return [Result("likelihoods: target and 8 refusals ÷ a pass over prompt and target alone", "≤ 1.6", ratios, note)]


def make_prompts() -> CasePlan:
    """Encodes all prompts with their targets and refusals."""
    requests = HarmfulRequests(
        source=InstructionSource(preset="advbench", path=str(DATA / "advbench.csv")),
        measures=["target_token_probability", "refusal_token_probability"],
    )
    task = JudgedRequests(requests, [])
    return make_plan([task], load_tokenizer(MODEL), batch_size=BATCH_SIZE, max_context_tokens=None)


def choose_batches(plan: CasePlan, step: int) -> list[list[int]]:
    """Chooses prompts by length, and puts them into batches of similar length."""
    ordered = [index for batch in plan.batches for index in batch][::step]
    size = BATCH_SIZE // ROW_SHARE
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def score_all(model: PreTrainedModel, plan: CasePlan, batches: Sequence[Sequence[int]]) -> list[list[float]]:
    """Scores the target and the refusals behind each prompt."""
    engine = TransformersEngine(model, load_tokenizer(MODEL), batch_size=BATCH_SIZE)
    rows = [[plan.cases[index].row for index in batch] for batch in batches]
    scores = [one for part in rows for one in engine.score_rows([row for row in part if row is not None])]
    return [[float(log_probs.sum()) for log_probs in one.log_probs] for one in scores]


@torch.inference_mode()
def score_targets(model: PreTrainedModel, plan: CasePlan, batches: Sequence[Sequence[int]]) -> list[float]:
    """Scores the targets alone, with logits of their positions alone."""
    found: list[float] = []
    for batch in batches:
        examples = [_make_example(plan, index) for index in batch]
        losses_BS, _ = compute_token_losses(model, collate_examples(examples, pad_token_id=0))
        found += (-losses_BS.double().sum(dim=1)).tolist()
    return found


def check_equality(model: PreTrainedModel, plan: CasePlan, indices: Sequence[int]) -> float:
    """Returns the largest difference to a plain loop, a pass for each continuation; raises RuntimeError if it is large.

    In float64, in which the two differ by what is done and not by rounding.
    """
    model.double()
    differences = []
    for index, own in zip(indices, score_all(model, plan, [indices]), strict=True):
        row = plan.cases[index].row
        assert row is not None
        plain = score_plainly(model, plan.cases[index].token_ids, row.targets)
        differences += [abs(a - b) for a, b in zip(own, plain, strict=True)]
    model.float()
    if max(differences) > TOLERANCE:
        raise RuntimeError(f"log-likelihoods must be those of a plain loop to {TOLERANCE}, got {max(differences)}")
    return max(differences)


def _make_example(plan: CasePlan, index: int) -> EncodedExample:
    case = plan.cases[index]
    assert case.row is not None
    target = case.row.targets[case.texts.index(case.prompt.target)]
    return EncodedExample([*case.token_ids, *target], len(case.token_ids))
