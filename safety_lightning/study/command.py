"""The command `study`: the whole study, resumed where it was, and the report again from results alone."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

import yaml
from rich.console import Console

from safety_lightning.errors import UserError
from safety_lightning.files import write_atomically
from safety_lightning.printing import format_seconds, show_line
from safety_lightning.runs import RunFolder, describe_command, describe_environment
from safety_lightning.study.executors import check_executor, open_pool
from safety_lightning.study.plan import StudyGraph
from safety_lightning.study.planning import Estimator, check_plan, list_doubts, print_plan, sum_disk
from safety_lightning.study.running import choose_stages, run_stages
from safety_lightning.study.settings import StudyRun
from safety_lightning.study.stages import Stage, StageStore, hash_values
from safety_lightning.sweep.command import make_plain
from safety_lightning.system.processes import lead_processes

_IDENTITY = ("base", "reference", "reference_fit")
"""What makes a study this study and no other; all else may change, and what depends on it is made anew."""


def study(run: StudyRun) -> None:
    """Runs the command; of the processes that torchrun starts the first does, with as many workers.

    Raises:
        UserError: If a setting, a checkpoint, the folder or a worker is not what it must be.
    """
    num_processes = lead_processes()
    if num_processes == 0:
        return
    if num_processes > 1:
        run = replace(run, workers=replace(run.workers, num_workers=num_processes))
    console = Console(soft_wrap=True)
    folder = RunFolder(run.out, command="study", resume=True)
    graph = StudyGraph(run, is_light=run.dry_run and folder.is_free())
    stages, store = graph.list_stages(), StageStore(run.out)
    _check_identity(run, folder)
    if run.dry_run:
        print_plan(run, stages, store, console=console)
        return
    chosen = choose_stages(stages, run.only, store)
    began = time.monotonic()
    waiting = [one for one in chosen if not store.is_done(one)]
    check_plan(run, waiting)
    check_executor(run.executor, run.workers)
    _check_disk(run, folder, waiting)
    for line in list_doubts(run) if waiting else []:
        show_line(console, line)
    for stage in {_describe_check(one): one for one in waiting}.values():
        with quietly():
            stage.check(run.out)
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


def _check_disk(run: StudyRun, folder: RunFolder, waiting: Sequence[Stage]) -> None:
    """Raises UserError if the stages that wait leave more than the disk has room for."""
    estimator = Estimator(run)
    needed = sum_disk([estimator.estimate(stage) for stage in waiting], num_workers=run.workers.num_workers)
    folder.check(num_bytes=needed)


def _write_settings(run: StudyRun, folder: RunFolder) -> None:
    """Writes the manifest, by which a study is known when it was killed next, and the resolved options."""
    manifest = folder.read_manifest()
    settings = _list_settings(run)
    started = [*manifest.get("started", []), describe_environment() | {"command": describe_command()}]
    identity = {name: settings[name] for name in _IDENTITY}
    folder.write_manifest(
        {"verb": "study", "identity": identity, "settings_hash": hash_values(settings), "started": started}
    )
    write_atomically(folder.path / "config.yaml", yaml.safe_dump(settings, sort_keys=False))


def _describe_check(stage: Stage) -> str:
    """Returns what a stage's check depends on: fine-tunes that differ in their seed alone are checked once."""
    return hash_values({"kind": type(stage).__name__, **{k: v for k, v in stage.recipe.items() if k != "seed"}})


def _check_identity(run: StudyRun, folder: RunFolder) -> None:
    """Raises UserError if the folder holds anything but this study."""
    if folder.is_free():
        return
    manifest = folder.read_manifest()
    if manifest.get("verb") != "study":
        raise UserError(f"study folder {run.out} must be free or hold this study, it holds something else")
    settings = _list_settings(run)
    for name, before in manifest["identity"].items():
        if before != settings[name]:
            raise UserError(
                f"study folder {run.out} must be free or hold this study, it holds one whose {name} is {before}, "
                f"not {settings[name]}"
            )


def _list_settings(run: StudyRun) -> dict[str, Any]:
    """Returns settings as plain values, which YAML holds and the command takes again."""
    settings = {one.name: make_plain(getattr(run, one.name)) for one in fields(run)}
    settings["variants"]["methods"] = [one.to_recipe() for one in run.variants.methods]
    return settings
