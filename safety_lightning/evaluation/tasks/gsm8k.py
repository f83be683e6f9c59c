"""The task GSM8K, as lm-evaluation-harness's gsm8k of version 3 does it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Literal, get_args

from safety_lightning.data import Example, InstructionSource
from safety_lightning.errors import UserError
from safety_lightning.evaluation.engines import AnswerLimits
from safety_lightning.evaluation.likelihoods import SOLUTION_PROBABILITY, SOLUTION_TOKEN_PROBABILITY
from safety_lightning.evaluation.measurement import LOG_LIKELIHOOD, MetricSpec, Outcome
from safety_lightning.evaluation.tasks.answer_kinds import answer_kinds, find_refusal
from safety_lightning.evaluation.tasks.final_numbers import Extraction, matches_solution
from safety_lightning.evaluation.tasks.protocol import Prompt, PromptFormat, check_measures, choose_measures
from safety_lightning.evaluation.tasks.reading import read_task_examples

ProblemMeasure = Literal[
    "utility", "answer_kinds", "log_likelihood", "solution_probability", "solution_token_probability"
]
PROBLEM_MEASURES: list[ProblemMeasure] = list(get_args(ProblemMeasure))
_STOP_STRINGS = ("Question:", "</s>", "<|im_end|>")


@dataclass(frozen=True, kw_only=True)
class GSM8K:
    """Grade-school word problems with worked examples before them; utility is the share solved.

    A prompt is ``Question: ...`` and ``Answer:``, with `num_shots` solved training problems before it, drawn for each
    problem by the seed and the problem itself (so that a subset has the prompts of the whole).

    Attributes:
        source: The test problems, with their solutions, which end in ``#### N``.
        examples: The solved training problems.
        num_shots: Solved problems before each problem, at least 0.
        prompt_format: ``raw`` as in lm-evaluation-harness, or ``chat``, which puts the same text into a user's turn.
        max_new_tokens: Longest answer, at least 1.
        extraction: ``both`` measures ``utility`` (flexible extract) and ``utility_strict``, ``flexible`` the former.
        measures: What is measured. Without ``utility`` and ``answer_kinds`` no answer is generated.
        seed: Seed of the draws.

    Raises:
        UserError: If `num_shots` is below 0, `max_new_tokens` below 1, or nothing is measured.
    """

    source: str | InstructionSource = field(default_factory=lambda: InstructionSource(preset="gsm8k", split="test"))
    examples: str | InstructionSource = field(default_factory=lambda: InstructionSource(preset="gsm8k", split="train"))
    num_shots: int = 1
    prompt_format: PromptFormat = "raw"
    max_new_tokens: int = 256
    extraction: Literal["both", "flexible"] = "both"
    measures: list[ProblemMeasure] = field(default_factory=lambda: list(PROBLEM_MEASURES))
    seed: int = 0

    name = "gsm8k"
    is_harmful = False

    def __post_init__(self) -> None:
        if self.num_shots < 0:
            raise UserError(f"num_shots must be at least 0, got {self.num_shots}")
        AnswerLimits(max_new_tokens=self.max_new_tokens)
        check_measures(self.name, self.measures, PROBLEM_MEASURES)

    @property
    def names_measures(self) -> bool:
        """Whether something else is measured than by default."""
        return self.measures != PROBLEM_MEASURES

    @property
    def limits(self) -> AnswerLimits:
        """Where answers end: where the next question begins, at the latest."""
        return AnswerLimits(
            max_new_tokens=self.max_new_tokens,
            stop_strings=_STOP_STRINGS,
            special_tokens_end=self.prompt_format == "chat",
        )

    @property
    def metrics(self) -> tuple[MetricSpec, ...]:
        """Share solved, kinds of answers, and the likelihood of the solution, which moves before the share does."""
        named = {
            "utility": (_FLEXIBLE, *([_STRICT] if self.extraction == "both" else [])),
            "answer_kinds": (answer_kinds(find_refusal()),),
            "log_likelihood": (LOG_LIKELIHOOD,),
            "solution_probability": (SOLUTION_PROBABILITY,),
            "solution_token_probability": (SOLUTION_TOKEN_PROBABILITY,),
        }
        return choose_measures(self.measures, named)

    def check(self) -> None:
        """Does nothing: problems are graded by rule."""

    def read_prompts(self) -> list[Prompt]:
        """Reads the problems and puts worked examples before them."""
        problems = read_task_examples(self.source, seed=self.seed)
        shots = self._read_shots()
        prompts = []
        for number, problem in enumerate(problems):
            drawn = Random(f"gsm8k/{self.seed}/{problem.prompt}").sample(shots, self.num_shots)
            text = "".join([*(_write_shot(one) for one in drawn), _write_question(problem.prompt)])
            prompts.append(
                Prompt(
                    id=f"{self.name}/{number}",
                    task=self.name,
                    request=problem.prompt,
                    text=text,
                    solution=problem.response,
                )
            )
        return prompts

    def _read_shots(self) -> list[Example]:
        if self.num_shots == 0:
            return []
        shots = read_task_examples(self.examples, seed=self.seed)
        if len(shots) < self.num_shots:
            raise UserError(f"num_shots must be at most {len(shots)}, the number of examples, got {self.num_shots}")
        return shots


def _write_question(question: str) -> str:
    return f"Question: {question}\nAnswer:"


def _write_shot(example: Example) -> str:
    return f"{_write_question(example.prompt)} {example.response}\n\n"


def _grade(prompt: Prompt, answer: str, *, extraction: Extraction) -> Outcome:
    return Outcome(value=float(matches_solution(answer, prompt.solution, extraction)))


_FLEXIBLE = MetricSpec(name="utility", kind="share", grade=partial(_grade, extraction="flexible"))
_STRICT = MetricSpec(name="utility_strict", kind="share", grade=partial(_grade, extraction="strict"))
