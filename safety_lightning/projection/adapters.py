"""LoRA adapters in a live model: their update is a product of two thin factors, one of which carries the projection.

With an update s·BA, the left projection of the update is s·(UUᵀB)A, and the right one s·B(AVVᵀ): projecting one factor
projects the update, exactly. A model with adapters is recognised by what PEFT gives its modules.

Shapes in this file: M = output features, N = input features, R = the adapter's rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from safety_lightning.checkpoints import MatrixSlot
from safety_lightning.errors import UserError
from safety_lightning.projection.names import match_names, strip_wrappers
from safety_lightning.projection.operators import compute_coordinates, expand_coordinates, sum_squares
from safety_lightning.projection.parts import Locate, MatrixPart, take_part
from safety_lightning.projection.sharding import count_numbers, gather_numbers
from safety_lightning.subspaces import Side


@dataclass(frozen=True)
class AdaptedMatrix:
    """A weight matrix whose update is an adapter's.

    Attributes:
        slot: The matrix.
        a: The factor A, ``(R, N)``.
        b: The factor B, ``(M, R)``.
        scale: What BA is multiplied by.
        base: The frozen weights.
    """

    slot: MatrixSlot
    a: nn.Parameter
    b: nn.Parameter
    scale: float
    base: nn.Parameter

    def take_factor(self, basis: Tensor, *, find: Locate, side: Side) -> MatrixPart:
        """Returns the factor that is projected, as a matrix whose reference is zero.

        Args:
            basis: Orthonormal columns, float32: ``(M, K)``, for the right side ``(N, K)``.
            find: Finds what this process holds of a parameter.
            side: Which side the basis lies on.
        """
        factor, shape = (self.b, (self.slot.rows, -1)) if side == "left" else (self.a, (-1, self.slot.columns))
        rank = count_numbers(factor) // max(shape)
        rows, columns = (size if size > 0 else rank for size in shape)
        slot = MatrixSlot(tensor=self.slot.tensor, rows=rows, columns=columns)
        zeros = torch.zeros(rows, columns)
        return take_part(slot, factor, find=find, reference=zeros, basis=basis, side=side)

    def copy_factors(self, find: Locate) -> Tensor:
        """Returns a copy of both factors, whole, one behind the other, 1-D, float32."""
        return torch.cat([gather_numbers(factor, find).view(-1).float() for factor in (self.b, self.a)])

    def multiply(self, factors: Tensor) -> Tensor:
        """Returns the update of two factors that `copy_factors` returned, float32, ``(M, N)``."""
        num_b = count_numbers(self.b)
        b_MR = factors[:num_b].view(self.slot.rows, -1)
        return self.scale * (b_MR @ factors[num_b:].view(-1, self.slot.columns))

    def measure(self, basis: Tensor, *, find: Locate, side: Side, since: Tensor | None) -> tuple[float, float, int]:
        """Returns the squared norms of the update inside and outside a subspace, and how many numbers of it are 0.

        Args:
            basis: As in `take_factor`.
            find: Finds what this process holds of a parameter.
            side: Which side the basis lies on.
            since: What `copy_factors` returned at an earlier time; None measures from the beginning.
        """
        update_MN = self.multiply(self.copy_factors(find))
        if since is not None:
            update_MN = update_MN - self.multiply(since.to(update_MN.device))
        basis = basis.to(update_MN.device)
        inside_MN = expand_coordinates(compute_coordinates(update_MN, basis, side=side), basis, side=side)
        num_stuck = int((update_MN == 0).sum())
        return float(sum_squares(inside_MN)), float(sum_squares(update_MN - inside_MN)), num_stuck


def has_adapters(model: nn.Module) -> bool:
    """Whether a model has LoRA adapters."""
    return any(_is_lora(module) for module in model.modules())


def find_adapted(model: nn.Module, slots: Sequence[MatrixSlot]) -> list[AdaptedMatrix]:
    """Finds the matrices of a subspace that a model's adapters update, in the order of the slots.

    Args:
        model: The model with adapters.
        slots: The matrices of the subspace.

    Raises:
        UserError: If the adapters are no plain LoRA (DoRA, trained biases or embeddings, several at once), something
            else is trained beside them, or they update no matrix of the subspace.
    """
    modules = {f"{strip_wrappers(name)}.weight": module for name, module in model.named_modules() if _is_lora(module)}
    names = match_names([slot.tensor for slot in slots], modules, model)
    found = [_read_module(modules[names[slot.tensor]], slot) for slot in slots if slot.tensor in names]
    _check_rest(model)
    if not found:
        raise UserError(
            f"adapters must update a matrix of the subspace, none of theirs is one: {', '.join(sorted(modules)[:3])}"
        )
    return found


def _is_lora(module: nn.Module) -> bool:
    return hasattr(module, "lora_A") and hasattr(module, "get_delta_weight")


def _read_module(module: Any, slot: MatrixSlot) -> AdaptedMatrix:
    active = list(module.active_adapters)
    if len(active) != 1:
        raise UserError(f"{slot.tensor} must have one active adapter, it has {len(active)}")
    name = active[0]
    if getattr(module, "lora_variant", {}).get(name) is not None or module.use_dora.get(name):
        raise UserError(f"the adapter of {slot.tensor} must be a plain LoRA, got DoRA or another variant of it")
    if module.lora_bias.get(name) or name not in module.lora_A:
        raise UserError(f"the adapter of {slot.tensor} must be a plain LoRA of a linear module, without a trained bias")
    if module.fan_in_fan_out != slot.transposed:
        raise UserError(f"fan_in_fan_out of the adapter of {slot.tensor} must be {slot.transposed}")
    a, b = module.lora_A[name].weight, module.lora_B[name].weight
    return AdaptedMatrix(slot, a, b, float(module.scaling[name]), module.get_base_layer().weight)


def _check_rest(model: nn.Module) -> None:
    """Refuses what is trained beside factors: its update is none of theirs."""
    trained = [name for name, one in model.named_parameters() if one.requires_grad]
    others = [name for name in trained if ".lora_A." not in name and ".lora_B." not in name]
    if others:
        raise UserError(
            f"a model with LoRA adapters must train their factors alone, {len(others)} other parameters are trained: "
            f"{', '.join(others[:2])}"
        )


def check_base(adapted: AdaptedMatrix, reference: Tensor, *, find: Locate) -> None:
    """Raises UserError unless an adapter's frozen weights are the reference's; quantized ones cannot be compared.

    Args:
        adapted: The adapted matrix.
        reference: The reference weights.
        find: Finds what this process holds of a parameter.
    """
    base = adapted.base
    if not base.is_floating_point() or count_numbers(base) != reference.numel():
        return  # packed by bitsandbytes
    held = find(base)
    mine = reference.reshape(-1)[held.start : held.start + held.numbers.numel()]
    if not torch.equal(held.numbers, mine.to(held.numbers.device, held.numbers.dtype)):
        raise UserError(
            f"the adapters must be on the reference, but the frozen weights of {adapted.slot.tensor} differ from it"
        )
