"""The script that measures how often bands hold: what it calls true, and the table that it prints."""

import importlib
from types import ModuleType

import pytest

from safety_lightning.study.statistics.values import VariantKey


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return importlib.import_module("measure_coverage")


def test_true_selectivities_are_those_worked_by_hand(script: ModuleType) -> None:
    """Blunt treatments keep as much harm as learning, so that S is the advantage U − H itself."""
    true = script.find_truth(script.WORLDS["selective, 100 prompts"])
    found = [true[VariantKey("top_k", 0, "orthogonal", fraction)] for fraction in script.FRACTIONS]
    assert found == pytest.approx([0.7 * fraction for fraction in script.FRACTIONS])


def test_table_has_a_row_a_world(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        script, "find_truth", lambda world: dict.fromkeys((key for key, *_ in world.list_variants()), 9.0)
    )
    script.measure_coverage(num_trials=2, num_resamples=100)
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(" | ")[1:] for row in rows] == [["0.0%", "0.0% to 0.0%", "0.0%", "100.0% |"]] * len(script.WORLDS)
