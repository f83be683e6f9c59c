"""Prompts of an evaluation: what is asked, what the model reads, and which right answer is known."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from transformers import PreTrainedTokenizerBase

from safety_lightning.data import check_template, encode_prompt
from safety_lightning.errors import UserError

PromptFormat = Literal["chat", "plain", "raw"]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One case of a task.

    Attributes:
        id: Its name, unlike that of any other prompt of the evaluation.
        task: The task that it belongs to.
        request: What is asked; a judge sees it beside the answer.
        text: What is written into the prompt format: the request, with worked examples where the task has them.
        reference: The reference solution, empty where there is none.
    """

    id: str
    task: str
    request: str
    text: str
    reference: str = ""


def make_prompts(task: str, requests: Iterable[str]) -> list[Prompt]:
    """Makes prompts without a reference, numbered in their order."""
    return [
        Prompt(id=f"{task}/{number}", task=task, request=request, text=request)
        for number, request in enumerate(requests)
    ]


def check_format(tokenizer: PreTrainedTokenizerBase, prompt_format: PromptFormat) -> None:
    """Raises UserError if the format is unknown, or is ``chat`` and the tokenizer has no chat template."""
    if prompt_format not in get_args(PromptFormat):
        raise UserError(f"prompt format must be chat, plain or raw, got {prompt_format!r}")
    if prompt_format != "raw":
        check_template(tokenizer, prompt_format)


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str, *, prompt_format: PromptFormat) -> list[int]:
    """Encodes a prompt up to the point where the model has to answer.

    Args:
        tokenizer: The model's tokenizer.
        text: What the model is asked.
        prompt_format: ``chat`` is the model's own chat template, ``plain`` a plain instruction text, ``raw`` the bare
            text as the tokenizer writes it (with its beginning token, where it has one).

    Raises:
        UserError: See `check_format`.
    """
    check_format(tokenizer, prompt_format)
    if prompt_format == "raw":
        return [int(token) for token in tokenizer(text)["input_ids"]]
    return encode_prompt(tokenizer, text, template=prompt_format)


def hash_ids(token_ids: Sequence[int]) -> str:
    """Returns the first 16 hexadecimal digits of the SHA-256 of what the model reads."""
    return hashlib.sha256(" ".join(map(str, token_ids)).encode()).hexdigest()[:16]


def hash_prompts(prompts: Sequence[Prompt]) -> str:
    """Returns the SHA-256 of the prompts of a task with their references."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(repr((prompt.id, prompt.text, prompt.reference)).encode())
    return f"sha256:{digest.hexdigest()}"
