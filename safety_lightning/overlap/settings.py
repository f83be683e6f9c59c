"""What the two commands of `overlap` are told: each run dataclass is its command's schema, its docstring the help.

Nothing heavy is imported here, so that help pages appear at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from safety_lightning.errors import UserError
from safety_lightning.profiles import OVERLAP_SETTINGS, Profile, name_profile, read_settings

ProfileName = Literal["sound", "paper"]
DELTA = "delta"
OPEN: Any = None
"""The default of a setting that `OverlapSettings.resolve` fills; resolved settings have none that is open."""

_DEFAULTS = {"include": ["*"], "exclude": [], "angle_etas": [], "depth": [0.65, 0.9]}


@dataclass(frozen=True, kw_only=True)
class OverlapSettings:
    """What settings of both kinds can do."""

    def resolve(self, profile: ProfileName) -> Self:
        """Fills the settings that are open: a profile chooses those it knows, the rest are defaults.

        Raises:
            UserError: If a setting is out of its range.

        Example:
            >>> WeightSettings(tied="once").resolve("paper").zero_updates
            'one'
        """
        from safety_lightning.subspaces import DEFAULT_ETAS

        chosen = {setting.key.removeprefix("overlap."): getattr(setting, profile) for setting in OVERLAP_SETTINGS}
        filling = {one.name: one.default for one in dataclasses.fields(self)}
        filling |= {"etas": list(DEFAULT_ETAS)} | _DEFAULTS | chosen
        open_names = [one.name for one in dataclasses.fields(self) if getattr(self, one.name) is OPEN]
        resolved = dataclasses.replace(self, **{name: filling[name] for name in open_names})
        resolved.check()
        return resolved

    def check(self) -> None:
        """Checks resolved settings.

        Raises:
            UserError: If a setting is out of its range.
        """
        raise NotImplementedError

    def read_departures(self) -> dict[str, Any]:
        """Returns the values of the settings in which the profiles part, by the names that reports call them."""
        return read_settings({"overlap": dataclasses.asdict(self)}, OVERLAP_SETTINGS)

    def find_profile(self) -> Profile:
        """Returns the profile that resolved settings belong to."""
        return name_profile(self.read_departures())


@dataclass(frozen=True, kw_only=True)
class WeightSettings(OverlapSettings):
    """What is compared in weights, and how.

    Attributes:
        etas: Shares of squared singular values that the bases hold, each in (0, 1]; 0.5 to 0.99 by default.
        side: Output side or input side.
        include: Patterns of tensor names that take part; all by default.
        exclude: Patterns of tensor names that do not.
        vectors: Compare 1-D tensors as M x 1 matrices, or skip them.
        common_rows: Accept a vocabulary that was resized between base and reference.
        angle_etas: Shares at which principal angles are measured too.
        seed: Seed of the random projection of large updates.
        large_updates: Updates of more than 10,000 rows: exactly, or by a random projection.
        zero_updates: Exclude updates of zero, or count their overlap as one.
        tied: Count an embedding that is also the output layer once, or each.
    """

    etas: list[float] = OPEN
    side: Literal["left", "right"] = "left"
    include: list[str] = OPEN
    exclude: list[str] = OPEN
    vectors: Literal["project", "skip"] = "project"
    common_rows: bool = False
    angle_etas: list[float] = OPEN
    seed: int = 0
    large_updates: Literal["exact", "sketch"] = OPEN
    zero_updates: Literal["exclude", "one"] = OPEN
    tied: Literal["once", "each"] = OPEN

    def check(self) -> None:
        """As `OverlapSettings.check`."""
        _check_shares(self.etas, self.angle_etas)


@dataclass(frozen=True, kw_only=True)
class ActivationSettings(OverlapSettings):
    """How activations are compared.

    Attributes:
        etas: Shares of squared singular values that the bases hold, each in (0, 1]; 0.5 to 0.99 by default.
        angle_etas: Shares at which principal angles are measured too.
        num_permutations: How often labels are shuffled for the null; 0 for none.
        num_resamples: How often prompts are drawn anew for the intervals; 0 for none.
        draw_layers: Make null and intervals for every layer, or for those that are averaged.
        depth: From which to which depth layers are averaged; 0.65 0.9 by default.
        seed: Seed of the draws.
        centred: Take the mean of each set off.
    """

    etas: list[float] = OPEN
    angle_etas: list[float] = OPEN
    num_permutations: int = 100
    num_resamples: int = 100
    draw_layers: Literal["every", "averaged"] = "every"
    depth: list[float] = OPEN
    seed: int = 0
    centred: bool = OPEN

    def check(self) -> None:
        """As `OverlapSettings.check`."""
        _check_shares(self.etas, self.angle_etas)
        for name in ("num_permutations", "num_resamples"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if len(self.depth) != 2 or not 0 <= self.depth[0] <= self.depth[1] <= 1:
            raise UserError(f"depth must be two rising numbers in [0, 1], got {list(self.depth)}")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What a run takes of both kinds.

    Attributes:
        out: Folder to make, or to resume when it holds the same run; a fresh one under logs by default.
        profile: What chooses the settings that are not given.
        compare_profiles: Show both profiles side by side.
        device: Where to decompose; the GPU where there is one by default.
    """

    out: Path | None = None
    profile: ProfileName = "sound"
    compare_profiles: bool = False
    device: str | None = None


