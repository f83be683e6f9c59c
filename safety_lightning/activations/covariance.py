"""Sums up what the linear modules of a model are given on prompts, as GuardSpace needs it.

Shapes in this file: T = tokens, N = input features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from safety_lightning.errors import UserError
from safety_lightning.files import atomic_path


@torch.no_grad()
def collect_covariances(model: nn.Module, prompts_ids: Iterable[Sequence[int]]) -> dict[str, Tensor]:
    """Returns C = X Xᵀ of the inputs of every linear module over all tokens of all prompts, not divided by anything.

    Args:
        model: A causal language model; its mode is as before afterwards.
        prompts_ids: The token ids of each prompt, with the answer to it where that is to count. They are run one by
            one, so that there is no padding to leave out.

    Returns:
        float64 on the CPU, ``(N, N)``, by the name of the module's weight.

    Raises:
        UserError: If there is no prompt.
    """
    sums: dict[str, Tensor] = {}
    device, was_training = next(model.parameters()).device, model.training
    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear):
                stack.callback(module.register_forward_pre_hook(_make_hook(f"{name}.weight", sums)).remove)
        model.eval()
        stack.callback(model.train, was_training)
        for ids in prompts_ids:
            model(input_ids=torch.tensor([list(ids)], device=device))
    if not sums:
        raise UserError("prompts must hold at least one, got none")
    return {name: total.cpu() for name, total in sums.items()}


def save_covariances(covariances: dict[str, Tensor], file: Path) -> None:
    """Saves covariances as safetensors in float32, for ``GuardSpace(covariances=...)``."""
    with atomic_path(file) as partial:
        save_file({name: one.float().contiguous() for name, one in covariances.items()}, partial)


def _make_hook(name: str, sums: dict[str, Tensor]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def add(_: nn.Module, args: tuple[Any, ...]) -> None:
        inputs_TN = args[0].reshape(-1, args[0].shape[-1]).double()
        product_NN = inputs_TN.mT @ inputs_TN
        sums[name] = sums[name] + product_NN if name in sums else product_NN

    return add
