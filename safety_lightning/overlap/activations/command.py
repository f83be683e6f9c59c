"""The command `overlap activations`: every pair of sets of activations, in a folder of tables and figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console

from safety_lightning.errors import UserError
from safety_lightning.files import PartStore
from safety_lightning.overlap.activations.compare import LayerMeasure, measure_layer, unpack_layer
from safety_lightning.overlap.activations.rows import Measures, make_activation_rows, make_average_rows
from safety_lightning.overlap.activations.sets import ActivationSets
from safety_lightning.overlap.depth import find_averaged_layers
from safety_lightning.overlap.figures import draw_average_curves, draw_maps
from safety_lightning.overlap.parts import Pair, measure_parts
from safety_lightning.overlap.report import make_activation_table, note_forced
from safety_lightning.overlap.rows import ActivationRow, AverageRow, name_pair
from safety_lightning.overlap.run import Comparison, Findings, run_comparison
from safety_lightning.overlap.settings import (
    ActivationInputs,
    ActivationRun,
    ActivationSettings,
    ProfileName,
    choose_profiles,
)
from safety_lightning.system.devices import choose_device

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
        sets: Folders by the sets' names; see `ActivationSets`.
        paper_sets: The same sets as captured by the profile `paper`, which its rows are made of when profiles are
            compared; None makes them of ``sets``.
        out: The folder to make; None makes a fresh one. One that holds the same run is resumed.
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
    """Runs the command; see `compare_activations`."""
    settings = choose_profiles(ActivationSettings, run)
    device = choose_device(run.device)
    sets = _open_sets(run, list(settings))
    comparison = Comparison(
        command="overlap-activations",
        settings=settings,
        inputs={"sets": run.sets, "paper_sets": run.paper_sets or {}},
        hashes={name: one.describe() for name, one in sets.items()},
        check=partial(_check_once, sets),
        measure=partial(_measure, sets, settings, device),
    )
    return run_comparison(comparison, out=run.out, console=console)


def _open_sets(inputs: ActivationInputs, profiles: Sequence[str]) -> dict[str, ActivationSets]:
    """Opens the sets of each profile; those of the profile ``paper`` can be others than the rest."""
    sets, paper_sets = inputs.sets, inputs.paper_sets
    if paper_sets is not None and (len(profiles) < 2 or set(paper_sets) != set(sets)):
        raise UserError(
            f"paper_sets must be the sets {list(sets)} under compare_profiles, got {list(paper_sets)} "
            f"with the profile {' and '.join(profiles)}"
        )
    opened = ActivationSets(sets)
    others = opened if paper_sets is None else ActivationSets({name: paper_sets[name] for name in sets})
    return {name: others if name == "paper" else opened for name in profiles}


def _check_once(sets: Mapping[str, ActivationSets]) -> None:
    for one in dict.fromkeys(sets.values()):
        one.check()


def _measure(
    sets: Mapping[str, ActivationSets],
    settings: Mapping[str, ActivationSettings],
    device: torch.device,
    parts: PartStore,
) -> Findings:
    """Measures layer by layer, for each profile."""
    measures: dict[str, Measures] = {}
    rows: list[ActivationRow] = []
    averages: list[AverageRow] = []
    for profile, one in settings.items():
        names = [f"{profile}-layer-{layer:03d}" for layer in range(sets[profile].num_layers + 1)]
        measure = partial(_measure_layers, sets[profile], one, device)
        packed = measure_parts(parts, names, measure, label=f"Overlap, {profile}", unit="layer")
        measures[profile] = {layer: unpack_layer(part) for layer, part in enumerate(packed)}
        rows += make_activation_rows(sets[profile], measures[profile], one, profile=profile)
        averages += make_average_rows(sets[profile], measures[profile], one, profile=profile)
    first = next(iter(measures.values()))
    return Findings(
        tables={"overlap": (ActivationRow, rows), "average": (AverageRow, averages)},
        angles=[row for layer in first.values() for found in layer.values() for row in found.angles],
        draw=partial(_draw_figures, rows, averages),
        page=make_activation_table(averages),
        notes=_list_notes(next(iter(sets.values())), rows),
        departures={name: {**one.read_departures(), **sets[name].read_captures()} for name, one in settings.items()},
    )


def _measure_layers(
    sets: ActivationSets, settings: ActivationSettings, device: torch.device, waiting: Sequence[int]
) -> Iterator[dict[Pair, LayerMeasure]]:
    averaged = find_averaged_layers(sets.num_layers, settings.depth)
    for layer in waiting:
        hidden = {name: found.to(device) for name, found in sets.read_layer(layer).items()}
        with_draws = settings.draw_layers == "every" or layer in averaged
        yield measure_layer(hidden, sets.pairs, settings, layer=layer, with_draws=with_draws)


def _draw_figures(rows: Sequence[ActivationRow], averages: Sequence[AverageRow]) -> dict[str, Figure]:
    return {"mso_by_eta": draw_average_curves(averages), **draw_maps(rows)}


def _list_notes(sets: ActivationSets, rows: Sequence[ActivationRow]) -> list[str]:
    sizes = ", ".join(f"{len(one.rows)} of {name}" for name, one in sets.sets.items())
    notes = [f"Prompts: {sizes}"]
    for pair in sets.pairs:
        if num_shared := sets.count_shared(pair):
            notes.append(f"{name_pair(*pair)}: {num_shared} prompts are in both sets")
    if constant := sorted({row.layer for row in rows if row.mso is None}):
        listed = ", ".join(str(layer) for layer in constant)
        notes.append(f"A set does not vary in layer {listed}: no overlap there, in no mean")
    return notes + note_forced(rows)
