"""The Lightning callback that saves the result as a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

import lightning as L
from torch import Tensor, nn

from safety_lightning.checkpoints import (
    CheckpointReader,
    StorageDtype,
    load_tokenizer,
    locate_model,
    resolve_dtype,
)
from safety_lightning.projection import gather, is_sharded
from safety_lightning.training.module import CausalLMModule
from safety_lightning.training.storage import save_model


class SaveModel(L.Callback):
    """Saves ``model/`` when the fit has ended, and the unprojected model beside it where that is wanted.

    Args:
        folder: Where ``model/`` is made; None saves nothing.
        dtype: The dtype of the stored weights; ``source`` is the reference's own.
        keep_unprojected: Save the model from before a projection at the end as ``model_unprojected/``.
    """

    def __init__(
        self, folder: str | None = None, dtype: StorageDtype = "float32", keep_unprojected: bool = False
    ) -> None:
        self.folder = folder
        self.dtype: StorageDtype = dtype
        self.keep_unprojected = keep_unprojected

    def on_before_projection(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves the unprojected model; called by `ProjectUpdate`."""
        if self.keep_unprojected:
            self._save(trainer, pl_module, "model_unprojected")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves the result."""
        self._save(trainer, pl_module, "model")

    def _save(self, trainer: L.Trainer, pl_module: L.LightningModule, name: str) -> None:
        if self.folder is None or not isinstance(pl_module, CausalLMModule):
            return
        weights = gather_weights(pl_module.model)
        if trainer.is_global_zero:
            reference = CheckpointReader(locate_model(pl_module.reference))
            dtype = resolve_dtype(self.dtype, reference)
            tokenizer = load_tokenizer(pl_module.reference)
            save_model(pl_module.model, tokenizer, Path(self.folder) / name, dtype=dtype, weights=weights)
        trainer.strategy.barrier()


def gather_weights(model: nn.Module) -> dict[str, Tensor]:
    """Returns a model's whole weights, tied ones once; sharded ones are gathered, one by one, in every process."""
    names = {name for name, _ in [*model.named_parameters(), *model.named_buffers()]}
    return {
        name: gather(tensor.detach()).cpu() if is_sharded(tensor) else tensor.detach()
        for name, tensor in model.state_dict().items()
        if name in names
    }
