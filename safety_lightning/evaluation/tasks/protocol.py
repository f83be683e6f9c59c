"""What every task can do: give prompts, and say how the answers to them are graded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from safety_lightning.errors import UserError
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
        target: What a model that complies would say, or how it would begin; empty where it is not known.
    """

    id: str
    task: str
    request: str
    text: str
    solution: str = ""
    choices: tuple[str, ...] = ()
    target: str = ""


def make_prompts(task: str, requests: Iterable[str], *, targets: Iterable[str] = ()) -> list[Prompt]:
    """Makes prompts without a solution, numbered in their order; the targets, where there are any, are theirs."""
    asked = list(requests)
    given = list(targets) or [""] * len(asked)
    return [
        Prompt(id=f"{task}/{number}", task=task, request=request, text=request, target=target)
        for number, (request, target) in enumerate(zip(asked, given, strict=True))
    ]


def check_measures(task: str, measures: Sequence[str], known: Sequence[str]) -> None:
    """Raises UserError unless what a task is to measure is one or more of what it can, each once."""
    if not measures or len(set(measures)) != len(measures) or not set(measures) <= set(known):
        raise UserError(f"measures of {task} must be one or more of {', '.join(known)}, each once, got {measures}")


def choose_measures(measures: Sequence[str], named: Mapping[str, Sequence[MetricSpec]]) -> tuple[MetricSpec, ...]:
    """Returns the metrics of those names that are to be measured, in the order in which they are known."""
    return tuple(spec for name, specs in named.items() if name in measures for spec in specs)


class Task(Protocol):
    """A task. One of your own can be given to `EvaluationData` from Python.

    Attributes:
        name: Its name, which its prompts carry.
        is_harmful: Whether its answers are hidden from pages unless asked for.

    A task whose user has named what is measured has a true ``names_measures``: an engine that cannot measure all of it
    is then refused, where it leaves the rest of a default out with a warning.
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
