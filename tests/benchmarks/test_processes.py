"""Fits in turns: what is counted, against counts by hand, and the sections in real processes at toy size."""

import itertools
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from benchmarks.common import Setup
from benchmarks.processes.counting import CollectiveCounter, count_coordinates
from benchmarks.processes.fit import Found, Request
from benchmarks.processes.sections import STRATEGIES, list_ratios, measure_lora, measure_sharded, measure_strategies


def test_collective_operations_are_counted_beneath_what_asks_for_them(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        with CollectiveCounter() as counter:
            dist.all_reduce(torch.zeros(3))
            dist.all_reduce(torch.zeros(2, 2, dtype=torch.float64), async_op=True).wait()
            dist.broadcast(torch.zeros(5), src=0)
            torch.zeros(7) + 1
        dist.all_reduce(torch.zeros(9))
    finally:
        dist.destroy_process_group()
    assert counter.calls == {"allreduce_": 2, "broadcast_": 1}
    assert counter.num_bytes == {"allreduce_": 3 * 4 + 4 * 8, "broadcast_": 5 * 4}


def test_coordinates_are_k_numbers_a_column() -> None:
    """A quarter of 16 is 4, for 16 and 24 columns; of 7 it is 1, for 9 columns; a vector has one of one."""
    assert count_coordinates([(24, 16), (16, 24), (7, 9), (20,)], 0.25) == 4 * (4 * 16 + 4 * 24 + 9 + 1)


def make_request(**chosen: object) -> Request:
    plan = {
        "base": "b",
        "reference": "r",
        "subspace": "s",
        "fraction": 0.25,
        "component": "orthogonal",
        "strategy": "auto",
        "num_processes": 1,
        "num_micro_batches": 1,
        "num_rows": 1,
        "num_tokens": 8,
        "num_pairs": 3,
    }
    return Request(**(plan | chosen))


@pytest.mark.parametrize("num_pairs", [0, 1, 2, 3])
def test_steps_take_turns_between_those_that_warm_up_and_the_one_that_is_counted(num_pairs: int) -> None:
    steps = make_request(num_pairs=num_pairs).list_steps()
    assert steps[:2] == [False, True]
    assert steps[-1] is True
    pairs = [*itertools.batched(steps[2:-1], 2)] if hasattr(itertools, "batched") else []
    pairs = pairs or [tuple(steps[at : at + 2]) for at in range(2, len(steps) - 1, 2)]
    assert pairs == [(False, True), (True, False), (False, True)][:num_pairs]


def test_ratios_are_of_pairs() -> None:
    found = Found(
        with_seconds=[3.0, 2.0], without_seconds=[2.0, 4.0], projection_seconds=[1.0, 1.0, 1.0], calls={}, num_bytes={}
    )
    assert list_ratios(found) == [1.5, 0.5]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_send_what_was_counted_by_hand() -> None:
    sent, calls, *memory = measure_sharded(Setup(num_pairs=1, is_toy=True))
    assert sent.ratios == [1.0]
    assert calls.ratios == [1]
    assert "other collective operations: 0" in calls.note
    assert all(one.ratios[0] > 0 for one in memory)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_adapters_update_stays_in_its_subspace() -> None:
    steps, energy = measure_lora(Setup(num_pairs=2, is_toy=True))
    assert len(steps.ratios) == 2
    assert 0 < energy.ratios[0] < 1e-6


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_steps_are_timed_under_every_strategy() -> None:
    pytest.importorskip("deepspeed")
    results = list(measure_strategies(Setup(num_pairs=1, is_toy=True)))
    assert [one.name.split()[5] for one in results] == [f"{strategy}:" for strategy in STRATEGIES]
    assert all(len(one.ratios) == 1 and one.ratios[0] > 0 for one in results)
    assert not any("takes 0.000" in one.note for one in results)
