"""The last stages: what they gather from the stages before, and which files they answer for."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.compute as compute
import pyarrow.parquet as parquet
import pytest

from safety_lightning.study.report import write as writing
from safety_lightning.study.report.results import PROFILES
from safety_lightning.study.reporting import ReportStage, StatisticsStage
from safety_lightning.study.stages import RECORDS
from safety_lightning.study.statistics import StatisticsSettings
from tests.study.conftest import PLANTED
from tests.study.world import read_table, write_overlaps, write_values

OVERLAPS = ("overlap_weights.csv", "overlap_activations.csv", "overlap_activation_layers.csv")


def make_stage(study: Path, **more: Any) -> StatisticsStage:
    """Makes the folders of the stages before, and the stage that gathers them."""
    measured = SimpleNamespace(folder="measures/all", finetune_name="contaminated-0")
    energies, weights, activations = (SimpleNamespace(folder=name) for name in ("energies", "weights", "activations"))
    for stage in (measured, energies, weights, activations):
        (study / stage.folder).mkdir(parents=True)
    values = write_values(study / measured.folder, PLANTED) / "values.parquet"
    if more.get("num_blunt") is not None:  # a null measures no safety subspace
        table = parquet.read_table(values)
        parquet.write_table(table.filter(compute.not_equal(table["source"], "top_k")), values)
    (study / "energies" / "energy.csv").write_text("finetuned,source,component,fraction,energy_kept\n")
    write_overlaps(study)
    for name, place in zip(OVERLAPS, ("weights/layers", "activations/average", "activations/overlap"), strict=True):
        shutil.move(study / name, study / f"{place}.csv")
    return StatisticsStage(
        name="statistics",
        folder="tables",
        settings=StatisticsSettings(num_resamples=100),
        measured=(measured,),
        energies=energies,
        weights=weights,
        activations=(activations,),
        **more,
    )


def list_files(study: Path) -> set[Path]:
    return {file for file in study.rglob("*") if file.is_file()}


@pytest.mark.parametrize("num_blunt", [None, 3])
def test_the_last_stages_answer_for_all_that_they_write(
    num_blunt: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = make_stage(tmp_path, num_blunt=num_blunt)
    before = list_files(tmp_path)
    stage.run(tmp_path)
    outputs = stage.list_outputs(tmp_path)
    assert set(outputs) == list_files(tmp_path) - before
    assert (tmp_path / "tables" / "null.csv" in outputs) == (num_blunt is not None)
    monkeypatch.setattr(writing, "has_vega", lambda: False)
    (tmp_path / RECORDS).mkdir()
    report, before = ReportStage(name="report", folder="figures", facts={}), list_files(tmp_path)
    stale = [tmp_path / PROFILES, *(tmp_path / "tables" / f"profiles.{ending}" for ending in ("csv", "md", "tex"))]
    for file in stale:  # of other fine-tunes, when profiles were compared
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("setting\n")
    report.run(tmp_path)
    assert not any(file.exists() for file in stale)
    assert set(report.list_outputs(tmp_path)) == list_files(tmp_path) - before
    assert set(stage.list_outputs(tmp_path)) == set(outputs)


def test_the_overlap_of_activations_is_gathered_averaged_and_by_layer(tmp_path: Path) -> None:
    make_stage(tmp_path).run(tmp_path)
    averages, layers = (read_table(tmp_path / name) for name in OVERLAPS[1:])
    assert {row["first_layer"] for row in averages} == {"2"}
    assert {row["layer"] for row in layers} == {"0", "1", "2", "3", "4", "5"}
