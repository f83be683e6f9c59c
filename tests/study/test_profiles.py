"""The overlaps of a study once more under every departure of the paper: which stages, and the table that they make."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from safety_lightning.errors import UserError
from safety_lightning.profiles import OVERLAP_SETTINGS
from safety_lightning.study.comparing import ActivationOverlapStage, WeightOverlapStage
from safety_lightning.study.plan import StudyGraph
from safety_lightning.study.report.results import PROFILES, ProfileRow
from safety_lightning.study.settings import KINDS, OverlapChoice, StudyRun
from safety_lightning.study.views.profiles import ProfilesStage, make_profile_stages
from safety_lightning.tables import read_csv

SETS = {"useful": {"preset": "lab:useful"}, "harmful": {"preset": "lab:harmful"}}
OVERLAP = OverlapChoice(activations={"data": {"sets": SETS}})


def plan(folder: Path, *, overlap: OverlapChoice = OVERLAP) -> StudyRun:
    fits: dict[str, dict[Any, Any]] = {kind: {"data": {"kind": kind}} for kind in KINDS}
    return StudyRun(base="lab:base", reference="lab:aligned", finetunes=fits, out=folder, overlap=overlap)


def list_own(run: StudyRun) -> list[WeightOverlapStage | ActivationOverlapStage]:
    stages = StudyGraph(run, is_light=True).list_stages()
    return [one for one in stages if isinstance(one, WeightOverlapStage | ActivationOverlapStage)]


def test_each_stage_departs_in_one_setting_and_the_last_in_all(tmp_path: Path) -> None:
    weights, activations = list_own(plan(tmp_path))
    assert isinstance(activations, ActivationOverlapStage)
    stages = {one.name.partition("/")[2]: one for one in make_profile_stages([weights, activations])}
    tied = stages["weights-tied-weights"]
    assert isinstance(tied, WeightOverlapStage)
    assert tied.options == dict(weights.options) | {"tied": "each"}
    whole = stages["weights-the-whole-profile-paper"]
    assert isinstance(whole, WeightOverlapStage)
    known = {one.key.removeprefix("overlap."): one.paper for one in OVERLAP_SETTINGS if "centred" not in one.key}
    assert whole.options == dict(weights.options) | known
    position = stages["activations-reference-activation-token-position"]
    assert isinstance(position, ActivationOverlapStage)
    assert position.captured.options["model"] == {"token_position": "minus_one"}
    assert position.captured.options["data"] == {"sets": SETS, "padding": "right"}
    centring = stages["activations-reference-activation-centring"]
    assert isinstance(centring, ActivationOverlapStage)
    assert centring.captured is activations.captured  # nothing is captured again for it
    assert centring.options["centred"] is False
    both = stages["activations-reference-token-position-and-centring"]
    assert isinstance(both, ActivationOverlapStage)
    assert both.captured.options == position.captured.options
    assert not any("advbench" in name for name in stages)
    assert len({one.folder for one in stages.values()}) == len(stages)


def test_only_the_report_of_a_study_that_is_done_runs_again(tmp_path: Path) -> None:
    before = {one.name: one.recipe for one in StudyGraph(plan(tmp_path), is_light=True).list_stages()}
    asked = replace(plan(tmp_path), compare_profiles=True)
    after = StudyGraph(asked, is_light=True).list_stages()
    assert {one.name: one.recipe for one in after if one.name in before} == before
    assert "profiles/table" in [one.name for one in after[-1].needs]


def test_the_table_has_both_values_and_words_where_there_is_none(tmp_path: Path) -> None:
    stages = make_profile_stages(list_own(plan(tmp_path)))
    table = stages[-1]
    assert isinstance(table, ProfilesStage)
    for number, stage in enumerate(table.needs):
        folder = tmp_path / stage.folder
        folder.mkdir(parents=True, exist_ok=True)
        is_weights = isinstance(stage, WeightOverlapStage)
        with (folder / ("layers.csv" if is_weights else "average.csv")).open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["pair", "eta", "mso", "chance", *(["num_tensors"] if is_weights else [])])
            for mso, weight in ((number, 3), (number + 4, 1)) if is_weights else ((number, 1),):
                writer.writerow(["a vs b", 0.9, mso, 0.5, *([weight] if is_weights else [])])
            writer.writerow(["a vs b", 0.5, "", "", *([1] if is_weights else [])])
    table.run(tmp_path)
    rows = read_csv(tmp_path / PROFILES, ProfileRow)
    numbers = {stage.name: number for number, stage in enumerate(table.needs)}
    shown = [row for row in rows if row.eta == 0.9]
    for row, compared in zip(shown, table.compared, strict=True):
        extra = 1 if "weights" in compared.subject else 0  # (3 x n + n + 4) / 4
        assert row.setting == compared.name
        assert row.value_paper == numbers[compared.departed.name] + extra
        assert row.value_sound == numbers[compared.own.name] + extra
        assert row.chance_paper == row.chance_sound == 0.5
    assert all(row.value_paper is None and row.value_sound is None for row in rows if row.eta == 0.5)
    empty = [row for row in rows if row.eta is None]
    assert {row.value_paper for row in empty} == {None}
    assert all(row.measure.startswith("not compared: it needs") for row in empty)


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must have overlap\.weights or overlap\.activations"):
        make_profile_stages([])
    given = replace(OVERLAP, activation_overlap={"centred": False})
    with pytest.raises(UserError, match=r"find centred of overlap\.activations as it is by default, got False"):
        make_profile_stages(list_own(plan(tmp_path, overlap=given)))
