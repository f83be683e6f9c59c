"""Loads batches in an order that survives a resume."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from safety_lightning.data.batching import LengthGroupedBatchSampler
from safety_lightning.data.chat import EncodedExample
from safety_lightning.data.dataset import EncodedDataset
from safety_lightning.errors import UserError


class ResumableDataLoader(DataLoader[EncodedExample]):
    """A data loader that knows its place: the epoch, and how many of its batches were yielded.

    Lightning saves :meth:`state_dict` in every checkpoint, passes it to :meth:`load_state_dict` before it iterates,
    and sets the sampler's epoch when an epoch begins. All iteration starts at the first batch asked for, because
    Lightning makes the iterator before it sets the epoch. Without Lightning, every iteration is a new epoch.

    Args:
        dataset: The encoded examples.
        batch_sampler: Draws the batches; ``len`` is always that of the whole epoch, also after a resume.
        collate_fn: Makes a batch of examples.
        num_workers: Worker processes. Data is in memory and encoded, so that they rarely help.
        pin_memory: Whether batches are put in pinned memory, for a GPU.
        content: What the order depends on beside the sampler's settings, such as the hash of the data. A state
            that was saved with other settings or another content is refused.
    """

    def __init__(
        self,
        dataset: EncodedDataset,
        *,
        batch_sampler: LengthGroupedBatchSampler,
        collate_fn: Callable[[list[EncodedExample]], Any],
        num_workers: int = 0,
        pin_memory: bool = False,
        content: str = "",
    ) -> None:
        super().__init__(
            dataset,
            batch_sampler=batch_sampler,
            collate_fn=collate_fn,
            num_workers=num_workers,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # of its own: making an iterator must not disturb the model's random numbers
        )
        self._order = batch_sampler
        self._content = content
        self._epoch = batch_sampler.epoch
        self._num_yielded = 0
        self._is_resuming = False

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yields the batches of one epoch, or the rest of it after a resume."""
        self._begin()
        self._order.first_batch = self._num_yielded
        for batch in super().__iter__():
            self._num_yielded += 1  # before the batch is used: a checkpoint saved meanwhile counts it
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Returns the place, and what it holds for."""
        is_new = self._epoch != self._order.epoch
        return {"epoch": self._order.epoch, "num_yielded": 0 if is_new else self._num_yielded, **self._describe()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Returns to a saved place.

        Raises:
            UserError: If the state was saved with other data, another seed, batch size or number of processes.
        """
        for name, value in self._describe().items():
            if state_dict.get(name) != value:
                raise UserError(
                    f"a run must be resumed with the data it began with: {name} must be {state_dict.get(name)!r}, "
                    f"got {value!r}"
                )
        self._order.set_epoch(state_dict["epoch"])
        self._epoch = state_dict["epoch"]
        self._num_yielded = state_dict["num_yielded"]
        self._is_resuming = True

    def _begin(self) -> None:
        """Decides which epoch this iteration belongs to, and at which batch it starts."""
        if self._epoch == self._order.epoch and self._num_yielded > 0:  # nobody has set a new epoch since
            if self._is_resuming and self._num_yielded < len(self):
                self._is_resuming = False
                return
            self._order.set_epoch(self._epoch + 1)
        self._epoch = self._order.epoch
        self._num_yielded = 0
        self._is_resuming = False

    def _describe(self) -> dict[str, Any]:
        order = self._order
        return {
            "num_examples": len(order.lengths),
            "batch_size": order.batch_size,
            "world_size": order.world_size,
            "seed": order.seed,
            "grouped": order.grouped,
            "content": self._content,
        }
