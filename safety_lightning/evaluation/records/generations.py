"""The rows of `generations.jsonl`: answers, kept as they come."""

from __future__ import annotations

from dataclasses import dataclass

from safety_lightning.evaluation.engines import Finish


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One answer, and how it came about.

    Attributes:
        id: The prompt's name.
        task: The task.
        prompt: What was asked.
        answer: What the model said.
        num_tokens: Tokens of the answer.
        finish_reason: Why it ends.
        engine: What generated it.
        dtype: The dtype computed in.
        batch_size: Prompts answered at once.
        prompt_hash: Hash of the token ids that the model read.
        reference_log_likelihood: Log-likelihood of the reference solution in nats, None without one.
        num_reference_tokens: Tokens of the reference solution.
    """

    id: str
    task: str
    prompt: str
    answer: str
    num_tokens: int
    finish_reason: Finish
    engine: str
    dtype: str
    batch_size: int
    prompt_hash: str
    reference_log_likelihood: float | None = None
    num_reference_tokens: int | None = None
