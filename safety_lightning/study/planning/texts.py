"""How many rows a source has, and how long they are, without asking the hub."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safety_lightning.data import InstructionSource, is_generated, is_local_file, read_source, resolve_source
from safety_lightning.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPT_TOKENS, RESPONSE_TOKENS = 128, 128
"""What a row of the hub is assumed to have, which is not read for a plan."""
_ROWS = {
    "openai/gsm8k": 1319,
    "walledai/AdvBench": 520,
    "HuggingFaceH4/MATH-500": 500,
    "cais/mmlu": 14042,
    "walledai/StrongREJECT": 313,
    "JailbreakBench/JBB-Behaviors": 100,
}
"""Rows of what the tasks measure on: the test splits."""
_SAMPLE = 32
_measured: dict[tuple[str, int], Texts] = {}  # of this process: the stages of a study share their sources


@dataclass(frozen=True, kw_only=True)
class Texts:
    """What is known of a source.

    Attributes:
        num_rows: How many rows are taken; None where nobody knows before they are read.
        prompt_tokens: Mean tokens of a prompt.
        response_tokens: Mean tokens of a response.
        is_assumed: Whether the tokens are assumed.
    """

    num_rows: int | None
    prompt_tokens: float = PROMPT_TOKENS
    response_tokens: float = RESPONSE_TOKENS
    is_assumed: bool = True


def measure_source(given: Any, tokenizer: PreTrainedTokenizerBase | None) -> Texts:
    """Says how many rows a source has, and how long a sample of them is; one on the hub is not read.

    Args:
        given: A source as options name it: a name, or its fields.
        tokenizer: The model's; None where it cannot be had.
    """
    key = (repr(given), id(tokenizer))
    if key not in _measured:
        _measured[key] = _measure(given, tokenizer)
    return _measured[key]


def _measure(given: Any, tokenizer: PreTrainedTokenizerBase | None) -> Texts:
    try:
        source = resolve_source(InstructionSource(**given) if isinstance(given, Mapping) else given)
        path = str(source.path)
        if not is_generated(path) and not is_local_file(path):
            return Texts(num_rows=source.size or _ROWS.get(path))
        sample = dataclasses.replace(source, size=_SAMPLE if is_generated(path) else None)
        examples = read_source(sample, seed=0, kind="useful").examples
    except (UserError, TypeError):  # the stage's own check says what is wrong with it
        return Texts(num_rows=None)
    num_rows = source.size or (512 if is_generated(path) else len(examples))
    if tokenizer is None:
        return Texts(num_rows=num_rows)
    chosen = examples[:_SAMPLE]
    return Texts(
        num_rows=num_rows,
        prompt_tokens=sum(len(tokenizer(one.prompt).input_ids) for one in chosen) / len(chosen),
        response_tokens=sum(len(tokenizer(one.response).input_ids) for one in chosen) / len(chosen),
        is_assumed=False,
    )
