"""Saves a live model as a Hugging Face folder in the dtype that was asked for."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.core_model_loading import revert_weight_conversion

from safety_lightning.checkpoints import (
    ADAPTER_FILE,
    CODES,
    ShardWriter,
    TensorLayout,
)
from safety_lightning.errors import UserError
from safety_lightning.files import atomic_path
from safety_lightning.projection import Locate, gather_numbers, locate
from safety_lightning.training.lora import is_factor, list_adapter, merge_into


@torch.no_grad()
def round_weights(model: nn.Module, dtype: torch.dtype, *, find: Locate = locate) -> None:
    """Rounds the live weights that are trained to a dtype, in place, leaving them in their own dtype.

    Args:
        model: The live model.
        dtype: What they are rounded to.
        find: Finds what this process holds of a parameter.
    """
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.requires_grad:
            numbers = find(parameter).numbers
            numbers.copy_(numbers.to(dtype))


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
        for name, tensor in _list_weights(model).items()
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
    find: Locate,
    writes: bool,
) -> None:
    """Does what `save_model` does for a model that processes share out: tensor by tensor, and never whole in memory.

    Adapters are merged into their weights. Tensors get the names and shapes of the files that the model was loaded
    from: transformers stacks the experts of a Mixtral, for one. Every process must call it.

    Args:
        model: The model; it is not changed.
        tokenizer: Its tokenizer, if it is to be saved.
        folder: The folder to make; one that exists is replaced.
        dtype: The dtype of the stored floating weights.
        find: Finds what this process holds of a parameter.
        writes: Whether this process writes what is gathered.
    """
    weights = _list_weights(model)
    if not writes:
        for _ in _gather_all(model, weights, find):
            pass
        return
    with atomic_path(folder) as partial:
        writer = ShardWriter(partial, _lay_out(model, weights, dtype))
        writer.create()
        for live, whole in _gather_all(model, weights, find):
            for name, stored in _restore(model, live, whole.detach()).items():
                writer.write(name, stored.to(dtype) if stored.is_floating_point() else stored)
        _save_configs(model, partial, dtype=dtype)
        if tokenizer is not None:
            tokenizer.save_pretrained(partial)


@torch.no_grad()
def save_adapter(model: PreTrainedModel, folder: Path, *, dtype: torch.dtype, find: Locate, writes: bool) -> None:
    """Writes a model's adapter as PEFT does; the folder appears whole or not at all. Every process must call it.

    Args:
        model: The model; it is not changed.
        folder: The folder to make; one that exists is replaced.
        dtype: The dtype of the stored factors.
        find: Finds what this process holds of a parameter.
        writes: Whether this process writes what is gathered.
    """
    factors = {
        name: gather_numbers(one, find).to("cpu", dtype).contiguous() for name, one in list_adapter(model).items()
    }
    if writes:
        with atomic_path(folder) as partial:
            partial.mkdir(exist_ok=True)
            save_file(factors, partial / ADAPTER_FILE, metadata={"format": "pt"})
            next(iter(model.peft_config.values())).save_pretrained(str(partial))


@torch.no_grad()
def _gather_all(model: PreTrainedModel, weights: dict[str, Tensor], find: Locate) -> Iterator[tuple[str, Tensor]]:
    """Yields whole tensors by name, with adapters merged into them."""
    for name, tensor in weights.items():
        whole = gather_numbers(tensor, find) if isinstance(tensor, nn.Parameter) else tensor
        owner, _, end = name.rpartition(".base_layer.")
        if owner and end == "weight":
            whole = merge_into(whole, model.get_submodule(owner), find)
        yield _name_base(name), whole


def _name_base(name: str) -> str:
    return name.replace(".base_layer.", ".")


def _list_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """Returns live parameters and stored buffers by name, tied ones once."""
    stored = set(model.state_dict())
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in stored}
    weights: dict[str, Tensor] = dict(model.named_parameters()) | buffers
    return {name: tensor for name, tensor in weights.items() if not is_factor(name)}


def check_names(model: PreTrainedModel) -> None:
    """Checks that a model can be saved tensor by tensor under the names that it was loaded from.

    Raises:
        UserError: If a stored tensor is made of several live ones.
    """
    live = {_name_base(name): _imagine(tensor) for name, tensor in _list_weights(model).items()}
    found = {name: one.shape for each in live for name, one in _restore(model, each, live[each]).items()}
    wanted = {name: one.shape for name, one in revert_weight_conversion(model, live).items()}
    if found != wanted:
        joined = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
        raise UserError(
            "a model that is shared out or merged must have its stored tensors made of one live tensor each, "
            f"{joined[0]} is made of several: transformers stores it in another form than it trains it in"
        )


def _restore(model: PreTrainedModel, name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Returns the tensors that a live one is stored as, by name."""
    stored: dict[str, Tensor] = revert_weight_conversion(model, {name: tensor})
    return stored


def _imagine(tensor: Tensor) -> Tensor:
    """Returns a tensor without numbers, in the whole tensor's shape."""
    return torch.empty(getattr(tensor, "ds_shape", tensor.shape), dtype=tensor.dtype, device="meta")


def _lay_out(model: PreTrainedModel, weights: dict[str, Tensor], dtype: torch.dtype) -> list[TensorLayout]:
    layouts = []
    for live, tensor in weights.items():
        for name, one in _restore(model, _name_base(live), _imagine(tensor)).items():
            stored = dtype if one.is_floating_point() else one.dtype
            code = CODES.get(stored) or {torch.int64: "I64", torch.int32: "I32", torch.bool: "BOOL"}[stored]
            layouts.append(TensorLayout(name=name, shape=tuple(one.shape), code=code))
    return layouts


def _save_configs(model: PreTrainedModel, folder: Path, *, dtype: torch.dtype) -> None:
    config = copy.deepcopy(model.config)
    config.use_cache, config.dtype = True, dtype
    config.architectures = [type(model).__name__.removeprefix("FSDP")]  # which prefixes the class of what it shards
    if hasattr(config, "distributed_config"):
        del config.distributed_config
    config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
