"""Lets a model complete prompts greedily, and returns the tokens that it adds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from safety_lightning.data import pad_sequences


def complete_prompts(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], *, end_ids: Sequence[int], max_new_tokens: int
) -> list[list[int]]:
    """Generates greedily, each prompt until an end token; padding on the left, masked, changes no answer.

    Args:
        model: A causal language model in evaluation mode.
        prompts: Token ids of B prompts.
        end_ids: The tokens that end a response; may be empty.
        max_new_tokens: Longest response, at least 1.

    Returns:
        B responses of 1 to ``max_new_tokens`` ids. The end token is left out, unless the response is nothing else.
    """
    filler = end_ids[0] if end_ids else 0  # masked, so any token will do
    input_ids, attention_mask = pad_sequences(prompts, pad_token_id=filler, padding="left")
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        eos_token_id=list(end_ids) or None,
        pad_token_id=filler,
    )
    with _use_config(model, config), torch.inference_mode():
        whole = model.generate(  # type: ignore[operator]  # a mixin that torch.nn.Module hides
            input_ids=input_ids.to(model.device),
            attention_mask=attention_mask.to(model.device),
            generation_config=config,
        )
    return [_cut(row, end_ids) for row in whole[:, input_ids.shape[1] :].tolist()]


def list_end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Returns the tokens that end a response: those of the model's generation settings, else the tokenizer's."""
    own = model.generation_config
    found = tokenizer.eos_token_id if own is None or own.eos_token_id is None else own.eos_token_id
    return [] if found is None else [found] if isinstance(found, int) else list(found)


def _cut(ids: list[int], end_ids: Sequence[int]) -> list[int]:
    length = next((at for at, token in enumerate(ids) if token in end_ids), len(ids))
    return ids[: max(length, 1)]


@contextmanager
def _use_config(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """Gives the model our settings for a while, because ``generate`` takes every setting we omit from the model's."""
    own = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = own
