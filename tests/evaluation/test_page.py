"""docs/evaluation.md: its table of profiles and its columns are those of the code."""

from dataclasses import fields
from pathlib import Path

from safety_lightning.evaluation.records import Generation, ResultRow, ScoreRow
from safety_lightning.profiles import EVALUATION_SETTINGS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "evaluation.md").read_text()


def test_table_of_profiles_is_that_of_the_code() -> None:
    for s in EVALUATION_SETTINGS:
        assert f"| {s.name} | {s.paper} | {s.sound} | {s.why} |" in PAGE


def test_columns_are_those_of_the_rows() -> None:
    for row_class in (Generation, ScoreRow, ResultRow):
        names = {field.name for field in fields(row_class)}
        listed = [set(text.replace(" ", "").split(",")) for text in PAGE.split("`") if ", " in text]
        assert names in listed, row_class.__name__
