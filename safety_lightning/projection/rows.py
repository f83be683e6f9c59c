"""What the update of live weights is made of: a record per matrix, sums over matrices, the rows of `projection.csv`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from safety_lightning.checkpoints import MatrixSlot, tied_output
from safety_lightning.projection.operators import Component, compute_chance
from safety_lightning.projection.spec import PreparedSubspace

Tied = Literal["once", "each"]


@dataclass(frozen=True, kw_only=True)
class UpdateMeasure:
    """What the update of one matrix is made of.

    Attributes:
        slot: The matrix.
        rank: Rank of its basis; 0 when its delta is zero.
        dimension: Length of the basis's columns: the matrix's rows for the left side, its columns for the right.
        inside: Squared norm of the update's part inside the subspace.
        outside: Squared norm of the rest.
        num_stuck: How many weights equal those that the update is measured from.
        num_weights: How many weights there are.
    """

    slot: MatrixSlot
    rank: int
    dimension: int
    inside: float
    outside: float
    num_stuck: int
    num_weights: int

    @property
    def total(self) -> float:
        """Squared norm of the update."""
        return self.inside + self.outside

    def part(self, component: Component) -> float:
        """Squared norm of one component."""
        return self.inside if component == "parallel" else self.outside

    def chance(self, component: Component) -> float:
        """Share of its energy that a random update would have in one component."""
        return compute_chance(self.rank, self.dimension, component=component)


def sum_energy(measures: Iterable[UpdateMeasure], component: Component) -> float:
    """Returns the energy kept over many matrices: summed before dividing, matrices without a subspace left out."""
    counted = [measure for measure in measures if measure.rank > 0]
    return divide(sum(m.part(component) for m in counted), sum(m.total for m in counted))


def sum_chance(measures: Iterable[UpdateMeasure], component: Component) -> float:
    """Returns the chance level that belongs to `sum_energy`: each matrix weighs as much as its update."""
    counted = [measure for measure in measures if measure.rank > 0]
    return divide(sum(m.total * m.chance(component) for m in counted), sum(m.total for m in counted))


def sum_leak(stored: Iterable[UpdateMeasure], component: Component) -> float:
    """Returns the share of the norm of stored updates that is on the wrong side; 0 without update."""
    wrong: Component = "orthogonal" if component == "parallel" else "parallel"
    known = list(stored)
    total = sum(m.total for m in known)
    return math.sqrt(sum(m.part(wrong) for m in known) / total) if total > 0 else 0.0


def divide(part: float, total: float) -> float:
    """Divides, with NaN for 0 / 0."""
    return part / total if total > 0 else math.nan


@dataclass(frozen=True, kw_only=True)
class ProjectionRow:
    """One matrix: energies are shares in [0, 1], norms are Frobenius norms of float32 weights.

    Attributes:
        name: Tensor name, with the expert's number where it holds several matrices.
        kind: Kind of module, such as ``q_proj``.
        layer: Decoder layer from 0; None outside the layers.
        rows: Output features.
        columns: Input features.
        source: Where the directions come from.
        component: Which part was kept.
        fraction: Share of the smaller dimension asked for.
        rank: Directions in the basis; 0 where the delta is zero and there is no subspace.
        energy_kept: Share of the update's energy in the component before the projection at the end; under a projection
            during training, of the last increment that the monitor measured (see `IncrementMeter`), NaN without a
            monitor; NaN without update.
        chance: What a random update would keep.
        update_norm: Norm of the update before the projection at the end; under one during training, as it is.
        leak: Share of the stored update's norm that is on the wrong side.
    """

    name: str
    kind: str
    layer: int | None
    rows: int
    columns: int
    source: str
    component: str
    fraction: float
    rank: int
    energy_kept: float
    chance: float
    update_norm: float
    leak: float


def make_rows(
    prepared: PreparedSubspace,
    component: Component,
    before: Sequence[UpdateMeasure],
    stored: Sequence[UpdateMeasure],
    *,
    wanted: Sequence[UpdateMeasure] = (),
    tied: Tied = "once",
) -> list[ProjectionRow]:
    """Joins measures from before the last projection with those of the stored result, a row per matrix.

    Args:
        prepared: The subspace.
        component: The component that was kept.
        before: The update.
        stored: The update as it is stored.
        wanted: What energies are of: what the optimizer wanted; empty where that was not measured.
        tied: Count tied weights once, or each time they are named.

    Paper: with ``tied="each"``, the output layer is listed beside the embedding that it shares its storage with.
    """
    wishes: Sequence[UpdateMeasure | None] = wanted or [None] * len(before)
    rows = [_make_row(prepared, component, *each) for each in zip(before, stored, wishes, strict=True)]
    output = tied_output(prepared.reference)
    if tied == "each" and output is not None:
        embeddings = [row for row in rows if row.kind in ("embed_tokens", "wte")]
        rows += [dataclasses.replace(row, name=output, kind="lm_head") for row in embeddings]
    return rows


def _make_row(
    prepared: PreparedSubspace,
    component: Component,
    before: UpdateMeasure,
    stored: UpdateMeasure,
    wanted: UpdateMeasure | None,
) -> ProjectionRow:
    slot, spec = before.slot, prepared.spec
    return ProjectionRow(
        name=slot.name,
        kind=slot.kind,
        layer=slot.layer,
        rows=slot.rows,
        columns=slot.columns,
        source=spec.source,
        component=component,
        fraction=spec.fraction,
        rank=before.rank,
        energy_kept=divide(wanted.part(component), wanted.total) if wanted else math.nan,
        chance=before.chance(component),
        update_norm=math.sqrt(before.total),
        leak=sum_leak([stored], component),
    )
