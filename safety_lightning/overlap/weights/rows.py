"""Makes the rows of weights out of what was measured: a row per matrix, and means by layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from safety_lightning.checkpoints import MatrixSlot, tied_output
from safety_lightning.overlap.depth import name_marked_layers
from safety_lightning.overlap.parts import Pair
from safety_lightning.overlap.rows import LayerRow, OverlapMatrixRow, list_values, name_pair
from safety_lightning.overlap.settings import WeightSettings
from safety_lightning.overlap.weights.compare import MatrixMeasure, WeightUpdates
from safety_lightning.subspaces import Overlap
from safety_lightning.tables import average, drop_nan

_EMBEDDINGS = ("embed_tokens", "wte", "embed_in")


def make_matrix_rows(
    updates: WeightUpdates, measures: Mapping[str, MatrixMeasure], settings: WeightSettings, *, profile: str
) -> list[OverlapMatrixRow]:
    """Makes a row per matrix, pair and share of energy.

    Paper: with ``tied: each``, the output layer has rows beside those of the embedding whose storage it shares; with
    ``zero_updates: one``, the overlap with an update of zero counts as 1; with ``large_updates: sketch``, matrices of
    more than 10,000 rows are measured by a random projection.

    Args:
        updates: What was compared.
        measures: What was measured, by the matrices' names.
        settings: Which of it counts.
        profile: The name of the profile in the rows.
    """
    rows = [
        row
        for slot in updates.slots
        for pair in updates.pairs
        for row in _list_rows(profile, slot, pair, updates, measures[slot.name], settings)
    ]
    output = tied_output(updates.reference)
    if settings.tied == "each" and output is not None:
        rows += [dataclasses.replace(row, tensor=output, kind="lm_head") for row in rows if row.kind in _EMBEDDINGS]
    return rows


def make_layer_rows(rows: Iterable[OverlapMatrixRow], slots: Sequence[MatrixSlot], num_layers: int) -> list[LayerRow]:
    """Averages the rows of each layer's matrices; 1-D tensors and undefined overlaps are left out.

    Args:
        rows: Rows of matrices.
        slots: The matrices, which say what is a vector.
        num_layers: The model's number of decoder layers.
    """
    vectors = {slot.name for slot in slots if slot.is_vector}
    marked = {layer - 1: name for layer, name in name_marked_layers(num_layers).items()}
    groups: dict[tuple[str, str, int | None, float], list[OverlapMatrixRow]] = {}
    for row in rows:
        if row.tensor not in vectors:
            groups.setdefault((row.profile, row.pair, row.layer, row.eta), []).append(row)
    return [
        LayerRow(
            profile=profile,
            pair=pair,
            layer=layer,
            depth=None if layer is None else (layer + 1) / num_layers,
            percentile=None if layer is None else marked.get(layer),
            eta=eta,
            **_average_rows(found),
        )
        for (profile, pair, layer, eta), found in groups.items()
    ]


def count_zero(updates: WeightUpdates, measures: Mapping[str, MatrixMeasure]) -> dict[str, int]:
    """Counts, by update, the matrices whose update is zero; updates without any are left out."""
    zero: dict[str, set[str]] = {}
    for name, measure in measures.items():
        for pair, overlaps in measure.exact.items():
            for update, rank in zip(pair, (overlaps[0].k_a, overlaps[0].k_b), strict=True):
                if rank == 0:
                    zero.setdefault(update, set()).add(name)
    return {update: len(zero[update]) for update in updates.updates if update in zero}


def _list_rows(
    profile: str,
    slot: MatrixSlot,
    pair: Pair,
    updates: WeightUpdates,
    measure: MatrixMeasure,
    settings: WeightSettings,
) -> list[OverlapMatrixRow]:
    found = measure.exact
    if settings.large_updates == "sketch" and measure.sketched is not None:
        found = measure.sketched
    ceilings = [_list_ceilings(found, updates.ceilings.get(name)) for name in pair]
    return [
        OverlapMatrixRow(
            profile=profile,
            pair=name_pair(*pair),
            tensor=slot.name,
            kind=slot.kind,
            layer=slot.layer,
            **list_values(overlap, zero_is_one=settings.zero_updates == "one"),
            ceiling_a=ceilings[0].get(overlap.eta),
            ceiling_b=ceilings[1].get(overlap.eta),
        )
        for overlap in found[pair]
    ]


def _list_ceilings(found: Mapping[Pair, Sequence[Overlap]], pair: Pair | None) -> dict[float, float | None]:
    return {} if pair is None else {overlap.eta: drop_nan(overlap.mso) for overlap in found[pair]}


def _average_rows(rows: Sequence[OverlapMatrixRow]) -> dict[str, Any]:
    counted = [row for row in rows if row.mso is not None]
    names = ("mso", "chance", "excess", "ceiling_a", "ceiling_b")
    return {
        "num_tensors": len(counted),
        "num_excluded": len(rows) - len(counted),
        "num_forced": sum(row.is_forced for row in counted),
        **{name: average([getattr(row, name) for row in counted]) for name in names},
    }
