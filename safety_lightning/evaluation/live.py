"""Measures models in memory again and again on the same prompts, without a Trainer and without a file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safety_lightning.errors import UserError
from safety_lightning.evaluation.cases import check_context, make_plan
from safety_lightning.evaluation.datamodule import find_context
from safety_lightning.evaluation.engines import LiveEngineName, TransformersEngine, choose_engine, make_engine
from safety_lightning.evaluation.grading import measure_plan
from safety_lightning.evaluation.judges import open_cache
from safety_lightning.evaluation.likelihoods.probing import Reference, read_reference
from safety_lightning.evaluation.measurement import MAX_UNJUDGED_SHARE, Evaluation
from safety_lightning.evaluation.tasks import TaskSuite


class LiveEvaluation:
    """Measures plain transformers models in memory, such as the variants of a fine-tune, on the same prompts.

    Prompts, solutions and targets are read and tokenised once. Nothing is written, but for judgements that cost money
    or computing, which go into the cache.

    Args:
        tokenizer: The models' tokenizer.
        suite: The tasks, and what is measured of each.
        batch_size: Prompts answered at once, at least 1.
        seed: Seed of the bootstrap.
        num_prompts: How many prompts of each task are taken, its first ones; None takes all.
        max_context_tokens: The models' context; None reads it from the first model that is measured.
        max_unjudged_share: Largest share of answers that may be unjudged, in [0, 1].
        judgement_cache: Database of judgements; None is the user's own.
        engine: What answers; ``auto`` takes `ContinuousEngine` for a model on a GPU. Its thread knows no autocast, so
            that a model that computes under one is for `TransformersEngine`.

    Raises:
        UserError: If a number is out of its range, or a task cannot be read or encoded.

    Example:
        >>> import torch
        >>> from safety_lightning.checkpoints import load_model, load_tokenizer
        >>> from safety_lightning.evaluation.tasks import Lab
        >>> lab = Lab(num_prompts=4, measures=["solution_probability", "expected_harmfulness"])
        >>> live = LiveEvaluation(load_tokenizer("lab:aligned"), TaskSuite(tasks=["lab"], lab=lab))
        >>> found = live.measure(load_model("lab:aligned", dtype=torch.float32))
        >>> [one.metric for one in found], found.values["solution_probability"].values.shape
        (['solution_probability', 'expected_harmfulness'], torch.Size([4]))
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        suite: TaskSuite,
        *,
        batch_size: int = 64,
        seed: int = 0,
        num_prompts: int | None = None,
        max_context_tokens: int | None = None,
        max_unjudged_share: float = MAX_UNJUDGED_SHARE,
        judgement_cache: Path | str | None = None,
        engine: LiveEngineName | Literal["auto"] = "transformers",
    ) -> None:
        check_sizes(batch_size=batch_size, num_prompts=num_prompts)
        self.tokenizer = tokenizer
        self.suite = suite
        self.batch_size = batch_size
        self.seed = seed
        self.max_unjudged_share = max_unjudged_share
        self.judgement_cache = judgement_cache
        self.engine = engine
        self.plan = make_plan(
            suite.make_tasks(),
            tokenizer,
            batch_size=batch_size,
            max_context_tokens=max_context_tokens,
            num_prompts=num_prompts,
            clusters=suite.clusters,
        )
        self._reference: Reference | None = None
        self._is_context_known = max_context_tokens is not None

    def check(self) -> None:
        """Checks that the judges can be reached; raises UserError."""
        for task in self.plan.tasks:
            task.check()

    def take_reference(self, model: PreTrainedModel) -> None:
        """Takes a model as what the drift is measured from; only its next-token distributions are kept."""
        if self.plan.needs_reference:
            self._reference = read_reference(self._make_engine(model, None), self.plan)

    @property
    def wants_reference(self) -> bool:
        """Whether a drift is to be measured, and no reference has been taken yet."""
        return self.plan.needs_reference and self._reference is None

    def measure(self, model: PreTrainedModel, *, dtype: str | None = None) -> Evaluation:
        """Measures a model as it is now; its mode and its settings are as before afterwards.

        Args:
            model: The model.
            dtype: What is recorded as the dtype computed in; None is the dtype of the weights.

        Raises:
            UserError: If a prompt does not fit its context, too much stays unjudged, or there is no reference for a
                drift.
        """
        if not self._is_context_known:
            check_context(self.plan.cases, find_context(model.config))
            self._is_context_known = True
        with open_cache(self.suite.judges, self.judgement_cache) as cache:
            return measure_plan(
                self._make_engine(model, dtype),
                self.plan,
                seed=self.seed,
                max_unjudged_share=self.max_unjudged_share,
                cache=cache,
                reference=self._reference,
            )

    def _make_engine(self, model: PreTrainedModel, dtype: str | None) -> TransformersEngine:
        name = choose_engine(model.device) if self.engine == "auto" else self.engine
        return make_engine(name, model, self.tokenizer, batch_size=self.batch_size, dtype=dtype)


def check_sizes(*, batch_size: int, num_prompts: int | None) -> None:
    """Raises UserError if a number is below 1."""
    for name, value in (("batch_size", batch_size), ("num_prompts", num_prompts)):
        if value is not None and value < 1:
            raise UserError(f"{name} must be at least 1, got {value}")
