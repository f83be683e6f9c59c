"""The verb `fit`: fine-tunes with projection, monitoring and measurements."""

from __future__ import annotations

from lightning.pytorch.loggers import TensorBoardLogger

from safety_lightning.cli.verbs.base import VerbCLI
from safety_lightning.cli.verbs.dashboard import log_outcome
from safety_lightning.cli.verbs.training import TrainingCLI
from safety_lightning.evaluation.callbacks.compare_models import CompareModels
from safety_lightning.evaluation.callbacks.evaluate_behaviour import EvaluateBehaviour
from safety_lightning.evaluation.records.results import read_results
from safety_lightning.evaluation.report import print_summary
from safety_lightning.processes import process_rank
from safety_lightning.profiles import read_settings
from safety_lightning.training.callbacks import MonitorUpdate, ProjectUpdate
from safety_lightning.training.optimization import check_optimizer, check_steps_taken

_COPIES_ON_DISK = 5  # checkpoint of weights and two moments, once more while it is replaced, and the saved models


class FitCLI(TrainingCLI):
    """Fine-tunes."""

    verb = "fit"
    before_fit, after_fit = VerbCLI.prepare_run, VerbCLI.finish_run

    def find_checkpoint(self) -> str | None:
        """Returns the checkpoint of the most optimizer steps; None starts anew."""
        last = self.run.find_last_checkpoint()
        return str(last) if last else None

    def check(self) -> None:
        """Checks run folder, data and checkpoints, and spans the subspace."""
        for projection in self.find_projections():
            projection.check_strategy(self.trainer)
        check_steps_taken(self.trainer)
        check_optimizer(self.model.make_optimizer, self.model.make_scheduler)
        self.check_folder(num_bytes=_COPIES_ON_DISK * self.measure_model_bytes())
        self.datamodule.prepare()
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, (CompareModels, EvaluateBehaviour)):
                callback.check(self.datamodule)
            elif isinstance(callback, (ProjectUpdate, MonitorUpdate)):
                callback.prepare(self.trainer.strategy.root_device)

    def begin(self) -> None:
        """Saves bases at once, so that processes that are started now need not find them again."""
        for callback in self.find_projections():
            if process_rank() == 0:
                callback.save()

    def finish(self) -> None:
        """Shows in TensorBoard what came of it, and prints the table of the models."""
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
