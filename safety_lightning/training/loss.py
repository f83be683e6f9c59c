"""The loss over response tokens.

Shapes in this file: B = batch, T = tokens, S = scored positions, V = vocabulary.
"""

from __future__ import annotations

import inspect

from torch import Tensor, nn
from transformers import PreTrainedModel

from safety_lightning.data import IGNORED_LABEL, find_positions


def sum_token_losses(model: PreTrainedModel, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Sums the negative log-likelihood over the response tokens of a batch.

    Args:
        model: A causal language model.
        batch: ``input_ids``, ``attention_mask`` and ``labels`` (−100 where nothing is scored), int64, ``(B, T)``.

    Returns:
        The sum in nats, a float32 scalar, and the number of scored tokens, an int64 scalar.
    """
    losses_BS, scored_BS = compute_token_losses(model, batch)
    return losses_BS.sum(), scored_BS.sum()


def compute_token_losses(model: PreTrainedModel, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Computes the negative log-likelihood of each response token.

    Logits are made only for positions at which some example of the batch is scored: prompts cost no output layer.

    Args:
        model: A causal language model.
        batch: As for `sum_token_losses`; ``positions``, where given, are what `find_positions` returns.

    Returns:
        Losses in nats, float32, ``(B, S)``, zero where nothing is scored, and the mask of scored entries, ``(B, S)``.
    """
    targets_BT = batch["labels"][:, 1:]
    positions_S = batch["positions"] if "positions" in batch else find_positions(batch["labels"])
    targets_BS = targets_BT[:, positions_S]
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "use_cache": False}
    if _keeps_logits(model):
        logits_BSV = model(**inputs, logits_to_keep=positions_S).logits
    else:
        logits_BSV = model(**inputs).logits[:, positions_S]
    losses = nn.functional.cross_entropy(
        logits_BSV.float().flatten(0, 1), targets_BS.flatten(), ignore_index=IGNORED_LABEL, reduction="none"
    )
    return losses.view_as(targets_BS), targets_BS != IGNORED_LABEL


def _keeps_logits(model: PreTrainedModel) -> bool:
    return "logits_to_keep" in inspect.signature(model.forward).parameters
