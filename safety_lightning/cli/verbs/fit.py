"""The verb `fit`: fine-tunes with projection, monitoring and measurements."""

from __future__ import annotations

import sys
from argparse import SUPPRESS
from pathlib import Path
from typing import Any, ClassVar

import yaml
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

from safety_lightning.checkpoints import check_model, load_config, locate_model
from safety_lightning.cli.verbs.base import VerbCLI, place_judges
from safety_lightning.cli.verbs.checkpoints import AtomicCheckpointIO, find_newest, remove_replaced, remove_stopped
from safety_lightning.cli.verbs.dashboard import log_outcome
from safety_lightning.cli.verbs.training import TrainingCLI
from safety_lightning.evaluation.callbacks.compare_models import CompareModels
from safety_lightning.evaluation.callbacks.evaluate_behaviour import EvaluateBehaviour
from safety_lightning.evaluation.records.results import read_results
from safety_lightning.evaluation.report import print_comparisons, print_summary
from safety_lightning.profiles import read_settings
from safety_lightning.system.processes import process_rank
from safety_lightning.training.callbacks import MonitorUpdate, PenalizeUpdate, ProjectUpdate
from safety_lightning.training.lora import check_peft, check_targets
from safety_lightning.training.optimization import check_optimizer, check_steps_taken
from safety_lightning.training.planning import count_data, plan_fit, print_plan, read_options

_COPIES_ON_DISK = 5  # checkpoint of weights and two moments, once more while it is replaced, and the saved models


class FitCLI(TrainingCLI):
    """Fine-tunes."""

    verb = "fit"
    may_change: ClassVar[tuple[str, ...]] = (  # how long it trains, what it logs, when checkpoints are written
        "trainer.max_steps",
        "trainer.max_epochs",
        "monitor.every_n_steps",
        "monitor.figure_every_n_steps",
        *(f"checkpoint.{name}" for name in ("filename", "auto_insert_metric_name", "verbose", "every_n_train_steps")),
        *(f"checkpoint.{name}" for name in ("every_n_epochs", "train_time_interval", "save_top_k", "save_last")),
        *(f"checkpoint.{name}" for name in ("save_on_exception", "save_on_train_epoch_end", "monitor", "mode")),
    )
    before_fit, after_fit = VerbCLI.prepare_run, VerbCLI.finish_run

    def add_groups(self, parser: LightningArgumentParser) -> None:
        """Adds the plan to the groups of a fine-tune."""
        super().add_groups(parser)
        help_text = "Print what the fit would take in memory, work and disk, and do nothing; no weight is read."
        parser.add_argument("--dry_run", type=bool, default=SUPPRESS, help=help_text)  # `validate` takes its configs

    def before_instantiate_classes(self) -> None:
        """Prints the plan and ends, where that is asked for: before there is a run folder, and without its devices."""
        if self.config[self.verb].get("dry_run"):
            self.print_plan()
            raise SystemExit(0)
        super().before_instantiate_classes()

    def print_plan(self) -> None:
        """Prints what the fit would take."""
        made = self.parser.instantiate_classes(self.config)[self.verb]
        if process_rank() != 0:
            return
        folder = locate_model(made.model.reference, with_weights=False)
        config = load_config(folder)
        made.data.model = str(folder)
        settings = read_options(self.config[self.verb], made.model, made.projection)
        print_plan(plan_fit(config, count_data(made.data, attention=made.model.attention), settings))

    @property
    def checkpoint_folder(self) -> str:
        """Where checkpoints are written."""
        return str(self.config[self.verb].checkpoint.dirpath)

    def find_checkpoint(self) -> str | None:
        """Returns the whole checkpoint of the most optimizer steps, naming those passed over; None starts anew."""
        newest, passed = find_newest([Path(self.checkpoint_folder), self.run.path])
        if process_rank() == 0:
            for one in passed:
                print(f"Checkpoint {one.path} is passed over: {one.fault}.", file=sys.stderr)
            if newest is None and not self.run.is_free():
                print(f"Run folder {self.run.path} has no checkpoint yet: it starts from step 0.", file=sys.stderr)
            elif newest is not None:
                print(f"Resuming from {newest}.", file=sys.stderr)
        return str(newest) if newest else None

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Writes checkpoints whole or not at all, under strategies that have them written by a plugin."""
        trainer = super().instantiate_trainer(**kwargs)
        is_shared = isinstance(trainer.strategy, (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy))
        if not is_shared and type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        return trainer

    def check(self) -> None:
        """Checks run folder, data and checkpoints, and spans the subspace."""
        for one in self.find_constraints():
            one.check_strategy(self.trainer)
            if isinstance(one, PenalizeUpdate):
                one.check_module(self.model)
        check_steps_taken(self.trainer)
        check_optimizer(self.model.make_optimizer, self.model.make_scheduler)
        if self.model.lora is not None:
            check_peft()
            check_targets(self.model.lora, list(check_model(self.model.reference).infos))
        self.check_folder(num_bytes=_COPIES_ON_DISK * self.measure_model_bytes())
        self.datamodule.prepare()
        self.check_batches()
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, (CompareModels, EvaluateBehaviour)):
                suite = callback.suite if isinstance(callback, CompareModels) else callback.behaviour.suite
                place_judges(suite.judges if suite is not None else [], self.trainer)
                callback.check(self.datamodule)
            elif isinstance(callback, (ProjectUpdate, PenalizeUpdate, MonitorUpdate)):
                callback.prepare(self.trainer.strategy.root_device)

    def begin(self) -> None:
        """Saves bases at once, so that processes that are started now need not find them again; tidies up."""
        if process_rank() != 0:
            return
        for one in self.find_constraints():
            one.save()
        resumed = self.config[self.verb].ckpt_path
        if (
            self.run.resume
            and resumed
            and self._keeps_as_before()
            and Path(resumed).parent == Path(self.checkpoint_folder)
        ):
            remove_replaced(Path(resumed), strategy=self.trainer.strategy)

    def _keeps_as_before(self) -> bool:
        """Whether as many checkpoints are to be kept as ever before in this run, and not all of them."""
        files = self.run.path.glob("config*.yaml")
        kept = {yaml.safe_load(file.read_text(encoding="utf-8"))["checkpoint"]["save_top_k"] for file in files}
        return kept == {self.config[self.verb].checkpoint.save_top_k} != {-1}

    def finish(self) -> None:
        """Shows in TensorBoard what came of it, and prints the table of the models."""
        remove_stopped(Path(self.checkpoint_folder), strategy=self.trainer.strategy)
        file = self.run.path / "results.jsonl"
        rows = read_results(file) if file.is_file() else []
        projection = self.find_projections()[0]
        for logger in self.trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                log_outcome(
                    logger,
                    config=self.read_config(),
                    rows=rows,
                    measures=projection.measures,
                    subject=projection.subject,
                    step=self.trainer.global_step,
                )
        counts = [counts for one in self.find_projections() if (counts := one.describe())]
        print_summary(self.run.path, settings=read_settings(self.read_config()), subspaces=counts)
        print_comparisons(self.run.path)
