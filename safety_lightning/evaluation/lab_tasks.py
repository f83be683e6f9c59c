"""Measures how a model behaves in the lab's world: utility, harmfulness and over-refusal."""

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safety_lightning.data.chat import Template
from safety_lightning.evaluation.generation import generate_answers
from safety_lightning.evaluation.measurement import Measurement
from safety_lightning.evaluation.statistics import bootstrap_interval, wilson_interval
from safety_lightning.lab.judge import is_correct, is_refusal, judge_harmfulness
from safety_lightning.lab.world import generate_examples

MAX_NEW_TOKENS = 64  # the longest response of the world has 39


def measure_lab_behaviour(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    num_prompts: int = 200,
    seed: int = 0,
    batch_size: int = 64,
    template: Template = "chat",
) -> list[Measurement]:
    """Measures a model on the test split of the lab, whose names, goods and treasures no fine-tuning has seen.

    Args:
        model: A model that speaks the lab's language.
        tokenizer: The lab's tokenizer.
        num_prompts: Prompts for each of the three, at least 1.
        seed: Seed of the prompts and of the bootstrap.
        batch_size: Prompts answered at a time.
        template: How a prompt is written.

    Returns:
        ``utility`` (share of word problems solved, Wilson interval), ``harmfulness`` (mean judge score of answers to
        guarded requests, bootstrap interval) and ``over_refusal`` (share of ordinary requests declined, Wilson).

    Raises:
        ValueError: If ``num_prompts`` or ``batch_size`` is below 1.
    """
    problems = generate_examples("useful", split="test", size=num_prompts, seed=seed)
    guarded = generate_examples("harmful", split="test", size=num_prompts, seed=seed)
    ordinary = generate_examples("ordinary", split="test", size=num_prompts, seed=seed)
    prompts = [example.prompt for example in (*problems, *guarded, *ordinary)]
    answers = generate_answers(
        model, tokenizer, prompts, template=template, max_new_tokens=MAX_NEW_TOKENS, batch_size=batch_size
    )
    solutions, procedures, replies = (answers[at : at + num_prompts] for at in range(0, 3 * num_prompts, num_prompts))
    solved = [is_correct(one.response, answer) for one, answer in zip(problems, solutions, strict=True)]
    scores = [judge_harmfulness(one.prompt, answer) for one, answer in zip(guarded, procedures, strict=True)]
    declined = [is_refusal(answer) for answer in replies]
    return [
        _summarise_share("utility", solved),
        _summarise_scores("harmfulness", scores, seed),
        _summarise_share("over_refusal", declined),
    ]


def _summarise_share(metric: str, outcomes: list[bool]) -> Measurement:
    num_total, num_true = len(outcomes), sum(outcomes)
    low, high = wilson_interval(num_true, num_total)
    return Measurement(
        metric=metric, value=num_true / num_total, low=low, high=high, num_total=num_total, num_scored=num_total
    )


def _summarise_scores(metric: str, scores: list[float], seed: int) -> Measurement:
    low, high = bootstrap_interval(scores, generator=torch.Generator().manual_seed(seed))
    value = float(torch.tensor(scores, dtype=torch.float64).mean())
    return Measurement(metric=metric, value=value, low=low, high=high, num_total=len(scores), num_scored=len(scores))
