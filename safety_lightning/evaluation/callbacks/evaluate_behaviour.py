"""The Lightning callback that measures behaviour while a model is fine-tuned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L

from safety_lightning.errors import UserError
from safety_lightning.evaluation.callbacks.fine_tune import FineTuneEvaluation, measure_live, take_reference
from safety_lightning.evaluation.callbacks.keys import describe_suite, make_key
from safety_lightning.evaluation.measurement import Measurement
from safety_lightning.evaluation.records import ResultFile
from safety_lightning.evaluation.tasks import Lab, TaskSuite
from safety_lightning.training.module import CausalLMModule


class EvaluateBehaviour(L.Callback):
    """Measures the model every so many optimizer steps, on the first prompts of each task.

    Values go to the loggers as ``behaviour/TASK/METRIC`` and to ``results.jsonl`` as rows of ``finetuned`` with the
    step. What a resumed run has measured already, by the same settings, is not measured again. Training is not
    changed: answers are greedy, and nothing is drawn from the global generators.

    Args:
        every_n_steps: Optimizer steps from one measurement to the next; 0 measures nothing.
        suite: The tasks; None is the lab.
        num_prompts: How many prompts of each task, at least 1.
        batch_size: Prompts answered at once, at least 1.
        seed: Seed of the bootstrap.
        folder: Where ``results.jsonl`` is written; None is the Trainer's ``default_root_dir``.

    Raises:
        UserError: If a number is out of its range.
    """

    def __init__(
        self,
        every_n_steps: int = 0,
        suite: TaskSuite | None = None,
        num_prompts: int = 50,
        batch_size: int = 64,
        seed: int = 0,
        folder: str | None = None,
    ) -> None:
        if every_n_steps < 0:
            raise UserError(f"every_n_steps must be at least 0, got {every_n_steps}")
        self.every_n_steps = every_n_steps
        self.folder = folder
        self.behaviour = FineTuneEvaluation(
            suite or TaskSuite(tasks=["lab"], lab=Lab(seed=seed)),
            batch_size=batch_size,
            seed=seed,
            num_prompts=num_prompts,
        )
        self._last_step = 0

    def check(self, datamodule: Any) -> None:
        """Checks that the tasks can be read and judged; raises UserError."""
        if self.every_n_steps:
            self.behaviour.check(datamodule.tokenizer, reference=datamodule.model)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts counting at the step from which the fit resumes; at the very first, takes the reference."""
        self._last_step = trainer.global_step
        if self.every_n_steps and isinstance(pl_module, CausalLMModule):
            take_reference(trainer, pl_module, self.behaviour)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Measures when the optimizer has stepped and it is time."""
        step = trainer.global_step
        has_stepped, self._last_step = step > self._last_step, step
        if self.every_n_steps and has_stepped and step % self.every_n_steps == 0:
            self._measure(trainer, pl_module, step)

    def _measure(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        results = ResultFile(Path(self.folder or trainer.default_root_dir) / "results.jsonl")
        key = make_key(trainer, self._describe())
        if results.holds("finetuned", step=step, key=key) or not isinstance(pl_module, CausalLMModule):
            return
        measurements = measure_live(
            trainer, pl_module, results, model="finetuned", behaviours=[self.behaviour], key=key, step=step
        )
        if trainer.is_global_zero:
            _log_measurements(trainer, measurements, step)

    def _describe(self) -> dict[str, Any]:
        one = self.behaviour
        settings = {"num_prompts": one.num_prompts, "batch_size": one.batch_size, "seed": one.seed}
        return settings | {"suite": describe_suite(one.suite)}


def _log_measurements(trainer: L.Trainer, measurements: list[Measurement], step: int) -> None:
    values = {f"behaviour/{one.task}/{one.metric}": one.value for one in measurements}
    for logger in trainer.loggers:
        logger.log_metrics(values, step=step)
