"""The paper's methods: keep the update inside a subspace of the delta, or outside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from safety_lightning.errors import UserError
from safety_lightning.methods.protocol import Description, Method, Needs
from safety_lightning.methods.update import Kept, MatrixUpdate
from safety_lightning.projection import Component
from safety_lightning.subspaces import Source, check_fraction

FRACTIONS = (0.01, 0.25, 0.5, 0.75, 0.99)
"""The paper's."""


@dataclass(frozen=True, kw_only=True)
class SubspaceComponent(Method):
    """Keeps one component of the update with respect to a subspace (paper, eq. 5 and 6).

    Attributes:
        source: Where the subspace's directions come from: ``top_k``, ``random_k`` or ``random``.
        component: ``parallel`` keeps the update inside the subspace, ``orthogonal`` outside.
        fraction: Share of the smaller dimension of each matrix that the subspace spans, in (0, 1].

    Raises:
        UserError: If the fraction is outside (0, 1].
    """

    source: Source = "top_k"
    component: Component = "orthogonal"
    fraction: float = 0.25

    def __post_init__(self) -> None:
        check_fraction(self.fraction)

    @property
    def needs(self) -> Needs:
        """Directions of its source."""
        return Needs(source=self.source, fraction=self.fraction, numbers=False)

    def keep(self, matrix: MatrixUpdate) -> Kept:
        """Keeps U Uᵀ T, or T − U Uᵀ T."""
        rank, is_capped = matrix.delta.choose_rank(self.source, self.fraction)
        own, inside = (0.0, 1.0) if self.component == "parallel" else (1.0, -1.0)
        return Kept(own=own, inside=inside, source=self.source, rank=rank, is_capped=is_capped, is_changed=rank > 0)

    def describe(self) -> Description:
        """Returns its names."""
        return Description(
            source=self.source,
            component=self.component,
            fraction=float(self.fraction),
            text=f"{self.component} to {self.source}, {self.fraction:g} of the smaller dimension",
            keeps_rank=True,
        )


def list_components(
    sources: Sequence[Source], components: Sequence[Component], fractions: Sequence[float]
) -> list[SubspaceComponent]:
    """Lists the methods of every source, component and fraction; fractions rise.

    Raises:
        UserError: If a list has an entry twice, or a fraction is outside (0, 1].
    """
    for label, entries in (("sources", sources), ("components", components), ("fractions", fractions)):
        check_distinct(label, entries)
    for fraction in fractions:
        check_fraction(fraction)
    return [
        SubspaceComponent(source=source, component=component, fraction=float(fraction))
        for source in sources
        for component in components
        for fraction in sorted(fractions)
    ]


def check_distinct(label: str, entries: Sequence[object]) -> None:
    """Raises UserError if an entry of a list comes twice."""
    twice = next((entry for entry in entries if list(entries).count(entry) > 1), None)
    if twice is not None:
        raise UserError(f"{label} must be different, got {twice} twice")
