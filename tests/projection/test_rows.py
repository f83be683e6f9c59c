"""Sums over the measures of many matrices."""

import math

import pytest

from safety_lightning.checkpoints import MatrixSlot
from safety_lightning.projection import UpdateMeasure, sum_chance, sum_energy, sum_leak


def make_measure(inside: float, outside: float, *, rank: int = 2, dimension: int = 8) -> UpdateMeasure:
    slot = MatrixSlot(tensor="model.layers.0.mlp.up_proj.weight", rows=8, columns=4)
    return UpdateMeasure(
        slot=slot, rank=rank, dimension=dimension, inside=inside, outside=outside, num_stuck=0, num_weights=32
    )


def test_energies_are_summed_before_they_are_divided_and_weigh_chance() -> None:
    measures = [make_measure(1.0, 3.0), make_measure(9.0, 3.0, dimension=4), make_measure(0.0, 99.0, rank=0)]
    assert sum_energy(measures, "parallel") == 10 / 16
    assert sum_energy(measures, "orthogonal") == 6 / 16
    assert sum_chance(measures, "parallel") == (4 * 2 / 8 + 12 * 2 / 4) / 16
    assert sum_chance(measures, "parallel") + sum_chance(measures, "orthogonal") == pytest.approx(1)


def test_leak_is_the_share_of_the_norm_on_the_wrong_side() -> None:
    measures = [make_measure(1.0, 0.0), make_measure(14.0, 1.0)]
    assert sum_leak(measures, "parallel") == pytest.approx(0.25)
    assert sum_leak(measures, "orthogonal") == pytest.approx(math.sqrt(15 / 16))


def test_update_of_zero_has_no_energy_and_no_leak() -> None:
    measures = [make_measure(0.0, 0.0)]
    assert math.isnan(sum_energy(measures, "parallel"))
    assert sum_leak(measures, "parallel") == 0
