r"""AsFT: the Lightning callback that penalizes the update outside the alignment delta's directions.

AsFT (Yang et al. 2025, arXiv 2506.08473) adds :math:`\lambda \sum \lVert (I - C) T \rVert_F^2` to the loss, where T is
the update of a matrix (in the paper of a LoRA's two factors) and C projects on the alignment direction, aligned − base.

What is done here, and where it departs from the paper:

- T is the displacement of the whole weights from the reference; all matrices of the subspace count.
- C is the projector U Uᵀ on the leading ``fraction`` of the delta's singular vectors. The exact projector on a whole
  delta of full rank is the identity and penalizes nothing. The paper's fast form, as in Safe LoRA,
  ΔΔᵀ / ‖Δ‖_F, is no projector: its eigenvalues σ² / ‖Δ‖_F are far below 1, so that I − C is nearly I, and the penalty
  nearly that of any move from the reference.
- ``how: gradient`` is the paper's: the optimizer sees the penalty's gradient. Its release adds the whole penalty in
  every micro-batch; here it counts once per optimizer step. Under Adam a large penalty drowns the loss in the second
  moments, and the component shrinks to about a learning rate a step, not to zero.
- ``how: decoupled`` is ours, as AdamW decouples its decay: after the step, the penalized component is divided by
  1 + 2 · lr · λ, the proximal step of the penalty. λ = 0 is plain training, λ → ∞ is `ProjectUpdate`.
"""

from __future__ import annotations

import math
from typing import Literal

import lightning as L
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from safety_lightning.errors import UserError
from safety_lightning.projection import (
    Component,
    SubspaceSpec,
    UpdateProjector,
    has_adapters,
    prepare_subspace,
    save_prepared,
)
from safety_lightning.training.callbacks.project_update import find_model
from safety_lightning.training.module import CausalLMModule


class PenalizeUpdate(L.Callback):
    """Penalizes one component of the update, finetuned − reference, instead of removing it.

    The penalty is logged as ``penalty``; with ``how="gradient"`` it is that of the weights before the step.

    Args:
        subspace: Which subspace; None penalizes nothing.
        component: The component that stays free: ``parallel`` penalizes what lies outside the subspace (AsFT),
            ``orthogonal`` what lies inside.
        weight: λ, what the squared norm of the penalized component is multiplied by; 0 penalizes nothing.
        how: ``gradient`` adds the penalty's gradient to the loss's before every optimizer step (the paper's);
            ``decoupled`` shrinks the component after it.

    Raises:
        UserError: If the weight is negative or not finite.
    """

    def __init__(
        self,
        subspace: SubspaceSpec | None = None,
        component: Component = "parallel",
        weight: float = 1.0,
        how: Literal["gradient", "decoupled"] = "gradient",
    ) -> None:
        if not math.isfinite(weight) or weight < 0:
            raise UserError(f"penalty.weight must be finite and at least 0, got {weight}")
        self.subspace = subspace
        self.component: Component = component
        self.weight = weight
        self.how = how
        self.projector: UpdateProjector | None = None
        self._handle: RemovableHandle | None = None
        self._penalty: Tensor | None = None

    def check_module(self, module: L.LightningModule) -> None:
        """Raises UserError if something is penalized, and the module trains an adapter in place of the weights."""
        if self.subspace is None:
            return
        if getattr(module, "lora", None) is not None or has_adapters(module):
            raise UserError("a penalty must have a model whose weights themselves are trained, got LoRA adapters")

    def check_strategy(self, trainer: L.Trainer) -> None:
        """Raises UserError if something is penalized, and the strategy keeps weights or gradients out of reach."""
        if self.subspace is not None and isinstance(trainer.strategy, (DeepSpeedStrategy, FSDPStrategy)):
            raise UserError(
                "trainer.strategy under a penalty must be one that leaves gradients in the parameters (auto, ddp, "
                f"fsdp2), got {type(trainer.strategy).__name__}"
            )

    def prepare(self, device: torch.device | str = "cpu") -> None:
        """Checks the checkpoints and spans the subspace, once; writes nothing.

        Raises:
            UserError: See `prepare_subspace`.
        """
        if self.subspace is not None and self.projector is None:
            self.projector = UpdateProjector(prepare_subspace(self.subspace, device=device), component=self.component)

    def save(self) -> None:
        """Saves the subspace where its spec says, unless it is there already."""
        if self.projector is not None:
            save_prepared(self.projector.prepared)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Spans the subspace before anything is trained or restored."""
        if self.subspace is None or stage != "fit":
            return
        self.check_strategy(trainer)
        self.check_module(pl_module)
        self.prepare(trainer.strategy.root_device)
        if trainer.is_global_zero:
            self.save()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Binds the live weights, and takes its place before or after the optimizer's step."""
        if self.projector is None:
            return
        self.check_module(pl_module)  # whose model may be made by now alone
        self.projector.bind(find_model(pl_module))
        if self.how == "decoupled":
            self._handle = trainer.optimizers[0].register_step_post_hook(lambda one, *_: self._shrink(one))
        elif isinstance(pl_module, CausalLMModule):  # it rescales gradients after the callbacks have seen them
            pl_module.gradient_hooks.append(self._add_gradient)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Adds the penalty's gradient, for a module that leaves its gradients as they are from here on."""
        if self.projector is not None and self.how == "gradient" and not isinstance(pl_module, CausalLMModule):
            self._add_gradient()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Logs the penalty of the last optimizer step."""
        if self.projector is not None and self._penalty is not None:
            pl_module.log("penalty", self._penalty)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Lets go of the optimizer and the module."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        if isinstance(pl_module, CausalLMModule) and self._add_gradient in pl_module.gradient_hooks:
            pl_module.gradient_hooks.remove(self._add_gradient)

    def _add_gradient(self) -> None:
        assert self.projector is not None
        self._penalty = self.projector.penalize(self.weight)

    def _shrink(self, optimizer: torch.optim.Optimizer) -> None:
        assert self.projector is not None
        pull = 2 * float(optimizer.param_groups[0]["lr"]) * self.weight
        self._penalty = self.weight * self.projector.shrink(pull / (1 + pull))
