"""Says what a study will take before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from safety_lightning.printing import PlainTable, show_line, show_table
from safety_lightning.study.settings import StudyRun
from safety_lightning.study.stages import Stage, StageStore
from safety_lightning.system.disks import format_bytes


def print_plan(run: StudyRun, stages: Sequence[Stage], store: StageStore, *, console: Console) -> None:
    """Prints a line a kind of stage, and the sums.

    Args:
        run: The study.
        stages: Its stages.
        store: What is done.
        console: Where to print.
    """
    table = PlainTable("the plan", names=["stages"], numbers=["number", "done", "memory", "disk"])
    groups: dict[str, list[Stage]] = {}
    for stage in stages:
        groups.setdefault(stage.name.partition("/")[0], []).append(stage)
    for kind, own in groups.items():
        table.add_line(kind, *_format(own, store, run.out))
    table.add_line("all", *_format(stages, store, run.out))
    show_table(console, table)
    show_line(console, f"Executor     {run.executor}, {run.workers.num_workers} at once")
    show_line(console, f"Folder       {run.out}")


def _format(stages: Sequence[Stage], store: StageStore, study: Path) -> list[str]:
    """Formats what stages take together: the largest memory, for they give theirs back, and all of the disk."""
    estimates = [stage.estimate(study) for stage in stages]
    memory, disk = max(one.memory_bytes for one in estimates), sum(one.disk_bytes for one in estimates)
    sizes = [format_bytes(one) if one else "" for one in (memory, disk)]
    return [str(len(stages)), str(sum(store.is_done(stage) for stage in stages)), *sizes]
