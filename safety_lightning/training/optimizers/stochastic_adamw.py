"""AdamW for bfloat16 weights: what is computed in float32 is rounded at random, right in the mean.

At a learning rate of 1e-5 most updates are under half a step of bfloat16, and rounding to the nearest undoes them: the
weights do not train. Rounded up with the probability of what is cut off, they arrive in the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from safety_lightning.errors import UserError


def round_at_random(numbers: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Rounds float32 numbers to bfloat16, up or down with a probability that makes the mean exact.

    Args:
        numbers: Finite, float32.
        generator: Of the numbers' device; None takes the device's own.

    Returns:
        bfloat16, of the same shape.
    """
    noise = torch.randint(0, 1 << 16, numbers.shape, dtype=torch.int32, device=numbers.device, generator=generator)
    bits = numbers.contiguous().view(torch.int32) + noise  # bfloat16 is the upper half of float32's bits
    return (bits & -65536).view(torch.float32).to(torch.bfloat16)


class StochasticAdamW(torch.optim.Optimizer):
    """AdamW whose moments have the dtype of the weights; bfloat16 ones, and bfloat16 weights, are rounded at random.

    Weights in float32 are trained as by `torch.optim.AdamW`. A step computes in float32, a tensor at a time.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate, at least 0.
        betas: Shares of the moments that stay in a step, in [0, 1).
        eps: Added to the denominator.
        weight_decay: Share of the weights, times the learning rate, that a step takes away.

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
    ) -> None:
        if lr < 0 or eps < 0 or weight_decay < 0:
            raise UserError(f"lr, eps and weight_decay must be at least 0, got {lr}, {eps} and {weight_decay}")
        if not all(0 <= beta < 1 for beta in betas):
            raise UserError(f"betas must be in [0, 1), got {betas}")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes a step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_one(parameter, group)
        return loss

    def _step_one(self, parameter: Tensor, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        gradient, (first_beta, second_beta) = parameter.grad.float(), group["betas"]
        first = state["exp_avg"].float().lerp_(gradient, 1 - first_beta)
        second = state["exp_avg_sq"].float().mul_(second_beta).addcmul_(gradient, gradient, value=1 - second_beta)
        _write(state["exp_avg"], first)
        _write(state["exp_avg_sq"], second)
        corrections = 1 - first_beta ** state["step"], 1 - second_beta ** state["step"]
        denominator = (second / corrections[1]).sqrt_().add_(group["eps"])
        weights = parameter.float() * (1 - group["lr"] * group["weight_decay"])
        _write(parameter, weights.addcdiv_(first, denominator, value=-group["lr"] / corrections[0]))


def _write(target: Tensor, numbers: Tensor) -> None:
    """Writes float32 numbers to a tensor, rounded at random where it is bfloat16."""
    target.copy_(round_at_random(numbers) if target.dtype == torch.bfloat16 else numbers)
