"""The Trainer verbs: LightningCLI with a run folder, checks before anything is written, and a table at the end."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from safety_lightning.checkpoints import CheckpointReader, resolve_reference
from safety_lightning.cli_errors import PROGRAM, SuggestingParser, stop
from safety_lightning.data.datamodule import InstructionData
from safety_lightning.evaluation.callback import CompareModels
from safety_lightning.evaluation.report import print_summary
from safety_lightning.profiles import name_profile, read_settings
from safety_lightning.runs import RunFolder, describe_environment, write_atomically
from safety_lightning.training.callbacks import MonitorUpdate, ProjectUpdate, SaveModel, StepProgressBar
from safety_lightning.training.module import CausalLMModule

_COPIES_ON_DISK = 5  # checkpoint of weights and two moments, once more while it is replaced, and the saved models


class VerbParser(SuggestingParser, LightningArgumentParser):
    """LightningCLI's parser, whose errors name the nearest key."""


class TrainerCLI(LightningCLI):
    """One Trainer verb. Groups of its own: `projection`, `monitor`, `compare`, `save`, `checkpoint`, `run_dir`."""

    verb = "fit"

    @classmethod
    def subcommands(cls) -> dict[str, set[str]]:
        """Returns the one verb that was asked for: each parser takes a quarter of a second to make."""
        return {cls.verb: LightningCLI.subcommands()[cls.verb]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the project's own groups, and links the model to the data and the projection."""
        parser.add_argument("--run_dir", type=str | None, default=None, help="Run folder; a fresh one under logs/.")
        parser.link_arguments("model.model", "data.model")
        parser.add_lightning_class_args(ProjectUpdate, "projection")
        parser.add_lightning_class_args(MonitorUpdate, "monitor")
        parser.add_lightning_class_args(CompareModels, "compare")
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

    def before_instantiate_classes(self) -> None:
        """Chooses the run folder and puts every output into it."""
        config = self.config[self.verb]
        resume = config.get("ckpt_path") == "last"
        self.run = RunFolder(config.run_dir, command=self.verb, resume=resume)
        config.run_dir = str(self.run.path)
        for group in ("projection", "compare", "save"):
            config[group].folder = config[group].folder or str(self.run.path)
        config.checkpoint.dirpath = config.checkpoint.dirpath or str(self.run.path / "checkpoints")
        self._complete_subspace(config)
        if resume:
            last = self.run.find_last_checkpoint()
            config.ckpt_path = str(last) if last else None

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Logs to TensorBoard in the run folder unless a logger was chosen."""
        trainer_config = self.config_init[self.verb]["trainer"]
        if trainer_config.get("logger") in (None, True):
            kwargs["logger"] = TensorBoardLogger(str(self.run.path), name="tensorboard", version="")
        kwargs.setdefault("default_root_dir", str(self.run.path))
        if trainer_config.get("enable_progress_bar") is not False:
            trainer_config["callbacks"] = [*(trainer_config.get("callbacks") or []), StepProgressBar()]
        return super().instantiate_trainer(**kwargs)

    def before_fit(self) -> None:
        """Checks data, checkpoints and disk, and only then makes the run folder."""
        self._check_and_create()

    def before_validate(self) -> None:
        """Checks the data, and only then makes the run folder."""
        self._check_and_create()

    def after_fit(self) -> None:
        """Prints what came of it."""
        print_summary(self.run.path, settings=read_settings(self._config_dict()))

    def _complete_subspace(self, config: Any) -> None:
        subspace = config.projection.subspace
        if subspace is not None:
            subspace.reference = subspace.reference or config.model.model
            subspace.file = subspace.file or str(self.run.path / "subspace.safetensors")

    def _check_and_create(self) -> None:
        folder = resolve_reference(self.model.reference)
        checkpoint = CheckpointReader(folder)
        num_bytes = sum(torch.Size(info.shape).numel() * 4 for info in checkpoint.infos.values())
        self.run.check(num_bytes=_COPIES_ON_DISK * num_bytes if self.verb == "fit" else 0)
        self.datamodule.prepare()
        if self.verb == "fit":
            self._prepare_callbacks()
        manifest = self._describe_run()
        self._check_resumed(manifest)
        if self.trainer.is_global_zero:
            self.run.create()
            self._write_config()
            self.run.write_manifest(manifest)
        self.trainer.strategy.barrier()

    def _prepare_callbacks(self) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, (ProjectUpdate, MonitorUpdate)):
                callback.prepare(device)

    def _describe_run(self) -> dict[str, Any]:
        config = self._config_dict()
        settings = read_settings(config)
        weights = {"model": CheckpointReader(resolve_reference(self.model.reference)).hash_files()}
        subspace = (config.get("projection") or {}).get("subspace")
        if subspace is not None:
            weights["base"] = CheckpointReader(resolve_reference(subspace["base"])).hash_files()
        return {
            "command": [PROGRAM, *sys.argv[1:]],
            **describe_environment(),
            "seed": config["seed_everything"],
            "precision": self.trainer.precision,
            "num_processes": self.trainer.world_size,
            "profile": name_profile(settings),
            "settings": settings,
            "inputs": {"weights": weights, "data": self.datamodule.input_hashes()},
            "data": self.datamodule.summary(),
        }

    def _check_resumed(self, manifest: dict[str, Any]) -> None:
        before = self.run.read_manifest()
        if before and before["inputs"] != manifest["inputs"]:
            changed = [name for name in before["inputs"] if before["inputs"][name] != manifest["inputs"][name]]
            raise ValueError(
                f"a run goes on with the inputs it began with, but {' and '.join(changed)} changed since "
                f"{before['started']} ({self.run.path / 'manifest.json'})"
            )
        if before:
            manifest["started"], resumed_at = before["started"], manifest["started"]
            manifest["resumed"] = [*before.get("resumed", []), resumed_at]

    def _write_config(self) -> None:
        text = self._parser(self.verb).dump(self.config[self.verb], skip_none=False)
        name = "config.yaml" if not self.run.resume else f"config.resumed-{len(self.run.read_manifest()) and 1}.yaml"
        write_atomically(self.run.path / name, text)

    def _config_dict(self) -> dict[str, Any]:
        return dict(self.config[self.verb].as_dict())


def run_verb(verb: str, *, args: Sequence[str] | None = None) -> None:
    """Runs a Trainer verb.

    Args:
        verb: ``fit`` or ``validate``.
        args: The verb and its options; None takes those of the process.
    """
    _quieten_libraries()
    cli_class = type("TrainerCLI", (TrainerCLI,), {"verb": verb})
    try:
        cli_class(
            CausalLMModule,
            InstructionData,
            save_config_callback=None,
            trainer_defaults={"use_distributed_sampler": False, "precision": "bf16-mixed"},
            seed_everything_default=0,
            parser_class=VerbParser,
            parser_kwargs={"prog": PROGRAM, "allow_abbrev": False, verb: {"allow_abbrev": False}},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=None if args is None else list(args),
        )
    except ValueError as error:
        if _is_ours(error):
            stop(error)
        raise


def _quieten_libraries() -> None:
    """Keeps advertisements and other libraries' notes to their own developers out of the terminal."""
    warnings.filterwarnings("ignore", message=r".*LeafSpec.*is deprecated")
    warnings.filterwarnings("ignore", message=r"Precision .* is not supported by the model summary")
    warnings.filterwarnings("ignore", message=r".*does not have many workers")  # encoded data is in memory
    notes = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    notes.addFilter(lambda record: not str(record.msg).startswith(("💡", "TPU available")))


def _is_ours(error: ValueError) -> bool:
    """Whether the error was raised by this package, and so is written for its user."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    package = str(Path(__file__).resolve().parent)
    return trace is not None and trace.tb_frame.f_code.co_filename.startswith(package)
