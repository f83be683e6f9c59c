"""The settings in which the profiles `paper` and `sound` part, by name (DESIGN, section 5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Profile = Literal["paper", "sound", "mixed"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One departure between the profiles.

    Attributes:
        name: What it is called in reports.
        key: Where it stands in the configuration of a run.
        paper: What the paper and its release did.
        sound: What should have been done; the default.
        why: Why the two part.
    """

    name: str
    key: str
    paper: Any
    sound: Any
    why: str


SETTINGS = (
    Setting(
        name="training precision",
        key="trainer.precision",
        paper="bf16-true",
        sound="bf16-mixed",
        why="most bfloat16 weights do not move at small learning rates; the monitor reports the stuck share",
    ),
    Setting(
        name="weight decay",
        key="model.optimizer.init_args.weight_decay",
        paper=0.01,
        sound=0.0,
        why="the release sets 0, which its trainer ignores for AdamW's default",
    ),
    Setting(
        name="harmful share",
        key="data.harmful_share_of",
        paper="useful",
        sound="mix",
        why="the text says 20/80; the release adds 20 % of the useful count, which is 16.7 % of the mix",
    ),
    Setting(
        name="prompt format",
        key="data.template",
        paper="plain",
        sound="chat",
        why="the release's template is undefined; a chat model answers its own template",
    ),
    Setting(
        name="end token",
        key="data.train_eos",
        paper=False,
        sound=True,
        why="padding with the end token masked it, so that models did not learn to stop",
    ),
    Setting(
        name="AdvBench prompts",
        key="data.advbench_prompts",
        paper="cut",
        sound="whole",
        why="14 of 520 prompts were cut at a comma, and the last was dropped",
    ),
    Setting(
        name="projected checkpoint dtype",
        key="projection.storage_dtype",
        paper="float16",
        sound="float32",
        why="a change of precision must not be confounded with projection",
    ),
    Setting(
        name="tied weights",
        key="projection.tied",
        paper="each",
        sound="once",
        why="an embedding that is also the output layer was counted twice",
    ),
)


def read_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the profile settings out of a resolved configuration.

    Args:
        config: The nested configuration; keys that it does not have are left out.

    Returns:
        Values by the settings' names.
    """
    found = {}
    for setting in SETTINGS:
        value: Any = config
        for part in setting.key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            found[setting.name] = value
    return found


def name_profile(settings: Mapping[str, Any]) -> Profile:
    """Returns the profile that settings belong to; ``mixed`` when some are of one and some of the other.

    Example:
        >>> name_profile({"prompt format": "chat", "end token": False})
        'mixed'
    """
    by_name = {setting.name: setting for setting in SETTINGS}
    if all(value == by_name[name].sound for name, value in settings.items()):
        return "sound"
    if all(value == by_name[name].paper for name, value in settings.items()):
        return "paper"
    return "mixed"
