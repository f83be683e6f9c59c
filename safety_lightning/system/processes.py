"""Processes that work together: how this one was launched, what they share, and who does what."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
from lightning_utilities.core.rank_zero import rank_zero_only

from safety_lightning.errors import UserError

RUN_DIR_VARIABLE = "SAFETY_LIGHTNING_RUN_DIR"  # how started processes learn the run folder of the first
_LAUNCH_VARIABLES = [f"{one}{what}" for one in ("", "LOCAL_", "GROUP_", "ROLE_") for what in ("RANK", "WORLD_SIZE")]
_LAUNCH_VARIABLES += ["MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"]
_PATIENCE = timedelta(days=7)  # one process may work on long after another is done


def process_rank() -> int:
    """Returns this process's number: Lightning's where it has been imported, else torchrun's."""
    rank: int | None = getattr(rank_zero_only, "rank", None)
    return int(os.environ.get("RANK", "0")) if rank is None else rank


def share_run_dir(run_dir: str | None) -> str | None:
    """Returns the folder that was asked for; processes that the first one started share its fresh folder.

    Raises:
        UserError: If another launcher (torchrun, Slurm) started several processes without a folder to share.
    """
    if run_dir is not None or ("RANK" not in os.environ and process_rank() == 0):
        return run_dir
    if RUN_DIR_VARIABLE not in os.environ:
        raise UserError("--run_dir must be given when several processes are started together, got none")
    return os.environ[RUN_DIR_VARIABLE]


def count_processes() -> int:
    """Returns how many processes were started together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def lead_processes() -> int:
    """Makes the first of the processes that torchrun started on this machine the only one that works.

    What torchrun told it is forgotten, so that what it starts is not taken for a process of that launch.

    Returns:
        How many were started, 1 without torchrun; in all but the first 0, and they have nothing to do.

    Raises:
        UserError: If they were started on several machines.
    """
    num_processes = count_processes()
    if num_processes == 1:
        return 1
    if int(os.environ.get("LOCAL_WORLD_SIZE", num_processes)) != num_processes:
        raise UserError(f"torchrun must start all processes on one machine, got {num_processes} on several")
    if int(os.environ["RANK"]) > 0:
        return 0
    for name in _LAUNCH_VARIABLES:
        os.environ.pop(name, None)
    return num_processes


@contextmanager
def join_processes() -> Iterator[None]:
    """Joins the processes of one launch for the time of a block."""
    if count_processes() == 1:
        yield
        return
    torch.distributed.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield
        torch.distributed.barrier()  # or the first to leave can make another abort
    finally:
        torch.distributed.destroy_process_group()


def barrier() -> None:
    """Waits until every process has come here."""
    if count_processes() > 1:
        torch.distributed.barrier()


def broadcast(numbers: Sequence[int]) -> list[int]:
    """Returns the numbers of the first process in every process."""
    if count_processes() == 1:
        return list(numbers)
    told: list[list[int]] = [list(numbers)]
    torch.distributed.broadcast_object_list(told, src=0)
    return told[0]


def share_out(numbers: Sequence[int], costs: Sequence[float], *, rank: int, num_processes: int) -> list[int]:
    """Returns the share of one process: the costliest first, each to whoever has the least to do.

    Args:
        numbers: What is to be done.
        costs: What each costs, in any unit.
        rank: Which process.
        num_processes: How many there are.

    Returns:
        The process's numbers in their own order.

    Example:
        >>> [share_out([0, 1, 2], [1.0, 3.0, 2.0], rank=rank, num_processes=2) for rank in range(2)]
        [[1], [0, 2]]
    """
    loads = [0.0] * num_processes
    shares: list[list[int]] = [[] for _ in range(num_processes)]
    for cost, number in sorted(zip(costs, numbers, strict=True), key=lambda pair: (-pair[0], pair[1])):
        least = min(range(num_processes), key=lambda process: loads[process])
        loads[least] += cost
        shares[least].append(number)
    return sorted(shares[rank])
