"""Projection operators against numpy and by their properties."""

import numpy as np
import pytest
import torch
from torch import Tensor

from safety_lightning.projection import compute_chance, project_update
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


def test_chance_is_the_mean_energy_of_random_updates() -> None:
    _, basis = draw_pair(12, 8, 3, "left")
    updates = torch.randn(4000, 12, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    energies = [reference.energy(update.numpy(), basis.numpy(), "parallel") for update in updates[:500]]
    assert float(np.mean(energies)) == pytest.approx(compute_chance(3, 12, component="parallel"), abs=0.01)
    assert compute_chance(3, 12, component="orthogonal") == 0.75


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
