"""The command `study`: the whole study, resumed where it was, and the report again from results alone."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from safety_lightning.errors import UserError
from safety_lightning.files import find_parent, write_atomically
from safety_lightning.methods import Method
from safety_lightning.runs import RunFolder, describe_command, describe_environment
from safety_lightning.study.executors import open_pool
from safety_lightning.study.plan import StudyGraph
from safety_lightning.study.planning import print_plan
from safety_lightning.study.running import choose_stages, format_seconds, run_stages
from safety_lightning.study.settings import StudyRun
from safety_lightning.study.stages import StageStore, hash_values
from safety_lightning.system.disks import format_bytes

_IDENTITY = ("base", "reference", "reference_fit")
"""What makes a study this study and no other; all else may change, and what depends on it is made anew."""


def study(run: StudyRun) -> None:
    """Runs the command.

    Raises:
        UserError: If a setting, a checkpoint, the folder or a worker is not what it must be.
    """
    console = Console(soft_wrap=True)
    graph = StudyGraph(run, is_light=run.dry_run)
    stages, store = graph.list_stages(), StageStore(run.out)
    find_parent(run.out, what="study folder")
    _check_identity(run)
    if run.dry_run:
        print_plan(run, stages, store, console=console)
        return
    chosen = choose_stages(stages, run.only, store)
    began = time.monotonic()
    waiting = [one for one in chosen if not store.is_done(one)]
    for stage in waiting:
        with quietly():
            stage.check(run.out)
    _check_disk(run.out, sum(stage.estimate(run.out).disk_bytes for stage in waiting))
    folder = RunFolder(run.out, command="study", resume=True)
    with folder.releasing() if not run.only else contextlib.nullcontext():
        if not run.only:
            folder.acquire()
        _write_settings(run, folder)
        with open_pool(run.executor, run.workers, folder=str(run.out / "jobs")) as pool:
            run_stages(chosen, store, pool, console=console, max_retries=run.workers.max_retries)
    if not run.only:
        console.print(f"Study {run.out} is done ({format_seconds(time.monotonic() - began)} in this process).")


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keeps what a command prints while it is checked from the terminal, but for the error that ends it."""
    if sys.stdout.isatty():
        yield
        return
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            yield
    except SystemExit:
        lines = printed.getvalue().splitlines()
        at = next((place for place, line in enumerate(lines) if line.startswith("error:")), len(lines) - 1)
        print("\n".join(lines[max(at, 0) :]), file=sys.stderr)  # noqa: T201 (a command's own error)
        raise


def _write_settings(run: StudyRun, folder: RunFolder) -> None:
    """Writes the resolved options and the manifest; those of the first start stay beside those of the last."""
    manifest = folder.read_manifest()
    settings = make_plain(run)
    started = [*manifest.get("started", []), describe_environment() | {"command": describe_command()}]
    write_atomically(folder.path / "config.yaml", yaml.safe_dump(settings, sort_keys=False))
    identity = {name: settings[name] for name in _IDENTITY}
    folder.write_manifest(
        {"verb": "study", "identity": identity, "settings_hash": hash_values(settings), "started": started}
    )


def _check_identity(run: StudyRun) -> None:
    """Raises UserError if the folder holds anything but this study."""
    folder = RunFolder(run.out, command="study", resume=True)
    if folder.is_free():
        return
    manifest = folder.read_manifest()
    if manifest.get("verb") != "study":
        raise UserError(f"study folder {run.out} must be free or hold this study, it holds something else")
    settings = make_plain(run)
    for name, before in manifest["identity"].items():
        if before != settings[name]:
            raise UserError(
                f"study folder {run.out} must be free or hold this study, it holds one whose {name} is {before}, "
                f"not {settings[name]}"
            )


def _check_disk(folder: Path, num_bytes: int) -> None:
    place = find_parent(folder, what="study folder")
    state = os.statvfs(place)
    free = state.f_bavail * state.f_frsize
    if free < num_bytes:
        raise UserError(
            f"study folder {folder} needs about {format_bytes(num_bytes)}, the disk has {format_bytes(free)}"
        )


def make_plain(value: Any) -> Any:
    """Returns settings as plain values, which YAML holds and the command takes again."""
    if isinstance(value, Method):
        return value.to_recipe()
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: make_plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, dict):
        return {name: make_plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [make_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value
