"""RESTA, which adds a safety vector to the finetuned weights."""

from __future__ import annotations

from dataclasses import dataclass

from safety_lightning.methods.protocol import Description, Method, Needs
from safety_lightning.methods.update import Kept, MatrixUpdate


@dataclass(frozen=True, kw_only=True)
class Resta(Method):
    """RESTA (Bhardwaj et al. 2024, arXiv 2402.11746): adds a scaled safety vector to the finetuned weights.

    Attributes:
        scale: What the safety vector is multiplied by.
        unaligned: The checkpoint that the safety vector points away from: reference − unaligned; None for base,
            which makes the delta the safety vector. The paper makes it by fine-tuning on harmful data.
    """

    scale: float = 0.5
    unaligned: str | None = None

    @property
    def needs(self) -> Needs:
        """The unaligned checkpoint, and matrices too that were not trained."""
        return Needs(unaligned=self.unaligned, untrained=True)

    def keep(self, matrix: MatrixUpdate) -> Kept:
        """Keeps T + scale · vector."""
        return Kept(own=1.0, extra=lambda: self.scale * matrix.vector_MN)

    def describe(self) -> Description:
        """Returns its names."""
        return Description(
            source="resta", text=f"RESTA (arXiv 2402.11746): the safety vector times {self.scale:g} added"
        )
