"""Mode Subspace Overlap as a torchmetric: sums that can be gathered from many processes.

Shapes in this file: B = activations in a batch, D = hidden size, E = shares of energy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from safety_lightning.errors import UserError
from safety_lightning.projection.metrics import WideMetric
from safety_lightning.subspaces import DEFAULT_ETAS, check_etas, compare_modes, span_covariance_modes
from safety_lightning.subspaces.decomposition import NOISE_FLOOR


class ModeSubspaceOverlap(WideMetric):
    """Measures the overlap of two sets of activations that come batch by batch and are not kept.

    The states are sums: of products, ``(D, D)``, of activations, ``(D,)``, and their number, in float64 for each set.
    The result is that of the function on all data, however they are divided into batches and processes.

    Args:
        hidden_size: D.
        etas: Shares of squared singular values, each in (0, 1].
        centred: Whether the mean of each set is taken off.
        kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        UserError: If the hidden size is below 1 or a share is outside (0, 1].

    Example:
        >>> metric = ModeSubspaceOverlap(2, etas=[0.8, 0.9], centred=False)
        >>> metric.update(torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
        >>> metric.compute()
        tensor([1., 1.], dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    products: Tensor
    sums: Tensor
    counts: Tensor

    def __init__(
        self, hidden_size: int, *, etas: Sequence[float] = DEFAULT_ETAS, centred: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if hidden_size < 1:
            raise UserError(f"hidden_size must be at least 1, got {hidden_size}")
        check_etas(etas)
        self.hidden_size = hidden_size
        self.etas = tuple(etas)
        self.centred = centred
        shapes = {"products": (2, hidden_size, hidden_size), "sums": (2, hidden_size), "counts": (2,)}
        for name, shape in shapes.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, first_BD: Tensor | None = None, second_BD: Tensor | None = None) -> None:
        """Adds activations to one set or both.

        Args:
            first_BD: Activations of the first set, finite, floating, shape ``(B, D)``; None for none.
            second_BD: Activations of the second set; their number can be another.

        Raises:
            UserError: If they are of another shape, or not finite.
        """
        for place, hidden in enumerate((first_BD, second_BD)):
            if hidden is not None:
                self._check(hidden)
                wide = hidden.double()
                self.products[place] += wide.mT @ wide
                self.sums[place] += wide.sum(dim=0)
                self.counts[place] += len(wide)

    def compute(self) -> Tensor:
        """Returns the overlap at every share, float64, shape ``(E,)``; NaN where a set does not vary.

        As all torchmetrics, it gives a scalar where there is one share alone.

        Raises:
            UserError: If a set is empty, or has one activation and its mean is taken off.
        """
        needed = 2 if self.centred else 1
        if int(self.counts.min()) < needed:
            raise UserError(f"each set must have at least {needed} activations, got {self.counts.int().tolist()}")
        modes = [span_covariance_modes(self._compute_covariance(place), etas=self.etas) for place in (0, 1)]
        return self.products.new_tensor([overlap.mso for overlap in compare_modes(*modes)])

    def _compute_covariance(self, place: int) -> Tensor:
        """Returns the sum of products about the mean, or about zero."""
        products = self.products[place]
        if not self.centred:
            return products
        centred = products - torch.outer(self.sums[place], self.sums[place]) / self.counts[place]
        is_rounding = centred.trace() <= NOISE_FLOOR**2 * products.trace()
        return torch.zeros_like(products) if is_rounding else centred

    def _check(self, hidden: Tensor) -> None:
        if hidden.ndim != 2 or hidden.shape[1] != self.hidden_size or not hidden.is_floating_point():
            raise UserError(
                f"activations must be floating and of shape (B, {self.hidden_size}), got {hidden.dtype} of shape "
                f"{tuple(hidden.shape)}"
            )
        if not hidden.isfinite().all():
            raise UserError(
                f"activations must be finite, got {int((~hidden.isfinite()).sum())} NaN or infinite numbers"
            )
