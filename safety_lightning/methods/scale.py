"""Weakens the whole update alike: what any method that knows of safety must be compared with."""

from __future__ import annotations

import math
from dataclasses import dataclass

from safety_lightning.errors import UserError
from safety_lightning.methods.protocol import Description, Method, Needs
from safety_lightning.methods.update import Kept, MatrixUpdate


@dataclass(frozen=True, kw_only=True)
class Scale(Method):
    """Multiplies the update by a number: reference + α · update.

    Attributes:
        alpha: The factor; 0 gives the reference, 1 the finetuned model.

    Raises:
        UserError: If it is not finite.
    """

    alpha: float = 0.5

    def __post_init__(self) -> None:
        if not math.isfinite(self.alpha):
            raise UserError(f"scale.alpha must be finite, got {self.alpha}")

    @property
    def needs(self) -> Needs:
        """Nothing."""
        return Needs(numbers=False)

    def keep(self, matrix: MatrixUpdate) -> Kept:
        """Keeps α T."""
        return Kept(own=self.alpha)

    def describe(self) -> Description:
        """Returns its names."""
        alpha = float(self.alpha)
        return Description(source="scale", fraction=alpha, text=f"the update times {alpha:g}", keeps_rank=True)
