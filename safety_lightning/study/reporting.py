"""The last stages: statistics of all that was measured, and the report."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safety_lightning.files import atomic_path, remove, write_atomically
from safety_lightning.study.comparing import ActivationOverlapStage, EnergyStage, WeightOverlapStage
from safety_lightning.study.measuring import VALUES, MeasureStage
from safety_lightning.study.stages import RECORDS, Stage
from safety_lightning.study.statistics.settings import StatisticsSettings
from safety_lightning.study.statistics.values import RANDOM, SAFETY, read_values
from safety_lightning.study.views import BOARD
from safety_lightning.tables import write_csv


@dataclass(frozen=True, kw_only=True)
class StatisticsStage(Stage):
    """Makes tables and the verdict of all measured values.

    Attributes:
        settings: How the verdict is made.
        measured: The stages that measured.
        energies: The stage that found what variants keep.
        weights: The stage that compared updates of weights; None where none did.
        activations: The stages that compared activations, by model; the first is the study's.
        num_blunt: Draws that the blunt frontier of a null is made of; None where the study is no null.
    """

    settings: StatisticsSettings
    measured: tuple[MeasureStage, ...]
    energies: EnergyStage
    weights: WeightOverlapStage | None
    activations: tuple[ActivationOverlapStage, ...]
    num_blunt: int | None = None

    def run(self, study: Path) -> None:  # what it imports is heavy, and a plan does without
        """Gathers values and overlaps in the study's folder, and makes the statistics."""
        from safety_lightning.study.statistics.nulls import NULLS, NullRow, count_nulls
        from safety_lightning.study.statistics.tables.excess import ACTIVATION_LAYERS, ACTIVATIONS, WEIGHTS
        from safety_lightning.study.statistics.write import write_statistics

        energies = read_energies(study / self.energies.folder / "energy.csv")
        gather_values(self.measured, energies, study, stands_in=self.num_blunt is not None)
        if self.weights is not None:
            _copy(study / self.weights.folder / "layers.csv", study / WEIGHTS)
        if self.activations:
            _copy(study / self.activations[0].folder / "average.csv", study / ACTIVATIONS)
            _copy(study / self.activations[0].folder / "overlap.csv", study / ACTIVATION_LAYERS)
        write_statistics(study, self.settings)
        if self.num_blunt is not None:
            rows = count_nulls(read_values(study / VALUES), self.settings, num_blunt=self.num_blunt)
            write_csv(study / NULLS, NullRow, rows)

    def list_outputs(self, study: Path) -> list[Path]:
        """Lists what was gathered and what came of it; the report's files lie beside them, and are its own."""
        from safety_lightning.study.statistics.nulls import NULLS
        from safety_lightning.study.statistics.tables.excess import ACTIVATION_LAYERS, ACTIVATIONS, WEIGHTS
        from safety_lightning.study.statistics.write import RESULTS

        names = [VALUES, *RESULTS]
        names += [WEIGHTS] if self.weights is not None else []
        names += [ACTIVATIONS, ACTIVATION_LAYERS] if self.activations else []
        names += [NULLS] if self.num_blunt is not None else []
        return [study / name for name in names]


@dataclass(frozen=True, kw_only=True)
class ReportStage(Stage):
    """Draws tables and figures, and writes the report.

    Attributes:
        facts: What the report tells besides results: ``settings`` and ``hashes``.
        has_profiles: Whether profiles are compared; a table of before is not of these results.
        written: The files that were written, once the stage has run.
    """

    facts: Mapping[str, Any]
    has_profiles: bool = False
    written: list[Path] = field(default_factory=list, compare=False)

    def run(self, study: Path) -> None:
        """Writes them, with what each kind of stage took."""
        from safety_lightning.study.report.results import PROFILES, read_results
        from safety_lightning.study.report.write import write_report
        from safety_lightning.study.views.dashboard import write_dashboard

        if not self.has_profiles:
            for path in [(study / PROFILES).parent, *(study / "tables").glob(f"{PROFILES.stem}.*")]:
                remove(path)
        costs: dict[str, float] = {}
        for file in sorted((study / RECORDS).glob("*.json")):
            kind = file.name.partition(".")[0]
            costs[f"{kind}_seconds"] = costs.get(f"{kind}_seconds", 0.0) + json.loads(file.read_text())["seconds"]
        settings = study / "settings.json"
        write_atomically(settings, json.dumps({**self.facts, "costs": costs}, indent=2) + "\n")
        self.written[:] = [settings, *write_report(study)]
        results = read_results(study)
        write_dashboard(study, results.variants, results.verdict.sentence)
        self.written.extend(file for file in sorted((study / BOARD).rglob("*")) if file.is_file())

    def list_outputs(self, study: Path) -> list[Path]:
        """Lists pages, figures, tables, and what TensorBoard shows."""
        return self.written


def _copy(file: Path, to: Path) -> None:
    with atomic_path(to) as partial:
        shutil.copyfile(file, partial)


def read_energies(file: Path) -> dict[tuple[str, str, str, float | None], float]:
    """Reads what variants keep of their update: by fine-tune, source, component and fraction."""
    with file.open(newline="", encoding="utf-8") as stream:
        return {
            (
                line["finetuned"],
                line["source"],
                line["component"],
                float(line["fraction"]) if line["fraction"] else None,
            ): float(line["energy_kept"])
            for line in csv.DictReader(stream)
        }


def gather_values(
    measured: tuple[MeasureStage, ...],
    energies: Mapping[tuple[str, str, str, float | None], float],
    study: Path,
    *,
    stands_in: bool,
) -> None:
    """Writes the values of all stages as one file, with what their variants keep.

    Args:
        measured: The stages.
        energies: What variants keep, as `read_energies` returns it.
        study: The study's folder.
        stands_in: Whether the first random subspace stands in the safety subspace's place.
    """
    import pyarrow as pa
    from pyarrow import parquet

    tables = []
    for stage in measured:
        table = parquet.read_table(study / stage.folder / VALUES)
        lines: list[dict[str, Any]] = table.select(
            ["source", "draw", "component", "fraction", "energy_kept"]
        ).to_pylist()
        kept = [
            line["energy_kept"]
            if line["energy_kept"] is not None or line["draw"]
            else energies.get((stage.finetune_name, line["source"], line["component"], line["fraction"]))
            for line in lines
        ]
        if stands_in:
            first = [line["source"] == RANDOM and not line["draw"] for line in lines]
            sources = [SAFETY if one else line["source"] for one, line in zip(first, lines, strict=True)]
            table = table.set_column(table.column_names.index("source"), "source", pa.array(sources, pa.string()))
        at = table.column_names.index("energy_kept")
        tables.append(table.set_column(at, "energy_kept", pa.array(kept, pa.float64())))
    with atomic_path(study / VALUES) as partial:
        parquet.write_table(pa.concat_tables(tables), partial)
