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

from safety_lightning import lab as lab  # registers the data presets lab:NAME
from safety_lightning.lazy import import_lazily, list_names

_PLACES = {
    "data.datamodule": "InstructionData",
    "data.sources": "InstructionSource",
    "evaluation.callbacks.compare_models": "CompareModels",
    "evaluation.callbacks.evaluate_behaviour": "EvaluateBehaviour",
    "evaluation.datamodule": "EvaluationData",
    "evaluation.evaluate": "evaluate_model",
    "evaluation.module": "EvaluationModule",
    "overlap": "ModeSubspaceOverlap compare_activations compare_weights",
    "projection": "SubspaceSpec prepare_subspace project_update",
    "projection.metrics": "EnergyKept",
    "subspaces": "span_subspace",
    "sweep": "VariantLoader",
    "training": "CausalLMModule MonitorUpdate ProjectUpdate ProjectUpdateTrainerCallback SaveModel attach_projection",
}

__all__ = list_names(_PLACES)
__getattr__ = import_lazily(__name__, _PLACES)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
