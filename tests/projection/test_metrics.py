"""Energy kept as a metric is that of all updates together; tests/overlap has its sums across processes."""

import pytest
import torch
from torch import Tensor

from safety_lightning import EnergyKept
from safety_lightning.projection import project_update

SIZE = 10


def draw(num_rows: int, *, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, SIZE, generator=generator) * torch.logspace(0, -1.5, SIZE) + 2


def test_energy_kept_sums_before_it_divides() -> None:
    updates = [draw(7, seed=seed) for seed in range(3)]
    bases = [torch.linalg.qr(draw(7, seed=9 + seed))[0][:, : seed + 1] for seed in range(3)]
    metric = EnergyKept(component="orthogonal")
    for update, basis in zip(updates, bases, strict=True):
        metric.update(update, basis)
    parts = [project_update(u, b, component="orthogonal") for u, b in zip(updates, bases, strict=True)]
    kept, total = (sum(one.double().square().sum() for one in group) for group in (parts, updates))
    expected = kept / total
    torch.testing.assert_close(metric.compute(), expected)
    metric.update(updates[0], bases[0][:, :0])
    torch.testing.assert_close(metric.compute(), expected)


@pytest.mark.parametrize("side", ["left", "right"])
def test_components_of_energy_add_up_to_one(side: str) -> None:
    update = draw(7, seed=0)
    basis = torch.linalg.qr(draw(20, seed=1).mT if side == "right" else draw(7, seed=1))[0][:, :2]
    parts = []
    for component in ("parallel", "orthogonal"):
        metric = EnergyKept(component=component, side=side)
        metric.update(update, basis)
        parts.append(float(metric.compute()))
    assert sum(parts) == pytest.approx(1)
    assert 0 < parts[0] < 1


def test_basis_that_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match="basis must have 7 rows"):
        EnergyKept(component="parallel").update(draw(7, seed=0), torch.eye(5))
