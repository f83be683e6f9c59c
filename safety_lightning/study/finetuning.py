"""Fine-tunes as stages, each a run of `fit` in this process; a pilot is a short one."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from safety_lightning.cli import main
from safety_lightning.cli.configs import check_config
from safety_lightning.files import hash_file, remove, write_atomically
from safety_lightning.study.stages import RECORDS, Stage

QUIET = {"compare": {"tasks": []}, "projection": {"subspace": None}, "trainer": {"enable_model_summary": False}}
"""What a fine-tune of a study does without: it is measured by the study, and its variants are projected."""


@dataclass(frozen=True, kw_only=True)
class FitStage(Stage):
    """A run of `fit`, whose model is its output.

    Attributes:
        options: Options of `fit`, all but model, seed and run folder.
        model: The model that it starts from: a name, or the stage that makes it.
        stand_in: A model of the same shape, by which options are checked while there is none.
        fit_seed: The seed of the fit.
    """

    options: Mapping[str, Any]
    model: str | FitStage
    stand_in: str
    fit_seed: int

    def find_model(self, study: Path) -> Path:
        """Returns the folder of the model that the stage makes."""
        return study / self.folder / "model"

    def run(self, study: Path) -> None:
        """Fine-tunes, and removes the checkpoints by which it could have been resumed."""
        run_verb(self, "fit", self._make_options(find_name(self.model, study)), study)
        remove(study / self.folder / "checkpoints")

    def check(self, study: Path) -> None:
        """Checks data, models and options of the fit as it will check them itself."""
        check_options("fit", self._make_options(self.stand_in))

    def list_outputs(self, study: Path) -> list[Path]:
        """Lists the files of the model."""
        return sorted(file for file in self.find_model(study).rglob("*") if file.is_file())

    def _make_options(self, model: str) -> dict[str, Any]:
        own: dict[str, Any] = {"seed_everything": self.fit_seed, "model": {"model": model}}
        if isinstance(self.model, FitStage) and self.options.get("projection", {}).get("subspace"):
            own["projection"] = {"origin": model}  # what the fine-tune that it starts from has learned stays
        return merge(self.options, own)


def find_name(model: str | FitStage, study: Path) -> str:
    """Returns what commands call a model: its name, or the folder that a stage has made."""
    return model if isinstance(model, str) else str(model.find_model(study))


def run_verb(stage: Stage, verb: str, options: Mapping[str, Any], study: Path) -> None:
    """Runs a verb of the Trainer in a stage's folder, or resumes it there."""
    config = study / RECORDS / f"{stage.name.replace('/', '.')}.yaml"
    write_atomically(config, yaml.safe_dump(dict(options), sort_keys=False))
    main([verb, "--config", str(config), "--run_dir", str(study / stage.folder), "--ckpt_path", "last"])


def check_options(verb: str, options: Mapping[str, Any]) -> None:
    """Checks options of a verb of the Trainer as the verb itself will check them, writing nothing that stays.

    Raises:
        UserError: As the verb.
    """
    from safety_lightning.cli.verbs import check_verb

    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "options.yaml"
        config.write_text(yaml.safe_dump(dict(options), sort_keys=False), encoding="utf-8")
        check_verb(verb, args=[verb, "--config", str(config), "--run_dir", str(Path(folder) / "run")])


def read_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns options of another command; those of a config file that ``config`` names lie under them.

    Raises:
        UserError: If there is no such config.
    """
    name: Any = options.get("config")
    given = {key: value for key, value in options.items() if key != "config"}
    if name is None:
        return merge(given)
    with Path(check_config(str(name))).open(encoding="utf-8") as stream:
        return merge(yaml.safe_load(stream) or {}, given)


def shorten(options: Mapping[str, Any], share: float) -> dict[str, Any]:
    """Returns the options of a fit of a share of the optimizer steps, one at least."""
    trainer = options.get("trainer", {})
    steps = trainer.get("max_steps", -1)
    if steps > 0:
        return merge(options, {"trainer": {"max_steps": max(1, round(share * steps))}})
    return merge(options, {"trainer": {"max_epochs": 1, "limit_train_batches": share}})


def merge(*options: Mapping[str, Any]) -> dict[str, Any]:
    """Merges nested options; the later ones win.

    Example:
        >>> merge({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
        {'a': {'b': 3, 'c': 2}}
    """
    merged: dict[str, Any] = {}
    for one in options:
        for name, value in one.items():
            before = merged.get(name)
            if isinstance(before, dict) and isinstance(value, Mapping):
                merged[name] = merge(before, value)
            else:
                merged[name] = _copy(value)
    return merged


def hash_named_files(options: Any) -> dict[str, str]:
    """Returns the SHA-256 of every file that nested options name, by its name."""
    if isinstance(options, Mapping):
        options = list(options.values())
    if isinstance(options, list | tuple):
        return {name: content for one in options for name, content in hash_named_files(one).items()}
    if not isinstance(options, str | Path):
        return {}
    try:
        file = Path(options).expanduser()
        return {str(options): hash_file(file)} if file.is_file() else {}
    except (OSError, ValueError, RuntimeError):  # a text that is no path
        return {}


def _copy(value: Any) -> Any:
    return merge(value) if isinstance(value, Mapping) else value
