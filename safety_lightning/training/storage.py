"""Saves a live model as a Hugging Face folder in the dtype that was asked for."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safety_lightning.checkpoints import CheckpointReader, StorageDtype, resolve_dtype
from safety_lightning.files import atomic_path


@torch.no_grad()
def round_weights(model: nn.Module, storage_dtype: StorageDtype, reference: CheckpointReader) -> None:
    """Rounds live weights to a storage dtype, in place, leaving them in their own dtype.

    Args:
        model: The live model.
        storage_dtype: The dtype; ``source`` is the dtype of the reference's files.
        reference: The checkpoint whose dtype ``source`` means.
    """
    dtype = resolve_dtype(storage_dtype, reference)
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.copy_(parameter.to(dtype))


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    folder: Path,
    *,
    dtype: torch.dtype,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Writes safetensors, config, tokenizer and chat template; the folder appears whole or not at all.

    Args:
        model: The model; it is not changed.
        tokenizer: Its tokenizer, if it is to be saved.
        folder: The folder to make; one that exists is replaced.
        dtype: The dtype of the stored floating weights.
        weights: The weights by name where the live ones are sharded; None takes the model's.
    """
    state = {
        name: tensor.detach().to("cpu", dtype) if tensor.is_floating_point() else tensor.detach().cpu()
        for name, tensor in (weights or model.state_dict()).items()
    }
    use_cache, live_dtype = model.config.use_cache, model.config.dtype
    with atomic_path(folder) as partial:
        try:
            model.config.use_cache, model.config.dtype = True, dtype
            model.save_pretrained(partial, state_dict=state)
        finally:
            model.config.use_cache, model.config.dtype = use_cache, live_dtype
        if tokenizer is not None:
            tokenizer.save_pretrained(partial)
