"""Lets a model answer prompts greedily, in batches that change nothing about the answers."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from safety_lightning.data.chat import Template, encode_prompt


def generate_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    *,
    template: Template = "chat",
    max_new_tokens: int,
    batch_size: int = 64,
) -> list[str]:
    """Answers prompts greedily, each until the model's own end token.

    Prompts of similar length share a batch and are padded on the left, masked; an answer is the one that the model
    gives to its prompt alone.

    Args:
        model: A causal language model; its mode (train or eval) is as before afterwards.
        tokenizer: The model's tokenizer.
        prompts: What the user says, in any order.
        template: How a prompt is written; see :func:`safety_lightning.data.chat.encode_prompt`.
        max_new_tokens: Longest answer, in tokens, at least 1.
        batch_size: Prompts answered at a time, at least 1.

    Returns:
        The answers in the prompts' order, without special tokens and without white space around them.

    Raises:
        ValueError: If ``max_new_tokens`` or ``batch_size`` is below 1, or the prompts cannot be written in the
            template.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    encoded = [encode_prompt(tokenizer, prompt, template=template) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda index: len(encoded[index]))
    config = _write_config(model, tokenizer, max_new_tokens)
    answers = [""] * len(prompts)
    with _ready_to_answer(model, config), torch.inference_mode():
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            texts = _answer_batch(model, tokenizer, [encoded[index] for index in chosen], config)
            for index, text in zip(chosen, texts, strict=True):
                answers[index] = text
    return answers


def _answer_batch(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], config: GenerationConfig
) -> list[str]:
    input_ids, attention_mask = _pad_left(prompts, config.pad_token_id)
    generated = model.generate(  # type: ignore[operator]  # a mixin that torch.nn.Module hides
        input_ids=input_ids.to(model.device),
        attention_mask=attention_mask.to(model.device),
        generation_config=config,
    )
    new_tokens = generated[:, input_ids.shape[1] :].tolist()
    return [text.strip() for text in tokenizer.batch_decode(new_tokens, skip_special_tokens=True)]


def _pad_left(sequences: list[list[int]], pad_token_id: int) -> tuple[Tensor, Tensor]:
    shape = (len(sequences), max(len(sequence) for sequence in sequences))
    input_ids = torch.full(shape, pad_token_id, dtype=torch.int64)
    attention_mask = torch.zeros(shape, dtype=torch.int64)
    for row, sequence in enumerate(sequences):
        input_ids[row, shape[1] - len(sequence) :] = torch.tensor(sequence, dtype=torch.int64)
        attention_mask[row, shape[1] - len(sequence) :] = 1
    return input_ids, attention_mask


def _write_config(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int) -> GenerationConfig:
    """Takes the model's own end tokens and none of its sampling settings."""
    own = model.generation_config
    eos_token_id = tokenizer.eos_token_id if own is None or own.eos_token_id is None else own.eos_token_id
    first_eos = eos_token_id[0] if isinstance(eos_token_id, list) else eos_token_id
    pad_token_id = tokenizer.pad_token_id
    if pad_token_id is None:
        pad_token_id = first_eos if first_eos is not None else 0  # masked, so any token will do
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
    )


@contextmanager
def _ready_to_answer(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """Puts the model in eval mode with our settings, for ``generate`` would fill the gaps of ours from its own."""
    was_training, own = model.training, model.generation_config
    model.eval()
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = own
        model.train(was_training)
