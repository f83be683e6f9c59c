"""The Lightning callback that measures a fine-tune before, after, and after projection."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from safety_lightning.errors import UserError
from safety_lightning.evaluation.callbacks.fine_tune import FineTuneEvaluation, measure_live
from safety_lightning.evaluation.callbacks.keys import describe_suite, make_key
from safety_lightning.evaluation.records import ResultFile
from safety_lightning.evaluation.tasks import Lab, TaskSuite
from safety_lightning.training.callbacks import ProjectUpdate
from safety_lightning.training.module import CausalLMModule

ComparedTask = Literal["loss", "lab"]


class CompareModels(L.Callback):
    """Measures the reference, the finetuned and the projected model, and writes ``results.jsonl``.

    What a resumed run has measured already, after as many steps and by the same settings, is not measured again. A
    projection after every step leaves no unprojected model: such a run has no row for it.

    Args:
        tasks: ``loss`` on the held-out examples of the data; ``lab`` for utility, harmfulness and over-refusal of
            the lab's world. None measures nothing of the two.
        num_prompts: Prompts for each behaviour of the lab.
        batch_size: Prompts generated at once.
        seed: Seed of the prompts and of the bootstrap.
        folder: Where ``results.jsonl`` is written; None writes none.
        suite: Further tasks, as in `EvaluationData`.

    Raises:
        UserError: If `num_prompts` or `batch_size` is below 1.
    """

    def __init__(
        self,
        tasks: list[ComparedTask] | None = None,
        num_prompts: int = 200,
        batch_size: int = 64,
        seed: int = 0,
        folder: str | None = None,
        suite: TaskSuite | None = None,
    ) -> None:
        for name, value in (("num_prompts", num_prompts), ("batch_size", batch_size)):
            if value < 1:
                raise UserError(f"{name} must be at least 1, got {value}")
        self.tasks = tasks or []
        self.num_prompts = num_prompts
        self.batch_size = batch_size
        self.seed = seed
        self.folder = folder
        self.suite = suite
        self.results: ResultFile | None = None
        self._behaviours: list[FineTuneEvaluation] | None = None

    def check(self, datamodule: Any) -> None:
        """Checks that the tasks can be done with this data.

        Raises:
            UserError: If ``loss`` is asked for and nothing is held out, or a task of the suite cannot be read or
                judged.
        """
        if "loss" in self.tasks:
            check_validation(datamodule, wanted_by="compare.tasks: [loss]")
        for behaviour in self._list_behaviours(datamodule):
            behaviour.check(datamodule.tokenizer, reference=datamodule.model)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measures the reference, unless the run resumes from a checkpoint."""
        self.results = ResultFile(Path(self.folder or trainer.default_root_dir) / "results.jsonl")
        if trainer.ckpt_path is None:
            self._measure(trainer, pl_module, "reference")

    def on_before_projection(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measures the finetuned model; called by `ProjectUpdate`."""
        self._measure(trainer, pl_module, "finetuned")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measures the result: projected, or finetuned where nothing was projected."""
        is_projected = any(
            isinstance(callback, ProjectUpdate) and callback.projector is not None
            for callback in trainer.callbacks  # type: ignore[attr-defined]
        )
        self._measure(trainer, pl_module, "projected" if is_projected else "finetuned")

    def _measure(self, trainer: L.Trainer, pl_module: L.LightningModule, model: str) -> None:
        assert self.results is not None
        behaviours = self._list_behaviours(trainer.datamodule)  # type: ignore[attr-defined]
        is_idle = "loss" not in self.tasks and not behaviours
        key = make_key(trainer, self._describe())
        if is_idle or self.results.holds(model, key=key) or not isinstance(pl_module, CausalLMModule):
            return
        names = [*self.tasks, *(self.suite.tasks if self.suite else [])]
        rank_zero_info(f"Measuring the {model} model: {', '.join(names)}")
        pl_module.restore_float32_buffers()
        measure_live(
            trainer,
            pl_module,
            self.results,
            model=model,
            behaviours=behaviours,
            key=key,
            loss_seed=self.seed if "loss" in self.tasks else None,
        )

    def _describe(self) -> dict[str, Any]:
        settings = {name: getattr(self, name) for name in ("tasks", "num_prompts", "batch_size", "seed")}
        return settings | {"suite": describe_suite(self.suite)}

    def _list_behaviours(self, datamodule: Any) -> list[FineTuneEvaluation]:
        """Makes what is measured besides the loss, once."""
        if self._behaviours is None:
            suites = [] if self.suite is None else [self.suite]
            if "lab" in self.tasks:
                template = datamodule.options.template
                lab = Lab(num_prompts=self.num_prompts, prompt_format=template, seed=self.seed)
                suites.insert(0, TaskSuite(tasks=["lab"], lab=lab))
            self._behaviours = [FineTuneEvaluation(one, batch_size=self.batch_size, seed=self.seed) for one in suites]
        return self._behaviours


def check_validation(datamodule: L.LightningDataModule, *, wanted_by: str) -> None:
    """Raises UserError unless a datamodule holds validation batches."""
    loader = datamodule.val_dataloader()
    if len(loader) == 0:
        raise UserError(
            f"{wanted_by} needs held-out data, there is none: give data.num_validation (a number or a share) or "
            "data.validation (a source)"
        )
