"""Measures the loss of a model on held-out examples, with an interval over examples."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from safety_lightning.errors import UserError
from safety_lightning.evaluation.measurement import Measurement
from safety_lightning.evaluation.statistics import average, bootstrap_interval
from safety_lightning.training.loss import compute_token_losses


@torch.no_grad()
def measure_loss(model: PreTrainedModel, batches: Iterable[dict[str, Tensor]], *, seed: int = 0) -> Measurement:
    """Measures the mean negative log-likelihood of response tokens, in nats.

    Args:
        model: The model; it is put back in the mode it was in.
        batches: Batches as `collate_examples` makes them.
        seed: Seed of the bootstrap over examples.

    Returns:
        The mean over all tokens with a 95 % bootstrap interval; totals count examples.

    Raises:
        UserError: If the batches hold no scored token.
    """
    was_training = model.training
    model.eval()
    sums, counts = [], []
    for batch in batches:
        moved = {name: tensor.to(model.device) for name, tensor in batch.items()}
        losses_BS, scored_BS = compute_token_losses(model, moved)
        sums.append(losses_BS.sum(dim=1).cpu())
        counts.append(scored_BS.sum(dim=1).cpu())
    model.train(was_training)
    if not sums or int(torch.cat(counts).sum()) == 0:
        raise UserError("the held-out data must hold response tokens, got none")
    return summarise_loss(torch.cat(sums), torch.cat(counts), seed=seed)


def summarise_loss(sums_B: Tensor, counts_B: Tensor, *, seed: int = 0) -> Measurement:
    """Makes one measurement of the losses of many examples.

    Args:
        sums_B: Summed negative log-likelihood of each example, in nats.
        counts_B: Scored tokens of each example.
        seed: Seed of the bootstrap.

    Returns:
        The mean over all tokens with a 95 % bootstrap interval over examples.
    """
    sums_B, counts_B = sums_B.double(), counts_B.double()
    low, high = bootstrap_interval(sums_B, counts_B, seed=seed)
    value = average(sums_B.tolist(), counts_B.tolist())
    num_scored = int((counts_B > 0).sum())
    return Measurement(metric="loss", value=value, low=low, high=high, num_total=len(sums_B), num_scored=num_scored)
