"""Fine-tunes aligned language models inside or outside safety subspaces, and measures what came of it.

The flow, a folder per stage:

checkpoints
    reads models tensor by tensor: the *base* and the *reference* that fine-tuning starts from.
subspaces
    spans the leading singular vectors of *delta* = reference − base, and compares subspaces.
projection
    keeps the *update*, finetuned − reference, of a model in training *parallel* or *orthogonal* to that subspace.
methods, sweep
    do so, and more, to finished fine-tunes: a file per method; all of them on whole checkpoints in one pass.
data, training
    fine-tune, with the update kept in one of the two parts: in Lightning, the Hugging Face Trainer or a plain loop.
evaluation
    measures utility, harmfulness and loss before, after, and after projection.
activations, overlap
    capture hidden states of prompt sets, and compare these or updates of weights: Mode Subspace Overlap.
lab
    a miniature world with its own base and aligned model, on which every command runs at once.

The public names below are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import Any

from safety_lightning import lab as lab  # registers the data presets lab:NAME

_PLACES = {
    "CausalLMModule": "safety_lightning.training",
    "CompareModels": "safety_lightning.evaluation.callbacks.compare_models",
    "EnergyKept": "safety_lightning.projection.metrics",
    "EvaluateBehaviour": "safety_lightning.evaluation.callbacks.evaluate_behaviour",
    "EvaluationData": "safety_lightning.evaluation.datamodule",
    "EvaluationModule": "safety_lightning.evaluation.module",
    "InstructionData": "safety_lightning.data.datamodule",
    "InstructionSource": "safety_lightning.data.sources",
    "ModeSubspaceOverlap": "safety_lightning.overlap",
    "MonitorUpdate": "safety_lightning.training",
    "ProjectUpdate": "safety_lightning.training",
    "ProjectUpdateTrainerCallback": "safety_lightning.training",
    "SaveModel": "safety_lightning.training",
    "SubspaceSpec": "safety_lightning.projection",
    "VariantLoader": "safety_lightning.sweep",
    "attach_projection": "safety_lightning.training",
    "compare_activations": "safety_lightning.overlap",
    "compare_weights": "safety_lightning.overlap",
    "evaluate_model": "safety_lightning.evaluation.evaluate",
    "prepare_subspace": "safety_lightning.projection",
    "project_update": "safety_lightning.projection",
    "span_subspace": "safety_lightning.subspaces",
}

__all__ = list(_PLACES)


def __getattr__(name: str) -> Any:
    """Imports a public name on first use: the package itself imports in no time."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
