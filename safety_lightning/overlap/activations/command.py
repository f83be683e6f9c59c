"""Runs `overlap activations`: every pair of sets of activations, in a folder of tables and figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from tqdm import tqdm

from safety_lightning.devices import choose_device
from safety_lightning.errors import UserError
from safety_lightning.overlap.activations.layers import measure_layer, pack_layer, unpack_layer
from safety_lightning.overlap.activations.rows import Measures, make_activation_rows, make_average_rows
from safety_lightning.overlap.activations.sets import ActivationSets
from safety_lightning.overlap.depth import find_averaged_layers
from safety_lightning.overlap.figures import draw_average_curves, draw_map
from safety_lightning.overlap.folder import OverlapFolder
from safety_lightning.overlap.publishing import publish_figures
from safety_lightning.overlap.report import make_activation_table, print_report
from safety_lightning.overlap.rows import ActivationRow, AngleRow, AverageRow, name_pair
from safety_lightning.overlap.settings import (
    ActivationRun,
    ActivationSettings,
    ProfileName,
    choose_profiles,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COMMAND = "overlap-activations"


def compare_activations(
    sets: Mapping[str, str],
    *,
    paper_sets: Mapping[str, str] | None = None,
    out: Path | None = None,
    profile: ProfileName = "sound",
    compare_profiles: bool = False,
    device: str | None = None,
    console: Console | None = None,
    **given: Any,
) -> Path:
    """Compares sets of activations, writes tables and figures, and prints a table.

    Args:
        sets: See `ActivationSets`.
        paper_sets: The same sets as captured by the profile `paper`, which its rows are made of when profiles are
            compared; None makes them of ``sets``.
        out: The folder to make; None makes a fresh one. One that holds the same run goes on.
        profile: What chooses the settings that are not given.
        compare_profiles: Whether rows of both profiles are made.
        device: Where to decompose; None is the GPU where there is one.
        console: Where to print; None is standard output.
        given: Settings by the names of `ActivationSettings`; None where the profile or the default decides.

    Returns:
        The folder.

    Raises:
        UserError: If folders do not fit each other, a setting is out of its range, an activation is not finite, or
            the folder holds something else. Nothing has been written then.
    """
    run = ActivationRun(
        sets=dict(sets),
        paper_sets=None if paper_sets is None else dict(paper_sets),
        out=out,
        profile=profile,
        compare_profiles=compare_profiles,
        device=device,
        **given,
    )
    return run_activations(run, console=console)


def run_activations(run: ActivationRun, *, console: Console | None = None) -> Path:
    """Runs `compare_activations` as a run says."""
    settings = choose_profiles(ActivationSettings, run, run)
    chosen_device = choose_device(run.device)
    found = _open_sets(run.sets, run.paper_sets, list(settings))
    described = {name: dataclasses.asdict(one) for name, one in settings.items()}
    inputs = {name: one.describe() for name, one in found.items()}
    recipe = {"command": _COMMAND, "settings": described, "inputs": inputs}
    folder = OverlapFolder(run.out, command=_COMMAND, recipe=recipe)
    for one in dict.fromkeys(found.values()):
        one.check()
    folder.create({"sets": run.sets, "paper_sets": run.paper_sets or {}, "settings": described})
    measures = {
        name: _measure_all(folder, name, found[name], one, device=chosen_device) for name, one in settings.items()
    }
    _write_results(folder, found, measures, settings, console)
    return folder.path


def _open_sets(
    sets: Mapping[str, str], paper_sets: Mapping[str, str] | None, profiles: list[str]
) -> dict[str, ActivationSets]:
    """Opens the sets of each profile; those of the profile `paper` can be others than the rest."""
    if paper_sets is not None and (len(profiles) < 2 or set(paper_sets) != set(sets)):
        raise UserError(
            f"paper_sets must be the sets {list(sets)} under compare_profiles, got {list(paper_sets)} "
            f"with the profile {' and '.join(profiles)}"
        )
    opened = ActivationSets(sets)
    others = opened if paper_sets is None else ActivationSets({name: paper_sets[name] for name in sets})
    return {name: others if name == "paper" else opened for name in profiles}


def _measure_all(
    folder: OverlapFolder, profile: str, sets: ActivationSets, settings: ActivationSettings, *, device: torch.device
) -> Measures:
    """Measures the layers that an earlier start of the run has not measured."""
    averaged = find_averaged_layers(sets.num_layers, settings.depth)
    parts = {layer: f"{profile}-layer-{layer:03d}" for layer in range(sets.num_layers + 1)}
    packed = {layer: folder.read_part(part) for layer, part in parts.items()}
    waiting = [layer for layer in parts if packed[layer] is None]
    done = len(parts) - len(waiting)
    with tqdm(total=len(parts), initial=done, desc=f"Overlap, {profile}", unit="layer", delay=1) as progress:
        for layer in waiting:
            hidden = {name: found.to(device) for name, found in sets.read_layer(layer).items()}
            with_draws = settings.draw_layers == "every" or layer in averaged
            measured = measure_layer(hidden, sets.pairs, settings, layer=layer, with_draws=with_draws)
            packed[layer] = pack_layer(measured)
            folder.write_part(parts[layer], packed[layer])
            progress.update()
    return {layer: unpack_layer(one) for layer, one in packed.items()}


def _write_results(
    folder: OverlapFolder,
    sets: Mapping[str, ActivationSets],
    measures: Mapping[str, Measures],
    settings: Mapping[str, ActivationSettings],
    console: Console | None,
) -> None:
    rows: list[ActivationRow] = []
    averages: list[AverageRow] = []
    for name, one in settings.items():
        rows += make_activation_rows(sets[name], measures[name], one, profile=name)
        averages += make_average_rows(sets[name], measures[name], one, profile=name)
    first = next(iter(settings))
    angles = [row for layer in measures[first].values() for found in layer.values() for row in found.angles]
    folder.write_table("overlap", ActivationRow, rows)
    folder.write_table("average", AverageRow, averages)
    if angles:
        folder.write_table("angles", AngleRow, angles)
    publish_figures(folder.path, _draw_figures(rows, averages, list(settings)))
    print_report(
        make_activation_table(averages),
        notes=_list_notes(sets, rows, averages),
        settings={name: _describe_settings(sets[name], one) for name, one in settings.items()},
        out=folder.path,
        console=console,
    )


def _describe_settings(sets: ActivationSets, settings: ActivationSettings) -> dict[str, Any]:
    """Returns the settings in which profiles part, with those of the capture."""
    return {**settings.read_departures(), **sets.read_captures()}


def _draw_figures(rows: list[ActivationRow], averages: list[AverageRow], profiles: list[str]) -> dict[str, Figure]:
    figures = {"mso_by_eta": draw_average_curves(averages)}
    for profile in profiles:
        stem = "mso_by_layer" if len(profiles) == 1 else f"mso_by_layer_{profile}"
        figures[stem] = draw_map([row for row in rows if row.profile == profile])
    return figures


def _list_notes(sets: Mapping[str, ActivationSets], rows: list[ActivationRow], averages: list[AverageRow]) -> list[str]:
    first = next(iter(sets.values()))
    sizes = ", ".join(f"{len(one.rows)} of {name}" for name, one in first.sets.items())
    notes = [f"Prompts: {sizes}"]
    for pair in first.pairs:
        if num_shared := first.count_shared(pair):
            notes.append(f"{name_pair(*pair)}: {num_shared} prompts are in both sets")
    without = sorted({row.layer for row in rows if row.mso is None})
    if without:
        listed = ", ".join(str(layer) for layer in without)
        notes.append(f"A set does not vary in layer {listed}: no overlap there, in no mean")
    if any(row.is_forced for row in rows):
        share = sum(row.is_forced for row in rows) / len(rows)
        notes.append(f"{share:.1%} of the rows have forced overlap: their two ranks add up to more than the dimension")
    return notes
