"""Finds out how this process was launched, so that processes that work together share one run folder."""

from __future__ import annotations

import os

from lightning.pytorch.utilities import rank_zero_only

from safety_lightning.errors import UserError

RUN_DIR_VARIABLE = "SAFETY_LIGHTNING_RUN_DIR"  # how started processes learn the folder of the first


def find_rank() -> int:
    """Returns this process's rank, which launchers tell by the environment before any process group exists."""
    return int(getattr(rank_zero_only, "rank", 0))


def share_run_dir(run_dir: str | None) -> str | None:
    """Returns the folder that was asked for; processes that the first one started share its fresh folder.

    Raises:
        UserError: If another launcher (torchrun, Slurm) started several processes without a folder to share.
    """
    if run_dir is not None or ("RANK" not in os.environ and find_rank() == 0):
        return run_dir
    if RUN_DIR_VARIABLE not in os.environ:
        raise UserError("--run_dir must be given when several processes are started together, got none")
    return os.environ[RUN_DIR_VARIABLE]
