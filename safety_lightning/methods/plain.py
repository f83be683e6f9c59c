"""The two models between which all variants lie, as variants: what they are measured against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from safety_lightning.methods.protocol import Description, Method, Needs
from safety_lightning.methods.update import Kept, MatrixUpdate


@dataclass(frozen=True, kw_only=True)
class Plain(Method):
    """One of the checkpoints itself.

    `VariantLoader` sets every tensor of it, also those that take no part, where ``Scale(alpha=0)`` leaves these as
    they were fine-tuned.

    Attributes:
        model: ``reference`` or ``finetuned``.
    """

    model: Literal["reference", "finetuned"] = "finetuned"

    @property
    def needs(self) -> Needs:
        """Nothing."""
        return Needs(numbers=False)

    def keep(self, matrix: MatrixUpdate) -> Kept:
        """Keeps nothing of the update, or all of it."""
        return Kept(own=1.0 if self.model == "finetuned" else 0.0, is_changed=self.model == "reference")

    def describe(self) -> Description:
        """Returns its name."""
        return Description(source=self.model, text=f"the {self.model} model itself")
