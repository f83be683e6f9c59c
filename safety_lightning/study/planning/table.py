"""Prints what a study will take before it begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from safety_lightning.printing import PlainTable, format_seconds, show_line, show_table
from safety_lightning.study.planning.checks import list_doubts
from safety_lightning.study.planning.estimates import Estimate, Estimator, sum_disk
from safety_lightning.study.planning.judging import list_paid_judges
from safety_lightning.study.planning.texts import PROMPT_TOKENS, RESPONSE_TOKENS
from safety_lightning.study.settings import StudyRun
from safety_lightning.study.stages import Stage, StageStore
from safety_lightning.system.disks import format_bytes


def print_plan(run: StudyRun, stages: Sequence[Stage], store: StageStore, *, console: Console) -> None:
    """Prints a line a kind of stage, the sums, and what they stand on.

    Args:
        run: The study.
        stages: Its stages.
        store: What is done.
        console: Where to print.
    """
    estimator = Estimator(run)
    estimates = {stage.name: estimator.estimate(stage) for stage in stages}
    done = {stage.name for stage in stages if store.is_done(stage)}
    has_judges = bool(list_paid_judges(run.measures.data))
    judged = ["judged", "at most"] if has_judges else []
    table = PlainTable("the plan", names=["stages"], numbers=["number", "done", "time", "memory", "disk", *judged])
    groups: dict[str, list[str]] = {}
    for stage in stages:
        groups.setdefault(stage.name.partition("/")[0], []).append(stage.name)
    for kind, names in [*groups.items(), ("all", [stage.name for stage in stages])]:
        own = {name: estimates[name] for name in names}
        cells = format_estimates(list(own.values()), num_workers=run.workers.num_workers)
        table.add_line(kind, str(len(own)), str(len(done & set(own))), *cells[: 3 + len(judged)])
    show_table(console, table)
    for line in list_notes(run, estimator, {name: one for name, one in estimates.items() if name not in done}):
        show_line(console, line)


def format_estimates(estimates: Sequence[Estimate], *, num_workers: int) -> list[str]:
    """Formats what stages take together: time, memory, disk, answers judged, and their price; empty where not known.

    The largest memory counts, for stages give theirs back, and of what lies on the disk for a while the most at a time.

    Args:
        estimates: What each takes.
        num_workers: How many run at once.
    """
    seconds = [one.seconds for one in estimates if one.seconds is not None]
    memory = [one.memory_bytes for one in estimates if one.memory_bytes is not None]
    disk = sum_disk(estimates, num_workers=num_workers)
    judged, usd = ([getattr(one, name) for one in estimates] for name in ("num_judged", "usd"))
    return [
        format_seconds(sum(seconds)) if seconds else "",
        format_bytes(max(memory)) if memory else "",
        format_bytes(disk) if disk else "",
        _sum(judged, "{:,.0f}"),
        _sum(usd, "{:,.2f} USD"),
    ]


def list_notes(run: StudyRun, estimator: Estimator, waiting: Mapping[str, Estimate]) -> list[str]:
    """Lists what the plan stands on, a line each.

    Args:
        run: The study.
        estimator: What estimated.
        waiting: The stages that are not done, with what they take.
    """
    left = sum(one.seconds or 0.0 for one in waiting.values())
    workers = run.workers.num_workers
    at_once = f", about {format_seconds(left / workers)} with {workers} at once" if workers > 1 else ""
    lines = [
        f"Left         {format_seconds(left)} one after the other{at_once}" if left else "Left         nothing",
        f"Machine      {estimator.machine.describe()}",
        f"Model        {estimator.num_weights:,} weights; training takes 6 operations a weight and token (8 where "
        "activations are made again), reading 2",
        "Empty        not estimated; overheads of small models, waiting for judges and the shared hub are not in it",
    ]
    if estimator.tokenizer is None or any(one.is_assumed for one in estimator.measurements.values()):
        lines.append(
            f"Texts        data of the hub are not read: rows to train on count at their longest, others as "
            f"{PROMPT_TOKENS} + {RESPONSE_TOKENS} tokens; answers count at their longest"
        )
    for judge in list_paid_judges(run.measures.data):
        price = "no list price is known" if judge.prices is None else f"{judge.prices[0]:g} and {judge.prices[1]:g} USD"
        key = "" if judge.has_key else f"; its key in {judge.key_variable} is missing"
        behind = "" if judge.prices is None else " a million tokens, sent and received; longest replies"
        lines.append(f"Judge        {judge.place}: {judge.model}, {price}{behind}{key}")
    return [*lines, *list_doubts(run), f"Executor     {run.executor}, {workers} at once", f"Folder       {run.out}"]


def _sum(numbers: Sequence[Any], form: str) -> str:
    known = [one for one in numbers if one is not None]
    return form.format(sum(known)) if len(known) == len(numbers) and any(known) else ""
