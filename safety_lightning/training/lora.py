"""LoRA: which factors a fine-tune trains, and how they are put into a model (PEFT)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from safety_lightning.errors import UserError
from safety_lightning.projection import Locate, gather_numbers

_EXTRA = "pip install 'safety_lightning[lora]'"


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """A LoRA adapter: W + scale · BA, with B zero at the beginning.

    Attributes:
        r: Rank of the factors, at least 1.
        alpha: The scale is alpha / r, or alpha / √r where it is rank-stabilised.
        target_modules: Names of the linear modules that get factors, or their ends; None takes every linear module
            but the output layer.
        rank_stabilized: Whether alpha is divided by √r.
        dropout: Share of the factors' inputs that is dropped in training, in [0, 1).

    Raises:
        UserError: If a number is out of its range.
    """

    r: int = 16
    alpha: float = 32.0
    target_modules: list[str] | None = None
    rank_stabilized: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.r < 1:
            raise UserError(f"lora.r must be at least 1, got {self.r}")
        if not self.alpha > 0:
            raise UserError(f"lora.alpha must be above 0, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"lora.dropout must be in [0, 1), got {self.dropout}")


def check_peft() -> None:
    """Raises UserError unless PEFT is installed."""
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise UserError(f"LoRA must have the package peft, it is not installed: {_EXTRA}") from error


def check_targets(settings: LoraSettings, names: list[str]) -> None:
    """Checks by the names of a checkpoint's tensors that there is a module for each target.

    Raises:
        UserError: If a target names no module.
    """
    modules = {name.removesuffix(".weight") for name in names if name.endswith(".weight")}
    for target in settings.target_modules or []:
        if not any(module == target or module.endswith(f".{target}") for module in modules):
            kinds = sorted({module.rsplit(".", 1)[-1] for module in modules})
            raise UserError(f"lora.target_modules must name modules of the model ({', '.join(kinds)}), got {target}")


def add_lora(model: PreTrainedModel, settings: LoraSettings, *, reference: str) -> None:
    """Puts fresh factors into a model, in place, and freezes everything else.

    Args:
        model: The model.
        settings: Which factors.
        reference: What the model was loaded from; the adapter's files will name it.
    """
    from peft import LoraConfig

    check_peft()
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # a float does as well
        target_modules=settings.target_modules or "all-linear",
        use_rslora=settings.rank_stabilized,
        lora_dropout=settings.dropout,
        task_type="CAUSAL_LM",
    )
    model.add_adapter(config)
    for one in model.peft_config.values():
        one.base_model_name_or_path = reference


def list_adapter(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """Returns a model's factors under the names that PEFT stores them by."""
    return {
        f"base_model.model.{name.replace('.default.', '.')}": one
        for name, one in model.named_parameters()
        if is_factor(name)
    }


def is_factor(name: str) -> bool:
    """Whether a parameter is a factor of an adapter."""
    return ".lora_A." in name or ".lora_B." in name


def merge_into(whole: Tensor, module: Any, find: Locate) -> Tensor:
    """Adds a module's update to its frozen weights, in float32.

    Args:
        whole: The frozen weights, whole.
        module: The module with an adapter.
        find: Finds what this process holds of a parameter.
    """
    name = module.active_adapters[0]
    a, b = (gather_numbers(factors[name].weight, find).float() for factors in (module.lora_A, module.lora_B))
    update = module.scaling[name] * (b @ a)
    return whole.float() + (update.mT if module.fan_in_fan_out else update)
