"""Pads sequences to a batch or lays them end to end, and puts examples of similar length together.

Shapes in this file: B = batch, T = tokens of the longest sequence, or of all of them where they lie end to end.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Sampler
from transformers import DataCollatorWithFlattening

from safety_lightning.data.chat import IGNORED_LABEL, EncodedExample
from safety_lightning.errors import UserError
from safety_lightning.system.randomness import seed_generator, shuffle_range

Padding = Literal["left", "right"]

_MEGA_BATCHES = 50  # global batches that are sorted together: enough for similar lengths, few enough to stay random


def pad_sequences(sequences: Sequence[Sequence[int]], *, pad_token_id: int, padding: Padding) -> tuple[Tensor, Tensor]:
    """Pads token ids; the mask comes from lengths, so that the padding token may be one that also occurs in text.

    Args:
        sequences: B sequences of at least one id.
        pad_token_id: What fills the rest.
        padding: On which side.

    Returns:
        Ids and attention mask, int64, shape ``(B, T)``.
    """
    return (
        pad_rows(sequences, fill=pad_token_id, padding=padding),
        pad_rows([[1] * len(sequence) for sequence in sequences], fill=0, padding=padding),
    )


def pad_rows(rows: Sequence[Sequence[int]], *, fill: int, padding: Padding) -> Tensor:
    """Pads rows of numbers, int64, shape ``(B, T)``.

    Example:
        >>> pad_rows([[1, 2], [3]], fill=0, padding="left")
        tensor([[1, 2],
                [0, 3]])
    """
    return pad_sequence(
        [torch.tensor(row, dtype=torch.int64) for row in rows],
        batch_first=True,
        padding_value=fill,
        padding_side=padding,
    )


def collate_examples(examples: Sequence[EncodedExample], *, pad_token_id: int) -> dict[str, Tensor]:
    """Pads examples on the right to the longest of them.

    The masks come from lengths: ``pad_token_id`` may be the end token, which stays attended to and trained.

    Args:
        examples: The examples of one batch, B of them, the longest of T tokens.
        pad_token_id: What fills ``input_ids``.

    Returns:
        ``input_ids``, ``attention_mask`` and ``labels``, int64, shape ``(B, T)``; labels are -100 on prompts and
        padding.

    Raises:
        UserError: If there are no examples.
    """
    if not examples:
        raise UserError("examples must hold at least one example, got none")
    input_ids, attention_mask = pad_sequences(
        [example.input_ids for example in examples], pad_token_id=pad_token_id, padding="right"
    )
    labels = pad_rows([example.labels for example in examples], fill=IGNORED_LABEL, padding="right")
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def flatten_examples(examples: Sequence[EncodedExample]) -> dict[str, Any]:
    """Lays examples end to end in one row without padding; positions begin anew with each, and keep them apart.

    Args:
        examples: The examples of one batch, T tokens together.

    Returns:
        ``input_ids``, ``labels`` (-100 on prompts) and ``position_ids``, int64, shape ``(1, T)``; and where examples
        end, as flash attention wants it: ``cu_seq_lens_q``, ``cu_seq_lens_k``, ``max_length_q``, ``max_length_k``.

    Raises:
        UserError: If there are no examples.
    """
    if not examples:
        raise UserError("examples must hold at least one example, got none")
    collate = DataCollatorWithFlattening(return_flash_attn_kwargs=True)
    batch = collate([{"input_ids": list(one.input_ids), "labels": list(one.labels)} for one in examples])
    return dict(batch)


def find_positions(labels_BT: Tensor) -> Tensor:
    """Returns the positions at which the next token of some example is scored, int64, ``(S,)``.

    On a GPU their number must be waited for; found before the batch goes there, they cost no waiting.
    """
    return (labels_BT[:, 1:] != IGNORED_LABEL).any(dim=0).nonzero().squeeze(1)


class LengthGroupedBatchSampler(Sampler[list[int]]):
    """Draws batches of examples of similar length, in an order that depends on nothing but seed and epoch.

    A *global batch* is what all ranks see in one step: ``batch_size`` examples each. Examples are shuffled, cut into
    mega-batches of 50 global batches, and sorted by length within each; the global batches are then shuffled. Every
    rank takes its share of every global batch, so that all have as many batches as each other. The examples that fill
    no global batch come last and are divided over the ranks; only where they are fewer than the ranks are they left
    out (other ones in every epoch).

    Args:
        lengths: How many tokens each example has.
        batch_size: Examples in a batch of one rank, at least 1.
        seed: Seed of the order.
        grouped: Whether examples of similar length share a batch; if not, batches are drawn at random.
        rank: This process, in [0, ``world_size``).
        world_size: How many processes share the examples.

    Raises:
        UserError: If there are no examples, or fewer than processes, or a number is out of its range.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        *,
        seed: int,
        grouped: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {batch_size}")
        if not 0 <= rank < world_size:
            raise UserError(f"rank must be in [0, {world_size}), got {rank}")
        if len(lengths) < world_size:
            raise UserError(f"there must be an example for each of {world_size} processes, got {len(lengths)}")
        self.lengths = list(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.grouped = grouped
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.first_batch = 0  # of the next iteration: where a resumed one begins

    @property
    def sampler(self) -> "LengthGroupedBatchSampler":
        """Itself: Lightning calls ``set_epoch`` on the sampler of a batch sampler."""
        return self

    @property
    def num_left_out(self) -> int:
        """How many examples no rank sees in an epoch."""
        num_rest = len(self.lengths) % (self.batch_size * self.world_size)
        return num_rest if num_rest < self.world_size else 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        num_seen = len(self.lengths) - self.num_left_out
        return -(-num_seen // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._draw_batches()[self.first_batch :]
        self.first_batch = 0
        yield from batches

    def _draw_batches(self) -> list[list[int]]:
        """Draws this rank's batches of the whole epoch."""
        generator = seed_generator(f"batches/{self.seed}/{self.epoch}")
        order = shuffle_range(len(self.lengths), generator)
        global_size = self.batch_size * self.world_size
        num_full = len(order) // global_size
        full, rest = order[: num_full * global_size], order[num_full * global_size :]
        if self.grouped:
            mega_size = global_size * _MEGA_BATCHES
            megas = [full[start : start + mega_size] for start in range(0, len(full), mega_size)]
            full = [index for mega in megas for index in self._sort(mega)]
        starts = [number * global_size for number in shuffle_range(num_full, generator)]
        global_batches = [full[start : start + global_size] for start in starts]
        if len(rest) >= self.world_size:
            global_batches.append(self._sort(rest) if self.grouped else rest)
        return [batch[self.rank :: self.world_size] for batch in global_batches]

    def _sort(self, indices: list[int]) -> list[int]:
        return sorted(indices, key=self.lengths.__getitem__)
