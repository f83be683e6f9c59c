"""What the Trainer verbs share: a run folder, checks before anything is written, a manifest, and how to resume."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from safety_lightning.cli.errors import PROGRAM, SuggestingParser
from safety_lightning.errors import UserError
from safety_lightning.files import write_atomically
from safety_lightning.processes import RUN_DIR_VARIABLE, process_rank, share_run_dir
from safety_lightning.profiles import name_profile, read_settings
from safety_lightning.runs import RunFolder, describe_environment, find_version


class VerbParser(SuggestingParser, LightningArgumentParser):
    """LightningCLI's parser, whose errors name the nearest key or class."""

    class_roots = (torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler, Callback, Logger)

    def add_class_arguments(self, *args: Any, sub_configs: bool = False, **kwargs: Any) -> Any:
        """Adds a class's parameters, none of which is replaced by the content of a file of that name.

        Lightning asks for just that, and the source ``prompts.csv`` became the text of the file (jsonargparse 4.53).
        """
        return super().add_class_arguments(*args, sub_configs=False, **kwargs)


class TellHowToResume(Callback):
    """Says how to resume a run that Ctrl-C stopped."""

    def __init__(self, run_folder: Path) -> None:
        self.run_folder = run_folder

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Prints the options that resume the run."""
        if isinstance(exception, KeyboardInterrupt):
            print(f"Stopped. The same command with --run_dir {self.run_folder} --ckpt_path last resumes it.")


class VerbCLI(LightningCLI):
    """One Trainer verb.

    A verb is a subclass that says which classes it runs (`module_class`, `data_class`) and overrides the steps that
    are its own, which are taken in this order: `add_groups`, `place_outputs`, `check`, `describe_inputs`, `begin`, the
    Trainer's work, `finish`. Until `check` and `describe_inputs` have returned, nothing is written. LightningCLI calls
    `prepare_run` and `finish_run` by the names that a verb gives them: ``before_fit`` and ``after_fit``.
    """

    verb: ClassVar[str]
    module_class: ClassVar[type[L.LightningModule]]
    data_class: ClassVar[type[L.LightningDataModule]]
    trainer_options: ClassVar[dict[str, Any]] = {}
    can_resume: ClassVar[bool] = True
    """Whether ``--ckpt_path last`` resumes an earlier run of the folder."""

    @classmethod
    def subcommands(cls) -> dict[str, set[str]]:
        """Returns the one verb that was asked for: each parser takes a quarter of a second to make."""
        return {cls.verb: LightningCLI.subcommands()[cls.verb]}

    def add_groups(self, parser: LightningArgumentParser) -> None:
        """Adds the verb's own groups of arguments."""

    def place_outputs(self, config: Any) -> None:
        """Puts the verb's outputs into `run.path`, in place."""

    def find_checkpoint(self) -> str | None:
        """Returns the checkpoint that a run is resumed from; None for verbs whose progress is in their own files."""
        return None

    def check(self) -> None:
        """Checks everything that can be wrong, writing nothing; raises UserError."""

    def describe_inputs(self) -> dict[str, Any]:
        """Returns the verb's part of the manifest; its ``inputs`` must be the same when the run is resumed."""
        return {"inputs": {}}

    def begin(self) -> None:
        """Writes what must be in the run folder before the work begins."""

    def finish(self) -> None:
        """Writes and prints what came of it, in the first process alone."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the run folder, the link of model and data, and the verb's groups."""
        self.verb_parser = parser
        parser.add_argument("--run_dir", type=str | None, default=None, help="Run folder; a fresh one under logs/.")
        parser.link_arguments("model.model", "data.model")
        self.add_groups(parser)

    def before_instantiate_classes(self) -> None:
        """Chooses the run folder and puts every output into it."""
        config = self.config[self.verb]
        resume = self.can_resume and config.get("ckpt_path") == "last"
        if resume and config.run_dir is None:
            raise UserError("--ckpt_path last must come with the --run_dir of the run to resume, got none")
        self.run = RunFolder(share_run_dir(config.run_dir), command=self.verb, resume=resume)
        os.environ[RUN_DIR_VARIABLE] = str(self.run.path)
        config.run_dir = str(self.run.path)
        self.place_outputs(config)
        if resume:
            config.ckpt_path = self.find_checkpoint()
            config.weights_only = True

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Logs to TensorBoard in the run folder unless told otherwise."""
        trainer_config = self.config_init[self.verb]["trainer"]
        if trainer_config.get("logger") in (None, True):
            kwargs["logger"] = TensorBoardLogger(str(self.run.path), name="tensorboard", version="")
        kwargs.setdefault("default_root_dir", str(self.run.path))
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError) as error:
            raise UserError(describe_refusal(error)) from error
        if self.can_resume:
            trainer.callbacks.append(TellHowToResume(self.run.path))  # type: ignore[attr-defined]
        return trainer

    def prepare_run(self) -> None:
        """Checks, makes the run folder and begins."""
        self.check()
        self._create_folder()
        self.begin()

    def finish_run(self) -> None:
        """Finishes, in the first process alone."""
        if self.trainer.is_global_zero:
            self.finish()

    def read_config(self) -> dict[str, Any]:
        """Returns the verb's resolved configuration as plain values."""
        return dict(self.config[self.verb].as_dict())

    def check_last(self, config: Any) -> None:
        """Raises UserError if ``--ckpt_path`` names a checkpoint: the verb's progress is in its own files."""
        if config.ckpt_path not in (None, "last"):
            raise UserError(
                f"--ckpt_path must be last (which resumes the run) or left out, got {config.ckpt_path}; a model is "
                "given by --model.model"
            )

    def check_folder(self, *, num_bytes: int = 0) -> None:
        """Checks that the run folder can be written, in the first process; see `RunFolder.check`."""
        if process_rank() == 0:
            self.run.check(num_bytes=num_bytes)

    def _create_folder(self) -> None:
        if process_rank() != 0:
            return
        manifest = self._describe_run()
        continue_manifest(manifest, self.run)
        self.run.create()
        number = len(manifest.get("resumed", []))
        name = f"config.resumed-{number}.yaml" if number else "config.yaml"
        text = self.verb_parser.dump(self.config[self.verb], skip_none=False)
        write_atomically(self.run.path / name, text)
        self.run.write_manifest(manifest)

    def _describe_run(self) -> dict[str, Any]:
        config = self.read_config()
        settings = read_settings(config)
        return {
            "command": [PROGRAM, *sys.argv[1:]],
            **describe_environment(),
            **({"device": "cpu"} if self.trainer.strategy.root_device.type == "cpu" else {}),
            "seed": config["seed_everything"],
            "precision": self.trainer.precision,
            "num_processes": self.trainer.world_size,
            "profile": name_profile(settings),
            "settings": settings,
            **self.describe_inputs(),
        }


def describe_refusal(error: Exception) -> str:
    """Says in one line why the Trainer could not be made of its options, and which extra would help."""
    text = "the Trainer must be made of options it takes, got: " + " ".join(str(error).split())
    extras = [extra for extra in ("deepspeed",) if f"must have {extra}" in text.lower() and find_version(extra) is None]
    return text + "".join(f" (here: pip install 'safety_lightning[{extra}]')" for extra in extras)


def continue_manifest(manifest: dict[str, Any], run: RunFolder) -> None:
    """Makes the manifest of a resumed run out of that of its beginning, in place.

    Raises:
        UserError: If the inputs are not those that the run began with.
    """
    before = run.read_manifest() if run.resume else {}
    if not before:
        return
    changed = [name for name, value in manifest["inputs"].items() if before["inputs"].get(name) != value]
    if changed:
        raise UserError(
            f"a run is resumed with the inputs it began with, but {' and '.join(changed)} changed since "
            f"{before['started']} ({run.path / 'manifest.json'})"
        )
    manifest["resumed"] = [*before.get("resumed", []), manifest["started"]]
    manifest["started"] = before["started"]
