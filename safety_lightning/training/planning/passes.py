"""A forward and backward pass over tensors that have shapes and no numbers: what it holds, and how much work it is.

torch's own counting is used: its fake tensors know shapes and dtypes, and its trackers see every operation, so that an
architecture of transformers is counted as it will run, in seconds. Grouped products of experts under autocast are not
(torch 2.13).
"""

from __future__ import annotations

import copy
import warnings
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from safety_lightning.training.lora import add_lora
from safety_lightning.training.planning.settings import FitSettings, LargestBatch


@dataclass(frozen=True, kw_only=True)
class PassCost:
    """What a model holds, and what a micro-batch takes.

    Attributes:
        shapes: Shapes of the weights by name, tied ones once, without adapters.
        trained: Shapes of what is trained, adapters alone where there are any.
        block_numbers: Weights of the largest decoder layer.
        rest_numbers: Weights outside of the decoder layers.
        weight_bytes: Bytes of all weights and buffers.
        gradient_bytes: Bytes of all gradients.
        peak_bytes: The largest memory of a pass, weights and gradients included.
        work: Floating-point operations of a pass.
    """

    shapes: dict[str, tuple[int, ...]]
    trained: dict[str, tuple[int, ...]]
    block_numbers: int
    rest_numbers: int
    weight_bytes: int
    gradient_bytes: int
    peak_bytes: int
    work: int

    @property
    def activation_bytes(self) -> int:
        """What a pass holds at its peak beside weights and gradients."""
        return max(0, self.peak_bytes - self.weight_bytes - self.gradient_bytes)


def count_pass(
    config: PreTrainedConfig,
    batch: LargestBatch,
    settings: FitSettings,
    *,
    dtype: torch.dtype,
    autocast: torch.dtype | None,
) -> PassCost:
    """Counts a training step's last pass over a micro-batch, gradients of earlier ones beside it.

    Args:
        config: The model's configuration.
        batch: The micro-batch.
        settings: The fit.
        dtype: The dtype of the weights.
        autocast: The dtype of products under autocast; None without it.
    """
    memory, work = _MemoryCounter(), FlopCounterMode(display=False)
    model = _make_model(config, settings, dtype)
    with FakeTensorMode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _materialize(model, dtype)
        plain = {name: tuple(one.shape) for name, one in model.named_parameters() if "lora_" not in name}
        trained = {name: tuple(one.shape) for name, one in model.named_parameters() if one.requires_grad}
        optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad])
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad = torch.zeros_like(parameter)
            memory.add(parameter.grad)
        for held in [*model.parameters(), *model.buffers()]:
            memory.add(held)
        with memory, work:
            loss = _compute_loss(model, batch, autocast)
            if settings.accumulate == 1:
                optimizer.zero_grad()  # Lightning does so between forward and backward pass
            loss.backward()
        layers = _count_layers(model)
        weight_bytes = sum(one.nbytes for one in [*model.parameters(), *model.buffers()])
        gradient_bytes = sum(one.nbytes for one in model.parameters() if one.requires_grad)
    num_all = sum(one.numel() for one in model.parameters())
    return PassCost(
        shapes={name.replace(".base_layer.", "."): shape for name, shape in plain.items()},
        trained=trained,
        block_numbers=max(layers, default=0),
        rest_numbers=num_all - sum(layers),
        weight_bytes=weight_bytes,
        gradient_bytes=gradient_bytes,
        peak_bytes=memory.peak_bytes,
        work=work.get_total_flops(),
    )


class _MemoryCounter(TorchDispatchMode):
    """Counts the bytes of all storages that are alive, and the most that ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.live_bytes = 0
        self.peak_bytes = 0
        self._seen = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self.add, made)
        return made

    def add(self, tensor: Tensor) -> None:
        """Counts a tensor's storage, once, until it is freed."""
        storage = tensor.untyped_storage()
        if storage not in self._seen:
            self._seen[storage] = True
            weakref.finalize(storage, self._free, storage.nbytes())
            self.live_bytes += storage.nbytes()
            self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def _free(self, num_bytes: int) -> None:
        self.live_bytes -= num_bytes


def _make_model(config: PreTrainedConfig, settings: FitSettings, dtype: torch.dtype) -> PreTrainedModel:
    config = copy.deepcopy(config)
    config.use_cache = False
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
        if settings.gradient_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        if settings.lora is not None:
            add_lora(model, settings.lora, reference=settings.model)
    return model.train()


def _materialize(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Puts a model's tensors on a device, in place: to be called where tensors are fake."""
    made: dict[int, nn.Parameter] = {}  # tied weights once
    for module in model.modules():
        for name, one in list(module._parameters.items()):
            if one is not None:
                numbers = torch.empty(one.shape, dtype=dtype)
                module._parameters[name] = made.setdefault(id(one), nn.Parameter(numbers, one.requires_grad))
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def _compute_loss(model: PreTrainedModel, batch: LargestBatch, autocast: torch.dtype | None) -> Tensor:
    """Computes the loss as `sum_token_losses` does, which looks at numbers to find the scored positions."""
    ids_BT = torch.ones(batch.num_rows, batch.num_tokens, dtype=torch.int64)
    targets_BS = torch.ones(batch.num_rows, batch.num_scored, dtype=torch.int64)
    with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
        positions_S = torch.arange(batch.num_scored)
        kept_apart = "position_ids" if batch.is_flat else "attention_mask"
        inputs = {"input_ids": ids_BT, kept_apart: torch.ones_like(ids_BT), "use_cache": False}
        try:
            logits_BSV = model(**inputs, logits_to_keep=positions_S).logits
        except TypeError:  # an architecture that makes logits of all positions
            logits_BSV = model(**inputs).logits[:, positions_S]
        losses = nn.functional.cross_entropy(logits_BSV.float().flatten(0, 1), targets_BS.flatten(), reduction="none")
        return losses.sum()


def _count_layers(model: PreTrainedModel) -> list[int]:
    """Counts the weights of each decoder layer."""
    base = model.base_model
    layers = getattr(base, "layers", None) or getattr(base, "h", None) or []
    return [sum(one.numel() for one in layer.parameters()) for layer in layers]
