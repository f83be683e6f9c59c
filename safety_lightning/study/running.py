"""Runs the stages of a study, each when what it needs is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from rich.console import Console

from safety_lightning.errors import UserError
from safety_lightning.printing import format_seconds, show_line
from safety_lightning.study.executors import LostWorkerError, Pool
from safety_lightning.study.stages import Stage, StageStore


@dataclass
class Progress:
    """Says which stages have ended, and about how long the rest will take.

    Attributes:
        stages: All stages that are to be run.
        num_workers: How many run at once.
        console: Where to print.
        seconds: How long stages took that have ended, by what their names begin with.
    """

    stages: Sequence[Stage]
    num_workers: int
    console: Console
    seconds: dict[str, list[float]] = field(default_factory=dict)
    num_ended: int = 0

    def end(self, stage: Stage, seconds: float | None, *, is_old: bool) -> None:
        """Says that a stage has ended, or had been done before."""
        self.num_ended += 1
        if seconds is not None:
            self.seconds.setdefault(_find_kind(stage), []).append(seconds)
        state = "done before" if is_old else f"done in {format_seconds(seconds or 0.0)}"
        left = self._estimate()
        note = f"; about {format_seconds(left)} left" if left and not is_old else ""
        show_line(self.console, f"[{self.num_ended}/{len(self.stages)}] {stage.name}: {state}{note}")

    def _estimate(self) -> float | None:
        """Returns the seconds that are left, by stages of the same kind; None while a kind has not been seen."""
        left = self.stages[self.num_ended :]
        known = [self.seconds.get(_find_kind(one)) for one in left if _find_kind(one) not in ("statistics", "report")]
        if any(one is None for one in known):
            return None
        return sum(sum(one) / len(one) for one in known if one) / self.num_workers


def run_stages(stages: Sequence[Stage], store: StageStore, pool: Pool, *, console: Console, max_retries: int) -> None:
    """Runs stages; those that are done are left as they are.

    Args:
        stages: The stages, each behind what it needs.
        store: What is done.
        pool: Where they run.
        console: Where to print.
        max_retries: How often a stage is run again whose worker was lost.

    Raises:
        UserError: As a stage; what is finished is kept.
    """
    by_name = {stage.name: stage for stage in stages}
    progress = Progress(stages, pool.num_workers, console)
    waiting, running, done = dict(by_name), set[str](), set[str]()
    losses: dict[str, int] = {}

    def is_met(need: Stage) -> bool:
        return need.name in done or need.name not in by_name

    while waiting or running:
        for stage in [one for one in waiting.values() if all(is_met(need) for need in one.needs)]:
            if store.is_done(stage):
                del waiting[stage.name]
                done.add(stage.name)
                progress.end(stage, store.read_seconds(stage), is_old=True)
            elif len(running) < pool.num_workers:
                del waiting[stage.name]
                running.add(stage.name)
                pool.submit(store.study, stage)
        if not running:
            continue
        for name, error in pool.collect():
            running.discard(name)
            if isinstance(error, LostWorkerError) and losses.get(name, 0) < max_retries:
                losses[name] = losses.get(name, 0) + 1
                waiting[name] = by_name[name]
                show_line(console, f"{name}: its worker was lost, it is run again")
            elif isinstance(error, LostWorkerError):
                raise UserError(f"stage {name} lost its worker {max_retries + 1} times: {error}") from error
            elif error is not None:
                raise error
            else:
                done.add(name)
                progress.end(by_name[name], store.read_seconds(by_name[name]), is_old=False)


def choose_stages(stages: Sequence[Stage], patterns: Sequence[str], store: StageStore) -> list[Stage]:
    """Returns the stages that names or patterns name; all without patterns.

    Raises:
        UserError: If a pattern names none, or a stage needs one that is neither named nor done.
    """
    if not patterns:
        return list(stages)
    for pattern in patterns:
        if not any(fnmatchcase(stage.name, pattern) for stage in stages):
            raise UserError(f"only must name stages, {pattern!r} names none of {', '.join(one.name for one in stages)}")
    chosen = [one for one in stages if any(fnmatchcase(one.name, pattern) for pattern in patterns)]
    for stage in chosen:
        missing = [one.name for one in stage.needs if one not in chosen and not store.is_done(one)]
        if missing:
            raise UserError(f"stage {stage.name} must come after {missing[0]}, which is not done")
    return chosen


def _find_kind(stage: Stage) -> str:
    return stage.name.partition("/")[0]
