"""What TensorBoard shows of a study, read from its event files."""

import shutil
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from safety_lightning.study.report.results import read_results
from safety_lightning.study.report.write import write_report
from safety_lightning.study.views.dashboard import list_points, write_dashboard


@pytest.fixture(scope="module")
def board(planted_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = tmp_path_factory.mktemp("board") / "study"
    shutil.copytree(planted_study, study)
    write_report(study)
    results = read_results(study)
    write_dashboard(study, results.variants, results.verdict.sentence)
    return write_dashboard(study, results.variants, results.verdict.sentence)  # anew, in the old one's place


def read(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0, "tensors": 0})
    found.Reload()
    return found


def test_every_curve_has_the_values_of_the_table_at_its_fractions(board: Path, planted_study: Path) -> None:
    rows = read_results(planted_study).variants
    for kind, metric, tag in (
        ("useful", "solution_probability", "utility_higher_is_better/solution_probability"),
        ("harmful", "expected_harmfulness", "harm_lower_is_better/expected_harmfulness"),
    ):
        for source in ("top_k", "random"):
            events = read(board / f"{kind}-0" / source / "orthogonal").Scalars(tag)
            assert [one.step for one in events] == [1, 25, 50]
            for event in events:
                own = [
                    row.value
                    for row in rows
                    if (row.finetuned, row.seed, row.source, row.component) == (kind, 0, source, "orthogonal")
                    and row.metric == metric
                    and row.fraction == event.step / 100
                ]
                assert event.value == pytest.approx(fmean(one for one in own if one is not None), rel=1e-6)


def test_levels_are_lines_and_scales_lie_at_their_factor(board: Path) -> None:
    tag = "utility_higher_is_better/solution_probability"
    before, after, scaled = (
        read(board / "useful-0" / name).Scalars(tag) for name in ("reference", "finetuned", "scale")
    )
    assert [one.step for one in before] == [one.step for one in after] == [0, 100]
    assert before[0].value == before[1].value < after[0].value
    assert all(0 < one.step < 100 for one in scaled)
    assert [one.value for one in scaled] == sorted(one.value for one in scaled)


def test_the_energy_that_is_kept_is_a_curve(planted_study: Path) -> None:
    rows = [
        replace(one, energy_kept=(one.fraction or 0) ** 2 if one.source == "top_k" else None)
        for one in read_results(planted_study).variants
    ]
    points = [one for one in list_points(rows) if one.tag == "energy/share_of_the_update_kept"]
    kept = {one.step: one.value for one in points if one.run == "useful-0/top_k/orthogonal"}
    assert kept == pytest.approx({1: 0.01**2, 25: 0.25**2, 50: 0.5**2})
    assert {one.run.split("/")[1] for one in points} == {"top_k"}


def test_figures_and_verdict_are_in_a_run_of_their_own(board: Path, planted_study: Path) -> None:
    found = read(board / "study")
    images = found.Tags()["images"]
    assert {"figures/tradeoff", "figures/measures_orthogonal", "figures/selectivity"} <= set(images)
    assert found.Images("figures/tradeoff")[0].width > 300
    [event] = found.Tensors("verdict/text_summary")
    assert event.tensor_proto.string_val[0].decode() == read_results(planted_study).verdict.sentence
    assert "how_to_read/text_summary" in found.Tags()["tensors"]
    assert len(list((board / "study").iterdir())) == 1