@dataclass(frozen=True, kw_only=True)
class WeightInputs:
    """The checkpoints whose updates are compared.

    Attributes:
        reference: The checkpoint that fine-tuning started from: a folder, a hub name or lab:NAME.
        updates: Fine-tuned checkpoints by name: useful=DIR harmful=DIR ...
        base: The checkpoint from before alignment; adds the update "delta", reference - base.
        ceilings: The same fine-tunes with another seed, by name: useful=DIR2.
    """

    reference: str
    updates: dict[str, str]
    base: str | None = None
    ceilings: dict[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class ActivationInputs:
    """The sets of activations that are compared.

    Attributes:
        sets: Folders that predict made, by name: useful=DIR harmful=DIR ...; DIR#SET is one prompt set of several.
        paper_sets: The same sets captured by the profile paper, for its side of compare_profiles.
    """

    sets: dict[str, str]
    paper_sets: dict[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class WeightRun(WeightSettings, RunOptions, WeightInputs):
    """Compare updates of weights in pairs: Mode Subspace Overlap by matrix, layer and share of energy."""


@dataclass(frozen=True, kw_only=True)
class ActivationRun(ActivationSettings, RunOptions, ActivationInputs):
    """Compare sets of activations in pairs: Mode Subspace Overlap by layer and share of energy."""


Settings = TypeVar("Settings", WeightSettings, ActivationSettings)


def choose_profiles(settings_class: type[Settings], run: RunOptions) -> dict[str, Settings]:
    """Resolves the settings of a run, once or by both profiles.

    Args:
        settings_class: `WeightSettings` or `ActivationSettings`.
        run: A run of that kind; settings that it gives hold in both profiles, its own profile comes first.

    Returns:
        Resolved settings by ``paper`` and ``sound``, or by the profile that a single one belongs to.

    Raises:
        UserError: If a setting is out of its range.
    """
    given = settings_class(**{one.name: getattr(run, one.name) for one in dataclasses.fields(settings_class)})
    if not run.compare_profiles:
        settings = given.resolve(run.profile)
        return {settings.find_profile(): settings}
    names: list[ProfileName] = ["sound", "paper"] if run.profile == "sound" else ["paper", "sound"]
    return {name: given.resolve(name) for name in names}


def _check_shares(etas: Sequence[float], angle_etas: Sequence[float]) -> None:
    from safety_lightning.subspaces import check_etas

    check_etas(etas)
    for eta in angle_etas:
        if eta not in etas:
            raise UserError(f"angle_etas must be among the etas {list(etas)}, got {eta}")
