"""What every task can do: give prompts, and say how the answers to them are graded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from safety_lightning.evaluation.engines import AnswerLimits
from safety_lightning.evaluation.measurement import MetricSpec

PromptFormat = Literal["chat", "plain", "raw"]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One case of a task.

    Attributes:
        id: Its name, unlike that of any other prompt of the evaluation.
        task: The task that it belongs to.
        request: What is asked; a judge sees it beside the answer.
        text: What is written into the prompt format: the request, with worked examples where the task has them.
        solution: The right answer that is known, empty where there is none.
        choices: Answers of which the model gives one, the likeliest; empty where it answers freely.
    """

    id: str
    task: str
    request: str
    text: str
    solution: str = ""
    choices: tuple[str, ...] = ()


def make_prompts(task: str, requests: Iterable[str]) -> list[Prompt]:
    """Makes prompts without a solution, numbered in their order."""
    return [
        Prompt(id=f"{task}/{number}", task=task, request=request, text=request)
        for number, request in enumerate(requests)
    ]


class Task(Protocol):
    """A task. One of your own can be given to `EvaluationData` from Python.

    Attributes:
        name: Its name, which its prompts carry.
        is_harmful: Whether its answers are hidden from pages unless asked for.
    """

    name: str
    is_harmful: bool

    @property
    def prompt_format(self) -> PromptFormat:
        """How its prompts are written."""
        ...

    @property
    def limits(self) -> AnswerLimits:
        """Where answers end."""
        ...

    @property
    def metrics(self) -> tuple[MetricSpec, ...]:
        """What it measures, and what grades answers for it."""
        ...

    def check(self) -> None:
        """Checks, before anything is generated, that answers can be graded; raises UserError."""
        ...

    def read_prompts(self) -> list[Prompt]:
        """Reads the prompts, at least one; raises UserError."""
        ...
