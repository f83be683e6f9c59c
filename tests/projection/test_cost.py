"""The cost model of docs/scaling.md against what torch counts: 4 k operations a number, k numbers sent a column."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.flop_counter import FlopCounterMode

from safety_lightning.checkpoints import find_slots
from safety_lightning.projection.parts import MatrixPart, locate, take_part
from safety_lightning.projection.sharding import project_parts

SHAPES = [(24, 16), (16, 24), (31, 8), (20, 1)]  # rows and columns; one of them with an odd number of rows
RANKS = [5, 4, 3, 1]


def make_parts(model: nn.ParameterList, side: str) -> list[MatrixPart]:
    generator = torch.Generator().manual_seed(0)
    parts = []
    for place, ((rows, columns), rank) in enumerate(zip(SHAPES, RANKS, strict=True)):
        (slot,) = find_slots(f"{place}.weight", (rows, columns))
        dimension = rows if side == "left" else columns
        basis = torch.linalg.qr(torch.randn(dimension, min(rank, dimension), generator=generator))[0]
        reference = torch.randn(rows, columns, generator=generator)
        parts.append(take_part(slot, model[place], find=locate, reference=reference, basis=basis, side=side))
    return parts


def make_model() -> nn.ParameterList:
    return nn.ParameterList([nn.Parameter(torch.ones(shape)) for shape in SHAPES])


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_projection_takes_four_k_operations_a_number(side: str) -> None:
    parts = make_parts(make_model(), side)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        project_parts(parts, component="parallel")
    expected = sum(4 * part.rank * rows * columns for part, (rows, columns) in zip(parts, SHAPES, strict=True))
    assert counter.get_total_flops() == expected


def count_shared(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    model = make_model()
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    parts, sent = make_parts(model, "left"), []
    reduce = dist.all_reduce

    def count(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        sent.append(tensor.nbytes)
        return reduce(tensor, *args, **kwargs)

    dist.all_reduce = count
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        traffic = project_parts(parts, component="parallel")
    dist.all_reduce = reduce
    assert (traffic.num_all_reduces, traffic.num_bytes) == (len(sent), sum(sent))
    work = torch.tensor(counter.get_total_flops())
    dist.all_reduce(work)
    if rank == 0:
        torch.save({"bytes": sum(sent), "calls": len(sent), "work": int(work)}, f"{folder}/counted.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_send_k_numbers_a_column_and_share_the_work(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(count_shared, args=(str(tmp_path),), nprocs=2)
    counted = torch.load(tmp_path / "counted.pt")
    assert counted["bytes"] == sum(4 * rank * columns for rank, (_, columns) in zip(RANKS, SHAPES, strict=True))
    assert counted["calls"] == 1
    assert counted["work"] == sum(4 * rank * m * n for rank, (m, n) in zip(RANKS, SHAPES, strict=True))
