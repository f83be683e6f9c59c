"""The Lightning callback that saves the result as a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

import lightning as L
from transformers import PreTrainedModel

from safety_lightning.checkpoints import (
    CheckpointReader,
    StorageDtype,
    load_tokenizer,
    locate_model,
    resolve_dtype,
)
from safety_lightning.projection import has_adapters, is_sharded
from safety_lightning.training.module import CausalLMModule
from safety_lightning.training.storage import check_names, save_adapter, save_model, save_shared_model
from safety_lightning.training.strategies import find_locate, find_masters


class SaveModel(L.Callback):
    """Saves ``model/`` when the fit has ended, and the unprojected model beside it where that is wanted.

    Args:
        folder: Where ``model/`` is made; None saves nothing.
        dtype: The dtype of the stored weights; ``source`` is that of the checkpoint that the fit starts
            from.
        keep_unprojected: Save the model from before a projection at the end as ``model_unprojected/``.
        merge: Of a LoRA fine-tune, save the whole model with its update merged into it, and the adapter beside it as
            ``adapter/``; else the adapter is the model.
    """

    def __init__(
        self,
        folder: str | None = None,
        dtype: StorageDtype = "float32",
        keep_unprojected: bool = False,
        merge: bool = False,
    ) -> None:
        self.folder = folder
        self.dtype: StorageDtype = dtype
        self.keep_unprojected = keep_unprojected
        self.merge = merge

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Checks before training that the model can be saved."""
        if self.folder is None or not isinstance(pl_module, CausalLMModule):
            return
        if self._saves_by_tensor(trainer, pl_module.model):
            check_names(pl_module.model)

    def on_before_projection(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves the unprojected model; called by `ProjectUpdate`."""
        if self.keep_unprojected:
            self._save(trainer, pl_module, "model_unprojected", "adapter_unprojected")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves the result."""
        self._save(trainer, pl_module, "model", "adapter")

    def _save(self, trainer: L.Trainer, pl_module: L.LightningModule, name: str, adapter: str) -> None:
        if self.folder is None or not isinstance(pl_module, CausalLMModule):
            return
        model, folder, writes = pl_module.model, Path(self.folder), trainer.is_global_zero
        reference = CheckpointReader(locate_model(pl_module.reference))
        dtype, tokenizer = resolve_dtype(self.dtype, reference), load_tokenizer(pl_module.reference)
        find = find_locate(trainer)
        if has_adapters(model):
            place = folder / (adapter if self.merge else name)
            save_adapter(model, place, dtype=dtype, find=find, writes=writes)
        if self._saves_by_tensor(trainer, model):
            save_shared_model(model, tokenizer, folder / name, dtype=dtype, find=find, writes=writes)
        elif writes and not has_adapters(model):
            save_model(model, tokenizer, folder / name, dtype=dtype)
        trainer.strategy.barrier()

    def _saves_by_tensor(self, trainer: L.Trainer, model: PreTrainedModel) -> bool:
        """Whether a whole model is saved of weights that are shared out, or have an adapter beside them."""
        if has_adapters(model):
            return self.merge
        return find_masters(trainer) is not None or any(is_sharded(one) for one in model.parameters())
