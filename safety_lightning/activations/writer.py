"""The callback of `predict`: checks first, writes activations as they come, resumes after a kill, ends with the index.

Shapes in this file: B = batch, L = decoder layers, D = hidden size.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from safety_lightning.activations.datamodule import PromptBatch, PromptData
from safety_lightning.activations.module import ActivationModule
from safety_lightning.activations.shards import Shard, count_shard_prompts
from safety_lightning.activations.storage import (
    TENSOR,
    ActivationIndex,
    PromptRecord,
    check_finite,
    name_shard,
    save_index,
)
from safety_lightning.checkpoints import CheckpointReader, load_config, locate_model
from safety_lightning.errors import UserError
from safety_lightning.files import atomic_path, hash_file
from safety_lightning.system.lightning_internals import check_sampler

_MARK = "capture"  # one entry: safetensors writes several in any order, and equal captures must be equal files

logger = logging.getLogger(__name__)


class ActivationWriter(BasePredictionWriter):
    """Writes what `ActivationModule` predicts on `PromptData`: one folder per prompt set, for `overlap activations`.

    Each process captures and writes shards of its own; when all are there, the first process writes the indexes. A
    shard is written atomically and depends on nothing but inputs and settings: a run that was killed resumes
    with the missing shards, on any number of processes, and leaves the same files as one that was not killed.

    Args:
        folder: Where to write; in a run of the command line, ``activations`` in the run folder.
        shard_megabytes: Most megabytes of vectors in a shard (a batch at least), above 0. A process holds one.

    Raises:
        UserError: If `shard_megabytes` is not above 0.
    """

    def __init__(self, folder: str | None = None, shard_megabytes: float = 16.0) -> None:
        super().__init__(write_interval="batch")
        if shard_megabytes <= 0:
            raise UserError(f"shard_megabytes must be above 0, got {shard_megabytes}")
        self.folder = folder
        self.shard_megabytes = shard_megabytes
        self._shards: list[Shard] = []
        self._waiting: list[Shard] = []
        self._rows: list[Tensor] = []
        self._recipe: dict[str, Any] = {}
        self._sound: dict[str, dict[int, str]] = {}  # hashes of shards whose content was checked, by set and number
        self.recipe_hash = ""  # SHA-256 of everything that the activations depend on, once prepared

    def prepare(self, module: ActivationModule, data: PromptData) -> None:
        """Reads and checks the prompts, and plans the shards; loads no weights and writes nothing.

        Raises:
            UserError: As `PromptData.prepare`; if a prompt and its response are longer than the model's context, or
                another capture is in the folder.
        """
        if self.folder is None:
            raise UserError("folder of the activations must be given, got none")
        _check_responses(module, data)
        data.prepare()
        config = load_config(module.reference).get_text_config()
        _check_context(module, data, getattr(config, "max_position_embeddings", None))
        self.num_layers, self.hidden_size = int(config.num_hidden_layers), int(config.hidden_size)
        self._recipe = _describe_capture(module, data)
        self._shards = data.plan(
            count_shard_prompts(self.num_layers, self.hidden_size, shard_megabytes=self.shard_megabytes)
        )
        whole = self._recipe | {"shards": [[one.set, one.number, one.batches] for one in self._shards]}
        self.recipe_hash = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
        for shard in self._shards:
            self._is_done(shard)

    def estimate_bytes(self) -> int:
        """Returns how much will be written, about."""
        num_prompts = sum(len(shard.members) for shard in self._shards)
        return 4 * num_prompts * (self.num_layers + 1) * self.hidden_size

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Checks everything, and tells the data which shards this process has still to capture.

        Raises:
            UserError: As `prepare`; if module or data are not those that this callback writes for, or the Trainer
                splits the model over processes or samples or rounds it by itself.
        """
        super().setup(trainer, pl_module, stage)
        data = getattr(trainer, "datamodule", None)
        if not isinstance(pl_module, ActivationModule) or not isinstance(data, PromptData):
            raise UserError(
                "ActivationWriter must run with ActivationModule and the datamodule PromptData, got "
                f"{type(pl_module).__name__} and {type(data).__name__}"
            )
        check_trainer(trainer)
        self.prepare(pl_module, data)
        own = self._shards[trainer.global_rank :: trainer.world_size]
        self._waiting = [shard for shard in own if not self._is_done(shard)]
        self._rows = []
        data.choose(self._waiting)

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: Tensor,
        batch_indices: Sequence[int] | None,
        batch: PromptBatch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Checks a batch's vectors, and writes the shard that they fill.

        Raises:
            UserError: If a number is NaN or infinite, naming layer and prompt; the shard is not written.
        """
        prompts: PromptData = trainer.datamodule  # type: ignore[attr-defined]
        ids = [prompts.prompts[index].id for index in batch.indices]
        for layer in range(prediction.shape[1]):
            check_finite(prediction[:, layer], layer, ids)
        self._rows.append(prediction)
        if len(self._rows) == len(self._waiting[0].batches):
            self._write(self._waiting.pop(0), torch.cat(self._rows))
            self._rows = []

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Waits for all processes; the first writes the index of each set whose shards are all there."""
        trainer.strategy.barrier("activations")
        if not trainer.is_global_zero:
            return
        for name in dict.fromkeys(shard.set for shard in self._shards):
            shards = [shard for shard in self._shards if shard.set == name]
            num_done = sum(self._is_done(shard) for shard in shards)
            if num_done == len(shards):
                save_index(self._find_folder(name), self._make_index(trainer, shards))
            else:
                logger.warning("Prompt set %s has %d of %d shards, and no index yet", name, num_done, len(shards))

    def _write(self, shard: Shard, hidden: Tensor) -> None:
        hidden = hidden.contiguous()
        with atomic_path(self._find_file(shard)) as partial:
            save_file({TENSOR: hidden}, partial, metadata={_MARK: self._mark(shard, hidden)})

    def _mark(self, shard: Shard, hidden: Tensor) -> str:
        """Returns what a shard's file says of itself: of which capture, its content's hash, and which shard it is."""
        return f"{self.recipe_hash} {hashlib.sha256(hidden.numpy().data).hexdigest()} {shard.set}/{shard.number}"

    def _is_done(self, shard: Shard) -> bool:
        """Says whether a shard is written; a damaged one, or one in another's place, is captured again.

        Raises:
            UserError: If it is of another capture.
        """
        file = self._find_file(shard)
        if not file.exists():
            return False
        digest = hash_file(file)
        if self._sound.get(shard.set, {}).get(shard.number) == digest:
            return True  # its content was read before
        try:
            with safe_open(file, framework="pt") as handle:
                mark, hidden = (handle.metadata() or {}).get(_MARK, ""), handle.get_tensor(TENSOR)
        except (SafetensorError, OSError) as error:
            logger.warning("Damaged shard %s is captured again: %s", file, error)
            return False
        if mark.split(" ")[0] != self.recipe_hash:
            raise UserError(
                f"activation folder {file.parent} must be new or hold this very capture, got {file.name} of other "
                "inputs or settings"
            )
        if hidden.dtype != torch.float32 or mark != self._mark(shard, hidden):
            logger.warning("Damaged shard %s is captured again: it is not what it was written as", file)
            return False
        self._sound.setdefault(shard.set, {})[shard.number] = digest
        return True

    def _find_folder(self, name: str) -> Path:
        assert self.folder is not None
        return Path(self.folder).expanduser() / name

    def _find_file(self, shard: Shard) -> Path:
        return self._find_folder(shard.set) / name_shard(shard.number)

    def _make_index(self, trainer: L.Trainer, shards: Sequence[Shard]) -> ActivationIndex:
        data: PromptData = trainer.datamodule  # type: ignore[attr-defined]
        places = {index: (shard.number, row) for shard in shards for row, index in enumerate(shard.members)}
        records = []
        for index in sorted(places):
            prompt, (shard, row) = data.prompts[index], places[index]
            records.append(
                PromptRecord(
                    id=prompt.id,
                    set=prompt.set,
                    text_hash=prompt.hash_text(),
                    num_tokens=prompt.num_tokens,
                    shard=shard,
                    row=row,
                )
            )
        return ActivationIndex(
            model=self._recipe["model"],
            model_hashes=self._recipe["model_hashes"],
            num_layers=self.num_layers,
            hidden_size=self.hidden_size,
            token=self._recipe["token"],
            settings=self._recipe["settings"] | {"counts": data.summary()[shards[0].set]},
            prompts=records,
        )


