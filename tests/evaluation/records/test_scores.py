"""The file of scores: the same whatever order its rows came in; faults are named."""

from pathlib import Path

import pytest

from safety_lightning.evaluation.measurement import MetricSpec, Outcome
from safety_lightning.evaluation.records import make_score_row, read_scores, write_scores

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
