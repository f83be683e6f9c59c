"""The null: each random subspace in turn in the safety subspace's place."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from safety_lightning.errors import UserError
from safety_lightning.study.statistics import StatisticsSettings
from safety_lightning.study.statistics.nulls import count_nulls, put_in_place
from safety_lightning.study.statistics.values import FINETUNED, REFERENCE, Values, ValueTable, VariantKey, read_values
from tests.study.world import ENTANGLED, make_values, write_values

SETTINGS = StatisticsSettings(num_resamples=100)
WORLD = dataclasses.replace(
    ENTANGLED, kinds=("contaminated",), fractions=(0.25, 0.5), num_draws=6, num_prompts=40, noise=0.03
)


def plant(values: Values, draw: int) -> Values:
    """Makes one draw a safety subspace: outside of it the whole update's learning is kept, and the reference's harm."""
    tables = {}
    for key, table in values.tables.items():
        kept = table.values_VP[table.variants.index(FINETUNED if key.metric == SETTINGS.utility else REFERENCE)]
        is_planted_V1 = np.array([(one.draw, one.component) == (draw, "orthogonal") for one in table.variants])[:, None]
        tables[key] = ValueTable(table.variants, np.where(is_planted_V1, kept, table.values_VP))
    return dataclasses.replace(values, tables=tables)


def test_a_draw_stands_in_and_the_named_ones_make_the_frontier() -> None:
    draws = [VariantKey("random", draw, "orthogonal", 0.5) for draw in range(4)]
    safety, scale = VariantKey("top_k", 0, "orthogonal", 0.5), VariantKey("scale", alpha=0.5)
    lines = {REFERENCE: [0.0], FINETUNED: [1.0], scale: [0.5], safety: [9.0], **{one: [one.draw] for one in draws}}
    for table in put_in_place(make_values(lines, lines), 2, [3, 0]).tables.values():
        found = dict(zip(table.variants, table.values_VP[:, 0].tolist(), strict=True))
        assert found == {REFERENCE: 0, FINETUNED: 1, scale: 0.5, draws[1]: 0, safety: 2, draws[0]: 3}


def test_the_frontier_is_made_of_the_next_draws_in_turn(tmp_path: Path) -> None:
    """A draw that parts learning and harm raises the frontier of those that it is next to, and of no other."""
    values = read_values(write_values(tmp_path, WORLD) / "values.parquet")
    plain = count_nulls(values, SETTINGS, num_blunt=2)
    planted = count_nulls(plant(values, 0), SETTINGS, num_blunt=2)
    changed = [one.draw for one, other in zip(plain, planted, strict=True) if one.selectivity != other.selectivity]
    assert changed == [0, 4, 5]


def test_no_random_subspace_is_separable_in_an_entangled_world(tmp_path: Path) -> None:
    values = read_values(write_values(tmp_path, WORLD) / "values.parquet")
    rows = count_nulls(values, SETTINGS, num_blunt=5)
    assert [row.draw for row in rows] == list(range(6))
    assert "separable" not in {row.verdict for row in rows}
    assert all(row.low is not None and row.low <= row.selectivity <= row.high for row in rows)


def test_a_planted_draw_is_found(tmp_path: Path) -> None:
    values = read_values(write_values(tmp_path, WORLD) / "values.parquet")
    rows = count_nulls(plant(values, 3), SETTINGS, num_blunt=2)
    assert [row.draw for row in rows if row.verdict == "separable"] == [3]


@pytest.mark.parametrize("num_blunt", [6, 9])
def test_too_few_draws_are_an_error(num_blunt: int, tmp_path: Path) -> None:
    values = read_values(write_values(tmp_path, WORLD) / "values.parquet")
    with pytest.raises(UserError, match=f"must have more than {num_blunt} draws of random subspaces, got 6"):
        count_nulls(values, SETTINGS, num_blunt=num_blunt)
