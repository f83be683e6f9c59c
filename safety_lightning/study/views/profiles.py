"""What each departure between the profiles `paper` and `sound` changes, one at a time, on the same fine-tunes."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safety_lightning.errors import UserError
from safety_lightning.profiles import CAPTURE_SETTINGS, EVALUATION_SETTINGS, OVERLAP_SETTINGS, SETTINGS, Setting
from safety_lightning.study.comparing import ActivationOverlapStage, WeightOverlapStage
from safety_lightning.study.finetuning import merge
from safety_lightning.study.stages import Stage
from safety_lightning.tables import write_csv

if TYPE_CHECKING:
    from safety_lightning.study.report.results import ProfileRow

_BESIDE = {"model.token_position": {"data": {"padding": "right"}}}  # Paper: the side on which position -1 is padding
_QUICK = {"num_permutations": 0, "num_resamples": 0}
_CENTRED = "overlap.centred"  # all other settings of `overlap` are those of weights
_PADDED = ("model.token_position", _CENTRED)
_LEFT_OUT = (
    (SETTINGS, "not compared: it needs other fine-tunes"),
    (EVALUATION_SETTINGS, "not compared: it needs every variant measured anew"),
)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A comparison under a departure beside the study's own.

    Attributes:
        name: The setting in which they part, or what all are called together.
        paper: What the paper did.
        sound: What is done instead.
        subject: What was compared.
        departed: The stage that did as the paper.
        own: The study's own.
    """

    name: str
    paper: str
    sound: str
    subject: str
    departed: Stage
    own: Stage


@dataclass(frozen=True, kw_only=True)
class ProfilesStage(Stage):
    """Sets the overlaps under every departure beside the study's own.

    Attributes:
        compared: The comparisons.
    """

    compared: tuple[Compared, ...]

    def run(self, study: Path) -> None:
        """Writes the table; settings that would need other fine-tunes or measurements have no values."""
        from safety_lightning.study.report.results import PROFILES, ProfileRow

        rows = [row for one in self.compared for row in _list_rows(one, study)]
        for settings, words in _LEFT_OUT:
            named = [(one.name, *_write_values(one)) for one in settings]
            rows += [ProfileRow(setting=name, paper=p, sound=s, measure=words) for name, p, s in named]
        write_csv(study / PROFILES, ProfileRow, rows)


def make_profile_stages(overlaps: Sequence[Stage]) -> list[Stage]:
    """Makes the stages that compare under each departure, and the one that gathers what they found, the last.

    Args:
        overlaps: The study's own overlaps.

    Raises:
        UserError: If there are none, or they name a setting in which the profiles part.
    """
    compared = [
        *(one for stage in overlaps if isinstance(stage, WeightOverlapStage) for one in _depart_in_weights(stage)),
        *(one for stage in overlaps if isinstance(stage, ActivationOverlapStage) for one in _depart_in_sets(stage)),
    ]
    if not compared:
        raise UserError("compare_profiles must have overlap.weights or overlap.activations to compare, got neither")
    needs = tuple({stage.name: stage for one in compared for stage in (one.own, one.departed)}.values())
    recipe = {"compared": [{"name": one.name, "subject": one.subject, "own": one.own.name} for one in compared]}
    gathered = ProfilesStage(
        name="profiles/table",
        folder="profiles/table",
        needs=needs,
        recipe=recipe,
        compared=tuple(compared),
    )
    return [*(one.departed for one in compared), gathered]


def _depart_in_weights(own: WeightOverlapStage) -> Iterator[Compared]:
    settings = [one for one in OVERLAP_SETTINGS if one.key != _CENTRED]
    _check_open(own.options, settings, "overlap.weights")
    for name, chosen in _list_departures(settings):
        changed = {one.key.removeprefix("overlap."): one.paper for one in chosen}
        options = dict(own.options) | changed
        label = f"profiles/weights-{_shorten(name)}"
        recipe = {**own.recipe, "options": options | {"device": None}}
        departed = replace(own, name=label, folder=label, recipe=recipe, options=options)
        yield _compare(name, chosen, "weights", departed, own)


