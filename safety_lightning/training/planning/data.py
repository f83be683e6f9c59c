"""Counts the data of a fit: exactly where it can be read here, else by its bounds."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from safety_lightning.data import InstructionData
from safety_lightning.data.mixing import count_mix
from safety_lightning.data.sources import InstructionSource, is_generated, is_local_file, resolve_source
from safety_lightning.errors import UserError
from safety_lightning.training.planning.settings import LargestBatch


@dataclass(frozen=True, kw_only=True)
class DataCounts:
    """How much data there is.

    Attributes:
        num_examples: Training examples; None where it is not known.
        num_tokens: Tokens of all of them, at most.
        largest: The largest micro-batch, at most.
        bound: Why tokens are a bound and not a count; None where they were counted.
    """

    num_examples: int | None
    num_tokens: int
    largest: LargestBatch
    bound: str | None = None


def count_data(data: InstructionData, *, attention: str = "sdpa") -> DataCounts:
    """Counts data, writing nothing: data on the hub, or without a tokenizer, is taken for as long as it may be.

    Args:
        data: The data.
        attention: The model's attention implementation. Where examples lie end to end, flash attention takes at most
            what it takes for padded ones; the others take a mask of all tokens by all tokens.
    """
    is_flat = data.padding_free and attention != "flash_attention_2"
    absent = [path for path in map(_find_path, _list_sources(data)) if not (is_generated(path) or is_local_file(path))]
    if absent:
        return _bound(data, f"{absent[0]} is on the hub and not read", is_flat=is_flat)
    try:
        data.prepare(keep=False)
    except UserError as error:
        return _bound(data, f"the data cannot be read: {error}", is_flat=is_flat)
    dataset = data.training_set
    largest = find_largest_batch(data, is_flat=is_flat)
    return DataCounts(num_examples=len(dataset), num_tokens=len(dataset.input_ids), largest=largest)


def find_largest_batch(data: InstructionData, *, is_flat: bool = False) -> LargestBatch:
    """Finds the largest micro-batch of data that has been prepared: that of the longest examples.

    Args:
        data: The data.
        is_flat: Whether the examples of a micro-batch lie end to end.
    """
    dataset = data.training_set
    lengths = torch.tensor(dataset.lengths)
    longest = lengths.argsort(descending=True)[: data.batch_size]
    if is_flat:
        num_tokens, num_prompt = int(lengths[longest].sum()), int(dataset.prompt_lengths[longest].sum())
        num_scored = num_tokens - num_prompt
        return LargestBatch(num_examples=data.batch_size, num_tokens=num_tokens, num_scored=num_scored, is_flat=True)
    num_tokens, shortest = int(lengths.max()), max(1, int(dataset.prompt_lengths[longest].min()))
    return LargestBatch(num_examples=data.batch_size, num_tokens=num_tokens, num_scored=max(1, num_tokens - shortest))


def _list_sources(data: InstructionData) -> list[str | InstructionSource]:
    kinds = ("useful", "harmful") if data.kind == "contaminated" else (data.kind,)
    held_out = [] if data.validation is None else [data.validation]
    return [*(data.sources[kind] for kind in kinds), *held_out]


def _find_path(source: str | InstructionSource) -> str:
    return str(resolve_source(source).path)


def _bound(data: InstructionData, reason: str, *, is_flat: bool) -> DataCounts:
    """Takes every example for as long as it may be, and the sizes that sources are given."""
    length = data.options.max_length_tokens
    num_examples, in_row = _count_examples(data), data.batch_size if is_flat else 1
    return DataCounts(
        num_examples=num_examples,
        num_tokens=(num_examples or 0) * length,
        largest=LargestBatch(
            num_examples=data.batch_size, num_tokens=in_row * length, num_scored=in_row * (length - 1), is_flat=is_flat
        ),
        bound=f"{length} tokens an example: {reason}",
    )


def _count_examples(data: InstructionData) -> int | None:
    if data.kind == "contaminated":
        size = resolve_source(data.sources["useful"]).size
        if size is None:
            return data.mix_size
        counts = count_mix(
            size, harmful_share=data.harmful_share, harmful_share_of=data.harmful_share_of, size=data.mix_size
        )
        number: int | None = sum(counts)
    else:
        number = resolve_source(data.sources[data.kind]).size
    if number is None or not data.num_validation:
        return number
    held_out = data.num_validation
    return number - (held_out if isinstance(held_out, int) else round(held_out * number))
