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

from safety_lightning.lazy import import_lazily, list_names

_PLACES = {
    "callbacks": "MonitorUpdate PenalizeUpdate ProjectUpdate SaveModel StepProgressBar",
    "hook": "ProjectionHook attach_projection",
    "loss": "compute_token_losses sum_token_losses",
    "module": "CausalLMModule",
    "storage": "save_model",
    "trainer_callback": "ProjectUpdateTrainerCallback",
}

__all__ = list_names(_PLACES)
__getattr__ = import_lazily(__name__, _PLACES)
