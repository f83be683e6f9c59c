"""The projection of shared-out matrices against the plain form, which gathers them: two processes (gloo) on the CPU."""

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from safety_lightning.checkpoints import MatrixSlot
from safety_lightning.projection.parts import HeldNumbers, locate, take_part
from safety_lightning.projection.sharding import measure_parts, project_gathered, project_parts

NUM_ROWS, NUM_COLUMNS, RANK = 7, 5, 3  # seven rows: one process holds four, the other three
CASES = list(itertools.product(("parallel", "orthogonal"), ("left", "right"), (False, True)))
Case = tuple[str, str, bool]


def draw_case(case: Case) -> tuple[MatrixSlot, Tensor, Tensor, Tensor]:
    """A slot, weights and reference as they are stored, and a basis; float32."""
    _, side, transposed = case
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(NUM_ROWS, NUM_COLUMNS, generator=generator)
    weights = reference + 0.1 * torch.randn(NUM_ROWS, NUM_COLUMNS, generator=generator)
    rows, columns = (NUM_COLUMNS, NUM_ROWS) if transposed else (NUM_ROWS, NUM_COLUMNS)
    basis = torch.linalg.qr(torch.randn(rows if side == "left" else columns, RANK, generator=generator))[0]
    return MatrixSlot(tensor="weight", rows=rows, columns=columns, transposed=transposed), weights, reference, basis


def project_slowly(case: Case) -> Tensor:
    """The definition, in float64."""
    component, side, _ = case
    slot, weights, reference, basis = draw_case(case)
    update, basis = slot.view(weights - reference).double(), basis.double()
    inside = basis @ (basis.T @ update) if side == "left" else (update @ basis) @ basis.T
    kept = inside if component == "parallel" else update - inside
    return reference.double() + (kept.T if slot.transposed else kept)


@pytest.mark.parametrize("case", CASES)
def test_whole_weights_are_projected_by_the_definition(case: Case) -> None:
    component, side, _ = case
    slot, weights, reference, basis = draw_case(case)
    for project in (project_gathered, project_parts):
        parameter = nn.Parameter(weights.clone(), requires_grad=False)
        part = take_part(slot, parameter, find=locate, reference=reference, basis=basis, side=side)
        if project is project_gathered:
            project_gathered(part, basis, component=component)
        else:
            assert project_parts([part], component=component).num_all_reduces == 0
        torch.testing.assert_close(parameter.double(), project_slowly(case), atol=1e-6, rtol=0)
        assert (parameter - weights).abs().max() > 1e-2


def test_each_matrix_of_a_stack_has_a_projection_of_its_own() -> None:
    generator = torch.Generator().manual_seed(0)
    stack = torch.randn(3, NUM_ROWS, NUM_COLUMNS, generator=generator)
    parameter = nn.Parameter(stack.clone(), requires_grad=False)
    slot = MatrixSlot(tensor="experts", index=1, rows=NUM_ROWS, columns=NUM_COLUMNS)
    basis = torch.linalg.qr(torch.randn(NUM_ROWS, RANK, generator=generator))[0]
    part = take_part(slot, parameter, find=locate, reference=torch.zeros_like(stack), basis=basis, side="left")
    project_parts([part], component="parallel")
    assert torch.equal(parameter[0], stack[0])
    assert torch.equal(parameter[2], stack[2])
    torch.testing.assert_close(parameter[1], basis @ basis.T @ stack[1], atol=1e-5, rtol=0)


def share_by_rows(weights: Tensor, rank: int) -> tuple[nn.Parameter, object]:
    sharded = distribute_tensor(weights, init_device_mesh("cpu", (2,)), [Shard(0)])
    assert len(sharded.to_local()) == (4, 3)[rank]
    return nn.Parameter(sharded, requires_grad=False), locate


def share_amid_a_row(weights: Tensor, rank: int) -> tuple[nn.Parameter, object]:
    """The first process holds 17 of the 35 numbers: three rows and two numbers of the fourth."""
    parameter = nn.Parameter(weights, requires_grad=False)
    start, end = ((0, 17), (17, 35))[rank]
    held = HeldNumbers(parameter.data.view(-1)[start:end], start, torch.distributed.group.WORLD, cuts_rows=True)
    return parameter, lambda _: held


def project_all_ways(rank: int, folder: str) -> None:
    """Projects shared-out weights in one of two processes, and saves what the first one gathers."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    results = {}
    for share, plain in itertools.product((share_by_rows, share_amid_a_row), (True, False)):
        parts, bases = [], []
        for case in CASES:
            slot, weights, reference, basis = draw_case(case)
            parameter, find = share(weights, rank)
            parts.append(take_part(slot, parameter, find=find, reference=reference, basis=basis, side=case[1]))
            bases.append(basis)
        key = (share.__name__, "plain" if plain else "bucketed")
        results[*key, "measures"] = measure_parts(parts, [None] * len(parts))
        for component in ("parallel", "orthogonal"):
            mine = [at for at, case in enumerate(CASES) if case[0] == component]
            if plain:
                for at in mine:
                    project_gathered(parts[at], bases[at], component=component)
            else:
                traffic = project_parts([parts[at] for at in mine], component=component)
                results[*key, "traffic"] = (traffic.num_all_reduces, traffic.num_bytes)
        for case, part in zip(CASES, parts, strict=True):
            whole = torch.zeros(NUM_ROWS * NUM_COLUMNS)
            whole[slice(*part.span)] = part.view_numbers()
            torch.distributed.all_reduce(whole)
            results[*key, *case] = whole.view(NUM_ROWS, NUM_COLUMNS)
    if rank == 0:
        torch.save(results, f"{folder}/results.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_shared_weights_are_projected_as_the_plain_form_does(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(project_all_ways, args=(str(tmp_path),), nprocs=2)
    results = torch.load(tmp_path / "results.pt", weights_only=True)
    for share, way in itertools.product(("share_by_rows", "share_amid_a_row"), ("plain", "bucketed")):
        for case, measure in zip(CASES, results[share, way, "measures"], strict=True):
            torch.testing.assert_close(results[share, way, *case].double(), project_slowly(case), atol=1e-6, rtol=0)
            side = case[1]
            slot, weights, reference, basis = draw_case(case)
            update = slot.view(weights - reference).double()
            inside = (basis.double().T @ update if side == "left" else update @ basis.double()).square().sum()
            torch.testing.assert_close(measure[0], inside, rtol=1e-5, atol=0)
            torch.testing.assert_close(measure[:2].sum(), update.square().sum(), rtol=1e-5, atol=0)
    # by rows, coordinates of a basis along the rows alone cross: (K, S) of two cases, in one bucket
    assert results["share_by_rows", "bucketed", "traffic"] == (1, 2 * 4 * RANK * NUM_COLUMNS)
