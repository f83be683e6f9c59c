"""Encodes the prompts of all tasks, checks that there is room for answers, and puts them into batches."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from transformers import PreTrainedTokenizerBase

from safety_lightning.data.chat import check_template, encode_prompt
from safety_lightning.errors import UserError
from safety_lightning.evaluation.tasks import Prompt, PromptFormat, Task

_BYTES_A_TOKEN = 5
_BYTES_A_ROW = 1000  # of names and hashes, in the files of answers and of scores
_FIRST_SHARE = 8  # the first batch is as much smaller than the others


@dataclass(frozen=True, kw_only=True)
class Case:
    """A prompt as the model reads it.

    Attributes:
        prompt: The prompt.
        task: Its task.
        token_ids: What the model reads.
        solution_ids: The solution behind it, empty without one.
        prompt_hash: Hash of `token_ids`.
    """

    prompt: Prompt
    task: Task
    token_ids: list[int]
    solution_ids: list[int]
    prompt_hash: str

    @property
    def asked_hash(self) -> str:
        """Hash of what is asked and how, whatever the model: the text with its examples, solution, format, limits."""
        asked = (self.prompt.text, self.prompt.solution, self.task.prompt_format, repr(self.task.limits))
        return hashlib.sha256(repr(asked).encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class CasePlan:
    """All cases of an evaluation, and the batches in which they are answered.

    Attributes:
        tasks: The tasks.
        cases: The cases of all tasks, task by task.
        batches: Indices into `cases`; a batch is of one task, and the longest prompts of a task come first. The very
            first is small, so that there are answers soon.
    """

    tasks: list[Task]
    cases: list[Case]
    batches: list[list[int]]

    def list_indices(self, task: Task) -> list[int]:
        """Returns the indices of a task's cases."""
        return [index for index, case in enumerate(self.cases) if case.task is task]

    def estimate_bytes(self) -> int:
        """Returns how much the answers and scores of all cases take on the disk, about, and at most."""
        answers = sum(_BYTES_A_TOKEN * case.task.limits.max_new_tokens for case in self.cases)
        rows = sum(_BYTES_A_ROW + len(case.prompt.text.encode()) for case in self.cases)
        return 2 * (answers + rows)  # answers are written anew, in order, when all are there

    def hash_tasks(self) -> dict[str, str]:
        """Returns a hash of each task's prompts."""
        return {
            task.name: hash_prompts([case.prompt for case in self.cases if case.task is task]) for task in self.tasks
        }


def make_plan(
    tasks: Sequence[Task],
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_size: int,
    max_context_tokens: int | None,
    num_prompts: int | None = None,
) -> CasePlan:
    """Reads and encodes the prompts of tasks.

    Args:
        tasks: The tasks.
        tokenizer: The model's tokenizer.
        batch_size: Prompts answered at once, at least 1.
        max_context_tokens: The model's context, prompt and answer together; None is unlimited.
        num_prompts: How many prompts of each task are taken, its first ones; None takes all.

    Raises:
        UserError: If a task cannot be read or written in its format, or a prompt leaves no room for its answer.
    """
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {batch_size}")
    for task in tasks:
        check_format(tokenizer, task.prompt_format)
    cases: list[Case] = []
    batches: list[list[int]] = []
    for task in tasks:
        found = _encode_task(task, tokenizer, num_prompts)
        _check_context(found, max_context_tokens)
        places = sorted(range(len(found)), key=lambda place: -len(found[place].token_ids))
        order = [len(cases) + place for place in places]  # the longest first, as they need most memory
        if not batches and len(order) > batch_size // _FIRST_SHARE:  # a small one, after which there is something
            first = max(1, batch_size // _FIRST_SHARE)
            batches.append(order[:first])
            order = order[first:]
        batches += [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        cases += found
    return CasePlan(tasks=list(tasks), cases=cases, batches=batches)


def _encode_task(task: Task, tokenizer: PreTrainedTokenizerBase, num_prompts: int | None) -> list[Case]:
    cases = []
    for prompt in task.read_prompts()[:num_prompts]:
        token_ids = encode_text(tokenizer, prompt.text, prompt_format=task.prompt_format)
        cases.append(
            Case(
                prompt=prompt,
                task=task,
                token_ids=token_ids,
                solution_ids=_encode_solution(task, prompt, tokenizer),
                prompt_hash=hash_ids(token_ids),
            )
        )
    return cases


def _encode_solution(task: Task, prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    if not prompt.solution:
        return []
    text = f" {prompt.solution}" if task.prompt_format == "raw" else prompt.solution  # behind "Answer:"
    return [int(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"]]


def _check_context(cases: Sequence[Case], max_context_tokens: int | None) -> None:
    if max_context_tokens is None:
        return
    for case in cases:
        num_answer = max(case.task.limits.max_new_tokens, len(case.solution_ids))
        if len(case.token_ids) + num_answer > max_context_tokens:
            raise UserError(
                f"prompt and answer must fit the model's context of {max_context_tokens} tokens, prompt "
                f"{case.prompt.id} has {len(case.token_ids)} and its answer may have {num_answer}; give a smaller "
                "max_new_tokens, fewer shots or shorter prompts"
            )


def check_format(tokenizer: PreTrainedTokenizerBase, prompt_format: PromptFormat) -> None:
    """Raises UserError if the format is unknown, or is ``chat`` and the tokenizer has no chat template."""
    if prompt_format not in get_args(PromptFormat):
        raise UserError(f"prompt format must be chat, plain or raw, got {prompt_format!r}")
    if prompt_format != "raw":
        check_template(tokenizer, prompt_format)


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str, *, prompt_format: PromptFormat) -> list[int]:
    """Encodes a prompt up to the point where the model has to answer.

    Args:
        tokenizer: The model's tokenizer.
        text: What the model is asked.
        prompt_format: ``chat`` is the model's own chat template, ``plain`` a plain instruction text, ``raw`` the bare
            text as the tokenizer writes it (with its beginning token, where it has one).

    Raises:
        UserError: See `check_format`.
    """
    check_format(tokenizer, prompt_format)
    if prompt_format == "raw":
        return [int(token) for token in tokenizer(text)["input_ids"]]
    return encode_prompt(tokenizer, text, template=prompt_format)


def hash_ids(token_ids: Sequence[int]) -> str:
    """Returns the first 16 hexadecimal digits of the SHA-256 of what the model reads."""
    return hashlib.sha256(" ".join(map(str, token_ids)).encode()).hexdigest()[:16]


def hash_prompts(prompts: Sequence[Prompt]) -> str:
    """Returns the SHA-256 of the prompts of a task with their solutions."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(repr((prompt.id, prompt.text, prompt.solution)).encode())
    return f"sha256:{digest.hexdigest()}"
