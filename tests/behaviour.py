"""What models answer and how they behave in the lab, without a run around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safety_lightning.data import Template, encode_prompt
from safety_lightning.evaluation.cases import make_plan
from safety_lightning.evaluation.engines import AnswerLimits, Engine, TransformersEngine
from safety_lightning.evaluation.grading import measure_plan
from safety_lightning.evaluation.measurement import Measurement
from safety_lightning.evaluation.tasks import Lab


def generate_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    template: Template = "chat",
    max_new_tokens: int,
    batch_size: int = 64,
) -> list[str]:
    """Answers prompts greedily, in batches of neighbours."""
    engine = TransformersEngine(model, tokenizer, batch_size=batch_size)
    encoded = [encode_prompt(tokenizer, prompt, template=template) for prompt in prompts]
    return [answer.text for answer in engine.answer(encoded, AnswerLimits(max_new_tokens=max_new_tokens))]


def measure_lab(
    engine: Engine, tokenizer: PreTrainedTokenizerBase, *, seed: int = 0, **settings: Any
) -> dict[str, Measurement]:
    """Measures utility, harmfulness and over-refusal on the lab's test split; settings are those of `Lab`."""
    plan = make_plan(Lab(seed=seed, **settings).make_tasks(), tokenizer, batch_size=64, max_context_tokens=None)
    return {one.metric: one for one in measure_plan(engine, plan, seed=seed)}
