"""Energy kept as a torchmetric: sums that can be gathered from many processes.

Shapes in this file: M and N = rows and columns of an update, K = rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torchmetrics import Metric

from safety_lightning.projection.operators import Component, check_projection, project_update, sum_squares
from safety_lightning.subspaces import Side


class WideMetric(Metric):
    """Keeps its states in float64 where the module that holds it is cast to another dtype."""

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Module:
        def move(tensor: Tensor) -> Tensor:
            return tensor.to(fn(torch.empty(0, device=tensor.device)).device)

        return super()._apply(move, exclude_state)


class EnergyKept(WideMetric):
    """Measures the share of the energy of many updates that lies in one component (paper, eq. 7).

    Energies are summed over the updates before they are divided.

    Args:
        component: Whose share: ``parallel`` or ``orthogonal``.
        side: Which side the bases lie on.
        kwargs: Arguments of ``torchmetrics.Metric``.

    Example:
        >>> metric = EnergyKept(component="parallel")
        >>> metric.update(torch.tensor([[3.0], [4.0]]), torch.tensor([[1.0], [0.0]]))
        >>> metric.compute()
        tensor(0.3600, dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    kept: Tensor
    total: Tensor

    def __init__(self, *, component: Component, side: Side = "left", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.component = component
        self.side = side
        for name in ("kept", "total"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, update_MN: Tensor, basis: Tensor) -> None:
        """Adds one update with its basis.

        Args:
            update_MN: Displacement from the reference weights, float32 or float64, shape ``(M, N)``.
            basis: Orthonormal columns of the same dtype, shape ``(M, K)``, for the right side ``(N, K)``. K = 0, the
                subspace of no delta, is left out.

        Raises:
            UserError: If shapes, dtypes or devices disagree.
        """
        check_projection(update_MN, basis, side=self.side)
        if basis.shape[1] == 0:
            return
        self.kept += sum_squares(project_update(update_MN, basis, component=self.component, side=self.side))
        self.total += sum_squares(update_MN)

    def compute(self) -> Tensor:
        """Returns the share in [0, 1], a float64 scalar; NaN when there was no energy."""
        return self.kept / self.total
