"""Measures the behaviour of the model that is being fine-tuned, for the callbacks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import lightning as L
import torch
from lightning.pytorch.plugins.precision import HalfPrecision
from transformers import PreTrainedTokenizerBase

from safety_lightning.checkpoints import load_config, load_tokenizer
from safety_lightning.errors import UserError
from safety_lightning.evaluation.cases import CasePlan, make_plan
from safety_lightning.evaluation.datamodule import find_context
from safety_lightning.evaluation.engines import TransformersEngine
from safety_lightning.evaluation.grading import measure_plan
from safety_lightning.evaluation.judges import JudgementCache, find_cache_file
from safety_lightning.evaluation.loss import measure_loss
from safety_lightning.evaluation.measurement import Measurement
from safety_lightning.evaluation.records import ResultFile
from safety_lightning.evaluation.tasks import TaskSuite
from safety_lightning.training.module import CausalLMModule
from safety_lightning.training.strategies import shares_weights


class LiveBehaviour:
    """Measures a model in memory on the tasks of a suite, again and again on the same prompts.

    Args:
        suite: The tasks.
        batch_size: Prompts answered at once, at least 1.
        seed: Seed of the bootstrap.
        num_prompts: How many prompts of each task are taken; None takes all.

    Raises:
        UserError: If a number is below 1.
    """

    def __init__(self, suite: TaskSuite, *, batch_size: int, seed: int, num_prompts: int | None = None) -> None:
        for name, value in (("batch_size", batch_size), ("num_prompts", num_prompts)):
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1, got {value}")
        self.suite = suite
        self.batch_size = batch_size
        self.seed = seed
        self.num_prompts = num_prompts
        self._plan: CasePlan | None = None

    def check(self, tokenizer: PreTrainedTokenizerBase, *, reference: str) -> None:
        """Reads the prompts, and checks that the judges can be reached; raises UserError."""
        for task in self._prepare(tokenizer, find_context(load_config(reference))).tasks:
            task.check()

    def measure(self, model: CausalLMModule, tokenizer: PreTrainedTokenizerBase, *, dtype: str) -> list[Measurement]:
        """Measures a model as it is now; its mode and its settings are as before afterwards."""
        plan = self._prepare(tokenizer, find_context(model.model.config))
        engine = TransformersEngine(model.model, tokenizer, batch_size=self.batch_size, dtype=dtype)
        if not self.suite.judges:
            return measure_plan(engine, plan, seed=self.seed)
        with JudgementCache(find_cache_file()) as cache:
            return measure_plan(engine, plan, seed=self.seed, cache=cache)

    def _prepare(self, tokenizer: PreTrainedTokenizerBase, max_context_tokens: int | None) -> CasePlan:
        if self._plan is None:
            self._plan = make_plan(
                self.suite.make_tasks(),
                tokenizer,
                batch_size=self.batch_size,
                max_context_tokens=max_context_tokens,
                num_prompts=self.num_prompts,
            )
        return self._plan


def measure_live(
    trainer: L.Trainer,
    module: CausalLMModule,
    results: ResultFile,
    *,
    model: str,
    behaviours: Sequence[LiveBehaviour],
    key: str,
    step: int | None = None,
    loss_seed: int | None = None,
) -> list[Measurement]:
    """Measures the model that is being fine-tuned; every process must call it.

    Args:
        trainer: The Trainer.
        module: The model.
        results: Where the first process adds the measurements.
        model: What the model is called there: ``reference``, ``finetuned`` or ``projected``.
        behaviours: What is measured besides the loss.
        key: What the measurements depend on; see `make_key`.
        step: Optimizer steps done, where the fine-tune is not over.
        loss_seed: Seed of the bootstrap of the loss on held-out examples; None measures no loss.

    Returns:
        The measurements; none in a process that does not measure.
    """
    measurements: list[Measurement] = []
    if measures_here(trainer):
        dtype = name_dtype(trainer, module)
        with enter_precision(trainer, module):
            if loss_seed is not None:
                batches = trainer.datamodule.val_dataloader()  # type: ignore[attr-defined]
                measurements.append(measure_loss(module.model, batches, seed=loss_seed))
            for behaviour in behaviours:
                measurements += behaviour.measure(module, load_tokenizer(module.reference), dtype=dtype)
        if trainer.is_global_zero:
            engine = TransformersEngine.name if behaviours else None
            results.add(model, measurements, step=step, engine=engine, dtype=dtype, key=key)
    trainer.strategy.barrier()
    return measurements


def measures_here(trainer: L.Trainer) -> bool:
    """Whether this process measures: the first one does, and all of them where a sharded model answers together."""
    return trainer.is_global_zero or shares_weights(trainer)


def enter_precision(trainer: L.Trainer, pl_module: L.LightningModule) -> AbstractContextManager[None]:
    """Returns the precision that the Trainer computes in; none for a half-precision model that was brought to float32.

    A projection at the end leaves such a model.
    """
    if _is_wide(trainer, pl_module):
        return nullcontext()
    return trainer.precision_plugin.forward_context()


def name_dtype(trainer: L.Trainer, pl_module: L.LightningModule) -> str:
    """Returns what a model is computed in: the Trainer's precision, or float32 where it does without."""
    return "float32" if _is_wide(trainer, pl_module) else str(trainer.precision)


def _is_wide(trainer: L.Trainer, pl_module: L.LightningModule) -> bool:
    is_wide = next(pl_module.parameters()).dtype == torch.float32
    return is_wide and isinstance(trainer.precision_plugin, HalfPrecision)
