"""Says what a study will take before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from safety_lightning.printing import PlainTable, show_line, show_table
from safety_lightning.study.running import format_seconds
from safety_lightning.study.settings import StudyRun
from safety_lightning.study.stages import Estimate, Stage, StageStore
from safety_lightning.system.disks import format_bytes


def print_plan(run: StudyRun, stages: Sequence[Stage], store: StageStore, *, console: Console) -> None:
    """Prints a line a kind of stage, and the sums.

    Args:
        run: The study.
        stages: Its stages.
        store: What is done.
        console: Where to print.
    """
    table = PlainTable(
        "the plan", names=["stages"], numbers=["number", "done", "time", "memory", "disk", "judge calls"]
    )
    groups: dict[str, list[Stage]] = {}
    for stage in stages:
        groups.setdefault(stage.name.partition("/")[0], []).append(stage)
    estimates = {stage.name: stage.estimate(run.out) for stage in stages}
    for kind, own in groups.items():
        done = sum(store.is_done(one) for one in own) if Path(run.out).exists() else 0
        table.add_line(kind, str(len(own)), str(done), *_format(add([estimates[one.name] for one in own])))
    whole = add(list(estimates.values()))
    table.add_line("all", str(len(stages)), "", *_format(whole))
    show_table(console, table)
    if whole.seconds is not None:
        at_once = run.workers.num_workers
        show_line(console, f"Time         about {format_seconds(whole.seconds / at_once)} with {at_once} worker(s)")
    show_line(console, f"Executor     {run.executor}")
    show_line(console, f"Folder       {run.out}")


def add(estimates: Sequence[Estimate]) -> Estimate:
    """Adds up estimates; memory is the largest, for stages give theirs back."""
    known = [one.seconds for one in estimates if one.seconds is not None]
    return Estimate(
        seconds=sum(known) if known else None,
        memory_bytes=max((one.memory_bytes for one in estimates), default=0),
        disk_bytes=sum(one.disk_bytes for one in estimates),
        judge_calls=sum(one.judge_calls for one in estimates),
    )


def _format(estimate: Estimate) -> list[str]:
    time = "" if estimate.seconds is None else format_seconds(estimate.seconds)
    sizes = [format_bytes(one) if one else "" for one in (estimate.memory_bytes, estimate.disk_bytes)]
    return [time, *sizes, str(estimate.judge_calls or "")]
