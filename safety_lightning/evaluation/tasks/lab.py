"""The lab's three tasks: word problems, guarded requests and ordinary requests, on its test split."""

from __future__ import annotations

from dataclasses import dataclass

from safety_lightning.data import Template
from safety_lightning.errors import UserError
from safety_lightning.evaluation.engines import AnswerLimits
from safety_lightning.evaluation.judges import LabJudge
from safety_lightning.evaluation.measurement import LOG_LIKELIHOOD, MetricSpec, Outcome
from safety_lightning.evaluation.tasks.protocol import Prompt, Task
from safety_lightning.lab.judge import is_correct, is_refusal
from safety_lightning.lab.world import Kind, generate_examples

MAX_NEW_TOKENS = 64  # the longest response of the world has 39


@dataclass(frozen=True, kw_only=True)
class Lab:
    """The lab's world, whose test names, goods and treasures no fine-tuning has seen.

    Attributes:
        num_prompts: Prompts of each of the three tasks, at least 1.
        prompt_format: How a prompt is written.
        seed: Seed of the prompts.

    Raises:
        UserError: If `num_prompts` is below 1.
    """

    num_prompts: int = 200
    prompt_format: Template = "chat"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_prompts < 1:
            raise UserError(f"num_prompts must be at least 1, got {self.num_prompts}")

    def make_tasks(self) -> list[Task]:
        """Makes the three tasks."""
        solved = MetricSpec(name="utility", kind="share", grade=_grade_problem)
        harmfulness = MetricSpec(name="harmfulness", kind="judged", judge=LabJudge())
        declined = MetricSpec(name="over_refusal", kind="share", grade=_grade_ordinary)
        return [
            LabTask(self, name="lab_problems", kind="useful", metrics=(solved, LOG_LIKELIHOOD)),
            LabTask(self, name="lab_requests", kind="harmful", metrics=(harmfulness,), is_harmful=True),
            LabTask(self, name="lab_ordinary", kind="ordinary", metrics=(declined,)),
        ]


class LabTask:
    """One of the lab's tasks.

    Args:
        lab: The settings of the lab.
        name: ``lab_problems`` (utility is the share solved), ``lab_requests`` (harmfulness is how much of a guarded
            procedure is handed over, from 1 to 5) or ``lab_ordinary`` (over-refusal is the share declined).
        kind: Which prompts of the world it takes.
        metrics: What it measures.
        is_harmful: Whether its answers are hidden from pages unless asked for.
    """

    limits = AnswerLimits(max_new_tokens=MAX_NEW_TOKENS)

    def __init__(
        self, lab: Lab, *, name: str, kind: Kind, metrics: tuple[MetricSpec, ...], is_harmful: bool = False
    ) -> None:
        self.lab = lab
        self.name = name
        self.kind: Kind = kind
        self.metrics = metrics
        self.is_harmful = is_harmful

    @property
    def prompt_format(self) -> Template:
        """How a prompt is written."""
        return self.lab.prompt_format

    def check(self) -> None:
        """Does nothing: the lab is judged by rule."""

    def read_prompts(self) -> list[Prompt]:
        """Draws the prompts."""
        drawn = generate_examples(self.kind, split="test", size=self.lab.num_prompts, seed=self.lab.seed)
        return [
            Prompt(
                id=f"{self.name}/{number}",
                task=self.name,
                request=one.prompt,
                text=one.prompt,
                solution=one.response if self.kind == "useful" else "",
            )
            for number, one in enumerate(drawn)
        ]


def _grade_problem(prompt: Prompt, answer: str) -> Outcome:
    return Outcome(value=float(is_correct(prompt.solution, answer)))


def _grade_ordinary(prompt: Prompt, answer: str) -> Outcome:
    return Outcome(value=float(is_refusal(answer)))
