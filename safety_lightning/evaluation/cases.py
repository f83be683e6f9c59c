"""Encodes the prompts of all tasks, checks that there is room for answers, and puts them into batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from safety_lightning.errors import UserError
from safety_lightning.evaluation.engines import Engine
from safety_lightning.evaluation.records.generations import Generation
from safety_lightning.evaluation.tasks.prompts import Prompt, check_format, encode_text, hash_ids, hash_prompts
from safety_lightning.evaluation.tasks.protocol import Task


@dataclass(frozen=True, kw_only=True)
class Case:
    """A prompt as the model reads it.

    Attributes:
        prompt: The prompt.
        task: Its task.
        token_ids: What the model reads.
        reference_ids: The reference solution behind it, empty without one.
        prompt_hash: Hash of `token_ids`.
    """

    prompt: Prompt
    task: Task
    token_ids: list[int]
    reference_ids: list[int]
    prompt_hash: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All cases of an evaluation, and the batches in which they are answered.

    Attributes:
        tasks: The tasks.
        cases: The cases of all tasks, task by task.
        batches: Indices into `cases`; a batch is of one task, and the longest prompts of a task come first.
    """

    tasks: list[Task]
    cases: list[Case]
    batches: list[list[int]]

    def list_indices(self, task: Task) -> list[int]:
        """Returns the indices of a task's cases."""
        return [index for index, case in enumerate(self.cases) if case.task is task]

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
) -> Plan:
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
        batches += [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        cases += found
    return Plan(tasks=list(tasks), cases=cases, batches=batches)


def answer_cases(engine: Engine, cases: Sequence[Case]) -> list[Generation]:
    """Lets an engine answer cases of one task, and measures their reference solutions where there are any."""
    answers = engine.answer([case.token_ids for case in cases], cases[0].task.limits)
    references = _measure_references(engine, cases)
    return [
        Generation(
            id=case.prompt.id,
            task=case.prompt.task,
            prompt=case.prompt.request,
            answer=answer.text,
            num_tokens=answer.num_tokens,
            finish_reason=answer.finish_reason,
            engine=engine.name,
            dtype=engine.dtype,
            batch_size=answer.batch_size,
            prompt_hash=case.prompt_hash,
            reference_log_likelihood=reference,
            num_reference_tokens=len(case.reference_ids) or None,
        )
        for case, answer, reference in zip(cases, answers, references, strict=True)
    ]


def _measure_references(engine: Engine, cases: Sequence[Case]) -> list[float] | list[None]:
    if not (engine.measures_references and all(case.reference_ids for case in cases)):
        return [None] * len(cases)
    return engine.measure_references([case.token_ids for case in cases], [case.reference_ids for case in cases])


def _encode_task(task: Task, tokenizer: PreTrainedTokenizerBase, num_prompts: int | None) -> list[Case]:
    cases = []
    for prompt in task.read_prompts()[:num_prompts]:
        token_ids = encode_text(tokenizer, prompt.text, prompt_format=task.prompt_format)
        cases.append(
            Case(
                prompt=prompt,
                task=task,
                token_ids=token_ids,
                reference_ids=_encode_reference(task, prompt, tokenizer),
                prompt_hash=hash_ids(token_ids),
            )
        )
    return cases


def _encode_reference(task: Task, prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    if not prompt.reference:
        return []
    text = f" {prompt.reference}" if task.prompt_format == "raw" else prompt.reference  # behind "Answer:"
    return [int(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"]]


def _check_context(cases: Sequence[Case], max_context_tokens: int | None) -> None:
    if max_context_tokens is None:
        return
    for case in cases:
        num_answer = max(case.task.limits.max_new_tokens, len(case.reference_ids))
        if len(case.token_ids) + num_answer > max_context_tokens:
            raise UserError(
                f"prompt and answer must fit the model's context of {max_context_tokens} tokens, prompt "
                f"{case.prompt.id} has {len(case.token_ids)} and its answer may have {num_answer}; give a smaller "
                "max_new_tokens, fewer shots or shorter prompts"
            )