def check_trainer(trainer: L.Trainer) -> None:
    """Raises UserError if the Trainer splits the model over processes, divides the data, or rounds the weights."""
    if not isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)):
        raise UserError(
            "strategy of the Trainer must keep the whole model in each process (ddp), got "
            f"{type(trainer.strategy).__name__}"
        )
    if trainer.world_size > 1:
        check_sampler(trainer)
    if trainer.precision != "32-true":
        raise UserError(
            f"precision of the Trainer must be 32-true, got {trainer.precision}: say model.dtype, which rounds weights "
            "alone"
        )


def _check_responses(module: ActivationModule, data: PromptData) -> None:
    """Raises UserError if the data lacks responses that the module wants, or reads responses that it does not want."""
    wanted = module.response == "given"
    if data.with_responses != wanted:
        raise UserError(
            f"with_responses of the data must be {wanted} where the module's response is {module.response}, got "
            f"{data.with_responses}"
        )


def _check_context(module: ActivationModule, data: PromptData, context_tokens: int | None) -> None:
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


def _describe_capture(module: ActivationModule, data: PromptData) -> dict[str, Any]:
    """Returns all that the activations depend on, as JSON values."""
    return {
        "model": module.reference,
        "model_hashes": CheckpointReader(locate_model(module.reference)).hash_files(),
        "token": module.token,
        "settings": {**module.describe(), **data.describe()},
        "prompts": data.input_hashes(),
    }
