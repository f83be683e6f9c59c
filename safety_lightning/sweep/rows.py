"""The tables of a sweep: a row a matrix and variant, and a row a variant."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from safety_lightning.checkpoints import MatrixSlot
from safety_lightning.methods import Variant
from safety_lightning.methods.update import UpdateSums
from safety_lightning.projection.rows import divide


@dataclass(frozen=True, kw_only=True)
class MatrixColumns:
    """Which matrix a row is of.

    Attributes:
        name: Tensor name, with the expert's number where it holds several matrices.
        layer: Decoder layer from 0; None outside the layers.
        kind: Kind of module, such as ``q_proj``.
        rows: Output features.
        columns: Input features.
    """

    name: str
    layer: int | None
    kind: str
    rows: int
    columns: int


@dataclass(frozen=True, kw_only=True)
class VariantColumns:
    """Which variant a row is of; see `Variant.key`.

    Attributes:
        finetuned: Name of the finetuned model.
        source: Where the directions come from, or the method.
        component: Which part is kept; None for another method.
        fraction: Share of the smaller dimension asked for; for ``energy`` the share of the delta's energy.
    """

    finetuned: str
    source: str
    component: str | None
    fraction: float | None

    @property
    def key(self) -> tuple[str, str, str | None, float | None]:
        """What names the row's variant."""
        return self.finetuned, self.source, self.component, self.fraction


@dataclass(frozen=True, kw_only=True)
class PartRow(UpdateSums, VariantColumns, MatrixColumns):
    """The sums of one matrix in one variant, as a sweep keeps them until it is finished."""


@dataclass(frozen=True, kw_only=True)
class SweepMatrixRow(VariantColumns, MatrixColumns):
    """One matrix in one variant; norms are Frobenius norms of float32 weights.

    Attributes:
        rank: Directions in the subspace; 0 where the delta is zero.
        energy_kept: ‖kept update‖² / ‖update‖²; NaN without update.
        chance: What a random update would keep; None for a method without subspace.
        update_norm: Norm of the update.
        cosine_update: Cosine of the kept update with the update.
        cosine_delta: Cosine of the kept update with the delta.
        leak: Share of the norm on the wrong side after the cast to the storage dtype.
        score: What a method chooses matrices by: the cosine of Safe LoRA and SafeMERGE.
        is_changed: Whether the method treated this matrix.
    """

    rank: int
    energy_kept: float
    chance: float | None
    update_norm: float
    cosine_update: float
    cosine_delta: float
    leak: float | None
    score: float | None
    is_changed: bool


@dataclass(frozen=True, kw_only=True)
class EnergyRow(VariantColumns):
    """One variant over all matrices that have a subspace; energies are summed before dividing.

    Attributes:
        energy_kept: Share of the update's energy; a method that adds to the update can have more than 1.
        chance: What a random update would keep, each matrix weighing as much as its update.
        cosine_update: Cosine of the kept update with the update.
        cosine_delta: Cosine of the kept update with the delta.
        leak: Share of the norm on the wrong side after the cast to the storage dtype.
        num_matrices: Matrices that were summed.
        num_changed: How many of them the method treated.
    """

    energy_kept: float
    chance: float | None
    cosine_update: float
    cosine_delta: float
    leak: float | None
    num_matrices: int
    num_changed: int


_COLUMNS = (MatrixColumns, VariantColumns)


def make_part_row(slot: MatrixSlot, variant: Variant, sums: UpdateSums) -> PartRow:
    """Joins what a row is of with what was found."""
    return PartRow(
        name=slot.name,
        kind=slot.kind,
        layer=slot.layer,
        rows=slot.rows,
        columns=slot.columns,
        **_name_columns(variant),
        **dataclasses.asdict(sums),
    )


def choose_worst(parts: Sequence[PartRow], variant: Variant, num_worst: int) -> list[PartRow]:
    """Keeps one of the two rows that a method by number has for every matrix: treated for the smallest scores.

    Args:
        parts: Rows of a sweep.
        variant: The method on one finetuned model.
        num_worst: How many matrices are treated.

    Returns:
        The rows, without those of the variant that were not chosen.
    """
    treated = [row for row in parts if row.key == variant.key and row.is_changed]
    treated.sort(key=lambda row: (row.score, row.name))
    chosen = {row.name for row in treated[:num_worst]}
    return [row for row in parts if row.key != variant.key or row.is_changed == (row.name in chosen)]


def make_tensor_rows(parts: Iterable[PartRow]) -> list[SweepMatrixRow]:
    """Turns sums into the shares and cosines that are read."""
    return [
        SweepMatrixRow(
            **{one.name: getattr(row, one.name) for place in _COLUMNS for one in dataclasses.fields(place)},
            rank=row.rank,
            energy_kept=divide(row.kept, row.total),
            chance=row.chance,
            update_norm=math.sqrt(row.total),
            cosine_update=divide(row.dot_update, math.sqrt(row.kept * row.total)),
            cosine_delta=divide(row.dot_delta, math.sqrt(row.kept * row.delta)),
            leak=_find_leak([row]),
            score=row.score,
            is_changed=row.is_changed,
        )
        for row in parts
    ]


def make_energy_row(variant: Variant, parts: Iterable[PartRow]) -> EnergyRow:
    """Sums the rows of one variant over the matrices that have a delta."""
    counted = [row for row in parts if row.delta > 0]
    total, kept = sum(row.total for row in counted), sum(row.kept for row in counted)
    delta = sum(row.delta for row in counted)
    chance = None
    if all(row.chance is not None for row in counted):
        chance = divide(sum(row.total * (row.chance or 0.0) for row in counted), total)
    return EnergyRow(
        **_name_columns(variant),
        energy_kept=divide(kept, total),
        chance=chance,
        cosine_update=divide(sum(row.dot_update for row in counted), math.sqrt(kept * total)),
        cosine_delta=divide(sum(row.dot_delta for row in counted), math.sqrt(kept * delta)),
        leak=_find_leak(counted),
        num_matrices=len(counted),
        num_changed=sum(row.is_changed for row in counted),
    )


def _name_columns(variant: Variant) -> dict[str, Any]:
    return dict(zip(("finetuned", "source", "component", "fraction"), variant.key, strict=True))


def _find_leak(parts: Sequence[PartRow]) -> float | None:
    known = [row for row in parts if row.wrong is not None]
    if len(known) < len(parts) or not parts:
        return None
    stored = sum(row.stored for row in known)
    return math.sqrt(min(1.0, sum(row.wrong or 0.0 for row in known) / stored)) if stored > 0 else 0.0
