"""What `fit` and `validate` share: the model that is trained, its data, and the groups of a fine-tune."""

from __future__ import annotations

from typing import Any, ClassVar

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser

from safety_lightning.checkpoints import CheckpointReader, check_model, resolve_reference
from safety_lightning.cli.verbs.base import VerbCLI
from safety_lightning.data import InstructionData
from safety_lightning.evaluation.callbacks.compare_models import CompareModels
from safety_lightning.evaluation.callbacks.evaluate_behaviour import EvaluateBehaviour
from safety_lightning.training.callbacks import MonitorUpdate, ProjectUpdate, SaveModel, StepProgressBar
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
    )
    trainer_options: ClassVar[dict[str, Any]] = {
        "use_distributed_sampler": False,
        "precision": "bf16-mixed",
        "inference_mode": False,  # or validation gathers sharded weights into tensors that no step can write to
    }

    def add_groups(self, parser: LightningArgumentParser) -> None:
        """Adds the callbacks of a fine-tune."""
        parser.add_lightning_class_args(ProjectUpdate, "projection")
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
        """Puts results, models, checkpoints and the subspace into the run folder."""
        for group in ("projection", "compare", "behaviour", "save"):
            config[group].folder = config[group].folder or str(self.run.path)
        config.checkpoint.dirpath = config.checkpoint.dirpath or str(self.run.path / "checkpoints")
        subspace = config.projection.subspace
        if subspace is not None:
            subspace.reference = subspace.reference or config.model.model
            subspace.file = subspace.file or str(self.run.path / "subspace.safetensors")

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
        subspace = self.read_config()["projection"]["subspace"]
        if subspace is not None:
            weights["base"] = CheckpointReader(resolve_reference(subspace["base"])).hash_files()
        return {
            "inputs": {"weights": weights, "data": self.datamodule.input_hashes()},
            "data": self.datamodule.summary(),
            "subspaces": [counts for one in self.find_projections() if (counts := one.describe())],
        }

    def find_projections(self) -> list[ProjectUpdate]:
        """Returns the callbacks that project."""
        return [one for one in self.trainer.callbacks if isinstance(one, ProjectUpdate)]  # type: ignore[attr-defined]

    def measure_model_bytes(self) -> int:
        """Returns the size of the model in float32; checks that its weights can be read."""
        self.model.checkpoint = check_model(self.model.reference)
        return sum(info.num_numbers * 4 for info in self.model.checkpoint.infos.values())
