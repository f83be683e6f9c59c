"""Sweeps and overlaps as stages: energies of variants, updates of weights in pairs, activations and their overlap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safety_lightning.study.finetuning import FitStage, check_options, find_name, merge, run_verb
from safety_lightning.study.stages import Stage

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
        run_verb(self, "predict", self._make_options(find_name(self.model, study)), study)

    def check(self, study: Path) -> None:
        """Checks prompts and options as `predict` will check them itself."""
        check_options("predict", self._make_options(self.stand_in))

    def list_sets(self, study: Path) -> dict[str, Path]:
        """Returns the folders of the sets that were captured, by name."""
        folder = study / self.folder / "activations"
        return {name: folder / name for name in self.options["data"]["sets"]}

    def _make_options(self, model: str) -> dict[str, Any]:
        return merge(_PREDICT, self.options, {"model": {"model": model}})


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
