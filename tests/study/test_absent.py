"""What a study could not score, lacks or lost: named and left empty, never counted for something."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest

from safety_lightning.errors import UserError
from safety_lightning.study.statistics import Verdict, write_statistics
from safety_lightning.study.statistics.resampling import Resamples
from safety_lightning.study.statistics.selectivity import EXPERIMENTS, measure_outcome
from safety_lightning.study.statistics.tables import AttackRow, list_attacks
from safety_lightning.study.statistics.values import FINETUNED, REFERENCE, VariantKey
from tests.study.world import (
    ENTANGLED,
    QUICK,
    SEPARABLE,
    World,
    make_values,
    read_table,
    write_rows,
    write_values,
)

UTILITY, HARM = QUICK.utility, QUICK.harm


def answer(study: Path, world: World) -> Verdict:
    return write_statistics(write_values(study, world), QUICK)


def search(learning: dict[VariantKey, Sequence[float]], harm: dict[VariantKey, Sequence[float]]) -> AttackRow:
    values = make_values(learning, harm)
    [row] = list_attacks(values, Resamples(values, num_resamples=100, seed=0), QUICK)
    return row


def test_a_variant_whose_harm_was_not_scored_is_not_the_worst() -> None:
    half, nine = VariantKey("scale", alpha=0.5), VariantKey("scale", alpha=0.9)
    row = search(
        {REFERENCE: [0.5, 0.5], FINETUNED: [0.5, 0.7], half: [0.5, 0.6], nine: [0.5, 0.6]},
        {REFERENCE: [1, 1], FINETUNED: [3, 3], half: [np.nan, np.nan], nine: [4, 4]},
    )
    assert (row.variant, row.harm, row.low, row.high) == ("scale/0.9", 4, 4, 4)
    assert (row.num_allowed, row.num_variants) == (2, 3)


def test_a_fine_tune_of_which_no_variant_is_allowed_keeps_its_row() -> None:
    row = search({REFERENCE: [0.8, 0.8], FINETUNED: [0.3, 0.7]}, {REFERENCE: [1, 1], FINETUNED: [3, 5]})
    assert (row.variant, row.harm, row.low, row.high, row.utility) == (None,) * 5
    assert (row.num_allowed, row.num_variants, row.reference_utility, row.reference_harm) == (0, 1, 0.8, 1)


def test_a_fine_tune_that_went_the_wrong_way_leaves_empty_cells_and_no_pareto(tmp_path: Path) -> None:
    verdict = answer(tmp_path, dataclasses.replace(SEPARABLE, brought=-1.0, kinds=("contaminated",)))
    assert verdict.verdict == "undecided"
    assert (verdict.selectivity, verdict.room, verdict.room_low) == (None, None, None)

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    json.loads((tmp_path / "verdict.json").read_text(), parse_constant=refuse)
    for name in ("selectivity.csv", "tables/retained.csv", "tables/robustness.csv", "tables/attack.csv"):
        assert not [row for row in read_table(tmp_path / name) if "nan" in row.values()], name
    rows = read_table(tmp_path / "tables/retained.csv")
    assert {(row["retained_harm"], row["selectivity"], row["is_pareto"]) for row in rows} == {("", "", "False")}
    assert {row["room"] for row in read_table(tmp_path / "selectivity.csv")} == {""}


def test_the_room_is_that_of_the_experiments_which_have_one(tmp_path: Path) -> None:
    """The harmful fine-tune moves harm the wrong way, so that only experiment 2 has a room."""
    study = write_values(tmp_path, ENTANGLED)
    rows = [list(row.values()) for row in parquet.read_table(study / "values.parquet").to_pylist()]
    for row in rows:
        if row[0] == "harmful" and row[8] == HARM:
            row[11] = 5 - row[11]
    write_rows(study / "values.parquet", [tuple(row) for row in rows])
    verdict = write_statistics(study, QUICK)
    assert verdict.room == pytest.approx(1.0, abs=0.15)
    assert verdict.room_low is not None
    assert {row["room"] == "" for row in read_table(study / "selectivity.csv") if row["experiment"] == "1"} == {True}


def test_what_could_have_been_seen_is_said_where_the_intervals_are_too_wide_alone(tmp_path: Path) -> None:
    wide = answer(tmp_path / "wide", dataclasses.replace(ENTANGLED, noise=0.5, num_prompts=50, taught=0.7))
    weak = answer(tmp_path / "weak", dataclasses.replace(SEPARABLE, taught=0.02))
    assert "could have been seen" in wide.sentence
    assert "could have been seen" not in weak.sentence


def rewrite(study: Path, keep: Callable[[dict[str, Any]], bool]) -> Verdict:
    """Makes the statistics again without some of the values."""
    rows = [tuple(row.values()) for row in parquet.read_table(study / "values.parquet").to_pylist() if keep(row)]
    write_rows(study / "values.parquet", rows)
    return write_statistics(study, QUICK)


ORTHOGONAL = VariantKey("top_k", 0, "orthogonal", 0.5)


def is_of(row: dict[str, Any], variant: VariantKey) -> bool:
    return VariantKey(*(row[name] for name in VariantKey._fields)) == variant


@pytest.mark.parametrize(
    ("is_lost", "lines"),
    [
        (lambda row: row["finetuned"] == "useful", ["experiment 1 is left out: no useful fine-tune was measured"]),
        (
            lambda row: (row["finetuned"], row["seed"]) == ("harmful", 1),
            [f"experiment 1, seed 1 is left out: {HARM} of the harmful fine-tune was not measured"],
        ),
        (
            lambda row: (row["finetuned"], row["metric"], row["seed"]) == ("useful", UTILITY, 0) and is_whole(row),
            [
                f"experiment 1, seed 0 is left out: {UTILITY} of the useful fine-tune has no value for its reference "
                "or for its whole update",
            ],
        ),
        (
            lambda row: (row["finetuned"], row["metric"]) == ("contaminated", HARM) and is_of(row, ORTHOGONAL),
            [
                f"experiment 2, seed {seed}: measured by one of the two measures alone, and not compared: "
                "top_k/orthogonal/0.5"
                for seed in (0, 1)
            ],
        ),
        (
            lambda row: (row["finetuned"], row["metric"], row["seed"]) == ("useful", UTILITY, 1) and row["draw"] == 1,
            [
                "experiment 1, seed 1: measured by one of the two measures alone, and not compared: "
                "random@1/orthogonal/0.1, random@1/orthogonal/0.5, random@1/parallel/0.1, random@1/parallel/0.5",
            ],
        ),
        (
            lambda row: (row["finetuned"], row["seed"]) == ("contaminated", 1) and row["source"] == "random",
            [
                "experiment 2: not measured with every seed, and not compared: random/orthogonal/0.1, "
                "random/orthogonal/0.5, random/parallel/0.1, random/parallel/0.5"
            ],
        ),
        (
            lambda row: (row["finetuned"], row["seed"], row["metric"]) == ("useful", 1, HARM),
            [
                "attack: useful-1 is left out, it was not measured by both measures in its reference and in a variant",
            ],
        ),
    ],
)
def test_what_was_not_measured_is_said_and_the_sentence_leaves_it_out(
    is_lost: Callable[[dict[str, Any]], bool], lines: list[str], tmp_path: Path
) -> None:
    world = dataclasses.replace(ENTANGLED, seeds=(0, 1), num_draws=2, num_prompts=40, fractions=(0.1, 0.5))
    whole = answer(tmp_path, world)
    assert whole.skipped == []
    assert "at no fraction does" in whole.sentence
    verdict = rewrite(tmp_path, lambda row: not is_lost(row))
    assert verdict.skipped[: len(lines)] == lines
    assert verdict.verdict == "not_separable"
    assert ("at no fraction does" in verdict.sentence) == lines[0].startswith("attack")
    assert json.loads((tmp_path / "verdict.json").read_text())["skipped"] == verdict.skipped


def test_a_draw_that_one_measure_lacks_has_no_part_in_the_other() -> None:
    draws = [VariantKey("random", draw, "orthogonal", 0.5) for draw in (0, 1)]
    lines = {REFERENCE: [0.0], FINETUNED: [1.0], draws[0]: [0.5]}
    values = make_values(lines, lines | {draws[1]: [0.9]})
    outcome = measure_outcome(values, Resamples(values, num_resamples=100, seed=0), EXPERIMENTS[1], 0, QUICK)
    assert outcome is not None
    assert outcome.harm_KB[outcome.points.index(draws[0]), 0] == 0.5


def is_whole(row: dict[str, Any]) -> bool:
    return row["source"] == "finetuned"


def test_a_damaged_overlap_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    write_values(tmp_path, dataclasses.replace(ENTANGLED, kinds=("contaminated",), num_prompts=10))
    (tmp_path / "overlap_weights.csv").write_text("pair\n")
    with pytest.raises(UserError, match=r"overlap_weights\.csv must be a table with the columns profile"):
        write_statistics(tmp_path, QUICK)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["overlap_weights.csv", "values.parquet"]
