"""Scores several continuations of each prompt in one forward pass: the prompt is read once for all of them.

A row holds a prompt and its continuations one behind the other. A continuation sees the prompt and itself, at the
positions that it has right behind the prompt, so that each is scored as if it stood there alone.

Shapes in this file: B = prompts, T = tokens of a row, L = tokens whose logits are needed, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class PromptScores:
    """What a model makes of the continuations of one prompt.

    Attributes:
        log_likelihoods: Of each continuation given the prompt, in nats; 0 for an empty one.
        num_tokens: Of each continuation.
        first_logits: Logits of the first token behind the prompt, float32, shape ``(V,)``, on the CPU; None where they
            were not asked for.
    """

    log_likelihoods: tuple[float, ...]
    num_tokens: tuple[int, ...]
    first_logits: Tensor | None = None


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


@torch.no_grad()
def score_continuations(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[Sequence[int]]],
    *,
    pad_token_id: int,
    keep_first_logits: bool = False,
) -> list[PromptScores]:
    """Scores the continuations of a batch of prompts in one forward pass.

    Args:
        model: A causal language model in eval mode whose attention takes masks (``sdpa`` or ``eager``).
        prompts: Token ids of each prompt, at least one token.
        continuations: Token ids of each prompt's continuations, equally many for each prompt; one may be empty.
        pad_token_id: What fills the rows.
        keep_first_logits: Whether the logits of the first token behind the prompt are returned.
    """
    layout = _Layout(prompts, continuations)
    ids_BT, positions_BT, sees_BTT = layout.build(pad_token_id)
    mask = torch.zeros(sees_BTT.shape, dtype=model.dtype).masked_fill(~sees_BTT, torch.finfo(model.dtype).min)
    columns_L = torch.tensor(layout.columns)
    logits_BLV = model(
        input_ids=ids_BT.to(model.device),
        attention_mask=mask.unsqueeze(1).to(model.device),
        position_ids=positions_BT.to(model.device),
        use_cache=False,
        logits_to_keep=columns_L.to(model.device),
    ).logits
    place_of = {column: place for place, column in enumerate(layout.columns)}
    scores = []
    for row, own in enumerate(continuations):
        logits_LV = logits_BLV[row].float()
        log_sums_L = logits_LV.logsumexp(dim=-1)
        found = []
        for number, continuation in enumerate(own):
            start = layout.starts[number]
            before = [layout.width - 1, *range(start, start + len(continuation) - 1)][: len(continuation)]
            places = torch.tensor([place_of[column] for column in before], device=logits_LV.device, dtype=torch.long)
            targets = torch.tensor(continuation, device=logits_LV.device, dtype=torch.long)
            chosen = logits_LV[places, targets] - log_sums_L[places]
            found.append(float(chosen.double().sum()))
        scores.append(
            PromptScores(
                log_likelihoods=tuple(found),
                num_tokens=tuple(len(one) for one in own),
                first_logits=logits_LV[0].cpu() if keep_first_logits else None,
            )
        )
    return scores


class _Layout:
    """Where prompts and continuations lie: prompts end at one column, each continuation begins at one.

    Attributes:
        width: Columns of the prompts.
        starts: The first column of each continuation.
        columns: The columns whose logits are needed, rising; the first is the prompts' last.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[Sequence[int]]]) -> None:
        self.prompts, self.continuations = prompts, continuations
        self.width = max(len(prompt) for prompt in prompts)
        widths = [max(len(one) for one in same) for same in zip(*continuations, strict=True)]
        self.starts = [self.width + sum(widths[:number]) for number in range(len(widths))]
        self.num_columns = self.width + sum(widths)
        needed = [range(start, start + width - 1) for start, width in zip(self.starts, widths, strict=True)]
        self.columns = [self.width - 1, *(column for one in needed for column in one)]
        self.widths = widths

    def build(self, pad_token_id: int) -> tuple[Tensor, Tensor, Tensor]:
        """Returns token ids and positions, ``(B, T)``, and which columns each column sees, ``(B, T, T)``."""
        shape = (len(self.prompts), self.num_columns)
        ids_BT = torch.full(shape, pad_token_id)
        positions_BT = torch.zeros(shape, dtype=torch.long)
        is_token_BT = torch.zeros(shape, dtype=torch.bool)
        block_T = torch.zeros(self.num_columns, dtype=torch.long)
        for number, (start, width) in enumerate(zip(self.starts, self.widths, strict=True)):
            block_T[start : start + width] = number + 1
        for row, (prompt, own) in enumerate(zip(self.prompts, self.continuations, strict=True)):
            spans = [
                (self.width - len(prompt), prompt, 0),
                *zip(self.starts, own, [len(prompt)] * len(own), strict=True),
            ]
            for start, tokens, position in spans:
                place = slice(start, start + len(tokens))
                ids_BT[row, place] = torch.tensor(tokens, dtype=torch.long)
                positions_BT[row, place] = torch.arange(position, position + len(tokens))
                is_token_BT[row, place] = True
        is_before_TT = torch.ones(self.num_columns, self.num_columns, dtype=torch.bool).tril()
        is_same_TT = (block_T.unsqueeze(1) == block_T) | (block_T == 0)
        sees_BTT = (is_before_TT & is_same_TT) & is_token_BT.unsqueeze(1)
        return ids_BT, positions_BT, sees_BTT | torch.eye(self.num_columns, dtype=torch.bool)
