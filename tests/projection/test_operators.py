"""Projection operators against numpy and by their properties."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from safety_lightning.projection import (
    compute_chance,
    compute_energy_by_rank,
    compute_energy_kept,
    compute_leak,
    project_update,
)
from tests import reference

SHAPES = [(12, 8), (8, 12), (7, 1), (1, 7), (6, 6)]


def draw_pair(num_rows: int, num_columns: int, rank: int, side: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    update = torch.randn(num_rows, num_columns, generator=generator, dtype=torch.float64)
    length = num_rows if side == "left" else num_columns
    basis = torch.linalg.qr(torch.randn(length, min(rank, length), generator=generator, dtype=torch.float64))[0]
    return update, basis


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("component", ["parallel", "orthogonal"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [0, 1, 3, 12])
def test_equals_numpy(shape: tuple[int, int], rank: int, component: str, side: str) -> None:
    update, basis = draw_pair(*shape, rank, side)
    found = project_update(update, basis, component=component, side=side)
    expected = reference.project(update.numpy(), basis.numpy(), component, side)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    energy = compute_energy_kept(update, basis, component=component, side=side)
    assert float(energy) == pytest.approx(reference.energy(update.numpy(), basis.numpy(), component, side), abs=1e-12)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("shape", SHAPES)
def test_components_add_up_are_idempotent_and_orthogonal(shape: tuple[int, int], side: str) -> None:
    update, basis = draw_pair(*shape, 3, side)
    parallel = project_update(update, basis, component="parallel", side=side)
    orthogonal = project_update(update, basis, component="orthogonal", side=side)
    torch.testing.assert_close(parallel + orthogonal, update)
    torch.testing.assert_close(project_update(parallel, basis, component="parallel", side=side), parallel)
    torch.testing.assert_close(project_update(orthogonal, basis, component="orthogonal", side=side), orthogonal)
    assert abs(float((parallel * orthogonal).sum())) < 1e-12


def test_rotating_the_basis_changes_nothing() -> None:
    update, basis = draw_pair(12, 8, 4, "left")
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5)))[0]
    first = project_update(update, basis, component="parallel")
    second = project_update(update, basis @ rotation, component="parallel")
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("side", ["left", "right"])
def test_energy_by_rank_equals_the_energy_of_every_rank(side: str) -> None:
    update, basis = draw_pair(12, 8, 6, side)
    by_rank = compute_energy_by_rank(update, basis, side=side)
    total = float(update.square().sum())
    for rank in range(7):
        expected = reference.energy(update.numpy(), basis[:, :rank].numpy(), "parallel", side)
        assert float(by_rank[rank]) / total == pytest.approx(expected, abs=1e-12)


def test_chance_is_the_mean_energy_of_random_updates() -> None:
    _, basis = draw_pair(12, 8, 3, "left")
    updates = torch.randn(4000, 12, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    energies = torch.stack([compute_energy_kept(update, basis, component="parallel") for update in updates[:500]])
    assert float(energies.mean()) == pytest.approx(compute_chance(3, 12, component="parallel"), abs=0.01)
    assert compute_chance(3, 12, component="orthogonal") == 0.75


def test_leak_is_what_rounding_put_on_the_wrong_side() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = 0.02 * torch.randn(64, 64, generator=generator)
    basis = torch.linalg.qr(torch.randn(64, 16, generator=generator))[0]
    kept = project_update(1e-4 * torch.randn(64, 64, generator=generator), basis, component="parallel")
    leaks = [
        float(compute_leak((weights + kept).to(dtype).float() - weights, basis, component="parallel"))
        for dtype in (torch.float32, torch.bfloat16)
    ]
    assert leaks[0] < 1e-4
    assert leaks[1] > 0.1


def test_update_of_zero_has_no_energy_and_no_leak() -> None:
    _, basis = draw_pair(6, 4, 2, "left")
    zero = torch.zeros(6, 4, dtype=torch.float64)
    assert math.isnan(compute_energy_kept(zero, basis, component="parallel"))
    assert compute_leak(zero, basis, component="parallel") == 0


@pytest.mark.parametrize(
    ("update", "basis", "message"),
    [
        (torch.zeros(3), torch.zeros(3, 1), r"must be matrices, got shapes \(3,\) and \(3, 1\)"),
        (torch.zeros(3, 2), torch.zeros(2, 1), "basis must have 3 rows on the left side, got 2"),
        (torch.zeros(3, 2), torch.zeros(3, 1).double(), "got torch.float32 and torch.float64"),
        (torch.zeros(3, 2).bfloat16(), torch.zeros(3, 1).bfloat16(), "got torch.bfloat16 and torch.bfloat16"),
        (torch.zeros(3, 2), torch.zeros(3, 1, device="meta"), "must be on one device, got cpu and meta"),
    ],
)
def test_bad_input_is_named(update: Tensor, basis: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        project_update(update, basis, component="parallel")
