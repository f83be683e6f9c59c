"""The settings of an overlap command, and what the profiles choose for those that are not given."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from safety_lightning.checkpoints import Vectors
from safety_lightning.errors import UserError
from safety_lightning.profiles import OVERLAP_SETTINGS, Profile, name_profile, read_settings
from safety_lightning.subspaces import DEFAULT_ETAS, Side, check_etas

ProfileName = Literal["paper", "sound"]
LargeUpdates = Literal["exact", "sketch"]
ZeroUpdates = Literal["exclude", "one"]
Tied = Literal["once", "each"]
DrawLayers = Literal["every", "averaged"]
DELTA = "delta"


@dataclass(frozen=True, kw_only=True)
class WeightSettings:
    """What is compared in weights, and how.

    Attributes:
        etas: Shares of squared singular values, each in (0, 1], no two equal.
        side: ``left`` for the output side, ``right`` for the input side.
        include: Patterns of tensor names that take part.
        exclude: Patterns of tensor names that do not.
        vectors: ``project`` compares 1-D tensors as M x 1 matrices (a squared cosine), ``skip`` leaves them out.
        common_rows: Accept a vocabulary that was resized between base and reference.
        angle_etas: Shares at which principal angles are measured too; some of ``etas``.
        seed: Seed of the random projection of large updates.
        large_updates: Updates of more than 10,000 rows: ``exact``, or ``sketch`` by a random projection.
        zero_updates: Updates of zero: ``exclude`` them from means, or count their overlap as ``one``.
        tied: Whether an embedding that is also the output layer counts ``once`` or ``each``.
    """

    etas: Sequence[float] = DEFAULT_ETAS
    side: Side = "left"
    include: Sequence[str] = ("*",)
    exclude: Sequence[str] = ()
    vectors: Vectors = "project"
    common_rows: bool = False
    angle_etas: Sequence[float] = ()
    seed: int = 0
    large_updates: LargeUpdates = "exact"
    zero_updates: ZeroUpdates = "exclude"
    tied: Tied = "once"

    def __post_init__(self) -> None:
        check_etas(self.etas)
        check_subset(self.angle_etas, self.etas)


@dataclass(frozen=True, kw_only=True)
class ActivationSettings:
    """How activations are compared.

    Attributes:
        etas: As in `WeightSettings`.
        angle_etas: As in `WeightSettings`.
        num_permutations: How often labels are shuffled for the null; 0 for no null.
        num_resamples: How often prompts are drawn anew for the intervals; 0 for none.
        draw_layers: Whether null and intervals are made for ``every`` layer or only for those that are ``averaged``.
        depth: From which to which depth, in [0, 1], layers are averaged.
        seed: Seed of both draws.
        centred: Whether the mean of each set is taken off before its modes are found.
    """

    etas: Sequence[float] = DEFAULT_ETAS
    angle_etas: Sequence[float] = ()
    num_permutations: int = 100
    num_resamples: int = 100
    draw_layers: DrawLayers = "every"
    depth: Sequence[float] = field(default=(0.65, 0.9))
    seed: int = 0
    centred: bool = True

    def __post_init__(self) -> None:
        check_etas(self.etas)
        check_subset(self.angle_etas, self.etas)
        for name in ("num_permutations", "num_resamples"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if len(self.depth) != 2 or not 0 <= self.depth[0] <= self.depth[1] <= 1:
            raise UserError(f"depth must be two rising numbers in [0, 1], got {list(self.depth)}")


Settings = TypeVar("Settings", WeightSettings, ActivationSettings)


def check_subset(angle_etas: Sequence[float], etas: Sequence[float]) -> None:
    """Raises UserError unless the shares for principal angles are among the others."""
    for eta in angle_etas:
        if eta not in etas:
            raise UserError(f"angle_etas must be among the etas {list(etas)}, got {eta}")


def fill_from_profile(settings_class: type[Settings], profile: ProfileName, given: Mapping[str, Any]) -> Settings:
    """Makes settings of those that are given, of a profile's where they are not, and of defaults for the rest.

    Args:
        settings_class: `WeightSettings` or `ActivationSettings`.
        profile: The profile that chooses.
        given: Settings by name; None is not given.

    Raises:
        UserError: If a setting is out of its range.

    Example:
        >>> fill_from_profile(WeightSettings, "paper", {"tied": "once", "seed": None}).zero_updates
        'one'
    """
    known = {field.name for field in dataclasses.fields(settings_class)}
    chosen = {setting.key.removeprefix("overlap."): getattr(setting, profile) for setting in OVERLAP_SETTINGS}
    wanted = {name: value for name, value in given.items() if value is not None}
    return settings_class(**{name: value for name, value in chosen.items() if name in known} | wanted)


def read_profile_settings(settings: WeightSettings | ActivationSettings) -> dict[str, Any]:
    """Returns the values of the settings in which the profiles part, by the names that reports call them."""
    return read_settings({"overlap": dataclasses.asdict(settings)}, OVERLAP_SETTINGS)


def find_profile(settings: WeightSettings | ActivationSettings) -> Profile:
    """Returns the profile that settings belong to."""
    return name_profile(read_profile_settings(settings))


def choose_profiles(
    settings_class: type[Settings], profile: ProfileName, given: Mapping[str, Any], *, compare: bool
) -> dict[str, Settings]:
    """Makes the settings of a run, by what their rows are called.

    Args:
        settings_class: `WeightSettings` or `ActivationSettings`.
        profile: What chooses the settings that are None.
        given: See `fill_from_profile`.
        compare: Whether both profiles are wanted, ``profile`` first; settings that are given hold in both.

    Returns:
        The settings by ``paper`` and ``sound``, or by the profile that a single one belongs to.

    Raises:
        UserError: If a setting is out of its range.
    """
    if not compare:
        settings = fill_from_profile(settings_class, profile, given)
        return {find_profile(settings): settings}
    names: list[ProfileName] = ["sound", "paper"] if profile == "sound" else ["paper", "sound"]
    return {name: fill_from_profile(settings_class, name, given) for name in names}
