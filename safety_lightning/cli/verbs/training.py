"""What `fit` and `validate` share: the model that is trained, its data, and the groups of a fine-tune."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser

from safety_lightning.checkpoints import CheckpointReader, check_model, locate_model
from safety_lightning.cli.verbs.base import VerbCLI
from safety_lightning.data import InstructionData
from safety_lightning.errors import UserError
from safety_lightning.evaluation.callbacks.compare_models import CompareModels
from safety_lightning.evaluation.callbacks.evaluate_behaviour import EvaluateBehaviour
from safety_lightning.training.callbacks import MonitorUpdate, PenalizeUpdate, ProjectUpdate, SaveModel, StepProgressBar
from safety_lightning.training.module import CausalLMModule


class TrainingCLI(VerbCLI):
    """A verb on `CausalLMModule`, with the groups of a fine-tune: `projection`, `monitor`, `compare`, `save`, ..."""

    module_class = CausalLMModule
    data_class = InstructionData
    outputs = (
        *(f"{group}.folder" for group in ("projection", "compare", "behaviour", "save")),
        "checkpoint.dirpath",
        "projection.subspace.file",
        "projection.subspace.library",
        "penalty.subspace.file",
        "penalty.subspace.library",
    )
    trainer_options: ClassVar[dict[str, Any]] = {
        "use_distributed_sampler": False,
        "precision": "bf16-mixed",
        "inference_mode": False,  # or validation gathers sharded weights into tensors that no step can write to
    }

    def add_groups(self, parser: LightningArgumentParser) -> None:
        """Adds the callbacks of a fine-tune."""
        parser.add_lightning_class_args(ProjectUpdate, "projection")
        parser.add_lightning_class_args(PenalizeUpdate, "penalty")
        parser.add_lightning_class_args(MonitorUpdate, "monitor")
        parser.add_lightning_class_args(CompareModels, "compare")
        parser.add_lightning_class_args(EvaluateBehaviour, "behaviour")
        parser.add_lightning_class_args(SaveModel, "save")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.filename": "{step}",
                "checkpoint.every_n_train_steps": 100,
                "checkpoint.save_top_k": 1,
                "checkpoint.enable_version_counter": False,
            }
        )
        parser.link_arguments("projection.storage_dtype", "save.dtype")

    def place_outputs(self, config: Any) -> None:
        """Puts results, models, checkpoints and the subspace into the run folder; one seed serves model and data."""
        if config.data.seed is None:
            config.data.seed = self.find_seed(config)
        for group in ("projection", "compare", "behaviour", "save"):
            config[group].folder = config[group].folder or str(self.run.path)
        config.checkpoint.dirpath = config.checkpoint.dirpath or str(self.run.path / "checkpoints")
        for group, file in (("projection", "subspace.safetensors"), ("penalty", "penalty_subspace.safetensors")):
            subspace = config[group].subspace
            if subspace is not None:
                subspace.reference = subspace.reference or config.model.model
                subspace.file = subspace.file or str(self.run.path / file)

    def find_seed(self, config: Any) -> int:
        """Returns the seed of data that are given none."""
        return int(config.seed_everything)

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Shows optimizer steps unless told otherwise."""
        trainer_config = self.config_init[self.verb]["trainer"]
        if trainer_config.get("enable_progress_bar") is not False:
            given = trainer_config.get("callbacks") or []
            trainer_config["callbacks"] = [*(given if isinstance(given, list) else [given]), StepProgressBar()]
        return super().instantiate_trainer(**kwargs)

    def describe_inputs(self) -> dict[str, Any]:
        """Returns hashes of weights and data, and counts of data and subspaces."""
        weights = {"model": self.model.checkpoint.hash_files()}
        for name, group in (("base", "projection"), ("penalty_base", "penalty")):
            subspace = self.read_config()[group]["subspace"]
            if subspace is not None:
                weights[name] = CheckpointReader(locate_model(subspace["base"])).hash_files()
        return {
            "inputs": {"weights": weights, "data": self.datamodule.input_hashes()},
            "data": self.datamodule.summary(),
            "subspaces": [counts for one in self.find_projections() if (counts := one.describe())],
        }

    def check_batches(self) -> None:
        """Checks the Trainer's options that depend on how many batches there are; see `check_limits`."""
        num_validation = len(self.datamodule.val_dataloader())
        num_train = -(-len(self.datamodule.train_dataloader()) // self.trainer.world_size)
        if self.verb == "fit" and num_validation == 0:
            check_monitored(self.trainer)
        check_limits(self.trainer, {"val": num_validation} | ({"train": num_train} if self.verb == "fit" else {}))

    def find_projections(self) -> list[ProjectUpdate]:
        """Returns the callbacks that project."""
        return [one for one in self.trainer.callbacks if isinstance(one, ProjectUpdate)]  # type: ignore[attr-defined]

    def find_constraints(self) -> list[ProjectUpdate | PenalizeUpdate]:
        """Returns the callbacks that project or penalize."""
        callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
        return [one for one in callbacks if isinstance(one, (ProjectUpdate, PenalizeUpdate))]

    def measure_model_bytes(self) -> int:
        """Returns the size of the model in float32; checks that its weights can be read."""
        self.model.checkpoint = check_model(self.model.reference)
        return sum(info.num_numbers * 4 for info in self.model.checkpoint.infos.values())


def check_monitored(trainer: L.Trainer) -> None:
    """Raises UserError if a callback waits for a metric of a validation, in a fit without validation data."""
    for one in trainer.callbacks:  # type: ignore[attr-defined]
        metric = str(getattr(one, "monitor", None))
        if metric.startswith("val/"):
            raise UserError(
                f"{type(one).__name__} monitors {metric}, which must come with validation data (data.validation or "
                "data.num_validation), got none"
            )


def check_limits(trainer: L.Trainer, num_batches: Mapping[str, int]) -> None:
    """Checks what Lightning would refuse when the run has begun: shares of the batches that hold none.

    Args:
        trainer: A Trainer that has not been run.
        num_batches: The batches of an epoch in each process, of ``train`` and ``val``.

    Raises:
        UserError: If a share holds no batch, or the model would be validated after more batches than there are.
    """
    for stage, number in num_batches.items():
        limit = getattr(trainer, f"limit_{stage}_batches")
        if isinstance(limit, float) and limit > 0 and number > 0 and int(limit * number) == 0:
            raise UserError(f"trainer.limit_{stage}_batches must hold one of the {number} batches, got {limit}")
    interval, limit = trainer.val_check_interval, trainer.limit_train_batches
    if "train" not in num_batches or not isinstance(interval, int) or trainer.check_val_every_n_epoch is None:
        return
    number = min(num_batches["train"], limit) if isinstance(limit, int) else int(num_batches["train"] * limit)
    if interval > number and num_batches["val"] > 0 and trainer.limit_val_batches > 0:
        raise UserError(
            f"trainer.val_check_interval must be at most the {number} batches of an epoch, got {interval} (more are "
            "counted with trainer.check_val_every_n_epoch null)"
        )
