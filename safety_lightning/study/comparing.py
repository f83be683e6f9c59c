"""Sweeps and overlaps as stages: energies of variants, updates of weights in pairs, activations and their overlap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from safety_lightning.cli import main
from safety_lightning.files import write_atomically
from safety_lightning.study.finetuning import FitStage, merge
from safety_lightning.study.stages import RECORDS, Estimate, Stage

_PREDICT = {"seed_everything": 0, "trainer": {"devices": 1, "enable_progress_bar": False}}


@dataclass(frozen=True, kw_only=True)
class EnergyStage(Stage):
    """A run of `project` without saved models: how much of each update every variant keeps, by matrix and in sums.

    Attributes:
        options: Options of `project`, all but the checkpoints and the folder.
        base: The base model.
        reference: The reference, or the stage that makes it.
        finetunes: The fine-tunes by name.
    """

    options: Mapping[str, Any]
    base: str
    reference: str | FitStage
    finetunes: Mapping[str, FitStage]

    def run(self, study: Path) -> None:
        """Sweeps."""
        from safety_lightning.sweep import ProjectRun, project

        named = [f"{name}={stage.find_model(study)}" for name, stage in self.finetunes.items()]
        start = find_name(self.reference, study)
        project(ProjectRun(base=self.base, reference=start, finetuned=named, out=study / self.folder, **self.options))


@dataclass(frozen=True, kw_only=True)
class WeightOverlapStage(Stage):
    """A run of `overlap weights` on the fine-tunes of the first seed, with those of the second as ceilings.

    Attributes:
        options: Options of `overlap weights`, all but the checkpoints and the folder.
        base: The base model.
        reference: The reference, or the stage that makes it.
        updates: Fine-tunes by kind.
        ceilings: The same with another seed, by kind.
    """

    options: Mapping[str, Any]
    base: str
    reference: str | FitStage
    updates: Mapping[str, FitStage]
    ceilings: Mapping[str, FitStage]

    def run(self, study: Path) -> None:
        """Compares."""
        from safety_lightning.overlap import compare_weights

        compare_weights(
            find_name(self.reference, study),
            {kind: str(stage.find_model(study)) for kind, stage in self.updates.items()},
            base=self.base,
            ceilings={kind: str(stage.find_model(study)) for kind, stage in self.ceilings.items()},
            out=study / self.folder,
            **self.options,
        )


@dataclass(frozen=True, kw_only=True)
class CaptureStage(Stage):
    """A run of `predict`: activations of prompt sets in one model.

    Attributes:
        options: Options of `predict`, all but model and run folder.
        model: The model, or the stage that makes it.
        stand_in: A model of the same shape, by which options are checked while there is none.
    """

    options: Mapping[str, Any]
    model: str | FitStage
    stand_in: str

    def run(self, study: Path) -> None:
        """Captures."""
        config = study / RECORDS / f"{self.name.replace('/', '.')}.yaml"
        write_atomically(config, self._write_options(find_name(self.model, study)))
        main(["predict", "--config", str(config), "--run_dir", str(study / self.folder), "--ckpt_path", "last"])

    def check(self, study: Path) -> None:
        """Checks prompts and options as `predict` will check them itself."""
        import tempfile

        from safety_lightning.cli.verbs import check_verb

        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder) / "predict.yaml"
            config.write_text(self._write_options(self.stand_in))
            check_verb("predict", args=["predict", "--config", str(config), "--run_dir", str(Path(folder) / "run")])

    def list_sets(self, study: Path) -> dict[str, Path]:
        """Returns the folders of the sets that were captured, by name."""
        folder = study / self.folder / "activations"
        return {name: folder / name for name in self.options["data"]["sets"]}

    def estimate(self, study: Path) -> Estimate:
        """Nothing but the activations stays, which are small."""
        return Estimate()

    def _write_options(self, model: str) -> str:
        return str(yaml.safe_dump(merge(_PREDICT, self.options, {"model": {"model": model}}), sort_keys=False))


@dataclass(frozen=True, kw_only=True)
class ActivationOverlapStage(Stage):
    """A run of `overlap activations` on the sets of one model.

    Attributes:
        options: Options of `overlap activations`, all but sets and folder.
        captured: Where the sets come from.
    """

    options: Mapping[str, Any]
    captured: CaptureStage

    def run(self, study: Path) -> None:
        """Compares."""
        from safety_lightning.overlap import compare_activations

        sets = {name: str(folder) for name, folder in self.captured.list_sets(study).items()}
        compare_activations(sets, out=study / self.folder, **self.options)


def find_name(model: str | FitStage, study: Path) -> str:
    """Returns what commands call a model: its name, or the folder that a stage has made."""
    return model if isinstance(model, str) else str(model.find_model(study))
