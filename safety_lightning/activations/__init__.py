"""Captures what a model makes of prompts, one vector per layer and prompt, in the order in which data goes.

prompts, matching   sets of distinct prompts as tokens; the prompts of all sets that match in length
shards, datamodule  prompts divided into shards and batches; `PromptData`, which ties it together
capture, module     hidden states by hooks while a decoder runs; `ActivationModule`, which runs it, on answers of the
                    engine of `test` too; covariance sums up the inputs of linear modules
writer, storage     `ActivationWriter`, which checks first and resumes; `ActivationFolder`, read a layer at a time
"""
# ruff: noqa: F401 (the names are for other rooms)

from __future__ import annotations

from typing import TYPE_CHECKING

from safety_lightning.lazy import import_lazily, list_names

if TYPE_CHECKING:
    from safety_lightning.activations.capture import HiddenCapture, find_last_attended
    from safety_lightning.activations.covariance import collect_covariances, save_covariances
    from safety_lightning.activations.datamodule import PromptData
    from safety_lightning.activations.module import ActivationModule
    from safety_lightning.activations.storage import ActivationFolder, PromptRecord, name_shard
    from safety_lightning.activations.writer import ActivationWriter, check_trainer

_PLACES = {
    "capture": "HiddenCapture find_last_attended",
    "covariance": "collect_covariances save_covariances",
    "datamodule": "PromptData",
    "module": "ActivationModule",
    "storage": "ActivationFolder PromptRecord name_shard",
    "writer": "ActivationWriter check_trainer",
}

__all__ = list_names(_PLACES)
__getattr__ = import_lazily(__name__, _PLACES)
