"""A run folder: never overwritten, one command's at a time, its files whole or absent, with a manifest to repeat it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from safety_lightning.errors import UserError
from safety_lightning.files import PARTIAL, expand, find_parent, remove_leftovers, write_atomically
from safety_lightning.system.disks import format_bytes

LOCK = ".lock"
"""The file in a run folder that the process at work holds; a killed process leaves it behind, held by nobody."""

_PACKAGES = ["safety_lightning", "torch", "lightning", "transformers", "datasets", "safetensors", "torchmetrics"]


class RunFolder:
    """The folder of one run.

    Args:
        path: The folder; None makes a fresh name under ``logs/``.
        command: The command that runs, which fresh names begin with.
        resume: Whether an earlier run of this folder is resumed; a folder that is free is begun all the same, so that
            one command serves a job that is started again and again.
    """

    def __init__(self, path: Path | str | None, *, command: str, resume: bool = False) -> None:
        self.path = _name_fresh_folder(command) if path is None else expand(path, what="run folder")
        self.resume = resume
        self._lock: FileLock | None = None

    def is_free(self) -> bool:
        """Says whether the folder is missing or empty; a file that a killed run did not finish is nothing."""
        if not self.path.is_dir():
            return not self.path.exists()
        return all(file.name == LOCK or file.name.endswith(PARTIAL) for file in self.path.iterdir())

    def acquire(self) -> None:
        """Makes the folder this process's own until `release`, or its end, and removes what killed processes left.

        Raises:
            UserError: If another process has it, or the folder cannot be made.
        """
        if self._lock is not None:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / LOCK)
            lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(
                f"run folder {self.path} must be one command's at a time, another one is at work in it now"
            ) from error
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise UserError(f"run folder {self.path} must be a folder to write in, it is not: {error}") from error
        self._lock = lock
        remove_leftovers(self.path)

    def release(self) -> None:
        """Lets go of the folder; one in which nothing was written is removed."""
        if self._lock is None:
            return
        Path(self._lock.lock_file).unlink(missing_ok=True)  # while it is held: who waits for it sees that it is gone
        self._lock.release()
        self._lock = None
        if self.path.is_dir() and not any(self.path.iterdir()):
            self.path.rmdir()

    @contextmanager
    def releasing(self) -> Iterator[None]:
        """Lets go of the folder at the end of a block, in which it may be acquired."""
        try:
            yield
        finally:
            self.release()

    def check(self, *, num_bytes: int = 0) -> None:
        """Checks that the run can be written, writing nothing.

        Args:
            num_bytes: How much the run will write, about.

        Raises:
            UserError: If the folder exists and is not to be resumed, cannot be written, or the disk is too full.
        """
        parent = find_parent(self.path, what="run folder")
        if not self.resume and not self.is_free():
            raise UserError(
                f"run folder {self.path} must not exist yet: it is never overwritten. Choose another --run_dir, or go "
                "on with its run by --ckpt_path last"
            )
        if self.resume and not self.is_free() and not self._has_begun():
            raise UserError(f"run folder {self.path} must hold a run to resume, it holds no manifest.json")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise UserError(f"run folder {self.path} must be writable, there is no permission to write in {parent}")
        free = shutil.disk_usage(parent).free
        if free < num_bytes:
            raise UserError(
                f"run folder {self.path} needs about {format_bytes(num_bytes)}, the disk has {format_bytes(free)} free"
            )

    def create(self) -> None:
        """Makes the folder and holds it until `release`.

        Raises:
            UserError: As `check` and `acquire`; it is checked again when it is held, for another run may have come
                between.
        """
        self.check()
        self.acquire()
        try:
            self.check()
        except UserError:
            self.release()
            raise

    def _has_begun(self) -> bool:
        """Whether a run wrote its manifest, or was killed after its configuration, which comes first."""
        names = {file.name for file in self.path.iterdir() if not file.name.endswith(PARTIAL)}
        return "manifest.json" in names or names <= {LOCK, "config.yaml"}

    def read_manifest(self) -> dict[str, Any]:
        """Returns the manifest, empty when none is written yet."""
        file = self.path / "manifest.json"
        return dict(json.loads(file.read_text())) if file.is_file() else {}

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        """Writes ``manifest.json``."""
        write_atomically(self.path / "manifest.json", json.dumps(manifest, indent=2) + "\n")


def describe_command() -> list[str]:
    """Returns the command line that this process runs."""
    return ["python -m safety_lightning", *sys.argv[1:]]


def describe_environment() -> dict[str, Any]:
    """Returns versions, the git commit of the code, and the machine: what a manifest says of where a run ran."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu"
    return {
        "versions": {"python": platform.python_version(), **{name: find_version(name) for name in _PACKAGES}},
        "git_commit": find_git_commit(),
        "device": device,
        "num_threads": torch.get_num_threads(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def find_git_commit() -> str | None:
    """Returns the commit of the code with ``-dirty`` behind it when files differ; None outside a repository."""
    folder = Path(__file__).resolve().parent

    def run_git(*args: str) -> str | None:
        try:
            done = subprocess.run(["git", *args], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    if run_git("ls-files", "--error-unmatch", __file__) is None:
        return None  # installed into somebody else's repository
    commit = run_git("rev-parse", "HEAD")
    return f"{commit}-dirty" if commit and run_git("status", "--porcelain", "--untracked-files=no") else commit


def find_version(package: str) -> str | None:
    """Returns the version of an installed package, None when it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _name_fresh_folder(command: str) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    path, number = Path("logs") / f"{command}-{stamp}", 1
    while path.exists():
        path, number = Path("logs") / f"{command}-{stamp}-{number}", number + 1
    return path
