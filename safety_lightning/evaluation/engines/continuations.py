"""Scores all continuations of a prompt in one forward pass: the prompt is read once, and so is what they share.

A row holds a prompt and the tree of its continuations. A token of the tree sees the prompt and the tokens before it in
its own continuation, at the positions that it has behind the prompt, so that each is scored as if it stood there alone.
A token that no other follows is never read: it is only asked for.

Shapes in this file: B = rows, T = columns of a row, L = columns whose logits are kept, N = tokens, V = vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Continuation:
    """What may stand behind a prompt.

    Attributes:
        ids: Its tokens, one or more.
        num_shared: How many tokens of the prompt it stands behind: all of them, unless tokens merge across the border.
    """

    ids: tuple[int, ...]
    num_shared: int


@dataclass(frozen=True, kw_only=True)
class PackedRow:
    """A prompt and its continuations as one row.

    Attributes:
        ids: Token ids: the prompt, and the tree.
        parents: The column before each column, -1 for the first.
        positions: The position of each column.
        num_prompt_tokens: How many columns are the prompt's.
        befores: For each continuation, the columns whose logits its tokens are read from.
        targets: For each continuation, its tokens.
    """

    ids: list[int]
    parents: list[int]
    positions: list[int]
    num_prompt_tokens: int
    befores: list[list[int]]
    targets: list[tuple[int, ...]]

    @property
    def is_chain(self) -> bool:
        """Whether every column follows the one on its left, as in ordinary text."""
        return all(parent == column - 1 for column, parent in enumerate(self.parents))

    def split(self) -> list[PackedRow]:
        """Makes a row of each continuation, and of the prompt alone where there is none."""
        prompt = self.ids[: self.num_prompt_tokens]
        found = [
            Continuation(targets, befores[0] + 1) for befores, targets in zip(self.befores, self.targets, strict=True)
        ]
        return [pack_row(prompt[: one.num_shared], [one]) for one in found] or [pack_row(prompt, [])]


@dataclass(frozen=True, kw_only=True)
class RowScores:
    """What a model makes of a row.

    Attributes:
        log_probs: Of each continuation, the log-probabilities of its tokens, float64, on the CPU.
        first_logits: Logits of the first token behind the prompt, float32, shape ``(V,)``, on the CPU; None where they
            were not asked for.
    """

    log_probs: list[Tensor]
    first_logits: Tensor | None = None


def pack_row(prompt: Sequence[int], continuations: Sequence[Continuation]) -> PackedRow:
    """Packs a prompt of one token or more and its continuations into a row; equal beginnings are kept once."""
    ids, parents, positions = list(prompt), list(range(-1, len(prompt) - 1)), list(range(len(prompt)))
    columns: dict[tuple[int, int], int] = {}
    befores = []
    for one in continuations:
        before = [one.num_shared - 1]
        for token in one.ids[:-1]:
            parent = before[-1]
            if (parent, token) not in columns:
                columns[parent, token] = len(ids)
                ids.append(token)
                parents.append(parent)
                positions.append(positions[parent] + 1)
            before.append(columns[parent, token])
        befores.append(before)
    return PackedRow(
        ids=ids,
        parents=parents,
        positions=positions,
        num_prompt_tokens=len(prompt),
        befores=befores,
        targets=[one.ids for one in continuations],
    )


@torch.no_grad()
def score_plainly(model: PreTrainedModel, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[float]:
    """Returns the log-likelihood of each continuation of a prompt, a forward pass each: the plain form."""
    found = []
    for continuation in continuations:
        ids = torch.tensor([[*prompt, *continuation]], device=model.device)
        log_probs_TV = model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(dim=-1)
        places = torch.arange(len(prompt) - 1, len(prompt) - 1 + len(continuation), device=model.device)
        targets = ids[0, len(prompt) :]
        found.append(float(log_probs_TV[places, targets].double().sum()))
    return found


def score_rows(
    model: PreTrainedModel, rows: Sequence[PackedRow], *, pad_token_id: int, keeps_first: bool = False
) -> list[RowScores]:
    """Scores the continuations of a batch of rows: in one forward pass, or in one with a row for each continuation.

    The latter where a model cannot be told what each token sees: its attention takes no such masks
    (``flash_attention_2``, a sliding window that the row is longer than), or it has none.

    Args:
        model: A causal language model in eval mode.
        rows: The rows.
        pad_token_id: What fills the rows.
        keeps_first: Whether the logits of the first token behind the prompt are returned.
    """
    num_columns = max(len(row.ids) for row in rows)
    if all(row.is_chain for row in rows) or _takes_trees(model, num_columns):
        return _score_batch(model, rows, pad_token_id=pad_token_id, keeps_first=keeps_first)
    parts = [row.split() for row in rows]
    whole = [pack_row(row.ids[: row.num_prompt_tokens], []) for row in rows] if keeps_first else []
    flat = iter(_score_batch(model, [one for part in parts for one in part], pad_token_id=pad_token_id))
    found = [RowScores(log_probs=[scores for _ in part for scores in next(flat).log_probs]) for part in parts]
    if not keeps_first:
        return found
    firsts = _score_batch(model, whole, pad_token_id=pad_token_id, keeps_first=True)
    return [
        RowScores(log_probs=one.log_probs, first_logits=first.first_logits)
        for one, first in zip(found, firsts, strict=True)
    ]


@torch.no_grad()
def _score_batch(
    model: PreTrainedModel, rows: Sequence[PackedRow], *, pad_token_id: int, keeps_first: bool = False
) -> list[RowScores]:
    first = min(row.num_prompt_tokens - 1 for row in rows)
    first = min([first, *(befores[0] for row in rows for befores in row.befores)])
    logits_BLV = _run_model(model, rows, pad_token_id=pad_token_id, first=first)
    places = sorted({(at, column) for at, row in enumerate(rows) for one in row.befores for column in one})
    index = {place: number for number, place in enumerate(places)}
    device = logits_BLV.device
    at_N, column_N = torch.tensor(places, device=device, dtype=torch.long).reshape(-1, 2).unbind(1)
    logits_NV = logits_BLV[at_N, column_N - first].float()
    log_sums_N = logits_NV.logsumexp(dim=-1)
    wanted = [
        (index[at, column], target)
        for at, row in enumerate(rows)
        for befores, targets in zip(row.befores, row.targets, strict=True)
        for column, target in zip(befores, targets, strict=True)
    ]
    place_N, target_N = torch.tensor(wanted, device=device, dtype=torch.long).reshape(-1, 2).unbind(1)
    log_probs_N = (logits_NV[place_N, target_N] - log_sums_N[place_N]).double().cpu()
    lengths = [len(targets) for row in rows for targets in row.targets]
    split = iter(log_probs_N.split(lengths)) if lengths else iter(())
    return [
        RowScores(
            log_probs=[next(split) for _ in row.targets],
            first_logits=logits_BLV[at, row.num_prompt_tokens - 1 - first].float().cpu() if keeps_first else None,
        )
        for at, row in enumerate(rows)
    ]


def _run_model(model: PreTrainedModel, rows: Sequence[PackedRow], *, pad_token_id: int, first: int) -> Tensor:
    """Returns the logits from column `first` on, ``(B, L, V)``."""
    num_columns = max(len(row.ids) for row in rows)
    known = inspect.signature(model.forward).parameters
    given = {"input_ids": torch.tensor([_pad(row.ids, num_columns, pad_token_id) for row in rows])}
    if not all(row.is_chain for row in rows):  # ordinary text needs no mask: what fills the rows comes behind it
        given["position_ids"] = torch.tensor([_pad(row.positions, num_columns, 0) for row in rows])
        sees_BTT = find_seen(rows, num_columns)
        mask_BTT = torch.zeros(sees_BTT.shape, dtype=model.dtype).masked_fill(~sees_BTT, torch.finfo(model.dtype).min)
        given["attention_mask"] = mask_BTT.unsqueeze(1)
    moved = {name: tensor.to(model.device) for name, tensor in given.items()}
    if "logits_to_keep" in known:
        kept: Tensor = model(**moved, use_cache=False, logits_to_keep=num_columns - first).logits
        return kept
    every: Tensor = model(**moved, use_cache=False).logits
    return every[:, first:]


def find_seen(rows: Sequence[PackedRow], num_columns: int) -> Tensor:
    """Returns which columns each column sees, bool, ``(B, T, T)``: itself, and what its parent sees."""
    shortest = min(row.num_prompt_tokens for row in rows)
    parents_BT = torch.tensor([_pad(row.parents, num_columns, 0) for row in rows])
    sees_BTT = torch.eye(num_columns, dtype=torch.bool).repeat(len(rows), 1, 1)
    sees_BTT[:, :shortest, :shortest] = torch.ones(shortest, shortest, dtype=torch.bool).tril()
    every_B = torch.arange(len(rows))
    for column in range(shortest, num_columns):
        sees_BTT[:, column] |= sees_BTT[every_B, parents_BT[:, column]]
    return sees_BTT


def _takes_trees(model: PreTrainedModel, num_columns: int) -> bool:
    """Whether a model sees what a mask of its own says, at positions of its own."""
    config = model.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None)
    return (
        config._attn_implementation in ("sdpa", "eager")
        and {"position_ids", "attention_mask"} <= inspect.signature(model.forward).parameters.keys()
        and not getattr(model, "_is_stateful", False)
        and layers <= {"full_attention", "sliding_attention"}
        and (window is None or window >= num_columns)
    )


def _pad(numbers: Sequence[int], length: int, value: int) -> list[int]:
    return [*numbers, *[value] * (length - len(numbers))]
