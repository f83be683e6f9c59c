"""The task MATH-500, as lm-evaluation-harness's hendrycks_math500 of version 1 does it."""

from __future__ import annotations

from dataclasses import dataclass, field

from safety_lightning.data import InstructionSource
from safety_lightning.evaluation.engines import AnswerLimits
from safety_lightning.evaluation.measurement import LOG_LIKELIHOOD, MetricSpec, Outcome
from safety_lightning.evaluation.tasks.final_expressions import find_boxed, matches_expression
from safety_lightning.evaluation.tasks.protocol import Prompt, PromptFormat
from safety_lightning.evaluation.tasks.reading import read_task_examples

_STOP_STRINGS = ("Problem:",)


@dataclass(frozen=True, kw_only=True)
class MATH500:
    """Competition problems without worked examples; utility is the share solved.

    Attributes:
        source: The problems, with their solutions, which box their answer.
        prompt_format: ``raw`` as in lm-evaluation-harness, or ``chat``, which puts the same text into a user's turn.
        max_new_tokens: Longest answer, at least 1.
        seed: Seed of the draw, where the source has a ``size``.

    Raises:
        UserError: If `max_new_tokens` is below 1.
    """

    source: str | InstructionSource = field(default_factory=lambda: InstructionSource(preset="math500"))
    prompt_format: PromptFormat = "raw"
    max_new_tokens: int = 256
    seed: int = 0

    name = "math500"
    is_harmful = False

    def __post_init__(self) -> None:
        AnswerLimits(max_new_tokens=self.max_new_tokens)

    @property
    def limits(self) -> AnswerLimits:
        """Where answers end: where the next problem begins, at the latest."""
        return AnswerLimits(
            max_new_tokens=self.max_new_tokens,
            stop_strings=_STOP_STRINGS,
            special_tokens_end=self.prompt_format == "chat",
        )

    @property
    def metrics(self) -> tuple[MetricSpec, ...]:
        """Share solved, and the log-likelihood of the solution, which moves before it."""
        return (MetricSpec(name="utility", kind="share", grade=_grade), LOG_LIKELIHOOD)

    def check(self) -> None:
        """Does nothing: problems are graded by rule."""

    def read_prompts(self) -> list[Prompt]:
        """Reads the problems; raises UserError where a solution boxes no answer."""
        prompts = []
        for number, one in enumerate(read_task_examples(self.source, seed=self.seed)):
            find_boxed(one.response)
            text = f"Problem: {one.prompt}\nAnswer:"
            prompts.append(
                Prompt(id=f"{self.name}/{number}", task=self.name, request=one.prompt, text=text, solution=one.response)
            )
        return prompts


def _grade(prompt: Prompt, answer: str) -> Outcome:
    return Outcome(value=float(matches_expression(answer, prompt.solution)))
