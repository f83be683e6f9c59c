"""Holds encoded examples in a few flat tensors."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from safety_lightning.data.chat import EncodedExample

_SPLIT, _TRUNCATED = 1, 2  # bits of `flags`


@dataclass(frozen=True, kw_only=True)
class EncodedDataset(Dataset[EncodedExample]):
    """Encoded examples one after the other: small in memory, quick to save, shared with worker processes.

    Attributes:
        input_ids: All ids, one example's after the other's, int32.
        ends: Where each example's ids end, int64.
        prompt_lengths: Ids of each prompt, int32.
        tail_lengths: Ids at each end that are not trained, int32.
        flags: Whether it was split (1) or truncated (2), uint8.
        positions: Where each example stood among those that were encoded, int64 (some were dropped).
    """

    input_ids: Tensor
    ends: Tensor
    prompt_lengths: Tensor
    tail_lengths: Tensor
    flags: Tensor
    positions: Tensor

    @classmethod
    def pack(cls, examples: Iterable[tuple[int, EncodedExample]]) -> EncodedDataset:
        """Packs examples, each with its position among those that were encoded, as they come."""
        ids, rows = array("i"), []
        for position, example in examples:
            ids.extend(example.input_ids)
            flags = _SPLIT * example.is_split + _TRUNCATED * example.is_truncated
            rows.append((len(ids), example.num_prompt_tokens, example.num_masked_tail, flags, position))
        columns = torch.tensor(rows, dtype=torch.int64).reshape(len(rows), 5).unbind(1)
        return cls(
            input_ids=torch.from_numpy(np.array(ids, dtype=np.int32)),
            ends=columns[0].clone(),
            prompt_lengths=columns[1].int(),
            tail_lengths=columns[2].int(),
            flags=columns[3].to(torch.uint8),
            positions=columns[4].clone(),
        )

    @property
    def lengths(self) -> list[int]:
        """How many ids each example has."""
        return self.ends.diff(prepend=self.ends.new_zeros(1)).tolist()

    @property
    def num_trained_tokens(self) -> int:
        """How many ids carry a label, in all examples together."""
        return len(self.input_ids) - int(self.prompt_lengths.sum()) - int(self.tail_lengths.sum())

    @property
    def num_truncated(self) -> int:
        """How many examples lost their end."""
        return int((self.flags & _TRUNCATED).bool().sum())

    @property
    def num_split(self) -> int:
        """How many examples had prompt and response tokenized apart."""
        return int((self.flags & _SPLIT).bool().sum())

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> EncodedExample:
        start = int(self.ends[index - 1]) if index > 0 else 0
        flags = int(self.flags[index])
        return EncodedExample(
            input_ids=self.input_ids[start : int(self.ends[index])].tolist(),
            num_prompt_tokens=int(self.prompt_lengths[index]),
            num_masked_tail=int(self.tail_lengths[index]),
            is_split=bool(flags & _SPLIT),
            is_truncated=bool(flags & _TRUNCATED),
        )
