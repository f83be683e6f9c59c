"""What the Trainer verbs share: a run folder, checks before anything is written, a manifest, and how to resume."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Iterable
from typing import Any, ClassVar

import lightning as L
import torch
from jsonargparse.typing import restricted_number_type
from lightning.fabric.plugins import CheckpointIO, ClusterEnvironment
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.plugins import LayerSync, Precision
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from safety_lightning.cli.errors import PROGRAM, SuggestingParser
from safety_lightning.cli.verbs.faults import describe
from safety_lightning.cli.verbs.resuming import MAY_CHANGE, check_resumed
from safety_lightning.cli.verbs.stopping import MindSignals
from safety_lightning.errors import UserError
from safety_lightning.evaluation.judges import Judge
from safety_lightning.files import expand, find_parent, write_atomically
from safety_lightning.profiles import name_profile, read_settings
from safety_lightning.runs import RunFolder, describe_environment, find_version
from safety_lightning.system.processes import RUN_DIR_VARIABLE, process_rank, share_run_dir

Seed = restricted_number_type("Seed", int, [(">=", 0), ("<", 2**32)])
_HANDED_TO = {  # which class takes the keywords that one of Lightning's does not know
    "DDPStrategy": "torch.nn.parallel.DistributedDataParallel",
    "FSDPStrategy": "torch.distributed.fsdp.FullyShardedDataParallel",
    "TensorBoardLogger": "torch.utils.tensorboard.SummaryWriter",
}
PLUGINS = (Precision, ClusterEnvironment, CheckpointIO, LayerSync)


class VerbParser(SuggestingParser, LightningArgumentParser):
    """LightningCLI's parser, whose errors name the nearest key or class."""

    class_roots = (torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler, Callback, Logger)
    factory_kinds = (Callback, Logger, Judge, Strategy, Accelerator, Profiler, *PLUGINS)

    def add_class_arguments(self, *args: Any, sub_configs: bool = False, **kwargs: Any) -> Any:
        """Adds a class's parameters, none of which is replaced by the content of a file of that name.

        Lightning asks for just that, and the source ``prompts.csv`` became the text of the file (jsonargparse 4.53).
        """
        return super().add_class_arguments(*args, sub_configs=False, **kwargs)


