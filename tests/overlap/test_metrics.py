"""The metrics equal the functions on all data, in batches and across processes."""

import math
import os
import tempfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, multiprocessing

from safety_lightning import EnergyKept, ModeSubspaceOverlap
from safety_lightning.overlap.activations.draws import find_modes
from safety_lightning.projection import project_update
from safety_lightning.subspaces import DEFAULT_ETAS, compare_modes

SIZE = 10


def draw(num_prompts: int, *, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_prompts, SIZE, generator=generator) * torch.logspace(0, -1.5, SIZE) + 2


def compute_directly(first: Tensor, second: Tensor, *, centred: bool) -> Tensor:
    modes = [find_modes(hidden.double(), DEFAULT_ETAS, centred=centred) for hidden in (first, second)]
    return torch.tensor([overlap.mso for overlap in compare_modes(*modes)], dtype=torch.float64)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("sizes", [(50, 30), (6, 7)])
def test_overlap_in_batches_is_that_of_all_data(sizes: tuple[int, int], centred: bool) -> None:
    first, second = (draw(size, seed=seed) for seed, size in enumerate(sizes))
    metric = ModeSubspaceOverlap(SIZE, centred=centred)
    for part in first.split(4):
        metric.update(part)
    for part in second.split(11):
        metric.update(second_BD=part)
    torch.testing.assert_close(metric.compute(), compute_directly(first, second, centred=centred), atol=1e-9, rtol=0)


def test_overlap_is_reset_and_its_states_stay_float64() -> None:
    holder = torch.nn.ModuleList([ModeSubspaceOverlap(SIZE)]).to(torch.bfloat16).half()
    metric = holder[0]
    metric.update(draw(5, seed=0), draw(6, seed=1))
    assert {state.dtype for state in (metric.products, metric.sums, metric.counts)} == {torch.float64}
    metric.reset()
    assert metric.counts.tolist() == [0, 0]


def test_set_that_does_not_vary_has_no_overlap() -> None:
    metric = ModeSubspaceOverlap(SIZE)
    metric.update(draw(1, seed=0).expand(9, -1), draw(6, seed=1))
    assert metric.compute().isnan().all()


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


def test_bad_input_is_named() -> None:
    metric = ModeSubspaceOverlap(SIZE)
    with pytest.raises(ValueError, match=r"activations must be floating and of shape \(B, 10\)"):
        metric.update(torch.zeros(3, 4))
    broken = draw(3, seed=0)
    broken[1, 2] = math.nan
    with pytest.raises(ValueError, match="activations must be finite, got 1 NaN"):
        metric.update(broken)
    metric.update(draw(3, seed=0), draw(1, seed=1))
    with pytest.raises(ValueError, match=r"each set must have at least 2 activations, got \[3, 1\]"):
        metric.compute()
    with pytest.raises(ValueError, match="hidden_size must be at least 1, got 0"):
        ModeSubspaceOverlap(0)
    with pytest.raises(ValueError, match=r"etas must be in \(0, 1\], got 2"):
        ModeSubspaceOverlap(4, etas=[2])
    with pytest.raises(ValueError, match="basis must have 7 rows"):
        EnergyKept(component="parallel").update(draw(7, seed=0), torch.eye(5))


def _measure_share(rank: int, rendezvous: str, out: str) -> None:
    """Feeds one process's share of the data to the metrics and saves what they say of all of it."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    overlap, energy = ModeSubspaceOverlap(SIZE), EnergyKept(component="parallel")
    overlap.update(draw(31, seed=0)[rank::2], draw(24, seed=1)[rank::2])
    energy.update(draw(7, seed=rank), torch.linalg.qr(draw(7, seed=5))[0][:, :2])
    found = overlap.compute(), energy.compute()
    torch.save(found, f"{out}/{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_metrics_of_two_processes_are_those_of_one() -> None:
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_measure_share, args=(f"{folder}/rendezvous", folder), nprocs=2)
        found = [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(2)]
    _check_shares(found)


def test_states_add_up_as_processes_gather_them() -> None:
    """The same without processes: states of two halves are reduced as torchmetrics does it."""
    halves = [ModeSubspaceOverlap(SIZE) for _ in range(2)]
    for rank, metric in enumerate(halves):
        metric.update(draw(31, seed=0)[rank::2], draw(24, seed=1)[rank::2])
    whole = ModeSubspaceOverlap(SIZE)
    for name, reduce in whole._reductions.items():
        setattr(whole, name, reduce(torch.stack([getattr(half, name) for half in halves])))
    whole._update_count = 1
    torch.testing.assert_close(whole.compute(), compute_directly(draw(31, seed=0), draw(24, seed=1), centred=True))


def _check_shares(found: list[tuple[Tensor, Tensor]]) -> None:
    expected = compute_directly(draw(31, seed=0), draw(24, seed=1), centred=True)
    energy = EnergyKept(component="parallel")
    for seed in range(2):
        energy.update(draw(7, seed=seed), torch.linalg.qr(draw(7, seed=5))[0][:, :2])
    for overlap, kept in found:
        torch.testing.assert_close(overlap, expected, atol=1e-9, rtol=0)
        torch.testing.assert_close(kept, energy.compute())
