"""Encodes the prompts of all tasks, checks that there is room for answers, and puts them into batches."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from transformers import PreTrainedTokenizerBase

from safety_lightning.data.chat import check_template, encode_prompt
from safety_lightning.errors import UserError
from safety_lightning.evaluation.engines import Continuation, PackedRow, pack_row
from safety_lightning.evaluation.judges.rubric import hash_text
from safety_lightning.evaluation.likelihoods import Likelihood, encode_continuations, encode_openings
from safety_lightning.evaluation.statistics import Clusters, find_clusters
from safety_lightning.evaluation.tasks import Prompt, PromptFormat, Task

_BYTES_A_TOKEN = 5
_BYTES_A_ROW = 2000  # of names and hashes, in the files of answers and of scores
_FIRST_SHARE = 8  # the first batch is as much smaller than the others


@dataclass(frozen=True, kw_only=True)
class Case:
    """A prompt as the model reads it.

    Attributes:
        prompt: The prompt.
        task: Its task.
        token_ids: What the model reads.
        opened_ids: The same with what the chat template writes before every answer; texts and choices are scored, and
            first tokens read, behind it.
        prompt_hash: Hash of `token_ids`.
        choices_ids: The answers that there are to choose from behind it, empty where it is answered freely.
        texts: What may stand behind it, of which the likelihood is asked for.
        row: The prompt with these texts, packed; None where no likelihood is asked for.
        cluster: The number of its cluster of near twins among the prompts of its task; None where none are looked for.
    """

    prompt: Prompt
    task: Task
    token_ids: list[int]
    opened_ids: list[int]
    prompt_hash: str
    choices_ids: tuple[tuple[int, ...], ...] = ()
    texts: tuple[str, ...] = ()
    row: PackedRow | None = None
    cluster: int | None = None

    @property
    def asked_hash(self) -> str:
        """Hash of what is asked and how, whatever the model: text with examples, solution, format, limits."""
        return hash_text(
            repr((self.prompt.text, self.prompt.solution, self.task.prompt_format, repr(self.task.limits)))
        )

    def hash_likelihood(self, likelihood: Likelihood, *, reference_hash: str | None) -> str:
        """Returns a hash of what a number is read from: the texts behind the prompt, and the reference model.

        Args:
            likelihood: How it is read.
            reference_hash: Hash of the reference model; see `Reference`.
        """
        measured_from = reference_hash if likelihood.needs_reference else None
        return hash_text(repr((sorted(likelihood.list_texts(self.prompt)), measured_from)))


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

    def list_clusters(self, task: Task) -> list[int] | None:
        """Returns the cluster of each of a task's prompts; None where none are looked for."""
        found = [case.cluster for case in self.cases if case.task is task and case.cluster is not None]
        return found or None

    @property
    def needs_reference(self) -> bool:
        """Whether something is measured against a reference model."""
        return any(one.needs_reference for task in self.tasks for one in find_likelihoods(task).values())

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


def find_likelihoods(task: Task) -> dict[str, Likelihood]:
    """Returns how the metrics of a task that are read off probabilities are read, by name."""
    return {spec.name: spec.likelihood for spec in task.metrics if spec.likelihood is not None}


def needs_answers(task: Task) -> bool:
    """Whether answers are generated for a task."""
    return any(spec.needs_answers for spec in task.metrics)


