"""Puts the tasks of an evaluation together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

from safety_lightning.errors import UserError
from safety_lightning.evaluation.judges import Judge, check_harm_judges, choose_judges
from safety_lightning.evaluation.statistics import Clusters
from safety_lightning.evaluation.tasks.gsm8k import GSM8K
from safety_lightning.evaluation.tasks.harmful import HarmfulRequests, JudgedRequests
from safety_lightning.evaluation.tasks.lab import Lab
from safety_lightning.evaluation.tasks.math500 import MATH500
from safety_lightning.evaluation.tasks.mmlu import MMLU
from safety_lightning.evaluation.tasks.ordinary import OrdinaryRequests
from safety_lightning.evaluation.tasks.protocol import Task

TaskName = Literal["gsm8k", "math500", "mmlu", "harmful", "ordinary", "lab"]
#: Tasks of which no prompt is a harmful request: their prompts make no clusters.
HARMLESS_TASKS = frozenset({GSM8K.name, MATH500.name, MMLU.name, OrdinaryRequests.name, "lab_problems", "lab_ordinary"})


@dataclass(frozen=True, kw_only=True)
class TaskSuite:
    """Which tasks a model is measured on, with the settings of each.

    Attributes:
        tasks: ``gsm8k``, ``math500``, ``mmlu``, ``harmful``, ``ordinary``, ``lab``; one or more, each once.
        gsm8k: Settings of GSM8K.
        math500: Settings of MATH-500.
        mmlu: Settings of MMLU.
        harmful: Settings of harmful requests.
        ordinary: Settings of ordinary requests.
        lab: Settings of the lab, which is three tasks.
        judge: Who judges the answers to harmful requests.
        second_judge: A second opinion on them.
        second_opinion: Whether `RuleJudge` gives it where no second judge is named.
        clusters: ``twins``: near twins among harmful requests (Jaccard of content words of 0.6 or more) make a cluster,
            and intervals are over clusters; ``none``: each prompt counts as one. By default it is ``twins`` where there
            are two clusters or more.

    Raises:
        UserError: If no task is named, one twice or one that there is not, or ``harmful`` has no judge or
            one that reads no harm.
    """

    tasks: list[TaskName]
    gsm8k: GSM8K = field(default_factory=GSM8K)
    math500: MATH500 = field(default_factory=MATH500)
    mmlu: MMLU = field(default_factory=MMLU)
    harmful: HarmfulRequests = field(default_factory=HarmfulRequests)
    ordinary: OrdinaryRequests = field(default_factory=OrdinaryRequests)
    lab: Lab = field(default_factory=Lab)
    judge: Judge | None = None
    second_judge: Judge | None = None
    second_opinion: bool = True
    clusters: Clusters | None = None

    def __post_init__(self) -> None:
        known = get_args(TaskName)
        if not self.tasks:
            raise UserError(f"tasks must name one or more of {', '.join(known)}, got none")
        if len(set(self.tasks)) != len(self.tasks) or not set(self.tasks) <= set(known):
            raise UserError(f"tasks must be of {', '.join(known)}, each once, got {list(self.tasks)}")
        if self.clusters not in (None, *get_args(Clusters)):
            raise UserError(f"clusters must be twins or none, got {self.clusters!r}")
        check_harm_judges(one for one in (self.judge, self.second_judge) if one is not None)
        if "harmful" in self.tasks and self.harmful.needs_judge and self.judge is None:
            raise UserError(
                "the task harmful must have a judge, got none: give RuleJudge, LocalJudge or OpenAIJudge, or "
                "harmful.measures without harmfulness"
            )

    @property
    def judges(self) -> list[Judge]:
        """The judges of all tasks that are asked for, but for the lab's."""
        asked = [*self.harm_judges] if "harmful" in self.tasks else []
        return [*asked, *([self.ordinary.judge] if "ordinary" in self.tasks and self.ordinary.judge else [])]

    @property
    def harm_judges(self) -> list[Judge]:
        """The judges of harmful requests."""
        return choose_judges(self.judge, self.second_judge, second_opinion=self.second_opinion)

    def make_tasks(self) -> list[Task]:
        """Makes the tasks, in their order."""
        makers: dict[TaskName, Callable[[], list[Task]]] = {
            "gsm8k": lambda: [self.gsm8k],
            "math500": lambda: [self.math500],
            "mmlu": lambda: [self.mmlu],
            "harmful": lambda: [JudgedRequests(self.harmful, self.harm_judges)],
            "ordinary": lambda: [self.ordinary],
            "lab": self.lab.make_tasks,
        }
        return [task for name in self.tasks for task in makers[name]()]
