"""The projection of sharded weights against the plain form, which gathers them: two processes (gloo) on the CPU."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from safety_lightning.checkpoints import MatrixSlot
from safety_lightning.projection.sharding import lay_out_basis, project_gathered, project_in_place, shard_like

NUM_ROWS, NUM_COLUMNS, RANK = 7, 5, 3  # seven rows: one process holds four, the other three
CASES = [(component, side) for component in ("parallel", "orthogonal") for side in ("left", "right")]


def draw_case(side: str) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, reference and basis, float32."""
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(NUM_ROWS, NUM_COLUMNS, generator=generator)
    weights = reference + 0.1 * torch.randn(NUM_ROWS, NUM_COLUMNS, generator=generator)
    length = NUM_ROWS if side == "left" else NUM_COLUMNS
    return weights, reference, torch.linalg.qr(torch.randn(length, RANK, generator=generator))[0]


@pytest.mark.parametrize(("component", "side"), CASES)
def test_whole_weights_are_projected_as_the_plain_form_does(component: str, side: str) -> None:
    weights, reference, basis = draw_case(side)
    plain = weights.clone()
    project_gathered(plain, reference, basis, component=component, side=side)
    assert (plain - weights).abs().max() > 1e-2
    project_in_place(weights, reference, basis, component=component, side=side)
    torch.testing.assert_close(weights, plain, atol=1e-6, rtol=0)


def project_both_ways(rank: int, folder: str) -> None:
    """Projects sharded weights in one of two processes, and saves what the first one gathers."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    slot = MatrixSlot(tensor="weight", rows=NUM_ROWS, columns=NUM_COLUMNS)
    results = {}
    for component, side in CASES:
        for project in (project_gathered, project_in_place):
            whole, reference, basis = draw_case(side)
            weights = distribute_tensor(whole, mesh, [Shard(0)])
            assert len(weights.to_local()) == (4, 3)[rank]
            basis = lay_out_basis(basis, weights, slot, side=side)
            project(weights, shard_like(reference, weights), basis, component=component, side=side)
            assert weights.placements == (Shard(0),)
            results[component, side, project.__name__] = weights.full_tensor()
    if rank == 0:
        torch.save(results, f"{folder}/results.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_sharded_weights_are_projected_as_the_plain_form_does(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(project_both_ways, args=(str(tmp_path),), nprocs=2)
    results = torch.load(tmp_path / "results.pt", weights_only=True)
    for component, side in CASES:
        plain, sharded = (results[component, side, name] for name in ("project_gathered", "project_in_place"))
        torch.testing.assert_close(sharded, plain, atol=1e-6, rtol=0)
        weights, reference, basis = draw_case(side)
        project_gathered(weights, reference, basis, component=component, side=side)
        torch.testing.assert_close(plain, weights, atol=1e-6, rtol=0)
