"""Measures the loss of a model on held-out examples, with an interval over examples."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from safety_lightning.evaluation.measurement import Measurement
from safety_lightning.evaluation.statistics import bootstrap_ratio_interval
from safety_lightning.training.loss import compute_token_losses


@torch.inference_mode()
def measure_loss(model: PreTrainedModel, batches: Iterable[dict[str, Tensor]], *, seed: int = 0) -> Measurement:
    """Measures the mean negative log-likelihood of response tokens, in nats.

    Args:
        model: The model; it is put back in the mode it was in.
        batches: Batches as `collate_examples` makes them.
        seed: Seed of the bootstrap over examples.

    Returns:
        The mean over all tokens with a 95 % bootstrap interval; totals count examples.

    Raises:
        ValueError: If the batches hold no scored token.
    """
    was_training = model.training
    model.eval()
    sums, counts = [], []
    for batch in batches:
        moved = {name: tensor.to(model.device) for name, tensor in batch.items()}
        losses_BS, scored_BS = compute_token_losses(model, moved)
        sums.append(losses_BS.double().sum(dim=1).cpu())
        counts.append(scored_BS.sum(dim=1).cpu())
    model.train(was_training)
    if not sums or int(torch.cat(counts).sum()) == 0:
        raise ValueError("the held-out data must hold response tokens, got none")
    loss_B, num_tokens_B = torch.cat(sums), torch.cat(counts).double()
    low, high = bootstrap_ratio_interval(loss_B, num_tokens_B, seed=seed)
    num_scored = int((num_tokens_B > 0).sum())
    value = float(loss_B.sum() / num_tokens_B.sum())
    return Measurement(metric="loss", value=value, low=low, high=high, num_total=len(loss_B), num_scored=num_scored)
