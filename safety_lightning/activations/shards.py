"""Divides prompts into shards and batches, the same way whatever the number of processes.

A shard is the unit of work: it is captured whole by one process, or not at all, and its content depends on nothing
but the prompts and the settings. So a run may resume after a kill, also on another number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import BatchSampler

from safety_lightning.activations.prompts import EncodedPrompt

_BYTES = 4  # of a float32


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A shard to be captured.

    Attributes:
        set: The prompt set whose folder it belongs to.
        number: Its number in that folder.
        batches: Indices of prompts, one list per batch; the rows of the shard are the batches one after the other.
    """

    set: str
    number: int
    batches: list[list[int]]

    @property
    def members(self) -> list[int]:
        """Indices of the prompts, in the order of the shard's rows."""
        return [index for batch in self.batches for index in batch]


def plan_shards(
    prompts: Sequence[EncodedPrompt], *, batch_size: int, shard_prompts: int, sort_by_length: bool = True
) -> list[Shard]:
    """Divides prompts into shards.

    Args:
        prompts: The prompts of all sets.
        batch_size: Prompts in a batch, at least 1; a batch lies in one shard.
        shard_prompts: Most prompts in a shard; rounded down to whole batches, but to at least one.
        sort_by_length: Whether each set's prompts are sorted by length, so that batches need little padding.

    Returns:
        The shards, set after set.
    """
    by_set: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        by_set.setdefault(prompt.set, []).append(index)
    shard_batches = max(1, shard_prompts // batch_size)
    shards = []
    for name, indices in by_set.items():
        ordered = sorted(indices, key=lambda index: prompts[index].length) if sort_by_length else indices
        batches = _cut(ordered, batch_size)
        shards += [
            Shard(set=name, number=number, batches=part) for number, part in enumerate(_cut(batches, shard_batches))
        ]
    return shards


def count_shard_prompts(num_layers: int, hidden_size: int, *, shard_megabytes: float) -> int:
    """Returns how many prompts fill a shard of a given size.

    Example:
        >>> count_shard_prompts(28, 1536, shard_megabytes=16)
        89
    """
    return max(1, int(shard_megabytes * 1e6 / ((num_layers + 1) * hidden_size * _BYTES)))


class PlannedBatches(BatchSampler):
    """Yields planned batches in their order.

    Args:
        sampler: Not used; Lightning passes it to every batch sampler that it rebuilds for prediction.
        batches: Indices of prompts, one list per batch.
        drop_last: Not used, as `sampler`.
    """

    def __init__(self, sampler: Any, batches: Sequence[list[int]], drop_last: bool = False) -> None:
        super().__init__(sampler, batch_size=max(map(len, batches), default=1), drop_last=drop_last)
        self.batches = list(batches)

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.batches

    def __len__(self) -> int:
        return len(self.batches)


def _cut(items: list[Any], size: int) -> list[list[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
