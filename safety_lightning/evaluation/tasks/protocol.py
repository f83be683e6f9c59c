"""What every task can do: give prompts, and grade what a model answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from safety_lightning.evaluation.engines import AnswerLimits
from safety_lightning.evaluation.judges import JudgementCache
from safety_lightning.evaluation.outcomes import MetricSpec, Outcome
from safety_lightning.evaluation.records.generations import Generation
from safety_lightning.evaluation.tasks.prompts import Prompt, PromptFormat


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
        """What it measures."""
        ...

    def check(self) -> None:
        """Checks, before anything is generated, that answers can be graded; raises UserError."""
        ...

    def read_prompts(self) -> list[Prompt]:
        """Reads the prompts, at least one; raises UserError."""
        ...

    def grade(
        self,
        spec: MetricSpec,
        prompts: Sequence[Prompt],
        generations: Sequence[Generation],
        *,
        cache: JudgementCache | None,
        progress: bool,
    ) -> list[Outcome]:
        """Grades answers under one of its metrics.

        Args:
            spec: One of `metrics`.
            prompts: Any of its prompts.
            generations: Their answers.
            cache: Where judgements are kept.
            progress: Whether a progress bar is shown.

        Returns:
            One outcome a prompt.
        """
        ...
