"""Runs `overlap weights`: every pair of named updates of weights, in a folder of tables and figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from tqdm import tqdm

from safety_lightning.devices import choose_device
from safety_lightning.overlap.figures import draw_layer_curves, draw_map
from safety_lightning.overlap.folder import OverlapFolder
from safety_lightning.overlap.publishing import publish_figures
from safety_lightning.overlap.report import make_weight_table, print_report
from safety_lightning.overlap.rows import AngleRow, LayerRow, TensorRow
from safety_lightning.overlap.settings import (
    ProfileName,
    WeightRun,
    WeightSettings,
    choose_profiles,
)
from safety_lightning.overlap.weights.matrices import (
    MatrixMeasure,
    is_large,
    measure_matrix,
    pack_measure,
    unpack_measure,
)
from safety_lightning.overlap.weights.rows import count_zero, make_layer_rows, make_tensor_rows
from safety_lightning.overlap.weights.updates import WeightUpdates

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COMMAND = "overlap-weights"


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
        reference: See `WeightUpdates`.
        updates: See `WeightUpdates`.
        base: See `WeightUpdates`.
        ceilings: See `WeightUpdates`.
        out: The folder to make; None makes a fresh one. One that holds the same run goes on.
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
        ceilings=None if ceilings is None else dict(ceilings),
        out=out,
        profile=profile,
        compare_profiles=compare_profiles,
        device=device,
        **given,
    )
    return run_weights(run, console=console)


def run_weights(run: WeightRun, *, console: Console | None = None) -> Path:
    """Runs `compare_weights` as a run says."""
    settings = choose_profiles(WeightSettings, run, run)
    chosen_device = choose_device(run.device)
    first = next(iter(settings.values()))
    found = WeightUpdates(run.reference, run.updates, base=run.base, ceilings=run.ceilings, settings=first)
    described = {name: dataclasses.asdict(one) for name, one in settings.items()}
    hashes = {name: update.hash_files() for name, update in found.updates.items()}
    recipe = {"command": _COMMAND, "settings": described, "inputs": hashes}
    folder = OverlapFolder(run.out, command=_COMMAND, recipe=recipe)
    found.check()
    inputs = {"reference": run.reference, "updates": run.updates, "base": run.base, "ceilings": run.ceilings or {}}
    folder.create({**inputs, "settings": described})
    sketch = any(one.large_updates == "sketch" for one in settings.values())
    measures = _measure_all(folder, found, first, sketch=sketch, device=chosen_device)
    _write_results(folder, found, measures, settings, console)
    return folder.path


def _measure_all(
    folder: OverlapFolder, updates: WeightUpdates, settings: WeightSettings, *, sketch: bool, device: torch.device
) -> dict[str, MatrixMeasure]:
    """Measures the matrices that an earlier start of the run has not measured."""
    parts = {slot.name: f"matrix-{number:05d}" for number, slot in enumerate(updates.slots)}
    packed = {name: folder.read_part(part) for name, part in parts.items()}
    waiting = [slot for slot in updates.slots if packed[slot.name] is None]
    done = len(parts) - len(waiting)
    with tqdm(total=len(parts), initial=done, desc="Overlap", unit="matrix", delay=1) as progress:
        for slot, deltas in updates.iterate(waiting):
            placed = {name: delta.to(device) for name, delta in deltas.items()}
            measure = measure_matrix(slot.name, placed, updates.all_pairs(), settings, sketch=sketch)
            packed[slot.name] = pack_measure(measure)
            folder.write_part(parts[slot.name], packed[slot.name])
            progress.update()
    return {name: unpack_measure(one) for name, one in packed.items()}


def _write_results(
    folder: OverlapFolder,
    updates: WeightUpdates,
    measures: Mapping[str, MatrixMeasure],
    settings: Mapping[str, WeightSettings],
    console: Console | None,
) -> None:
    rows = [row for name, one in settings.items() for row in make_tensor_rows(updates, measures, one, profile=name)]
    layers = make_layer_rows(rows, updates.slots, updates.num_layers)
    angles = [row for measure in measures.values() for row in measure.angles]
    folder.write_table("overlap", TensorRow, rows)
    folder.write_table("layers", LayerRow, layers)
    if angles:
        folder.write_table("angles", AngleRow, angles)
    publish_figures(folder.path, _draw_figures(layers, list(settings)))
    print_report(
        make_weight_table(layers) if layers else None,
        notes=_list_notes(updates, measures, rows, settings),
        settings={name: one.read_departures() for name, one in settings.items()},
        out=folder.path,
        console=console,
    )


def _draw_figures(rows: list[LayerRow], profiles: list[str]) -> dict[str, Figure]:
    figures = {}
    if any(row.percentile for row in rows):
        figures["mso_by_eta"] = draw_layer_curves(rows)
    for profile in profiles:
        shown = [row for row in rows if row.profile == profile and row.layer is not None]
        if shown:
            stem = "mso_by_layer" if len(profiles) == 1 else f"mso_by_layer_{profile}"
            figures[stem] = draw_map(shown)
    return figures


def _list_notes(
    updates: WeightUpdates,
    measures: Mapping[str, MatrixMeasure],
    rows: list[TensorRow],
    settings: Mapping[str, WeightSettings],
) -> list[str]:
    num_slots = len(updates.slots)
    zero = count_zero(updates, measures)
    num_vectors = sum(slot.is_vector for slot in updates.slots)
    num_large = sum(is_large(slot.rows) for slot in updates.slots)
    counted = ", ".join(f"{number} of {name}" for name, number in zero.items()) or "none"
    notes = [f"Of {num_slots} matrices, updates are zero in: {counted}"]
    if num_vectors:
        notes.append(f"1-D tensors among them, a squared cosine each and in no mean: {num_vectors}")
    if any(row.is_forced for row in rows):
        share = sum(row.is_forced for row in rows) / len(rows)
        notes.append(f"{share:.1%} of the rows have forced overlap: their two ranks add up to more than the dimension")
    if any(one.large_updates == "sketch" for one in settings.values()):
        notes.append(f"Matrices of more than 10,000 rows, which the profile paper projects at random: {num_large}")
    return notes
