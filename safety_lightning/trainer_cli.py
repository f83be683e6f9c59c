"""The Trainer verbs: LightningCLI with a run folder, checks before anything is written, and a table at the end."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonargparse
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from safety_lightning.checkpoints import CheckpointReader, resolve_reference
from safety_lightning.cli_errors import PROGRAM, SuggestingParser, stop
from safety_lightning.data.datamodule import InstructionData
from safety_lightning.evaluation.callback import CompareModels, check_validation
from safety_lightning.evaluation.loss import summarise_loss
from safety_lightning.evaluation.report import print_summary
from safety_lightning.evaluation.results import ResultFile
from safety_lightning.profiles import name_profile, read_settings
from safety_lightning.runs import RunFolder, describe_environment, write_atomically
from safety_lightning.training.callbacks import MonitorUpdate, ProjectUpdate, SaveModel, StepProgressBar
from safety_lightning.training.module import CausalLMModule

_RUN_DIR = "SAFETY_LIGHTNING_RUN_DIR"  # how started processes learn the folder of the first
_COPIES_ON_DISK = 5  # checkpoint of weights and two moments, once more while it is replaced, and the saved models


class VerbParser(SuggestingParser, LightningArgumentParser):
    """LightningCLI's parser, whose errors name the nearest key or class."""

    class_roots = (torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler, Callback, Logger)


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
        resume = self.verb == "fit" and config.get("ckpt_path") == "last"
        if resume and config.run_dir is None:
            raise ValueError("--ckpt_path last must come with the --run_dir of the run that goes on, got none")
        self.run = RunFolder(_share_run_dir(config.run_dir), command=self.verb, resume=resume)
        os.environ[_RUN_DIR] = str(self.run.path)
        config.run_dir = str(self.run.path)
        for group in ("projection", "compare", "save"):
            config[group].folder = config[group].folder or str(self.run.path)
        config.checkpoint.dirpath = config.checkpoint.dirpath or str(self.run.path / "checkpoints")
        subspace = config.projection.subspace
        if subspace is not None:
            subspace.reference = subspace.reference or config.model.model
            subspace.file = subspace.file or str(self.run.path / "subspace.safetensors")
        if resume:
            last = self.run.find_last_checkpoint()
            config.ckpt_path = str(last) if last else None
            config.weights_only = True

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Logs to TensorBoard in the run folder, and shows optimizer steps, unless told otherwise."""
        trainer_config = self.config_init[self.verb]["trainer"]
        if trainer_config.get("logger") in (None, True):
            kwargs["logger"] = TensorBoardLogger(str(self.run.path), name="tensorboard", version="")
        kwargs.setdefault("default_root_dir", str(self.run.path))
        if trainer_config.get("enable_progress_bar") is not False:
            trainer_config["callbacks"] = [*(trainer_config.get("callbacks") or []), StepProgressBar()]
        return super().instantiate_trainer(**kwargs)

    def before_fit(self) -> None:
        """Checks run folder, data and checkpoints, and only then makes the run folder."""
        self._check_folder()
        self.datamodule.prepare()
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, CompareModels):
                callback.check(self.datamodule)
            elif isinstance(callback, (ProjectUpdate, MonitorUpdate)):
                callback.prepare("cuda" if torch.cuda.is_available() else "cpu")
        self._create_folder()
        self._save_subspaces()

    def before_validate(self) -> None:
        """Checks run folder and data, and only then makes the run folder."""
        self._check_folder()
        self.datamodule.prepare()
        check_validation(self.datamodule, wanted_by="validate")
        self._create_folder()

    def after_fit(self) -> None:
        """Prints what came of it."""
        if self.trainer.is_global_zero:
            counts = [counts for one in self._find_projections() if (counts := one.describe())]
            print_summary(self.run.path, settings=read_settings(self._config_dict()), subspaces=counts)

    def after_validate(self) -> None:
        """Writes the loss with its interval, and prints it."""
        if self.trainer.is_global_zero:
            results = ResultFile(self.run.path / "results.jsonl")
            results.add("reference", [summarise_loss(*self.model.val_examples)])
            print_summary(self.run.path, settings=read_settings(self._config_dict()))

    def _run_subcommand(self, subcommand: str) -> None:
        """Runs the verb; says how to go on when it was interrupted."""
        try:
            super()._run_subcommand(subcommand)
        except SystemExit:
            if self.trainer.interrupted and self.verb == "fit":
                print(f"Stopped. The same command with --run_dir {self.run.path} --ckpt_path last goes on.")
            raise

    def _check_folder(self) -> None:
        checkpoint = CheckpointReader(resolve_reference(self.model.reference))
        num_bytes = sum(torch.Size(info.shape).numel() * 4 for info in checkpoint.infos.values())
        if _find_rank() == 0:
            self.run.check(num_bytes=_COPIES_ON_DISK * num_bytes if self.verb == "fit" else 0)

    def _create_folder(self) -> None:
        if _find_rank() != 0:
            return
        manifest = self._describe_run()
        continue_manifest(manifest, self.run)
        self.run.create()
        number = len(manifest.get("resumed", []))
        name = f"config.resumed-{number}.yaml" if number else "config.yaml"
        text = self._parser(self.verb).dump(self.config[self.verb], skip_none=False)
        write_atomically(self.run.path / name, text)
        self.run.write_manifest(manifest)

    def _save_subspaces(self) -> None:
        """Saves bases at once, so that processes that are started now need not find them again."""
        for callback in self._find_projections():
            if _find_rank() == 0:
                callback.save()

    def _find_projections(self) -> list[ProjectUpdate]:
        return [one for one in self.trainer.callbacks if isinstance(one, ProjectUpdate)]  # type: ignore[attr-defined]

    def _describe_run(self) -> dict[str, Any]:
        config = self._config_dict()
        settings = read_settings(config)
        weights = {"model": CheckpointReader(resolve_reference(self.model.reference)).hash_files()}
        subspace = config["projection"]["subspace"]
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
            "subspaces": [counts for one in self._find_projections() if (counts := one.describe())],
        }

    def _config_dict(self) -> dict[str, Any]:
        return dict(self.config[self.verb].as_dict())


def continue_manifest(manifest: dict[str, Any], run: RunFolder) -> None:
    """Makes the manifest of a resumed run out of that of its beginning, in place.

    Raises:
        ValueError: If the inputs are not those that the run began with.
    """
    before = run.read_manifest() if run.resume else {}
    if not before:
        return
    changed = [name for name, value in manifest["inputs"].items() if before["inputs"].get(name) != value]
    if changed:
        raise ValueError(
            f"a run goes on with the inputs it began with, but {' and '.join(changed)} changed since "
            f"{before['started']} ({run.path / 'manifest.json'})"
        )
    manifest["resumed"] = [*before.get("resumed", []), manifest["started"]]
    manifest["started"] = before["started"]


def _find_rank() -> int:
    """Returns this process's rank, which launchers tell by the environment before any process group exists."""
    return int(getattr(rank_zero_only, "rank", 0))