class VerbCLI(LightningCLI):
    """One Trainer verb.

    A verb is a subclass that says which classes it runs (`module_class`, `data_class`) and overrides the steps that
    are its own, which are taken in this order: `add_groups`, `place_outputs`, `check`, `describe_inputs`, `begin`, the
    Trainer's work, `finish`. Until `check` and `describe_inputs` have returned, nothing is written. LightningCLI calls
    `prepare_run` and `finish_run` by the names that a verb gives them: ``before_fit`` and ``after_fit``.
    """

    run: RunFolder
    verb: ClassVar[str]
    module_class: ClassVar[type[L.LightningModule]]
    data_class: ClassVar[type[L.LightningDataModule]]
    trainer_options: ClassVar[dict[str, Any]] = {}
    outputs: ClassVar[tuple[str, ...]] = ()
    """Keys of the files and folders that it writes, beside the run folder where the user wants them elsewhere."""
    can_resume: ClassVar[bool] = True
    """Whether ``--ckpt_path last`` resumes an earlier run of the folder."""
    may_change: ClassVar[tuple[str, ...]] = ()
    """Settings, and groups of them, that a resumed run may have other than its beginning, beside `MAY_CHANGE`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(*args, **kwargs)
        finally:
            if hasattr(self, "run"):  # the parser had no error
                self.run.release()

    @classmethod
    def subcommands(cls) -> dict[str, set[str]]:
        """Returns the one verb that was asked for: each parser takes a quarter of a second to make."""
        return {cls.verb: LightningCLI.subcommands()[cls.verb]}

    def add_groups(self, parser: LightningArgumentParser) -> None:
        """Adds the verb's own groups of arguments."""

    def place_outputs(self, config: Any) -> None:
        """Puts the verb's outputs into `run.path`, in place."""

    @property
    def checkpoint_folder(self) -> str | None:
        """Where checkpoints are written; None for verbs that write none."""
        return None

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

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the seed, within the bounds of numpy's generators."""
        seed_help = "Seed of all random draws; true draws one, false seeds nothing."
        parser.add_argument("--seed_everything", type=bool | Seed, default=self.seed_everything_default, help=seed_help)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the run folder, the link of model and data, and the verb's groups."""
        self.verb_parser = parser
        parser.add_argument("--run_dir", type=str | None, default=None, help="Run folder; a fresh one under logs/.")
        parser.link_arguments("model.model", "data.model")
        self.add_groups(parser)

    def _parse_ckpt_path(self) -> None:
        """Takes no settings from a checkpoint: LightningCLI lets a file's ``hyper_parameters`` replace the config's."""

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
        config.weights_only = True  # or the pickle of a checkpoint from an address would be opened
        if resume:
            self._hold_resumed()
            config.ckpt_path = self.find_checkpoint()

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Logs to TensorBoard in the run folder unless told otherwise."""
        trainer_config = self.config_init[self.verb]["trainer"]
        if trainer_config.get("logger") in (None, True):
            kwargs["logger"] = TensorBoardLogger(str(self.run.path), name="tensorboard", version="")
        kwargs.setdefault("default_root_dir", str(self.run.path))
        check_kwargs(self.config[self.verb].trainer)
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError) as error:
            raise UserError(describe_refusal(error)) from error
        trainer.callbacks.append(MindSignals(self.checkpoint_folder))  # type: ignore[attr-defined]
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
        """Checks that the run folder and all outputs can be written, in the first process; see `RunFolder.check`."""
        if process_rank() != 0:
            return
        self.run.check(num_bytes=num_bytes)
        config = self.config[self.verb]
        for key in self.outputs:
            if path := config.get(key):
                find_parent(expand(path, what=key), what=key)

    def _hold_resumed(self) -> None:
        """Holds the folder of the run from before its progress is read; says so if there is no run in it yet."""
        if process_rank() != 0:
            return
        if self.run.is_free():
            print(f"Run folder {self.run.path} holds no run yet: one is started in it.", file=sys.stderr)
        else:
            self.run.check()
            self.run.acquire()

    def _create_folder(self) -> None:
        if process_rank() != 0:
            return
        manifest = self._describe_run()
        config = self.verb_parser.dump(self.config[self.verb], skip_none=False)
        if self.run.resume:
            check_resumed(manifest, config, self.run, may_change=(*MAY_CHANGE, *self.may_change))
        continue_manifest(manifest, self.run)
        self.run.create()
        number = len(manifest.get("resumed", []))
        name = f"config.resumed-{number}.yaml" if number else "config.yaml"
        write_atomically(self.run.path / name, config)
        self.run.write_manifest(manifest)

    def _describe_run(self) -> dict[str, Any]:
        config = self.read_config()
        settings = read_settings(config)
        return {
            "command": [PROGRAM, *sys.argv[1:]],
            "verb": self.verb,
            **describe_environment(),
            **({"device": "cpu"} if self.trainer.strategy.root_device.type == "cpu" else {}),
            "seed": config["seed_everything"],
            "precision": self.trainer.precision,
            "num_processes": self.trainer.world_size,
            "profile": name_profile(settings),
            "settings": settings,
            **self.describe_inputs(),
        }


def place_judges(judges: Iterable[Judge], trainer: L.Trainer) -> None:
    """Has judges that are models here, and were told no device, compute where the Trainer does, in place."""
    for judge in judges:
        if getattr(judge, "device", "") is None:
            judge.device = str(trainer.strategy.root_device)  # type: ignore[attr-defined]


def check_kwargs(options: Any) -> None:
    """Checks ``dict_kwargs`` of a logger or a strategy that hands them to a class which is made when the run has begun.

    Args:
        options: The Trainer's options, as parsed.

    Raises:
        UserError: If that class takes no such keyword.
    """
    for key in ("logger", "strategy"):
        given = options.get(key)
        for one in given if isinstance(given, list) else [given]:
            name = str(getattr(one, "class_path", "")).rpartition(".")[2]
            if not getattr(one, "dict_kwargs", None) or name not in _HANDED_TO:
                continue
            module, _, maker = _HANDED_TO[name].rpartition(".")
            known = inspect.signature(getattr(importlib.import_module(module), maker)).parameters
            for keyword in one.dict_kwargs:
                if keyword not in known:
                    raise UserError(f"trainer.{key}.dict_kwargs must be keywords of {maker}, got {keyword}")


def describe_refusal(error: Exception) -> str:
    """Says in one line why the Trainer could not be made of its options, and which extra would help."""
    text = f"the Trainer must be made of options it takes, got: {describe(error)}"
    extras = [extra for extra in ("deepspeed",) if f"have {extra}" in text.lower() and find_version(extra) is None]
    if "strategy `fsdp" in text:
        return f"{text} (fsdp2 is the strategy that this program takes in its place)"
    return text + "".join(f" (here: pip install 'safety_lightning[{extra}]')" for extra in extras)


def continue_manifest(manifest: dict[str, Any], run: RunFolder) -> None:
    """Makes the manifest of a resumed run out of that of its beginning, in place."""
    before = run.read_manifest() if run.resume else {}
    if before:
        manifest["resumed"] = [*before.get("resumed", []), manifest["started"]]
        manifest["started"] = before["started"]