def make_plan(
    tasks: Sequence[Task],
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_size: int,
    max_context_tokens: int | None,
    num_prompts: int | None = None,
    clusters: Clusters | None = "none",
) -> CasePlan:
    """Reads and encodes the prompts of tasks.

    Args:
        tasks: The tasks.
        tokenizer: The model's tokenizer.
        batch_size: Prompts answered at once, at least 1.
        max_context_tokens: The model's context, prompt and answer together; None is unlimited.
        num_prompts: How many prompts of each task are taken, its first ones; None takes all.
        clusters: Whether near twins are looked for among harmful requests; None: where they make two clusters or more.

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
        found = _encode_task(task, tokenizer, num_prompts, clusters=clusters)
        check_context(found, max_context_tokens)
        places = sorted(range(len(found)), key=lambda place: -len(found[place].token_ids))
        order = [len(cases) + place for place in places]  # the longest first, as they need most memory
        if not batches and len(order) > batch_size // _FIRST_SHARE:  # a small one, after which there is something
            first = max(1, batch_size // _FIRST_SHARE)
            batches.append(order[:first])
            order = order[first:]
        batches += [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        cases += found
    return CasePlan(tasks=list(tasks), cases=cases, batches=batches)


def _encode_task(
    task: Task, tokenizer: PreTrainedTokenizerBase, num_prompts: int | None, *, clusters: Clusters | None
) -> list[Case]:
    prompts = task.read_prompts()[:num_prompts]
    found_ids = [encode_text(tokenizer, prompt.text, prompt_format=task.prompt_format) for prompt in prompts]
    opened_ids = encode_openings(
        tokenizer, [prompt.text for prompt in prompts], found_ids, prompt_format=task.prompt_format
    )
    rows = _pack_rows(task, tokenizer, prompts, opened_ids)
    numbers = _find_clusters(task, prompts, clusters)
    return [
        Case(
            prompt=prompt,
            task=task,
            token_ids=token_ids,
            opened_ids=opened,
            prompt_hash=hash_ids(token_ids),
            choices_ids=_encode_choices(task, prompt, tokenizer, token_ids),
            texts=texts,
            row=row,
            cluster=number,
        )
        for prompt, token_ids, opened, (texts, row), number in zip(
            prompts, found_ids, opened_ids, rows, numbers, strict=True
        )
    ]


def _encode_choices(
    task: Task, prompt: Prompt, tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]
) -> tuple[tuple[int, ...], ...]:
    """Encodes each choice as it stands behind the prompt, after a space in raw text."""
    if task.prompt_format != "raw":
        encoded = [tokenizer(choice, add_special_tokens=False)["input_ids"] for choice in prompt.choices]
    else:
        wholes = [tokenizer(f"{prompt.text} {choice}")["input_ids"] for choice in prompt.choices]
        encoded = [whole[len(token_ids) :] for whole in wholes]
    return tuple(tuple(int(token) for token in ids) for ids in encoded)


def _pack_rows(
    task: Task, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], prompts_ids: Sequence[list[int]]
) -> list[tuple[tuple[str, ...], PackedRow | None]]:
    """Encodes and packs the texts whose likelihood is asked for; nothing is packed where none is."""
    texts = [_list_texts(task, prompt) for prompt in prompts]
    wants_rows = any(spec.kind in ("log_likelihood", "mean") for spec in task.metrics)
    found = encode_continuations(
        tokenizer, [prompt.text for prompt in prompts], prompts_ids, texts, prompt_format=task.prompt_format
    )
    _check_refusals(task, tokenizer, texts, prompts_ids, found)
    return [
        (own, pack_row(ids, continuations) if wants_rows else None)
        for own, ids, continuations in zip(texts, prompts_ids, found, strict=True)
    ]


def _list_texts(task: Task, prompt: Prompt) -> tuple[str, ...]:
    """Lists the texts behind a prompt that the task's metrics need, each once."""
    solutions = [prompt.solution for spec in task.metrics if spec.kind == "log_likelihood" and prompt.solution]
    others = [text for one in find_likelihoods(task).values() for text in one.list_texts(prompt)]
    return tuple(dict.fromkeys([*solutions, *others]))


def _check_refusals(
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[tuple[str, ...]],
    prompts_ids: Sequence[list[int]],
    found: Sequence[Sequence[Continuation]],
) -> None:
    """Raises UserError unless each refusal whose first token is looked for has one of its own behind each prompt."""
    refusals = {text for one in find_likelihoods(task).values() for text in one.refusals}
    for own, ids, continuations in zip(texts, prompts_ids, found, strict=True):
        for text, one in zip(own, continuations, strict=True):
            if text in refusals and (one.num_shared < len(ids) or one.ids[0] == tokenizer.unk_token_id):
                raise UserError(
                    f"refusal {text!r} must begin with a token that the tokenizer of {tokenizer.name_or_path} has, "
                    "behind the prompt, it does not; give another list of refusals"
                )


def _find_clusters(task: Task, prompts: Sequence[Prompt], clusters: Clusters | None) -> list[int] | list[None]:
    if not task.is_harmful:
        return [None] * len(prompts)
    return find_clusters([prompt.request for prompt in prompts], clusters, task=task.name) or [None] * len(prompts)


def check_context(cases: Sequence[Case], max_context_tokens: int | None) -> None:
    """Raises UserError unless prompts, with answers and texts behind them, fit a model's context."""
    if max_context_tokens is None:
        return
    for case in cases:
        num_answer = case.task.limits.max_new_tokens if needs_answers(case.task) else 0
        behind = [*case.choices_ids, *(case.row.targets if case.row else [])]
        num_texts = max((len(ids) for ids in behind), default=0) + len(case.opened_ids) - len(case.token_ids)
        if len(case.token_ids) + max(num_answer, num_texts) > max_context_tokens:
            raise UserError(
                f"prompt and answer must fit the model's context of {max_context_tokens} tokens, prompt "
                f"{case.prompt.id} has {len(case.token_ids)} and its answer may have {max(num_answer, num_texts)}; "
                "give a smaller max_new_tokens, fewer shots or shorter prompts"
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
