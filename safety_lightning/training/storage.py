"""Saves a live model as a Hugging Face folder in the dtype that was asked for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safety_lightning.checkpoints import (
    CODES,
    CheckpointReader,
    ShardWriter,
    StorageDtype,
    TensorLayout,
    resolve_dtype,
)
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
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, folder: Path, *, dtype: torch.dtype
) -> None:
    """Writes safetensors, config, tokenizer and chat template; the folder appears whole or not at all.

    Args:
        model: The model, whole in this process; it is not changed.
        tokenizer: Its tokenizer, if it is to be saved.
        folder: The folder to make; one that exists is replaced.
        dtype: The dtype of the stored floating weights.
    """
    state = {
        name: tensor.detach().to("cpu", dtype) if tensor.is_floating_point() else tensor.detach().cpu()
        for name, tensor in model.state_dict().items()
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


def save_shared_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    folder: Path,
    *,
    dtype: torch.dtype,
    gather: Callable[[Tensor], Tensor],
    writes: bool,
) -> None:
    """Does what `save_model` does for a model that processes share out: tensor by tensor, and never whole in memory.

    Every process must call it.

    Args:
        model: The model; it is not changed.
        tokenizer: Its tokenizer, if it is to be saved.
        folder: The folder to make; one that exists is replaced.
        dtype: The dtype of the stored floating weights.
        gather: Returns a whole tensor, in every process.
        writes: Whether this process writes what is gathered.
    """
    weights = _list_weights(model)
    if not writes:
        for tensor in weights.values():
            gather(tensor)
        return
    with atomic_path(folder) as partial:
        layouts = [_lay_out(name, tensor, dtype) for name, tensor in weights.items()]
        writer = ShardWriter(partial, layouts)
        writer.create()
        for name, tensor in weights.items():
            whole = gather(tensor)
            writer.write(name, whole.to(dtype) if whole.is_floating_point() else whole)
        _save_configs(model, partial, dtype=dtype)
        if tokenizer is not None:
            tokenizer.save_pretrained(partial)


def _list_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """Returns live parameters and stored buffers by name, tied ones once."""
    stored = set(model.state_dict())
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in stored}
    return {name: tensor.detach() for name, tensor in (dict(model.named_parameters()) | buffers).items()}


def _lay_out(name: str, tensor: Tensor, dtype: torch.dtype) -> TensorLayout:
    stored = dtype if tensor.is_floating_point() else tensor.dtype
    code = CODES.get(stored) or {torch.int64: "I64", torch.int32: "I32", torch.bool: "BOOL"}[stored]
    return TensorLayout(name=name, shape=tuple(getattr(tensor, "ds_shape", tensor.shape)), code=code)


def _save_configs(model: PreTrainedModel, folder: Path, *, dtype: torch.dtype) -> None:
    config = copy.deepcopy(model.config)
    config.use_cache, config.dtype = True, dtype
    config.architectures = [type(model).__name__.removeprefix("FSDP")]  # which prefixes the class of what it shards
    if hasattr(config, "distributed_config"):
        del config.distributed_config
    config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
