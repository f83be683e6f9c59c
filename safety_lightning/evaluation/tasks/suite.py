"""Puts the tasks of an evaluation together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

from safety_lightning.errors import UserError
from safety_lightning.evaluation.judges import Judge
from safety_lightning.evaluation.tasks.gsm8k import GSM8K
from safety_lightning.evaluation.tasks.harmful import HarmfulRequests, JudgedRequests
from safety_lightning.evaluation.tasks.lab import Lab
from safety_lightning.evaluation.tasks.ordinary import OrdinaryRequests
from safety_lightning.evaluation.tasks.protocol import Task

TaskName = Literal["gsm8k", "harmful", "ordinary", "lab"]
Clusters = Literal["twins", "none"]


@dataclass(frozen=True, kw_only=True)
class TaskSuite:
    """Which tasks a model is measured on, with the settings of each.

    Attributes:
        tasks: ``gsm8k``, ``harmful``, ``ordinary``, ``lab``; one or more, each once.
        gsm8k: Settings of GSM8K.
        harmful: Settings of harmful requests.
        ordinary: Settings of ordinary requests.
        lab: Settings of the lab, which is three tasks.
        judge: Who judges the answers to harmful requests.
        second_judge: A second opinion on them.
        clusters: ``twins``: near twins among harmful requests (Jaccard of content words of 0.6 or more) make a cluster,
            and intervals are over clusters; ``none``: each prompt counts as one.

    Raises:
        UserError: If no task is named, one twice or one that there is not, or ``harmful`` has no judge.
    """

    tasks: list[TaskName]
    gsm8k: GSM8K = field(default_factory=GSM8K)
    harmful: HarmfulRequests = field(default_factory=HarmfulRequests)
    ordinary: OrdinaryRequests = field(default_factory=OrdinaryRequests)
    lab: Lab = field(default_factory=Lab)
    judge: Judge | None = None
    second_judge: Judge | None = None
    clusters: Clusters = "twins"

    def __post_init__(self) -> None:
        known = get_args(TaskName)
        if not self.tasks:
            raise UserError(f"tasks must name one or more of {', '.join(known)}, got none")
        if len(set(self.tasks)) != len(self.tasks) or not set(self.tasks) <= set(known):
            raise UserError(f"tasks must be of {', '.join(known)}, each once, got {list(self.tasks)}")
        if self.clusters not in get_args(Clusters):
            raise UserError(f"clusters must be twins or none, got {self.clusters!r}")
        if "harmful" in self.tasks and self.harmful.needs_judge and self.judge is None:
            raise UserError(
                "the task harmful must have a judge, got none: give RuleJudge, LocalJudge or OpenAIJudge, or "
                "harmful.measures without harmfulness"
            )

    @property
    def judges(self) -> list[Judge]:
        """The judges of harmful requests."""
        return [judge for judge in (self.judge, self.second_judge) if judge is not None]

    def make_tasks(self) -> list[Task]:
        """Makes the tasks, in their order."""
        makers: dict[TaskName, Callable[[], list[Task]]] = {
            "gsm8k": lambda: [self.gsm8k],
            "harmful": lambda: [JudgedRequests(self.harmful, self.judges)],
            "ordinary": lambda: [self.ordinary],
            "lab": self.lab.make_tasks,
        }
        return [task for name in self.tasks for task in makers[name]()]
