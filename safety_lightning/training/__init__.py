"""Fine-tunes with the update kept in one component of a safety subspace, in the order in which data goes.

module              the model that is trained, whose gradients are those of the mean loss per response token (`loss`)
optimization        its learning rate by step, and a trial of its optimizer
hook                projects after the optimizer's steps; attached to an optimizer, it serves a plain training loop
increments          what the optimizer wanted between two projections
callbacks           the same in Lightning: project, monitor, show progress, save
trainer_callback    the same in the Hugging Face Trainer and TRL's
storage, figures    a live model as a Hugging Face folder, and its update against chance as figures

The names below are imported when they are first used: a plain loop needs no Lightning.
"""

from __future__ import annotations

import importlib
from typing import Any

_PLACES = {
    "CausalLMModule": "module",
    "MonitorUpdate": "callbacks",
    "PenalizeUpdate": "callbacks",
    "ProjectUpdate": "callbacks",
    "ProjectUpdateTrainerCallback": "trainer_callback",
    "ProjectionHook": "hook",
    "SaveModel": "callbacks",
    "StepProgressBar": "callbacks",
    "attach_projection": "hook",
    "compute_token_losses": "loss",
    "save_model": "storage",
    "sum_token_losses": "loss",
}

__all__ = list(_PLACES)


def __getattr__(name: str) -> Any:
    """Imports a public name on first use."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
