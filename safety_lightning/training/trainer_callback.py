"""Projection in the Hugging Face Trainer and in trainers built on it, such as TRL's."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from safety_lightning.projection import Component, SubspaceSpec, UpdateProjector, prepare_subspace
from safety_lightning.training.hook import ProjectionHook, When, check_steps


class ProjectUpdateTrainerCallback(TrainerCallback):
    """Projects the update in a Hugging Face ``Trainer``.

    It acts at the end of each optimizer step, before checkpoints are written. With ``when="end"`` it acts when
    training has ended, after ``load_best_model_at_end``: no checkpoint holds that result, ``trainer.save_model()``
    does.

    Args:
        subspace: Which subspace; its reference must name the checkpoint that the model was loaded from.
        component: ``parallel`` or ``orthogonal``.
        when: ``every_n_steps``, or once at the ``end``.
        every_n_steps: Optimizer steps from one projection to the next.
        origin: The checkpoint that the update is measured from, of a model that has moved already; None for the
            reference, which the model must be at unless a checkpoint of the Trainer is resumed.

    Raises:
        UserError: If the checkpoints do not fit each other, or `every_n_steps` is below 1.
    """

    def __init__(
        self,
        subspace: SubspaceSpec,
        component: Component = "parallel",
        when: When = "every_n_steps",
        every_n_steps: int = 1,
        origin: str | None = None,
    ) -> None:
        check_steps(every_n_steps)
        self.when: When = when
        self.origin = origin
        self.projector = UpdateProjector(prepare_subspace(subspace, origin=origin), component=component)
        self._hook = ProjectionHook(self.projector, every_n_steps=every_n_steps)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Binds the projector to the live weights.

        Raises:
            UserError: If the model has moved from the reference, or the optimizer does not train what is projected.
        """
        model: nn.Module = kwargs["model"]
        self.projector.bind(model)
        if self.origin is None and state.global_step == 0:
            self.projector.check_start()
        self._hook.claim(kwargs["optimizer"])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Projects after the optimizer's step."""
        if self.when == "every_n_steps":
            self._hook.end_step(state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Projects the final model."""
        if self.when == "end":
            self.projector.project()
        self._hook.remove()
