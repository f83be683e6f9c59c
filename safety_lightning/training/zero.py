"""What is needed of DeepSpeed's ZeRO's optimizers under private names; a test says when one is gone.

ZeRO keeps float32 masters of the weights, flat and shared out, and rounds them into the module after each step of the
optimizer within. What is done to masters right after that step is in the weights of the next forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from safety_lightning.errors import UserError
from safety_lightning.projection import HeldNumbers

_KNOWN = {  # what DeepSpeed's own checkpoints hold beside tensors and plain values
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
}
_TAG = "checkpoint"  # the folder in the folder, as Lightning names it


def check_pickles(folder: Path) -> None:
    """Checks, without unpickling, that a checkpoint of ZeRO names nothing but what DeepSpeed puts there.

    Raises:
        UserError: If a file of it names something else, or the checkpoint leads to another folder.
    """
    latest = folder / "latest"
    if not latest.is_file() or latest.read_text(encoding="utf-8").strip() != _TAG:
        raise UserError(f"{latest} must name the folder {_TAG} of a ZeRO checkpoint, it does not")
    for file in sorted((folder / _TAG).glob("*")):
        try:
            unknown = set(torch.serialization.get_unsafe_globals_in_checkpoint(file)) - _KNOWN
        except Exception as error:
            raise UserError(f"{file} must be a file of a ZeRO checkpoint, it cannot be read: {error}") from error
        if unknown:
            raise UserError(f"{file} must hold tensors and DeepSpeed's own values, it names {sorted(unknown)[0]}")


class ZeroMasters:
    """The masters behind a model's parameters.

    Args:
        optimizer: DeepSpeed's optimizer, of ZeRO stage 1, 2 or 3.

    Attributes:
        inner: The torch optimizer within; it steps once for each of its groups.
    """

    def __init__(self, optimizer: Any) -> None:
        self.zero = optimizer
        self.inner: torch.optim.Optimizer = optimizer.optimizer
        self.is_stage_3 = hasattr(optimizer, "fp32_partitioned_groups_flat")

    @property
    def num_groups(self) -> int:
        """How many times the inner optimizer steps in one optimizer step."""
        return len(self.zero.fp32_partitioned_groups_flat if self.is_stage_3 else self._flats)

    @property
    def gradient_norm(self) -> float:
        """The norm of the gradients of the whole model, before clipping."""
        return float(self.zero._global_grad_norm)

    @property
    def group(self) -> dist.ProcessGroup:
        """The processes that share the masters out."""
        return self.zero.dp_process_group if self.is_stage_3 else self.zero.real_dp_process_group[0]

    def locate(self, parameter: nn.Parameter) -> HeldNumbers:
        """Finds the masters of a parameter that this process holds; of one that is not trained, its own numbers."""
        if not parameter.requires_grad:
            return self._locate_frozen(parameter)
        if self.is_stage_3:
            group, offset, size = self.zero.grad_position[self.zero.get_param_id(parameter)]
            start = size * dist.get_rank(self.group)
            kept = max(0, min(size, parameter.ds_numel - start))  # type: ignore[attr-defined]
            numbers = self.zero.fp32_partitioned_groups_flat[group].data.narrow(0, offset, kept)
            return HeldNumbers(numbers, start, self.group, cuts_rows=True)
        mapping = parameter._hp_mapping  # type: ignore[attr-defined]
        if mapping is None:
            return HeldNumbers(self._flats[0].data[:0], 0, self.group, cuts_rows=True)
        return HeldNumbers(mapping.hp_fragment.data, mapping.lp_fragment_address.start, self.group, cuts_rows=True)

    def list_stepped(self) -> set[int]:
        """Returns the identities of the parameters whose masters the inner optimizer is stepping."""
        stepped = {id(one) for group in self.inner.param_groups for one in group["params"]}
        flats, members = self._flats, self.zero.fp16_groups if self.is_stage_3 else self._low_groups
        return {id(one) for flat, group in zip(flats, members, strict=True) if id(flat) in stepped for one in group}

    def scale_gradients(self, factor: float) -> None:
        """Multiplies the gradients of the masters that are being stepped."""
        for group in self.inner.param_groups:
            for one in group["params"]:
                if one.grad is not None:
                    one.grad.mul_(factor)

    def publish(self) -> None:
        """Rounds masters into the module's weights, as ZeRO does after a step."""
        if not self.is_stage_3:
            self.zero.update_lp_params()
            return
        for number in range(self.num_groups):
            self.zero._reassign_or_swap_out_partitioned_parameters(number)

    @property
    def _flats(self) -> list[Tensor]:
        if self.is_stage_3:
            return list(self.zero.fp32_partitioned_groups_flat)
        flats = getattr(self.zero, "single_partition_of_fp32_groups", None)
        return list(flats if flats is not None else self.zero.fp32_groups_flat_partition)

    @property
    def _low_groups(self) -> list[list[nn.Parameter]]:
        groups = getattr(self.zero, "bit16_groups", None)
        return list(groups if groups is not None else self.zero.bf16_groups)

    def _locate_frozen(self, parameter: nn.Parameter) -> HeldNumbers:
        if not hasattr(parameter, "ds_tensor"):
            return HeldNumbers(parameter.data.view(-1))
        size = parameter.ds_tensor.numel()
        start = size * dist.get_rank(self.group)
        kept = max(0, min(size, parameter.ds_numel - start))  # type: ignore[attr-defined]
        return HeldNumbers(parameter.ds_tensor.data.view(-1)[:kept], start, self.group, cuts_rows=True)


class ZeroSteps:
    """Calls back after each step of the inner optimizer, and tells where an optimizer step begins.

    Args:
        masters: The masters.
        on_step: Called after a group's step: whether an optimizer step begins with it, and the identities of the
            parameters whose masters were stepped.
    """

    def __init__(self, masters: ZeroMasters, on_step: Callable[[bool, set[int]], None]) -> None:
        self.masters = masters
        self._on_step = on_step
        self._seen: set[int] = set()
        self.handle = masters.inner.register_step_post_hook(self._act)

    def _act(self, *_: Any) -> None:
        stepped = self.masters.list_stepped()
        begins = not self._seen or bool(stepped & self._seen)
        self._seen = stepped if begins else self._seen | stepped
        self._on_step(begins, stepped)