def _depart_in_sets(own: ActivationOverlapStage) -> Iterator[Compared]:
    captured = own.captured
    has_cut = "advbench" in json.dumps(captured.options["data"]["sets"])
    settings = [one for one in CAPTURE_SETTINGS if has_cut or one.key != "data.advbench_prompts"]
    settings += [one for one in OVERLAP_SETTINGS if one.key == _CENTRED]
    _check_open({"overlap": own.options, **captured.options}, settings, "overlap.activations")
    model = captured.name.partition("/")[2]
    for name, chosen in _list_departures(settings):
        label = f"profiles/activations-{model}-{_shorten(name)}"
        changed = [_nest(one.key, one.paper) for one in chosen]
        beside = [_BESIDE[one.key] for one in chosen if one.key in _BESIDE]
        options = merge(captured.options, *changed, *beside)
        compare = dict(own.options) | _QUICK | options.pop("overlap", {})
        source = captured
        if options != merge(captured.options):
            recipe = {**captured.recipe, "options": options}
            source = replace(
                captured, name=f"{label}/capture", folder=f"{label}-capture", options=options, recipe=recipe
            )
        recipe = {"options": compare | {"device": None}}
        departed = replace(
            own, name=label, folder=label, needs=(source,), options=compare, captured=source, recipe=recipe
        )
        yield _compare(name, chosen, f"activations of {model}", departed, own)


def _list_departures(settings: Sequence[Setting]) -> list[tuple[str, list[Setting]]]:
    """Lists every setting by itself, two that work together, and all: what the paper did."""
    padded = [
        one for one in settings if one.key in _PADDED
    ]  # each alone does less: what padding shares is centred away
    pairs = [("token position and centring", padded)] if len(padded) == len(_PADDED) else []
    return [*((one.name, [one]) for one in settings), *pairs, ("the whole profile paper", list(settings))]


def _compare(name: str, chosen: Sequence[Setting], subject: str, departed: Stage, own: Stage) -> Compared:
    paper, sound = _write_values(chosen[0]) if len(chosen) == 1 else ("paper", "sound")
    return Compared(name=name, paper=paper, sound=sound, subject=subject, departed=departed, own=own)


def _write_values(setting: Setting) -> tuple[str, str]:
    """Writes what the paper did, and what is done instead."""
    paper, sound = (one if isinstance(one, str) else json.dumps(one) for one in (setting.paper, setting.sound))
    return paper, sound


def _check_open(options: Mapping[str, Any], settings: Sequence[Setting], place: str) -> None:
    for one in settings:
        keys = one.key.split(".") if place == "overlap.activations" else [one.key.removeprefix("overlap.")]
        value: Any = options
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None and value != one.sound:
            raise UserError(f"compare_profiles must find {keys[-1]} of {place} as it is by default, got {value!r}")


def _list_rows(one: Compared, study: Path) -> Iterator[ProfileRow]:
    from safety_lightning.study.report.results import ProfileRow

    paper, sound = (_read_means(study / stage.folder) for stage in (one.departed, one.own))
    for pair, eta in sound:
        value, chance = paper.get((pair, eta), (None, None))
        yield ProfileRow(
            setting=one.name,
            paper=one.paper,
            sound=one.sound,
            measure=f"overlap of {one.subject}: {pair}",
            eta=eta,
            value_paper=value,
            value_sound=sound[pair, eta][0],
            chance_paper=chance,
            chance_sound=sound[pair, eta][1],
        )


def _read_means(folder: Path) -> dict[tuple[str, float], tuple[float | None, float | None]]:
    """Reads overlap and chance by pair and share of energy: averages over depth, or means over all matrices."""
    file = folder / "average.csv"
    groups: dict[tuple[str, float], list[Mapping[str, str]]] = {}
    with (file if file.is_file() else folder / "layers.csv").open(newline="", encoding="utf-8") as stream:
        for line in csv.DictReader(stream):
            groups.setdefault((line["pair"], float(line["eta"])), []).append(line)
    return {key: (_average(lines, "mso"), _average(lines, "chance")) for key, lines in groups.items()}


def _average(lines: Sequence[Mapping[str, str]], column: str) -> float | None:
    """Returns the mean over matrices, of which a line of a layer stands for several."""
    known = [(float(line[column]), int(line.get("num_tensors", 1))) for line in lines if line[column]]
    number = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / number if number else None


def _nest(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def _shorten(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
