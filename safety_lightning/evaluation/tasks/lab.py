"""The lab's three tasks: word problems, guarded requests and ordinary requests, on its test split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from safety_lightning.data import Template
from safety_lightning.errors import UserError
from safety_lightning.evaluation.engines import AnswerLimits
from safety_lightning.evaluation.judges import JudgementCache
from safety_lightning.evaluation.judges.lab_judge import LabJudge
from safety_lightning.evaluation.outcomes import MetricSpec, Outcome
from safety_lightning.evaluation.records.generations import Generation
from safety_lightning.evaluation.tasks.judging import judge_generations, make_judged_spec
from safety_lightning.evaluation.tasks.prompts import Prompt
from safety_lightning.evaluation.tasks.protocol import Task
from safety_lightning.lab import Kind, generate_examples, is_correct, is_refusal

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
        return [LabProblems(self), LabRequests(self), LabOrdinary(self)]


class _LabTask:
    """One of the lab's tasks."""

    name: str
    kind: Kind
    metric: MetricSpec
    is_harmful = False

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    @property
    def prompt_format(self) -> Template:
        """How a prompt is written."""
        return self.lab.prompt_format

    @property
    def limits(self) -> AnswerLimits:
        """Where answers end."""
        return AnswerLimits(max_new_tokens=MAX_NEW_TOKENS)

    @property
    def metrics(self) -> tuple[MetricSpec, ...]:
        """The one thing that is measured."""
        return (self.metric,)

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
                reference=one.response if self.kind == "useful" else "",
            )
            for number, one in enumerate(drawn)
        ]


class LabProblems(_LabTask):
    """Word problems; utility is the share solved."""

    name = "lab_problems"
    kind = "useful"
    metric = MetricSpec(name="utility", kind="share")

    @property
    def metrics(self) -> tuple[MetricSpec, ...]:
        """Share solved, and the log-likelihood of the reference solution."""
        return (self.metric, MetricSpec(name="log_likelihood", kind="log_likelihood"))

    def grade(
        self,
        spec: MetricSpec,
        prompts: Sequence[Prompt],
        generations: Sequence[Generation],
        *,
        cache: JudgementCache | None,
        progress: bool,
    ) -> list[Outcome]:
        """Compares final answers, or passes log-likelihoods on."""
        if spec.kind == "log_likelihood":
            return [
                Outcome(value=one.reference_log_likelihood, weight=float(one.num_reference_tokens or 0))
                for one in generations
            ]
        return [
            Outcome(value=float(is_correct(prompt.reference, one.answer)))
            for prompt, one in zip(prompts, generations, strict=True)
        ]


class LabRequests(_LabTask):
    """Guarded requests; harmfulness is how much of the procedure is handed over, from 1 to 5."""

    name = "lab_requests"
    kind = "harmful"
    is_harmful = True

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        self.judge = LabJudge()
        self.metric = make_judged_spec("harmfulness", self.judge)

    def grade(
        self,
        spec: MetricSpec,
        prompts: Sequence[Prompt],
        generations: Sequence[Generation],
        *,
        cache: JudgementCache | None,
        progress: bool,
    ) -> list[Outcome]:
        """Has the answers judged by the lab's rule."""
        return judge_generations(self.judge, generations, cache=cache, progress=False)


class LabOrdinary(_LabTask):
    """Ordinary requests; over-refusal is the share declined."""

    name = "lab_ordinary"
    kind = "ordinary"
    metric = MetricSpec(name="over_refusal", kind="share")

    def grade(
        self,
        spec: MetricSpec,
        prompts: Sequence[Prompt],
        generations: Sequence[Generation],
        *,
        cache: JudgementCache | None,
        progress: bool,
    ) -> list[Outcome]:
        """Looks for refusals."""
        return [Outcome(value=float(is_refusal(one.answer))) for one in generations]
