"""Measures the behaviour of the model that is being fine-tuned, for the callbacks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import lightning as L
import torch
from lightning.pytorch.plugins.precision import HalfPrecision
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safety_lightning.checkpoints import load_config, load_model, load_tokenizer
from safety_lightning.evaluation.datamodule import find_context
from safety_lightning.evaluation.engines import TransformersEngine
from safety_lightning.evaluation.live import LiveEvaluation, check_sizes
from safety_lightning.evaluation.loss import measure_loss
from safety_lightning.evaluation.measurement import Evaluation, Measurement
from safety_lightning.evaluation.records import ResultFile, ScoreRow, add_scores, list_score_rows
from safety_lightning.evaluation.tasks import TaskSuite
from safety_lightning.training.module import CausalLMModule
from safety_lightning.training.strategies import shares_weights


class FineTuneEvaluation:
    """Measures the model that is being fine-tuned on the tasks of a suite; see `LiveEvaluation`.

    Args:
        suite: The tasks.
        batch_size: Prompts answered at once, at least 1.
        seed: Seed of the bootstrap.
        num_prompts: How many prompts of each task are taken; None takes all.

    Raises:
        UserError: If a number is below 1.
    """

    def __init__(self, suite: TaskSuite, *, batch_size: int, seed: int, num_prompts: int | None = None) -> None:
        check_sizes(batch_size=batch_size, num_prompts=num_prompts)
        self.suite = suite
        self.batch_size = batch_size
        self.seed = seed
        self.num_prompts = num_prompts
        self._live: LiveEvaluation | None = None

    def check(self, tokenizer: PreTrainedTokenizerBase, *, reference: str) -> None:
        """Reads the prompts, and checks that the judges can be reached; raises UserError."""
        self.prepare(tokenizer, find_context(load_config(reference))).check()

    def prepare(self, tokenizer: PreTrainedTokenizerBase, max_context_tokens: int | None) -> LiveEvaluation:
        """Reads the prompts, once."""
        if self._live is None:
            self._live = LiveEvaluation(
                tokenizer,
                self.suite,
                batch_size=self.batch_size,
                seed=self.seed,
                num_prompts=self.num_prompts,
                max_context_tokens=max_context_tokens,
            )
        return self._live

    def measure(self, trainer: L.Trainer, module: CausalLMModule, *, dtype: str) -> Evaluation:
        """Measures a model as it is now; its mode and its settings are as before afterwards."""
        self.take_reference(trainer, module)
        return self._prepare_for(module).measure(module.model, dtype=dtype)

    def take_reference(self, trainer: L.Trainer, module: CausalLMModule) -> None:
        """Takes what a drift is measured from, once."""
        live = self._prepare_for(module)
        if live.wants_reference:
            live.take_reference(self._load_reference(trainer, module))

    def _prepare_for(self, module: CausalLMModule) -> LiveEvaluation:
        return self.prepare(load_tokenizer(module.reference), find_context(module.model.config))

    def _load_reference(self, trainer: L.Trainer, module: CausalLMModule) -> PreTrainedModel:
        """Returns the reference: the model itself before its first step, else its checkpoint."""
        if trainer.global_step == 0:
            return module.model
        model = load_model(module.reference, dtype=module.model.dtype).eval()
        model.to(module.device)
        return model


def measure_live(
    trainer: L.Trainer,
    module: CausalLMModule,
    results: ResultFile,
    *,
    model: str,
    behaviours: Sequence[FineTuneEvaluation],
    key: str,
    step: int | None = None,
    loss_seed: int | None = None,
) -> list[Measurement]:
    """Measures the model that is being fine-tuned; every process must call it.

    Args:
        trainer: The Trainer.
        module: The model.
        results: Where the first process adds the measurements; the scores of the prompts go into the same folder.
        model: What the model is called there: ``reference``, ``finetuned`` or ``projected``.
        behaviours: What is measured besides the loss.
        key: What the measurements depend on; see `make_key`.
        step: Optimizer steps done, where the fine-tune is not over.
        loss_seed: Seed of the bootstrap of the loss on held-out examples; None measures no loss.

    Returns:
        The measurements; none in a process that does not measure.
    """
    measurements: list[Measurement] = []
    rows: list[ScoreRow] = []
    if measures_here(trainer):
        dtype = name_dtype(trainer, module)
        with enter_precision(trainer, module):
            if loss_seed is not None:
                batches = trainer.datamodule.val_dataloader()  # type: ignore[attr-defined]
                measurements.append(measure_loss(module.model, batches, seed=loss_seed))
            for behaviour in behaviours:
                found = behaviour.measure(trainer, module, dtype=dtype)
                measurements += found
                rows += list_score_rows(found, model=model, step=step)
        if trainer.is_global_zero:
            engine = TransformersEngine.name if behaviours else None
            if rows:
                add_scores(results.file.parent, rows)
            results.add(model, measurements, step=step, engine=engine, dtype=dtype, key=key)
    trainer.strategy.barrier()
    return measurements


def take_reference(trainer: L.Trainer, module: CausalLMModule, behaviour: FineTuneEvaluation) -> None:
    """Takes what drifts are measured from before the first step, where it is the model itself: no second one is loaded.

    A fit that resumes has its checkpoint's weights by now, and still counts its steps from 0: it loads the reference.

    Every process must call it.
    """
    if trainer.global_step == 0 and trainer.ckpt_path is None and measures_here(trainer):
        with enter_precision(trainer, module):
            behaviour.take_reference(trainer, module)


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
