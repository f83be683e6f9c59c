"""The task MMLU, as lm-evaluation-harness's mmlu of version 1 does it: choices by log-likelihood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from safety_lightning.data import InstructionSource, check_column, filter_rows, open_table, resolve_source, take_rows
from safety_lightning.errors import UserError
from safety_lightning.evaluation.engines import AnswerLimits
from safety_lightning.evaluation.measurement import MetricSpec, Outcome
from safety_lightning.evaluation.tasks.protocol import Prompt, PromptFormat
from safety_lightning.evaluation.tasks.reading import check_blank

LETTERS = ("A", "B", "C", "D")
_COLUMNS = ("question", "choices", "answer", "subject")


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question with four choices.

    Attributes:
        question: The question.
        choices: The choices.
        answer: The index of the right one.
        subject: The subject, with ``_`` between words.
    """

    question: str
    choices: tuple[str, ...]
    answer: int
    subject: str


@dataclass(frozen=True, kw_only=True)
class MMLU:
    """Questions of 57 subjects with four choices each; utility is the share answered right.

    The answer is the letter that is likeliest behind the question. A prompt begins with a line that names the subject
    and has `num_shots` answered questions of the same subject, the first ones of the examples.

    Attributes:
        source: The questions: the columns ``question``, ``choices`` (a list of four), ``answer`` (the index of the
            right one) and ``subject``.
        examples: The answered questions.
        num_shots: Answered questions before each question, at least 0.
        prompt_format: ``raw`` as in lm-evaluation-harness, or ``chat``, which puts the same text into a user's turn.
        seed: Seed of the draw, where the source has a ``size``.

    Raises:
        UserError: If `num_shots` is below 0.
    """

    source: str | InstructionSource = field(default_factory=lambda: InstructionSource(preset="mmlu"))
    examples: str | InstructionSource = field(default_factory=lambda: InstructionSource(preset="mmlu", split="dev"))
    num_shots: int = 0
    prompt_format: PromptFormat = "raw"
    seed: int = 0

    name = "mmlu"
    is_harmful = False
    limits = AnswerLimits(max_new_tokens=1)

    def __post_init__(self) -> None:
        if self.num_shots < 0:
            raise UserError(f"num_shots must be at least 0, got {self.num_shots}")

    @property
    def metrics(self) -> tuple[MetricSpec, ...]:
        """The share answered right."""
        return (MetricSpec(name="utility", kind="share", grade=_grade),)

    def check(self) -> None:
        """Does nothing: questions are graded by rule."""

    def read_prompts(self) -> list[Prompt]:
        """Reads the questions, and puts the subject and answered questions before them."""
        shots = self._read_shots()
        return [
            Prompt(
                id=f"{self.name}/{number}",
                task=self.name,
                request=one.question,
                text=write_prompt(one, self._find_shots(shots, one.subject)),
                solution=LETTERS[one.answer],
                choices=LETTERS,
            )
            for number, one in enumerate(read_questions(self.source, seed=self.seed))
        ]

    def _read_shots(self) -> Mapping[str, list[Question]]:
        found: dict[str, list[Question]] = {}
        if not self.num_shots:
            return found
        for one in read_questions(self.examples, seed=self.seed):
            found.setdefault(one.subject, []).append(one)
        return found

    def _find_shots(self, shots: Mapping[str, list[Question]], subject: str) -> list[Question]:
        own = shots.get(subject, [])
        if len(own) < self.num_shots:
            raise UserError(f"num_shots must be at most {len(own)}, the examples of {subject}, got {self.num_shots}")
        return own[: self.num_shots]


def read_questions(source: str | InstructionSource, *, seed: int) -> list[Question]:
    """Reads questions with their choices.

    Args:
        source: The preset ``mmlu``, a file with its columns, or a source.
        seed: Seed of the draw, where the source has a ``size``.

    Raises:
        UserError: If the source cannot be read, a line is blank, or a row is no question with four choices.
    """
    source = resolve_source(source)
    table = open_table(source)
    check_blank(next(iter(table.list_blank()), None), len(table.blank_lines))
    for column in _COLUMNS:
        check_column(table, column)
    kept = filter_rows(table, source)
    questions = [_read_question(table.rows[index], where=table.locate(index)) for index in kept]
    return take_rows(questions, source, seed=seed, name=table.name)


def write_prompt(question: Question, shots: list[Question]) -> str:
    """Writes a question up to the point where a letter is the answer, with answered questions before it."""
    subject = question.subject.replace("_", " ")
    answered = "".join(f"{_write_question(shot)} {LETTERS[shot.answer]}\n\n" for shot in shots)
    opening = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
    return f"{opening}{answered}{_write_question(question)}"


def _write_question(question: Question) -> str:
    listed = "".join(f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, question.choices, strict=True))
    return f"{question.question.strip()}{listed}\nAnswer:"


def _read_question(row: Mapping[str, Any], *, where: str) -> Question:
    question, choices, answer, subject = (row.get(column) for column in _COLUMNS)
    if not isinstance(question, str) or not isinstance(subject, str) or not question.strip():
        raise UserError(f"{where}, must have text in 'question' and 'subject', got {question!r} and {subject!r}")
    if not isinstance(choices, list) or len(choices) != len(LETTERS) or not all(isinstance(c, str) for c in choices):
        raise UserError(f"{where}, must have a list of {len(LETTERS)} texts in 'choices', got {choices!r}")
    if type(answer) is not int or not 0 <= answer < len(LETTERS):
        raise UserError(f"{where}, must have the index of a choice in 'answer', 0 to 3, got {answer!r}")
    return Question(question=question, choices=tuple(choices), answer=answer, subject=subject)


def _grade(prompt: Prompt, answer: str) -> Outcome:
    return Outcome(value=float(answer == prompt.solution))
