"""AdamW for bfloat16 weights: what is computed in float32 is rounded at random, right in the mean.

At a learning rate of 1e-5 most updates are under half a step of bfloat16, and rounding to the nearest undoes them: the
weights do not train. Rounded up with the probability of what is cut off, they arrive in the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from safety_lightning.errors import UserError
from safety_lightning.system.randomness import seed_generator

_CHUNK = 1 << 22  # numbers that a step works on at once: forty bytes each, and never a whole embedding's


def round_at_random(numbers: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Rounds float32 numbers to bfloat16, up or down with a probability that makes the mean exact.

    Args:
        numbers: float32; what is not finite stays as it is.
        generator: Of the numbers' device; None takes the device's own.

    Returns:
        bfloat16, of the same shape.
    """
    noise = torch.randint(0, 1 << 16, numbers.shape, dtype=torch.int32, device=numbers.device, generator=generator)
    bits = numbers.contiguous().view(torch.int32) + noise  # bfloat16 is the upper half of float32's bits
    rounded = (bits & -65536).view(torch.float32)
    return torch.where(numbers.isfinite(), rounded, numbers).to(torch.bfloat16)


class StochasticAdamW(torch.optim.Optimizer):
    """AdamW whose moments have the dtype of the weights; bfloat16 ones, and bfloat16 weights, are rounded at random.

    Weights in float32 are trained as by `torch.optim.AdamW`. A step computes in float32, some millions of numbers at a
    time. What it draws depends on seed, step and parameter alone, so that copies of a model (DDP) stay copies and a
    resumed run goes on as it would have.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate, at least 0.
        betas: Shares of the moments that stay in a step, in [0, 1).
        eps: Added to the denominator.
        weight_decay: Share of the weights, times the learning rate, that a step takes away.
        seed: Seed of the rounding.

    Raises:
        UserError: If a setting is out of its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-5,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        seed: int = 0,
    ) -> None:
        if lr < 0 or eps < 0 or weight_decay < 0:
            raise UserError(f"lr, eps and weight_decay must be at least 0, got {lr}, {eps} and {weight_decay}")
        if not all(0 <= beta < 1 for beta in betas):
            raise UserError(f"betas must be in [0, 1), got {betas}")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.seed = seed

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes a step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = [(group, parameter) for group in self.param_groups for parameter in group["params"]]
        for number, (group, parameter) in enumerate(groups):
            if parameter.grad is not None:
                self._step_one(parameter, group, number)
        return loss

    def _step_one(self, parameter: Tensor, group: dict[str, Any], number: int) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        tensors = [_find_own(one) for one in (parameter, parameter.grad, state["exp_avg"], state["exp_avg_sq"])]
        device = tensors[0].device
        shard = dist.get_rank() if isinstance(parameter, DTensor) else 0
        drawn = seed_generator(f"rounding/{self.seed}/{state['step']}/{number}/{shard}")
        generator = torch.Generator(device).manual_seed(drawn.initial_seed())
        is_flat = all(one.is_contiguous() for one in tensors)
        for parts in zip(*(one.view(-1).split(_CHUNK) if is_flat else [one] for one in tensors), strict=True):
            _step_part(*parts, step=state["step"], group=group, generator=generator)


def _find_own(tensor: Tensor | None) -> Tensor:
    """Returns the numbers of a tensor that this process holds."""
    assert tensor is not None
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _step_part(
    weights: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    step: int,
    group: dict[str, Any],
    generator: torch.Generator,
) -> None:
    gradient, (first_beta, second_beta) = gradient.float(), group["betas"]
    first = exp_avg.float().lerp_(gradient, 1 - first_beta)
    second = exp_avg_sq.float().mul_(second_beta).addcmul_(gradient, gradient, value=1 - second_beta)
    _write(exp_avg, first, generator)
    _write(exp_avg_sq, second, generator)
    corrections = 1 - first_beta**step, 1 - second_beta**step
    denominator = (second / corrections[1]).sqrt_().add_(group["eps"])
    kept = weights.float() * (1 - group["lr"] * group["weight_decay"])
    _write(weights, kept.addcdiv_(first, denominator, value=-group["lr"] / corrections[0]), generator)


def _write(target: Tensor, numbers: Tensor, generator: torch.Generator) -> None:
    """Writes float32 numbers to a tensor, rounded at random where it is bfloat16."""
    target.copy_(round_at_random(numbers, generator) if target.dtype == torch.bfloat16 else numbers)
