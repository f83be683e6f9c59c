"""Removes leading directions by their energy instead of their number."""

from __future__ import annotations

from dataclasses import dataclass, field

from safety_lightning.errors import UserError
from safety_lightning.methods.protocol import Description, Method, Needs
from safety_lightning.methods.update import Kept, MatrixUpdate


@dataclass(frozen=True, kw_only=True)
class RemoveEnergy(Method):
    """Removes the leading directions of the delta that hold a share of its energy, whatever their number.

    Attributes:
        share: Share of the squared singular values, in (0, 1].

    Raises:
        UserError: If the share is outside (0, 1].
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UserError(f"energy.shares must be in (0, 1], got {self.share}")

    @property
    def needs(self) -> Needs:
        """All leading directions, for their number is known when all are."""
        return Needs(source="top_k", numbers=False)

    def keep(self, matrix: MatrixUpdate) -> Kept:
        """Keeps T − U Uᵀ T."""
        rank = matrix.delta.choose_energy_rank(self.share)
        return Kept(own=1.0, inside=-1.0, rank=rank, is_changed=rank > 0)

    def describe(self) -> Description:
        """Returns its names."""
        return Description(
            source="energy",
            component="orthogonal",
            fraction=float(self.share),
            text=f"orthogonal to energy, {self.share:g} of the energy of the delta",
            fraction_name="share of the delta's energy",
            keeps_rank=True,
        )


@dataclass(frozen=True, kw_only=True)
class EnergyRemoval:
    """Removal by several shares of energy.

    Attributes:
        shares: Shares of the squared singular values, each in (0, 1].

    Raises:
        UserError: If a share is outside (0, 1], or comes twice.
    """

    shares: list[float] = field(default_factory=lambda: [0.5, 0.9])

    def __post_init__(self) -> None:
        if len(self.list_methods()) > len(set(self.shares)):
            raise UserError(f"energy.shares must be different, got {self.shares}")

    def list_methods(self) -> list[RemoveEnergy]:
        """Returns a method for every share; shares rise."""
        return [RemoveEnergy(share=share) for share in sorted(self.shares)]