def _share_run_dir(run_dir: str | None) -> str | None:
    """Returns the folder that was asked for; processes that the first one started share its fresh folder.

    Raises:
        ValueError: If another launcher (torchrun, Slurm) started several processes without a folder to share.
    """
    if run_dir is not None or ("RANK" not in os.environ and _find_rank() == 0):
        return run_dir
    if _RUN_DIR not in os.environ:
        raise ValueError("--run_dir must be given when several processes are started together, got none")
    return os.environ[_RUN_DIR]


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
        stop(_find_own_error(error))


def _quieten_libraries() -> None:
    """Keeps advertisements and other libraries' notes to their own developers out of the terminal."""
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # of calls inside Lightning 2.6.6
    warnings.filterwarnings("ignore", message=r".*LeafSpec.*is deprecated")
    warnings.filterwarnings("ignore", message=r"Precision .* is not supported by the model summary")
    warnings.filterwarnings("ignore", message=r".*does not have many workers")  # encoded data is in memory
    notes = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    notes.addFilter(lambda record: not str(record.msg).startswith(("💡", "TPU available")))


def _find_own_error(error: ValueError) -> ValueError:
    """Returns the error in a chain that is written for its user: this package's own, else the parser's.

    Raises:
        ValueError: The error itself, when it is neither: then it is a fault, and its traceback is shown.
    """
    links = _follow_chain(error)
    for folder in (Path(__file__).parent, Path(jsonargparse.__file__).parent):
        for link in links:
            if isinstance(link, ValueError) and _find_origin(link).startswith(str(folder)):
                return link
    raise error


def _follow_chain(error: BaseException) -> list[BaseException]:
    links: list[BaseException] = []
    link: BaseException | None = error
    while link is not None:
        links.append(link)
        link = link.__cause__ or link.__context__
    return links


def _find_origin(error: BaseException) -> str:
    """Returns the file that raised an error."""
    frames = traceback.extract_tb(error.__traceback__)
    return frames[-1].filename if frames else ""
