"""Checks a capture before it begins, and describes all that its result depends on."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from safety_lightning.activations.datamodule import PromptData
from safety_lightning.activations.module import ActivationModule
from safety_lightning.checkpoints import CheckpointReader, resolve_reference
from safety_lightning.errors import UserError
from safety_lightning.lightning_internals import check_sampler


def check_trainer(trainer: L.Trainer) -> None:
    """Raises UserError if the Trainer splits the model over processes, divides the data, or rounds the weights."""
    if not isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)):
        raise UserError(
            "strategy of the Trainer must keep the whole model in each process (ddp), got "
            f"{type(trainer.strategy).__name__}"
        )
    check_sampler(trainer)
    if trainer.precision != "32-true":
        raise UserError(
            f"precision of the Trainer must be 32-true, got {trainer.precision}: say model.dtype, which rounds weights "
            "alone"
        )


def check_responses(module: ActivationModule, data: PromptData) -> None:
    """Raises UserError if the data does not read the responses that the module wants, or reads them in vain."""
    wanted = module.response == "given"
    if data.with_responses != wanted:
        raise UserError(
            f"with_responses of the data must be {wanted} where the module's response is {module.response}, got "
            f"{data.with_responses}"
        )


def check_context(module: ActivationModule, data: PromptData, context_tokens: int | None) -> None:
    """Checks that all prompts fit the model with their responses.

    Args:
        module: The module, which may generate responses.
        data: The prompts, prepared.
        context_tokens: The model's context; None has no limit.

    Raises:
        UserError: If some do not, with their number and the longest of them.
    """
    if context_tokens is None:
        return
    room = context_tokens - (module.max_new_tokens if module.generates else 0)
    too_long = [prompt for prompt in data.prompts if prompt.length > room]
    if too_long:
        longest = max(too_long, key=lambda prompt: prompt.length)
        less = f", less max_new_tokens {module.max_new_tokens}" if module.generates else ""
        raise UserError(
            f"prompts must fit the model's context of {context_tokens} tokens{less}, got {len(too_long)} that are "
            f"longer: {longest.id} has {longest.length}"
        )


def describe_capture(module: ActivationModule, data: PromptData) -> dict[str, Any]:
    """Returns all that the activations depend on, as JSON values."""
    return {
        "model": module.reference,
        "model_hashes": CheckpointReader(resolve_reference(module.reference)).hash_files(),
        "token": module.token,
        "settings": {**module.describe(), **data.describe()},
        "prompts": data.input_hashes(),
    }
