"""Reads stored answers: the rows of a run's ``generations.jsonl``, or of any file with what a judge needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safety_lightning.errors import UserError
from safety_lightning.strict import parse_json

_FIELDS = ("id", "task", "prompt", "answer")


@dataclass(frozen=True, kw_only=True)
class StoredAnswer:
    """What is needed of a row of ``generations.jsonl``.

    Attributes:
        id: The prompt's name.
        task: Its task.
        prompt: What was asked.
        answer: What the model said.
        row: The whole row, as the file holds it.
    """

    id: str
    task: str
    prompt: str
    answer: str
    row: Mapping[str, Any]


def read_answers(file: Path, *, task: str | None = None) -> list[StoredAnswer]:
    """Reads the answers of one task, in the order of its prompts.

    Args:
        file: JSON lines.
        task: The task; None is the only one of the file.

    Raises:
        UserError: If the file cannot be read, a line is no row, an id comes twice, there are several tasks and none
            is chosen, or there is no row.
    """
    try:
        lines = file.expanduser().read_text(encoding="utf-8").split("\n")  # splitlines would split inside of texts
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"generations must be a readable file of JSON lines, got {file}: {error}") from error
    last = lines.pop()
    answers = [_read_line(file, number, line) for number, line in enumerate([*lines, *([last] * bool(last))], start=1)]
    tasks = list(dict.fromkeys(answer.task for answer in answers))
    if task is None and len(tasks) > 1:
        raise UserError(f"{file} holds answers of {len(tasks)} tasks, choose one: --task {' | '.join(tasks)}")
    chosen = [answer for answer in answers if task in (None, answer.task)]
    if not chosen:
        raise UserError(f"{file} must hold at least one answer{f' of {task}' if task else ''}, it holds tasks {tasks}")
    twice = [name for name, number in Counter(answer.id for answer in chosen).items() if number > 1]
    if twice:
        raise UserError(f"{file} must hold each id once a task, {len(twice)} come again: {', '.join(twice[:3])}")
    return _order_as_asked(chosen)


def _order_as_asked(answers: list[StoredAnswer]) -> list[StoredAnswer]:
    """Puts a test's answers, which are stored batch by batch, into the order of their prompts: ``TASK/NUMBER``."""
    numbers = [answer.id.removeprefix(f"{answer.task}/") for answer in answers]
    if not all(number.isascii() and number.isdigit() for number in numbers):
        return answers
    return [answer for _, answer in sorted(zip(map(int, numbers), answers, strict=True), key=lambda pair: pair[0])]


def _read_line(file: Path, number: int, line: str) -> StoredAnswer:
    try:
        row = parse_json(line)
        values = {name: row[name] for name in _FIELDS}
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file}, line {number}, must be an answer with {', '.join(_FIELDS)}: {error!r}") from error
    if row.get("finish_reason", "") is None:
        raise UserError(
            f"{file}, line {number}, must be an answer that was generated, this one was not: "
            "only likelihoods were measured"
        )
    for name, value in values.items():
        if not isinstance(value, str) and not (name == "id" and type(value) is int):
            raise UserError(f"{file}, line {number}: {name} must be text, got {value!r}")
    return StoredAnswer(**{name: str(value) for name, value in values.items()}, row=row)
