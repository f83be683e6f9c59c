"""The command `overlap weights`: every pair of named updates of weights, in a folder of tables and figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console

from safety_lightning.files import PartStore
from safety_lightning.overlap.figures import draw_layer_curves, draw_maps
from safety_lightning.overlap.parts import measure_parts
from safety_lightning.overlap.report import make_weight_table, note_forced
from safety_lightning.overlap.rows import LayerRow, OverlapMatrixRow
from safety_lightning.overlap.run import Comparison, Findings, run_comparison
from safety_lightning.overlap.settings import ProfileName, WeightRun, WeightSettings, choose_profiles
from safety_lightning.overlap.weights.compare import (
    MatrixMeasure,
    WeightUpdates,
    is_large,
    measure_matrix,
    unpack_measure,
)
from safety_lightning.overlap.weights.rows import count_zero, make_layer_rows, make_matrix_rows
from safety_lightning.system.devices import choose_device

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def compare_weights(
    reference: str,
    updates: Mapping[str, str],
    *,
    base: str | None = None,
    ceilings: Mapping[str, str] | None = None,
    out: Path | None = None,
    profile: ProfileName = "sound",
    compare_profiles: bool = False,
    device: str | None = None,
    console: Console | None = None,
    **given: Any,
) -> Path:
    """Compares updates of weights, writes tables and figures, and prints a table.

    Args:
        reference: The checkpoint that fine-tuning started from: a folder, a hub name or ``lab:NAME``.
        updates: Fine-tuned checkpoints by the updates' names.
        base: The checkpoint from before alignment, which adds the update ``delta``, reference − base; None without.
        ceilings: Fine-tuned checkpoints of another seed, by names of ``updates``.
        out: The folder to make; None makes a fresh one. One that holds the same run is resumed.
        profile: What chooses the settings that are not given.
        compare_profiles: Whether rows of both profiles are made.
        device: Where to decompose; None is the GPU where there is one.
        console: Where to print; None is standard output.
        given: Settings by the names of `WeightSettings`; None where the profile or the default decides.

    Returns:
        The folder.

    Raises:
        UserError: If checkpoints do not fit each other, a setting is out of its range, a weight is not finite, an
            update is zero, or the folder holds something else. Nothing has been written then.
    """
    run = WeightRun(
        reference=reference,
        updates=dict(updates),
        base=base,
        ceilings=dict(ceilings or {}),
        out=out,
        profile=profile,
        compare_profiles=compare_profiles,
        device=device,
        **given,
    )
    return run_weights(run, console=console)


def run_weights(run: WeightRun, *, console: Console | None = None) -> Path:
    """Runs the command; see `compare_weights`."""
    settings = choose_profiles(WeightSettings, run)
    device = choose_device(run.device)
    updates = WeightUpdates(run, next(iter(settings.values())))
    comparison = Comparison(
        command="overlap-weights",
        settings=settings,
        inputs={"reference": run.reference, "updates": run.updates, "base": run.base, "ceilings": run.ceilings or {}},
        hashes=updates.hash_files(),
        check=updates.check,
        measure=partial(_measure, updates, settings, device),
    )
    return run_comparison(comparison, out=run.out, console=console)


def _measure(
    updates: WeightUpdates, settings: Mapping[str, WeightSettings], device: torch.device, parts: PartStore
) -> Findings:
    """Measures matrix by matrix, once for all profiles; what they share has the settings of the first."""
    names = [f"matrix-{number:05d}" for number in range(len(updates.slots))]
    measure = partial(_measure_matrices, updates, settings, device)
    packed = measure_parts(parts, names, measure, label="Overlap", unit="matrix")
    measures = {slot.name: unpack_measure(part) for slot, part in zip(updates.slots, packed, strict=True)}
    rows = [row for name, one in settings.items() for row in make_matrix_rows(updates, measures, one, profile=name)]
    layers = make_layer_rows(rows, updates.slots, updates.num_layers)
    return Findings(
        tables={"overlap": (OverlapMatrixRow, rows), "layers": (LayerRow, layers)},
        angles=[row for measure in measures.values() for row in measure.angles],
        draw=partial(_draw_figures, layers),
        page=make_weight_table(layers) if layers else None,
        notes=_list_notes(updates, measures, rows, with_sketch=_has_sketch(settings)),
        departures={name: one.read_departures() for name, one in settings.items()},
    )


def _measure_matrices(
    updates: WeightUpdates, settings: Mapping[str, WeightSettings], device: torch.device, waiting: Sequence[int]
) -> Iterator[MatrixMeasure]:
    first, sketch = next(iter(settings.values())), _has_sketch(settings)
    for slot, deltas in updates.iterate([updates.slots[number] for number in waiting]):
        placed = {name: delta.to(device) for name, delta in deltas.items()}
        yield measure_matrix(slot.name, placed, updates.all_pairs(), first, sketch=sketch)


def _has_sketch(settings: Mapping[str, WeightSettings]) -> bool:
    return any(one.large_updates == "sketch" for one in settings.values())


def _draw_figures(rows: list[LayerRow]) -> dict[str, Figure]:
    curves = {"mso_by_eta": draw_layer_curves(rows)} if any(row.percentile for row in rows) else {}
    return {**curves, **draw_maps(rows)}


def _list_notes(
    updates: WeightUpdates,
    measures: Mapping[str, MatrixMeasure],
    rows: Sequence[OverlapMatrixRow],
    *,
    with_sketch: bool,
) -> list[str]:
    zero = count_zero(updates, measures)
    counted = ", ".join(f"{number} of {name}" for name, number in zero.items()) or "none"
    notes = [f"Of {len(updates.slots)} matrices, updates are zero in: {counted}"]
    if num_vectors := sum(slot.is_vector for slot in updates.slots):
        notes.append(f"1-D tensors among them, a squared cosine each and in no mean: {num_vectors}")
    notes += note_forced(rows)
    if with_sketch:
        num_large = sum(is_large(slot.rows) for slot in updates.slots)
        notes.append(f"Matrices of more than 10,000 rows, which the profile paper projects at random: {num_large}")
    return notes
