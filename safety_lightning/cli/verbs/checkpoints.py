"""Checkpoints of a fit: whole or absent on any file system, and the newest whole one to resume from."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from safety_lightning.files import atomic_path

STOPPED = "stopped-"
"""What the names of checkpoints begin with that a signal had written, out of the schedule."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it.

    Lightning's own writes it to TMPDIR and moves it; across file systems the move is a copy, which a kill tears.

    Attributes:
        last_step: Optimizer steps of the checkpoint that was written last; -1 before the first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.last_step = -1

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Writes a checkpoint; one on a remote file system as Lightning does."""
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            with atomic_path(Path(path)) as partial, partial.open("wb") as stream:
                torch.save(checkpoint, stream)
        self.last_step = int(checkpoint["global_step"])


@dataclass(frozen=True)
class FoundCheckpoint:
    """A checkpoint on disk.

    Attributes:
        path: The file, or the folder that processes share.
        step: Its optimizer steps; -1 where it cannot be read.
        fault: Why no run can resume from it; None where one can.
    """

    path: Path
    step: int
    fault: str | None = None


def find_newest(folders: Iterable[Path]) -> tuple[Path | None, list[FoundCheckpoint]]:
    """Finds the checkpoint of the most optimizer steps, whatever its name, that is whole.

    Args:
        folders: Where checkpoints lie; they need not exist.

    Returns:
        The checkpoint, None if there is none, and those that were passed over.
    """
    found = [_read(path) for folder in folders for path in sorted(folder.glob("*.ckpt"))]
    passed = [one for one in found if one.fault]
    for one in sorted((one for one in found if not one.fault), key=lambda one: one.step, reverse=True):
        fault = _verify(one.path)
        if fault is None:
            return one.path, passed
        passed.append(FoundCheckpoint(one.path, one.step, fault))
    return None, passed


def remove_stopped(folder: Path, *, strategy: Any) -> None:
    """Removes what signals had written out of the schedule."""
    for path in folder.glob(f"{STOPPED}*.ckpt"):
        strategy.remove_checkpoint(path)


def remove_replaced(resumed: Path, *, strategy: Any) -> None:
    """Removes the checkpoints that the one resumed from has replaced, where a kill came before they were removed.

    They are older than it, and its own record of the checkpoints that are kept does not name them. Where several
    callbacks write checkpoints, nothing is removed.
    """
    states = [one for name, one in _load(resumed).get("callbacks", {}).items() if name.startswith("ModelCheckpoint")]
    if len(states) != 1:
        return
    named = [states[0]["best_model_path"], states[0]["last_model_path"], *states[0]["best_k_models"]]
    kept = {Path(name).name for name in named} | {resumed.name}  # the folder may lie elsewhere now
    step = _read(resumed).step
    for path in resumed.parent.glob("*.ckpt"):
        is_last = path.name.startswith(ModelCheckpoint.CHECKPOINT_NAME_LAST)
        if path.name not in kept and not is_last and -1 < _read(path).step < step:
            strategy.remove_checkpoint(path)


def _read(path: Path) -> FoundCheckpoint:
    """Reads the step alone: weights stay on disk."""
    try:
        content = _load(path)
        step, is_resumable = int(content["global_step"]), "optimizer_states" in content or path.is_dir()
    except Exception as error:  # noqa: BLE001 (a damaged file can make any error, and none of them is ours)
        return FoundCheckpoint(path, -1, f"it cannot be read: {str(error).splitlines()[0] if str(error) else error!r}")
    return FoundCheckpoint(path, step, None if is_resumable else "it holds weights alone, without the optimizer")


def _load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(_find_file(path), map_location="cpu", weights_only=True, mmap=True)
    return content


def _verify(path: Path) -> str | None:
    """Reads a checkpoint against its checksums; returns what is wrong with it."""
    if path.is_dir() and not any((path / name).is_file() for name in (".metadata", "latest")):
        return "its .metadata is missing"
    try:
        with zipfile.ZipFile(_find_file(path)) as archive:
            bad = archive.testzip()
    except Exception as error:  # noqa: BLE001 (as above: a damaged header can make any error)
        return f"it cannot be read: {error}"
    return None if bad is None else f"{bad} in it is damaged"


def _find_file(path: Path) -> Path:
    """Returns the file that holds the step; processes that share a model write it last, into their folder."""
    return path / "meta.pt" if path.is_dir() else path
