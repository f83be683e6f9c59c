"""What a resumed run must have in common with its beginning: its inputs, and all settings but a few."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import yaml

from safety_lightning.errors import UserError
from safety_lightning.runs import RunFolder

MAY_CHANGE = (
    "run_dir",
    "ckpt_path",
    "weights_only",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
    "trainer.logger",
    "trainer.log_every_n_steps",
    "trainer.profiler",
    "trainer.max_time",
)
"""Settings, and groups of them, that may change in any verb: they change no result."""
PROCESSES = ("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy")
"""Settings that may change besides where progress does not depend on who made it."""
_MOST_NAMED = 5


def check_resumed(manifest: Mapping[str, Any], config: str, run: RunFolder, *, may_change: Collection[str]) -> None:
    """Checks that a run is resumed with the verb, the inputs and the settings that it began with.

    Args:
        manifest: The manifest that the run would have now.
        config: Its resolved configuration now, as YAML.
        run: Its folder.
        may_change: Settings and groups that may be other ones, by their dotted names.

    Raises:
        UserError: If something else is another one, which is named.
    """
    before = run.read_manifest()
    if before.get("verb", manifest["verb"]) != manifest["verb"]:
        raise UserError(f"run folder {run.path} must be one of {manifest['verb']}, it is one of {before['verb']}")
    inputs = before.get("inputs", manifest["inputs"])
    changed = [name for name, value in manifest["inputs"].items() if inputs.get(name) != value]
    if changed:
        raise UserError(
            f"a run is resumed with the inputs it began with, but {' and '.join(changed)} changed since "
            f"{before['started']} ({run.path / 'manifest.json'})"
        )
    file = run.path / "config.yaml"
    if not file.is_file():
        return  # it was killed before it had begun
    first, now = (_flatten(_place(yaml.safe_load(text))) for text in (file.read_text(encoding="utf-8"), config))
    others = [key for key in sorted({*first, *now}) if first.get(key) != now.get(key) and not _is_in(key, may_change)]
    if others:
        named = [f"{key} was {first.get(key)!r} and is {now.get(key)!r}" for key in others[:_MOST_NAMED]]
        more = f", and {len(others) - _MOST_NAMED} more" if len(others) > _MOST_NAMED else ""
        raise UserError(f"a run is resumed with the settings of {file}, but {', '.join(named)}{more}")


def _is_in(key: str, groups: Collection[str]) -> bool:
    return any(key == group or key.startswith(f"{group}.") for group in groups)


def _place(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a configuration with places in the run folder told apart from where that lies."""
    return _replace(config, str(config["run_dir"]))


def _replace(value: Any, run_dir: str) -> Any:
    if isinstance(value, dict):
        return {name: _replace(one, run_dir) for name, one in value.items()}
    if isinstance(value, list):
        return [_replace(one, run_dir) for one in value]
    if isinstance(value, str) and (value == run_dir or value.startswith(f"{run_dir}/")):
        return "RUN_DIR" + value.removeprefix(run_dir)
    return value


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Returns the leaves of a configuration by their dotted names; an empty group is a leaf."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    return {
        name: leaf
        for key, one in value.items()
        for name, leaf in _flatten(one, f"{prefix}.{key}" if prefix else str(key)).items()
    }
