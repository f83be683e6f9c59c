"""Measures what the optimizer wants while its update is kept in one component: the increment between projections."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from safety_lightning.projection import UpdateMeasure, UpdateProjector


class IncrementMeter:
    """Measures the increment: live weights, as the optimizer left them, − weights after the last projection.

    The whole update is projected already but for that, so that its energies say what the projection does and nothing
    of what is learned. The weights after a projection are copied only where an increment will be measured before the
    next one: one copy of the matrices in the memory of the CPU.

    Args:
        projector: Knows the subspace; it need not be the one that projects.
        is_due: Whether a step's increment is wanted.
        every_n_steps: Optimizer steps from one projection to the next.

    Attributes:
        measured: The last step that was due, and its measures; None before the first. In a run that was resumed
            between two projections, no step is due until the next: the weights of the last one are gone.
    """

    def __init__(self, projector: UpdateProjector, is_due: Callable[[int], bool], *, every_n_steps: int) -> None:
        self.projector = projector
        self.is_due = is_due
        self.every_n_steps = every_n_steps
        self.measured: tuple[int, list[UpdateMeasure]] | None = None
        self._start: Sequence[Tensor] | None = None

    def begin(self, step: int) -> None:
        """Keeps the weights after the projection of a step, from which increments count until the next."""
        steps = range(step + 1, step + self.every_n_steps + 1)
        self._start = self.projector.copy_weights() if any(map(self.is_due, steps)) else None

    def end_step(self, step: int) -> None:
        """Measures a step that is due, before it is projected."""
        if self._start is not None and self.is_due(step):
            self.measured = (step, self.projector.measure(since=self._start))
