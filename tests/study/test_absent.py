"""What a study could not score, lacks or lost: named and left empty, never counted for something."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest

from safety_lightning.study.statistics import Verdict, write_statistics
from safety_lightning.study.statistics.resampling import Resamples
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
        if row[0] == "harmful" and row[8] == QUICK.harm:
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
