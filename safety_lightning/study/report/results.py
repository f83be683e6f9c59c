"""Reads what a study left: the results that a report is made from, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from safety_lightning.errors import UserError
from safety_lightning.overlap.rows import ActivationRow, AverageRow, LayerRow
from safety_lightning.study.statistics.nulls import NULLS, NullRow
from safety_lightning.study.statistics.tables import (
    AttackRow,
    ExcessRow,
    PointRow,
    RobustnessRow,
    SelectivityRow,
    VariantRow,
)
from safety_lightning.study.statistics.tables.excess import ACTIVATION_LAYERS, ACTIVATIONS, WEIGHTS, read_overlap
from safety_lightning.study.statistics.values import SAFETY
from safety_lightning.study.statistics.verdict import Verdict
from safety_lightning.tables import read_arrow, read_csv, read_parquet

LAYER_ENERGIES = Path("energies/tensors.parquet")
"""Where a study's run of `project` tells the energy of every matrix."""

PROFILES = Path("profiles/table/profiles.csv")
"""Where a study tells what each departure between the profiles changes, if it was asked to compare them."""


@dataclass(frozen=True)
class LayerEnergy:
    """The share of an update's energy that the orthogonal component keeps in one layer, the mean over its matrices.

    Attributes:
        finetuned: The fine-tune.
        fraction: Share of the smaller dimension.
        layer: Decoder layer from 0.
        energy_kept: In [0, 1].
    """

    finetuned: str
    fraction: float
    layer: int
    energy_kept: float


@dataclass(frozen=True, kw_only=True)
class ProfileRow:
    """What an overlap is under one departure of the paper, beside what it is in the study.

    Attributes:
        setting: The setting in which they part, or ``the whole profile paper``.
        paper: What the paper did.
        sound: What is done instead.
        measure: What was measured of which pair, or why nothing was.
        eta: Share of energy that the bases hold.
        value_paper: The overlap as the paper would have it.
        value_sound: The study's.
        chance_paper: Chance of the first.
        chance_sound: Chance of the second.
    """

    setting: str
    paper: str
    sound: str
    measure: str
    eta: float | None = None
    value_paper: float | None = None
    value_sound: float | None = None
    chance_paper: float | None = None
    chance_sound: float | None = None


@dataclass(frozen=True, kw_only=True)
class Results:
    """What a study left.

    Attributes:
        study: Its folder.
        verdict: Its verdict.
        variants: Every variant under every metric.
        selectivity: The cells of the safety subspace.
        points: What every variant keeps of learning and harm.
        robustness: The verdict from other pairs of measures.
        attacks: An attacker's view.
        excesses: What overlaps more than it is held against.
        nulls: What was said of random subspaces in the safety subspace's place; empty where that was not asked.
        weights: Overlap of weights by layer.
        activations: Overlap of activations, averaged over layers.
        activation_layers: Overlap of activations by layer.
        layers: Energies by layer.
        profiles: What departures between the profiles change; empty where they were not compared.
        settings: ``settings.json``: ``config``, ``settings`` (the profiles' table), ``costs``, ``hashes``, and what the
            manifest tells of command and commit.
    """

    study: Path
    verdict: Verdict
    variants: Sequence[VariantRow]
    selectivity: Sequence[SelectivityRow]
    points: Sequence[PointRow]
    robustness: Sequence[RobustnessRow]
    attacks: Sequence[AttackRow]
    excesses: Sequence[ExcessRow]
    nulls: Sequence[NullRow]
    weights: Sequence[LayerRow]
    activations: Sequence[AverageRow]
    activation_layers: Sequence[ActivationRow]
    layers: Sequence[LayerEnergy]
    profiles: Sequence[ProfileRow]
    settings: Mapping[str, Any]


def describe_bands(level: float) -> str:
    """Says what the bands of selectivities are."""
    return f"made for all fractions of a component together, at a nominal {level:.0%} (docs/study.md)"


def read_results(study: Path) -> Results:
    """Reads the results of a study whose statistics are done.

    Raises:
        UserError: If the folder is no such study, or a file of it cannot be read.
    """
    if not (study / "verdict.json").is_file():
        raise UserError(f"study {study} must be the folder of a study with a verdict, it has no verdict.json")
    tables = study / "tables"
    try:
        verdict = Verdict(**json.loads((study / "verdict.json").read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{study / 'verdict.json'} must be a verdict, it is not: {error}") from error
    return Results(
        study=study,
        verdict=verdict,
        variants=read_parquet(study / "variants.parquet", VariantRow),
        selectivity=read_csv(study / "selectivity.csv", SelectivityRow),
        points=read_csv(tables / "retained.csv", PointRow),
        robustness=read_csv(tables / "robustness.csv", RobustnessRow),
        attacks=read_csv(tables / "attack.csv", AttackRow),
        excesses=read_csv(tables / "overlap_excess.csv", ExcessRow),
        nulls=read_csv(study / NULLS, NullRow) if (study / NULLS).is_file() else [],
        weights=read_overlap(study / WEIGHTS, LayerRow),
        activations=read_overlap(study / ACTIVATIONS, AverageRow),
        activation_layers=read_overlap(study / ACTIVATION_LAYERS, ActivationRow),
        layers=_read_layers(study / LAYER_ENERGIES),
        profiles=read_csv(study / PROFILES, ProfileRow) if (study / PROFILES).is_file() else [],
        settings=_read_settings(study),
    )


def _read_settings(study: Path) -> dict[str, Any]:
    """Returns ``settings.json``; what it lacks is taken from ``config.yaml`` and ``manifest.json``."""
    found: dict[str, Any] = {}
    manifest = _read_json(study / "manifest.json")
    started = manifest.get("started")
    if isinstance(started, list) and started:
        manifest |= started[-1]
    found |= {name: manifest[name] for name in ("command", "git_commit", "versions", "device") if name in manifest}
    config = study / "config.yaml"
    if config.is_file():
        found["config"] = _read_mapping(config, yaml.safe_load, "YAML")
    return found | _read_json(study / "settings.json")


def _read_json(file: Path) -> dict[str, Any]:
    return _read_mapping(file, json.loads, "JSON") if file.is_file() else {}


def _read_mapping(file: Path, parse: Callable[[str], Any], what: str) -> dict[str, Any]:
    try:
        found = parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise UserError(f"{file} must be a mapping in {what}, got an error: {said}") from error
    if not isinstance(found, dict):
        raise UserError(f"{file} must be a mapping in {what}, it holds a {type(found).__name__}")
    return found


def _read_layers(file: Path) -> list[LayerEnergy]:
    """Averages the energies of the matrices of each layer."""
    if not file.is_file():
        return []
    columns = ["finetuned", "source", "component", "fraction", "layer", "energy_kept"]
    groups: dict[tuple[str, float, int], list[float]] = {}
    for row in read_arrow(file, columns=columns).to_pylist():
        is_shown = row["source"] == SAFETY and row["component"] == "orthogonal" and row["layer"] is not None
        if is_shown and row["energy_kept"] == row["energy_kept"]:  # NaN where a matrix has no update
            groups.setdefault((row["finetuned"], row["fraction"], row["layer"]), []).append(row["energy_kept"])
    return [LayerEnergy(*key, sum(values) / len(values)) for key, values in sorted(groups.items())]
