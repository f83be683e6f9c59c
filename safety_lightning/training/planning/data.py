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


def count_data(data: InstructionData) -> DataCounts:
    """Counts data, writing nothing: data on the hub, or without a tokenizer, is taken for as long as it may be."""
    absent = [path for path in map(_find_path, _list_sources(data)) if not (is_generated(path) or is_local_file(path))]
    if absent:
        return _bound(data, f"{absent[0]} is on the hub and not read")
    try:
        data.prepare(keep=False)
    except UserError as error:
        return _bound(data, f"the data cannot be read: {error}")
    dataset = data.training_set
    return DataCounts(num_examples=len(dataset), num_tokens=len(dataset.input_ids), largest=find_largest_batch(data))


def find_largest_batch(data: InstructionData) -> LargestBatch:
    """Finds the largest micro-batch of data that has been prepared: that of the longest examples."""
    dataset = data.training_set
    lengths = torch.tensor(dataset.lengths)
    longest = lengths.argsort(descending=True)[: data.batch_size]
    num_tokens, shortest = int(lengths.max()), max(1, int(dataset.prompt_lengths[longest].min()))
    return LargestBatch(num_examples=data.batch_size, num_tokens=num_tokens, num_scored=max(1, num_tokens - shortest))


def _list_sources(data: InstructionData) -> list[str | InstructionSource]:
    kinds = ("useful", "harmful") if data.kind == "contaminated" else (data.kind,)
    held_out = [] if data.validation is None else [data.validation]
    return [*(data.sources[kind] for kind in kinds), *held_out]


def _find_path(source: str | InstructionSource) -> str:
    return str(resolve_source(source).path)


def _bound(data: InstructionData, reason: str) -> DataCounts:
    """Takes every example for as long as it may be, and the sizes that sources are given."""
    length = data.options.max_length_tokens
    num_examples = _count_examples(data)
    return DataCounts(
        num_examples=num_examples,
        num_tokens=(num_examples or 0) * length,
        largest=LargestBatch(num_examples=data.batch_size, num_tokens=length, num_scored=length - 1),
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
