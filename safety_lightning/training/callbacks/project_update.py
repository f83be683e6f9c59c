"""The Lightning callback that keeps the fine-tuning update in one component of a safety subspace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
from torch import nn

from safety_lightning.checkpoints import CheckpointReader, StorageDtype, locate_model, resolve_dtype
from safety_lightning.errors import UserError
from safety_lightning.projection import (
    Component,
    Keep,
    ProjectionRow,
    SubspaceSpec,
    Tied,
    UpdateMeasure,
    UpdateProjector,
    make_rows,
    prepare_subspace,
    save_prepared,
)
from safety_lightning.tables import write_csv
from safety_lightning.training.hook import ProjectionHook, When, check_steps
from safety_lightning.training.module import CausalLMModule
from safety_lightning.training.storage import round_weights
from safety_lightning.training.strategies import ZeroStrategy, find_locate, find_masters


class ProjectUpdate(L.Callback):
    """Projects the update, finetuned − reference, on or off a safety subspace.

    With ``when="every_n_steps"`` it acts right after the optimizer's step, exactly once per step under any
    accumulation and before checkpoints are written. With ``when="end"`` it acts once when training has ended, on
    weights brought to float32; other callbacks may define ``on_before_projection(trainer, module)`` to see the model
    just before.

    Args:
        subspace: Which subspace; None projects nothing.
        component: ``parallel`` keeps the update inside the subspace, ``orthogonal`` outside.
        when: ``every_n_steps``, or once at the ``end``.
        every_n_steps: Optimizer steps from one projection to the next.
        origin: The checkpoint from which the update is measured, where that is not the subspace's reference: training
            that goes on from a fine-tune, and leaves what that has learned as it is.
        moments: Project the optimizer's first moments (of Adam, or SGD's momentum) whenever weights are projected. A
            moment remembers gradients in directions whose steps are taken back each time; without that memory, it and
            the clipping of gradients behind it speak of the kept directions alone. Weights are projected all the same:
            Adam divides a moment element by element, so that a projected moment makes no projected step.
        storage_dtype: The dtype that the result will be stored in; the final weights are rounded to it, so that what
            is measured is what is saved, and the leak tells what rounding undid. ``source`` is that of the checkpoint
            that the fit starts from.
        tied: Count tied weights ``once`` in the rows, or ``each`` time they are named, as the paper's release.
        folder: Where ``projection.csv`` is written; None writes none.
        keep: Where reference and bases are between projections: on the ``device``; in the memory of the ``host``
            (pinned beside a GPU), from which they come a matrix at a time; or ``file``, which reads the reference
            from its file each time, for ``when: end``.

    Attributes:
        hook: What projects after the optimizer's steps; None before `prepare`, and without a subspace.
        rows: The rows of ``projection.csv``, when training has ended.
        measures: What the optimizer wanted, when training has ended: the last increment that a monitor had measured
            (none without a monitor) where the projection acted during training, else the whole update.

    Raises:
        UserError: If `every_n_steps` is below 1, or moments are to be projected at the end.
    """

    def __init__(
        self,
        subspace: SubspaceSpec | None = None,
        component: Component = "parallel",
        when: When = "every_n_steps",
        every_n_steps: int = 1,
        origin: str | None = None,
        moments: bool = False,
        storage_dtype: StorageDtype = "float32",
        tied: Tied = "once",
        folder: str | None = None,
        keep: Keep = "device",
    ) -> None:
        check_steps(every_n_steps)
        if moments and when == "end":
            raise UserError("projection.moments must be false where projection.when is end: training is over then")
        self.subspace = subspace
        self.component: Component = component
        self.when: When = when
        self.every_n_steps = every_n_steps
        self.origin = origin
        self.moments = moments
        self.storage_dtype: StorageDtype = storage_dtype
        self.tied: Tied = tied
        self.folder = folder
        self.keep: Keep = keep
        self.hook: ProjectionHook | None = None
        self.rows: list[ProjectionRow] = []
        self.measures: list[UpdateMeasure] = []

    @property
    def subject(self) -> str:
        """What `measures` are of: the ``increment`` since the last projection, or the whole ``update``."""
        return "update" if self.when == "end" else "increment"

    @property
    def projector(self) -> UpdateProjector | None:
        """The projector; None before `prepare`, and without a subspace."""
        return self.hook.projector if self.hook else None

    def check_strategy(self, trainer: L.Trainer) -> None:
        """Raises UserError if the strategy keeps the weights out of reach."""
        strategy = trainer.strategy
        if isinstance(strategy, FSDPStrategy):
            raise UserError("trainer.strategy must be fsdp2 in place of fsdp, which flattens the weights")
        if isinstance(strategy, DeepSpeedStrategy) and not isinstance(strategy, ZeroStrategy):
            raise UserError(
                "trainer.strategy must be zero1, zero2 or zero3 (which train CausalLMModule) or fsdp2 (which trains "
                "any module) in place of Lightning's own deepspeed, whose gradients and weights are out of reach"
            )
        if self.moments and isinstance(strategy, ZeroStrategy):
            raise UserError("projection.moments must be false under ZeRO, which keeps moments in pieces of its own")

    def _check_order(self, trainer: L.Trainer) -> None:
        """Raises UserError if averages take the weights' place after what is projected at the end is measured."""
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        behind = callbacks[callbacks.index(self) :] if self in callbacks else []
        for one in behind:
            if isinstance(one, WeightAveraging):
                raise UserError(f"{type(one).__name__} must stand before ProjectUpdate in the callbacks, it is behind")

    def prepare(self, device: torch.device | str = "cpu") -> None:
        """Checks the checkpoints and spans the subspace, once; writes nothing.

        Raises:
            UserError: See `prepare_subspace`.
        """
        if self.subspace is not None and self.hook is None:
            prepared = prepare_subspace(self.subspace, device=device, origin=self.origin)
            projector = UpdateProjector(prepared, component=self.component, keep=self.keep)
            self.hook = ProjectionHook(projector, every_n_steps=self.every_n_steps, moments=self.moments)

    def save(self) -> None:
        """Saves the subspace where its spec says, unless it is there already."""
        if self.projector is not None:
            save_prepared(self.projector.prepared)

    def describe(self) -> dict[str, int] | None:
        """Counts the matrices of the subspace, those without one and those cut at their rank; None without subspace."""
        if self.projector is None:
            return None
        subspace = self.projector.prepared.subspace
        return {
            "num_matrices": len(subspace.bases),
            "num_zero_delta": subspace.num_zero,
            "num_capped_at_rank": subspace.num_capped,
        }

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Spans the subspace before anything is trained or restored, and saves it where its spec says."""
        if self.subspace is None or stage != "fit":
            return
        self.check_strategy(trainer)
        self._check_order(trainer)
        self.prepare(trainer.strategy.root_device)
        if trainer.is_global_zero:
            self.save()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Binds the projector to the live weights."""
        if self.hook is not None:
            self.hook.projector.bind(find_model(pl_module), find=find_locate(trainer))
            if self.origin is None and trainer.ckpt_path is None and trainer.global_step == 0:
                self.hook.projector.check_start()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Hooks the projector to the optimizer: not before, for FSDP2 takes an empty step where a run is resumed."""
        masters = find_masters(trainer)
        if self.hook is None or self.when == "end":
            return
        if masters is None:
            self.hook.attach(trainer.optimizers[0])
        else:
            self.hook.attach_masters(masters)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Finishes: the last projection, rounding to the storage dtype, the rows."""
        self._finish(trainer, pl_module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Finishes a run that was resumed after its last step, for which `on_train_end` is not called."""
        self._finish(trainer, pl_module)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Lets go of the optimizer."""
        if self.hook is not None:
            self.hook.remove()

    def state_dict(self) -> dict[str, Any]:
        """Returns the number of optimizer steps seen."""
        return {"num_steps": self.hook.num_steps if self.hook else 0}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resumes the count of the checkpoint."""
        if self.hook is not None:
            self.hook.num_steps = state_dict["num_steps"]

    def _finish(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.hook is None or self.rows:
            return
        projector, model, masters = self.hook.projector, find_model(pl_module), find_masters(trainer)
        before = projector.measure()
        self.measures = self._find_wanted(before)
        if self.when == "end":
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if hasattr(callback, "on_before_projection"):
                    callback.on_before_projection(trainer, pl_module)
            if masters is None:
                model.zero_grad()  # frees what a half-precision model needs to grow
                model.float()  # half-precision weights would round the result before its own dtype does
            projector.project()
        start = projector.prepared.reference
        if isinstance(pl_module, CausalLMModule):  # as where it is saved
            start = CheckpointReader(locate_model(pl_module.reference))
        round_weights(model, resolve_dtype(self.storage_dtype, start), find=find_locate(trainer))
        if masters is not None:
            masters.publish()
        stored = projector.measure()
        self.rows = make_rows(projector.prepared, self.component, before, stored, wanted=self.measures, tied=self.tied)
        if self.folder is not None and trainer.is_global_zero:
            write_csv(Path(self.folder) / "projection.csv", ProjectionRow, self.rows)

    def _find_wanted(self, update: list[UpdateMeasure]) -> list[UpdateMeasure]:
        if self.when == "end":
            return update
        meter = self.hook.meter if self.hook else None
        return meter.measured[1] if meter and meter.measured else []


def find_model(pl_module: L.LightningModule) -> nn.Module:
    """Returns the language model inside a LightningModule: its ``model``, else the module itself."""
    inner = getattr(pl_module, "model", None)
    return inner if isinstance(inner, nn.Module) else pl_module
