"""The third mode of the paper's release: turns the update inside the subspace round, and drops the rest."""

from __future__ import annotations

from dataclasses import dataclass

from safety_lightning.methods.protocol import Description, Method, Needs
from safety_lightning.methods.update import Kept, MatrixUpdate
from safety_lightning.subspaces import Source, check_fraction


@dataclass(frozen=True, kw_only=True)
class Opposite(Method):
    """Subtracts the parallel part of the update from the reference (``opp`` in the paper's release; not in its text).

    Attributes:
        source: Where the subspace's directions come from.
        fraction: Share of the smaller dimension of each matrix that the subspace spans, in (0, 1].

    Raises:
        UserError: If the fraction is outside (0, 1].
    """

    source: Source = "top_k"
    fraction: float = 0.25

    def __post_init__(self) -> None:
        check_fraction(self.fraction)

    @property
    def needs(self) -> Needs:
        """Directions of its source."""
        return Needs(source=self.source, fraction=self.fraction, numbers=False)

    def keep(self, matrix: MatrixUpdate) -> Kept:
        """Keeps −U Uᵀ T."""
        rank, is_capped = matrix.delta.choose_rank(self.source, self.fraction)
        return Kept(inside=-1.0, source=self.source, rank=rank, is_capped=is_capped)

    def describe(self) -> Description:
        """Returns its names."""
        return Description(
            source=f"opposite_{self.source}",
            fraction=float(self.fraction),
            text=f"reference minus the part parallel to {self.source}, {self.fraction:g} of the smaller dimension",
            keeps_rank=True,
        )
