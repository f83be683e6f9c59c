"""Statistics of whole studies: cases worked by hand, a slow reference, worlds with a known answer."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from safety_lightning.errors import UserError
from safety_lightning.study.statistics import StatisticsSettings, Verdict, write_statistics
from safety_lightning.study.statistics.resampling import Resamples, group_metrics
from safety_lightning.study.statistics.selectivity import EXPERIMENTS, measure_outcome
from safety_lightning.study.statistics.values import (
    FINETUNED,
    REFERENCE,
    Floats,
    PromptSet,
    TableKey,
    Values,
    ValueTable,
    VariantKey,
    read_values,
)
from tests.study.world import (
    ENTANGLED,
    QUICK,
    SEPARABLE,
    World,
    make_values,
    read_table,
    write_overlaps,
    write_rows,
    write_values,
)

UTILITY, HARM = QUICK.utility, QUICK.harm
SMALL = World(kinds=("contaminated",), num_prompts=30, num_draws=3, fractions=(0.1, 0.5))


def answer(study: Path, world: World, settings: StatisticsSettings = QUICK) -> Verdict:
    return write_statistics(write_values(study, world), settings)


def measure(values: Values) -> dict[VariantKey, tuple[float, float, float]]:
    resamples = Resamples(values, num_resamples=100, seed=0)
    outcome = measure_outcome(values, resamples, EXPERIMENTS[1], 0, QUICK)
    assert outcome is not None
    shares = (outcome.learning_KB, outcome.harm_KB, outcome.selectivity_KB)
    return {point: tuple(float(one[at, 0]) for one in shares) for at, point in enumerate(outcome.points)}


def test_case_worked_by_hand() -> None:
    """Reference .2 and 1, finetuned .6 and 3; half the update keeps .5 and .3 (r .4, J .2), a draw each .2 and .4."""
    scale, top = VariantKey("scale", alpha=0.5), VariantKey("top_k", 0, "orthogonal", 0.1)
    draws = [VariantKey("random", draw, "orthogonal", 0.1) for draw in (0, 1)]
    found = measure(
        make_values(
            {REFERENCE: [0.1, 0.3], FINETUNED: [0.5, 0.7], scale: [0.3, 0.5], top: [0.5, 0.6], draws[0]: [0.2, 0.2]}
            | {draws[1]: [0.4, 0.4]},
            {REFERENCE: [1, 1], FINETUNED: [2, 4], scale: [1.6, 1.6], top: [1.4, 1.0], draws[0]: [1, 1]}
            | {draws[1]: [2.6, 2.6]},
        )
    )
    assert found[scale] == pytest.approx((0.5, 0.3, 0.0))
    assert found[draws[0]] == pytest.approx((0.25, 0.4, -0.15 - 0.325 / 0.4 * 0.2))  # the mean of both draws
    retention = (0.875 + 0.1) / 2
    assert found[top] == pytest.approx((0.875, 0.1, 0.775 - 0.2 * (1 - retention) / 0.6))


def test_retained_is_clipped_for_selectivity_and_kept_raw() -> None:
    top = VariantKey("top_k", 0, "orthogonal", 0.1)
    values = make_values({REFERENCE: [0.0], FINETUNED: [0.5], top: [0.6]}, {REFERENCE: [1.0], FINETUNED: [3], top: [0]})
    assert measure(values)[top] == pytest.approx((1.2, -0.5, 1.0))


def measure_slowly(values: Values, weights: dict[str, Floats], draw_weights: Floats) -> dict[VariantKey, float]:
    """Selectivity in one resample, in plain loops: prompts by weight, then draws, then shares, then the best chord."""
    shares: dict[VariantKey, list[float]] = {}
    for metric in (UTILITY, HARM):
        table = values.tables[TableKey("contaminated", 0, metric)]
        means = {
            variant: sum(w * v for w, v in zip(weights[metric], line, strict=True)) / sum(weights[metric])
            for variant, line in zip(table.variants, table.values_VP.tolist(), strict=True)
        }
        points: dict[VariantKey, list[tuple[float, float]]] = {}
        for variant, mean in means.items():
            weight = draw_weights[variant.draw] if variant.source == "random" else 1.0
            points.setdefault(variant._replace(draw=0), []).append((weight, mean))
        for point, known in points.items():
            mean = sum(w * m for w, m in known) / sum(w for w, _ in known)
            share = (mean - means[REFERENCE]) / (means[FINETUNED] - means[REFERENCE])
            shares.setdefault(point, []).append(min(max(share, 0.0), 1.0))
    blunt = [(u, h) for point, (u, h) in shares.items() if point.source in ("scale", "random")]
    return {point: (u - h) - find_chord([(0, 0), (1, 1), *blunt], (u + h) / 2) for point, (u, h) in shares.items()}


def find_chord(shares: Sequence[tuple[float, float]], asked: float) -> float:
    places = [((u + h) / 2, u - h) for u, h in shares]
    return max(
        y if other_x == x else y + (asked - x) / (other_x - x) * (other_y - y)
        for x, y in places
        for other_x, other_y in places
        if x <= asked <= other_x
    )


def test_resamples_equal_plain_loops(tmp_path: Path) -> None:
    values = read_values(write_values(tmp_path, SMALL) / "values.parquet")
    resamples = Resamples(values, num_resamples=20, seed=3)
    outcome = measure_outcome(values, resamples, EXPERIMENTS[1], 0, QUICK)
    assert outcome is not None
    for column in (0, 7, 20):
        weights = {metric: resamples._weights[metric][:, column] for metric in (UTILITY, HARM)}
        slow = measure_slowly(values, weights, resamples.weigh_draws(3)[:, column])
        for at, point in enumerate(outcome.points):
            assert outcome.selectivity_KB[at, column] == pytest.approx(slow[point], abs=1e-12)


def test_blunt_treatments_are_not_selective(tmp_path: Path) -> None:
    values = read_values(write_values(tmp_path, dataclasses.replace(SMALL, noise=0.3)) / "values.parquet")
    outcome = measure_outcome(values, Resamples(values, num_resamples=100, seed=0), EXPERIMENTS[1], 0, QUICK)
    assert outcome is not None
    blunt = [at for at, point in enumerate(outcome.points) if point.source in ("scale", "random")]
    assert np.nanmax(outcome.selectivity_KB[blunt]) <= 1e-12


@pytest.mark.parametrize("change", [lambda value: 3 * value - 2, lambda value: 0.1 * value + 7])
def test_selectivity_is_the_same_on_another_scale(change: Callable[[Floats], Floats], tmp_path: Path) -> None:
    values = read_values(write_values(tmp_path, SMALL) / "values.parquet")
    tables = {
        key: ValueTable(table.variants, change(table.values_VP)) if key.metric == HARM else table
        for key, table in values.tables.items()
    }
    changed, plain = measure(dataclasses.replace(values, tables=tables)), measure(values)
    assert {point: found[2] for point, found in changed.items()} == pytest.approx(
        {point: found[2] for point, found in plain.items()}, abs=1e-9
    )


def test_perfectly_separable_world_is_separable(tmp_path: Path) -> None:
    verdict = answer(tmp_path, SEPARABLE)
    assert verdict.verdict == "separable"
    assert verdict.low is not None
    assert verdict.low > 0.8
    assert json.loads((tmp_path / "verdict.json").read_text()) == dataclasses.asdict(verdict)
    assert "0.9" in verdict.sentence
    assert "for these fine-tunes" in verdict.sentence


def test_entangled_world_is_not_separable(tmp_path: Path) -> None:
    verdict = answer(tmp_path, ENTANGLED)
    assert verdict.verdict == "not_separable"
    assert verdict.high is not None
    assert verdict.high < 0.2
    assert verdict.num_cells == 10


@pytest.mark.parametrize(
    ("world", "reason"),
    [
        (dataclasses.replace(SEPARABLE, taught=0.02), "useful fine-tune of seed 0 taught too little"),
        (dataclasses.replace(SEPARABLE, brought=0.1), "harmful fine-tune of seed 0 brought back too little harm"),
        (dataclasses.replace(ENTANGLED, blunt=lambda alpha: max(0.0, 4 * alpha - 3)), "no room"),
        (dataclasses.replace(ENTANGLED, noise=0.5, num_prompts=50, taught=0.7), "too wide"),
    ],
)
def test_what_cannot_be_told_is_undecided_with_its_reason(world: World, reason: str, tmp_path: Path) -> None:
    verdict = answer(tmp_path, world)
    assert verdict.verdict == "undecided"
    assert reason in verdict.reason
    assert verdict.reason in verdict.sentence


def test_separable_comes_before_no_room(tmp_path: Path) -> None:
    world = World(learning=lambda _: 1.0, harm=lambda _: 0.0, blunt=lambda alpha: max(0.0, 2.0 * alpha - 1.2))
    assert answer(tmp_path, world).verdict == "separable"


def test_three_seeds_have_an_interval_over_seeds(tmp_path: Path) -> None:
    world = World(kinds=("contaminated",), seeds=(0, 1, 2), fractions=(0.5,), seed_noise=0.1)
    verdict = answer(tmp_path, world)
    assert verdict.num_seeds == 3
    assert "over 3 seeds" in verdict.sentence
    [alone] = [row for row in read_table(tmp_path / "selectivity.csv") if row["component"] == "orthogonal"]
    assert float(alone["high"]) - float(alone["low"]) > 0.2


def test_cells_that_capped_ranks_make_identical_count_once(tmp_path: Path) -> None:
    study = write_values(tmp_path, dataclasses.replace(SMALL, fractions=(0.1,)))
    import pyarrow.parquet as parquet

    rows = [tuple(row.values()) for row in parquet.read_table(study / "values.parquet").to_pylist()]
    twins = [(*row[:5], 0.5, *row[6:]) for row in rows if row[2] == "top_k"]
    before = write_statistics(study, QUICK)
    write_rows(study / "values.parquet", rows + twins)
    after = write_statistics(study, QUICK)
    assert (after.num_cells, after.num_identical) == (1, 1)
    assert (after.low, after.high) == pytest.approx((before.low, before.high), abs=1e-9)
    twin = [row for row in read_table(study / "tables" / "retained.csv") if row["fraction"] == "0.5"]
    assert [row["same_as"] for row in twin if row["component"] == "orthogonal"] == ["0.1"]


def test_unscored_prompts_are_counted_and_left_out(tmp_path: Path) -> None:
    study = write_values(tmp_path, SMALL)
    import pyarrow.parquet as parquet

    rows = [list(row.values()) for row in parquet.read_table(study / "values.parquet").to_pylist()]
    for row in rows:
        if row[2] == "top_k" and row[9].endswith("-3") and row[8] == HARM:
            row[11] = None
    write_rows(study / "values.parquet", [tuple(row) for row in rows])
    write_statistics(study, QUICK)
    [one] = [
        row
        for row in read_table(study / "variants.csv")
        if (row["source"], row["component"], row["fraction"], row["metric"]) == ("top_k", "parallel", "0.5", HARM)
    ]
    scored = [row[11] for row in rows if tuple(row[i] for i in (2, 4, 5, 8)) == ("top_k", "parallel", 0.5, HARM)]
    assert (one["num_total"], one["num_scored"]) == ("30", "29")
    assert float(one["value"]) == pytest.approx(np.mean([value for value in scored if value is not None]))
    assert float(one["low"]) <= float(one["value"]) <= float(one["high"])


def test_metrics_that_share_prompts_share_what_is_drawn() -> None:
    prompts = {
        "a": PromptSet(("1", "2", "3"), np.array([0, 0, 1])),
        "b": PromptSet(("2", "3"), np.array([0, 1])),
        "c": PromptSet(("1", "2", "3"), np.array([5, 6, 7])),  # other prompts by the same names
    }
    values = Values({}, prompts, {})
    assert group_metrics(values) == [["a", "b"], ["c"]]
    weights = Resamples(values, num_resamples=50, seed=0)._weights
    np.testing.assert_array_equal(weights["a"][1:], weights["b"])
    np.testing.assert_array_equal(weights["a"][0], weights["a"][1])  # twins are drawn together
    assert (weights["c"] != weights["a"]).any()


def test_robustness_attack_and_overlap_stand_beside_the_verdict(tmp_path: Path) -> None:
    world = dataclasses.replace(SEPARABLE, rivals={"safe_lora": (0.95, 0.5)})
    write_values(tmp_path, world)
    write_overlaps(tmp_path)
    verdict = write_statistics(tmp_path, QUICK)
    robust = read_table(tmp_path / "tables" / "robustness.csv")
    assert [row["is_stated"] for row in robust] == ["True", "False", "False", "False"]
    assert robust[0]["verdict"] == verdict.verdict
    attacks = read_table(tmp_path / "tables" / "attack.csv")
    assert [row["finetuned"] for row in attacks] == ["contaminated", "harmful", "useful"]
    assert float(attacks[1]["harm"]) == pytest.approx(4.2, abs=0.2)  # the harmful model loses no utility
    excesses = read_table(tmp_path / "tables" / "overlap_excess.csv")
    weights = [row for row in excesses if row["subject"] == "weights"]
    assert {row["first"] for row in weights} == {"harmful vs delta"}
    assert float(weights[0]["difference"]) == pytest.approx(0.02 / (1 - 0.1 / 3))
    assert {row["share_larger"] for row in weights} == {"1.0"}
    assert {(row["first"], row["second"]) for row in excesses if row["subject"] == "activations"} == {
        ("harmful vs harmful_b", "harmful vs useful"),
        ("harmful vs harmful_b", "useful vs harmful_b"),
    }


def test_same_study_gives_the_same_files(tmp_path: Path) -> None:
    study = write_values(tmp_path, SMALL)
    write_statistics(study, QUICK)
    before = {file: file.read_bytes() for file in study.rglob("*") if file.is_file()}
    write_statistics(study, QUICK)
    assert before == {file: file.read_bytes() for file in study.rglob("*") if file.is_file()}


def test_bad_values_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"values\.parquet must be the Parquet file of a study's values, got an error"):
        write_statistics(tmp_path, QUICK)
    row = ("useful", 0, "reference", 0, "", None, None, None, "utility", "a", 0, 1.0)
    file = tmp_path / "values.parquet"
    for rows, message in (
        ([row, row], "must hold each prompt of a variant once"),
        ([row, (*row[:2], "finetuned", *row[3:10], 1, 1.0)], "each prompt in one cluster, a of utility is in two"),
        ([(*row[:-1], float("inf"))], "finite values, one is infinite"),
        ([row], "must hold the measure solution_probability of the verdict, it holds utility"),
    ):
        write_rows(file, rows)
        with pytest.raises(UserError, match=message):
            write_statistics(tmp_path, QUICK)
    assert [one.name for one in tmp_path.iterdir()] == ["values.parquet"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"utility": "harmfulness"}, "statistics.utility must be one of utility, solution_probability"),
        ({"harm": "drift"}, "statistics.harm must be one of harmfulness"),
        ({"delta": 0.7}, r"statistics.delta must be in \(0, 0.5\), got 0.7"),
        ({"num_resamples": 5}, "statistics.num_resamples must be at least 100, got 5"),
    ],
)
def test_bad_settings_are_named(given: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        StatisticsSettings(**given)


@pytest.mark.slow
def test_verdict_is_seldom_wrong_about_worlds_that_are_known(tmp_path: Path) -> None:
    """At a selectivity of exactly delta `not_separable` is wrong; at none at all `separable` is; 5 % each."""
    at_delta = World(
        kinds=("contaminated",), noise=0.1, fractions=(0.3, 0.5), learning=lambda _: 0.6, harm=lambda _: 0.4
    )
    wrong = {"not_separable": 0, "separable": 0}
    num_trials = 60
    for trial in range(num_trials):
        study = write_values(tmp_path / f"{trial}", at_delta, seed=trial)
        wrong["not_separable"] += write_statistics(study, QUICK).verdict == "not_separable"
        study = write_values(tmp_path / f"{trial}", dataclasses.replace(at_delta, harm=lambda _: 0.6), seed=trial)
        wrong["separable"] += write_statistics(study, QUICK).verdict == "separable"
    assert wrong["separable"] == 0
    assert wrong["not_separable"] <= 0.12 * num_trials  # of a true 5 %, 8 or more of 60 come once in 102 times
