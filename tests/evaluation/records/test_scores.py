"""The file of scores: the same whatever order its rows came in; faults are named."""

from dataclasses import replace
from pathlib import Path

import pytest

from safety_lightning.evaluation.measurement import MetricSpec, Outcome
from safety_lightning.evaluation.records import add_scores, make_score_row, read_scores, write_scores

SPECS = [MetricSpec(name=name, kind="share") for name in ("b", "a")]
ROWS = [make_score_row(f"t/{n}", "t", spec, Outcome(value=n % 2)) for spec in SPECS for n in range(3)]
ORDER = {"metrics": [("t", "b"), ("t", "a")], "prompts": ["t/0", "t/1", "t/2"]}


def test_order_of_the_processes_does_not_show(tmp_path: Path) -> None:
    for rows in (ROWS, ROWS[::-1], ROWS[1::2] + ROWS[::2]):
        write_scores(tmp_path, rows, **ORDER)
        assert read_scores(tmp_path) == ROWS


def test_faults_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must hold scores\.jsonl of a finished test, it does not"):
        read_scores(tmp_path)
    (tmp_path / "scores.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(ValueError, match=r"scores\.jsonl, line 1, must be a score"):
        read_scores(tmp_path)


def test_a_model_is_appended_and_measured_again_replaced(tmp_path: Path) -> None:
    first = [replace(row, model="finetuned", step=2) for row in ROWS]
    second = [replace(row, model="finetuned", step=4) for row in ROWS]
    file = tmp_path / "scores.jsonl"
    add_scores(tmp_path, first)
    inode = file.stat().st_ino
    add_scores(tmp_path, second)
    assert file.stat().st_ino == inode  # no whole file is written for each measurement
    assert read_scores(tmp_path) == [*first, *second]
    again = [replace(row, value=1 - row.value) for row in first]
    add_scores(tmp_path, again)
    assert read_scores(tmp_path) == [*second, *again]


def test_a_torn_line_is_left_behind(tmp_path: Path) -> None:
    first, second = ([replace(row, model="finetuned", step=step) for row in ROWS] for step in (2, 4))
    add_scores(tmp_path, first)
    with (tmp_path / "scores.jsonl").open("a") as stream:
        stream.write('{"id": "torn')
    add_scores(tmp_path, second)
    assert read_scores(tmp_path) == [*first, *second]
