"""Keeps answers in `generations.jsonl` as they come, so that a run that is killed resumes where it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from safety_lightning.errors import UserError
from safety_lightning.evaluation.cases import Case, CasePlan, find_likelihoods, needs_answers
from safety_lightning.evaluation.engines import Engine, Finish
from safety_lightning.evaluation.measurement import AnswerKind
from safety_lightning.evaluation.tasks.answer_kinds import classify_for
from safety_lightning.files import append_rows, format_rows, read_rows, write_atomically

FILE_NAME = "generations.jsonl"


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One answer, and how it came about.

    Attributes:
        id: The prompt's name.
        task: The task.
        prompt: What was asked.
        answer: What the model said.
        num_tokens: Tokens of the answer.
        finish_reason: Why it ends; None where no answer was asked for.
        engine: What generated it.
        dtype: The dtype computed in.
        batch_size: Prompts answered at once.
        prompt_hash: Hash of the token ids that the model read.
        asked_hash: Hash of what was asked and how, whatever the model; see `Case`.
        reference_log_likelihood: Log-likelihood of the solution in nats, None without one or where that is no number.
        num_reference_tokens: Tokens of the solution.
        likelihoods: What was read off the model's probabilities, by metric; None where that is no number.
        likelihood_hashes: Of what each of them was read: texts behind the prompt, and the reference model.
        kind: What the answer is: declined, answered, empty, degenerate or cut off; None where they are not told apart.
    """

    id: str
    task: str
    prompt: str
    answer: str
    num_tokens: int
    finish_reason: Finish | None
    engine: str
    dtype: str
    batch_size: int
    prompt_hash: str
    asked_hash: str = ""
    reference_log_likelihood: float | None = None
    num_reference_tokens: int | None = None
    likelihoods: dict[str, float | None] = field(default_factory=dict)
    likelihood_hashes: dict[str, str] = field(default_factory=dict)
    kind: AnswerKind | None = None


class GenerationLog:
    """The answers of a run.

    One process appends to ``generations.jsonl``; of several, each appends to a file of its own, and the first merges
    them. The finished file holds the answers in the plan's order, whatever was killed and however many processes there
    were. Answers of a batch that is not whole yet are kept in ``unfinished.jsonl`` as each is finished.

    Args:
        folder: The run folder.
        plan: What is to be answered.
        rank: This process.
        num_processes: How many processes share the plan.
    """

    def __init__(self, folder: Path, plan: CasePlan, *, rank: int = 0, num_processes: int = 1) -> None:
        self.plan = plan
        number = None if num_processes == 1 else rank
        self._whole = _SharedFile(folder, "generations", number)
        self._unfinished = _SharedFile(folder, "unfinished", number)
        self.file = self._whole.file

    def recover(self, engine: Engine, *, reference_hash: str | None = None) -> None:
        """Merges what an earlier run left, in the first process; drops torn lines.

        Args:
            engine: What will generate the rest.
            reference_hash: Hash of the model that a drift is measured from; see `Reference`.

        Raises:
            UserError: If a line is no answer, an answer is of another prompt, engine or dtype (two engines are never
                mixed), or it lacks what this run measures.
        """
        found, unfinished = self._index(self._whole.collect()), self._index(self._unfinished.collect())
        for generation in [*found.values(), *unfinished.values()]:
            _check_engine(generation, engine, self.file)
        for index, generation in found.items():
            check_measured(generation, self.plan.cases[index], engine, self.file, reference_hash=reference_hash)
        for index, generation in unfinished.items():  # likelihoods come with the whole batch
            _check_answer(generation, self.plan.cases[index], self.file)
        whole = [i for batch in self.plan.batches if all(index in found for index in batch) for i in batch]
        self._whole.replace([found[index] for index in whole])
        self._unfinished.replace([one for index, one in unfinished.items() if index not in found])

    def read(self) -> dict[int, Generation]:
        """Returns the answers in ``generations.jsonl`` by the index of their case."""
        return self._index(self._whole.read())

    def read_unfinished(self) -> dict[int, Generation]:
        """Returns the answers of batches that are not whole; they have no log-likelihoods yet."""
        return self._index(self._unfinished.read())

    def append(self, generations: Sequence[Generation]) -> None:
        """Adds the answers of a batch; they are on disk when it returns."""
        self._whole.append(generations)

    def keep(self, generation: Generation) -> None:
        """Keeps one answer of a batch that is not whole; it is on disk when it returns."""
        self._unfinished.append([generation])

    def finish(self) -> None:
        """Merges the answers of all processes, in the plan's order; called in the first."""
        found = self._index(self._whole.collect())
        self._whole.replace([found[index] for batch in self.plan.batches for index in batch])
        self._unfinished.replace([])

    def _index(self, generations: Sequence[Generation]) -> dict[int, Generation]:
        places = {case.prompt.id: index for index, case in enumerate(self.plan.cases)}
        found = {}
        for generation in generations:
            index = places.get(generation.id)
            case = None if index is None else self.plan.cases[index]
            if index is None or case is None or case.prompt_hash != generation.prompt_hash:
                raise UserError(f"{self.file} must hold answers to this run's prompts, got one to {generation.id}")
            if case.asked_hash != generation.asked_hash:
                raise UserError(
                    f"{self.file} must hold answers under this run's format, limits and solutions, got one to "
                    f"{generation.id} under others"
                )
            found[index] = generation
        return found


class _SharedFile:
    """A file of answers that one process writes, or several do, each a part of its own."""

    def __init__(self, folder: Path, stem: str, rank: int | None) -> None:
        self.file = folder / f"{stem}.jsonl"
        self._folder, self._pattern = folder, f"{stem}.rank*.jsonl"
        self._own = self.file if rank is None else folder / f"{stem}.rank{rank}.jsonl"

    def append(self, generations: Sequence[Generation]) -> None:
        append_rows(self._own, generations)

    def read(self) -> list[Generation]:
        return read_generations(self.file) if self.file.is_file() else []

    def collect(self) -> list[Generation]:
        """Returns the answers of all processes."""
        parts = sorted(self._folder.glob(self._pattern))
        return [*self.read(), *(row for part in parts for row in read_generations(part))]

    def replace(self, generations: Sequence[Generation]) -> None:
        """Writes one file in the place of all; none where there is nothing."""
        if generations:
            write_atomically(self.file, format_rows(generations))
        else:
            self.file.unlink(missing_ok=True)
        for part in self._folder.glob(self._pattern):
            part.unlink()


def read_generations(file: Path) -> list[Generation]:
    """Reads a file of answers; a last line that a kill has torn is left out.

    Raises:
        UserError: If another line is no answer; its number is named.
    """
    return read_rows(file, Generation, what="an answer", is_torn_allowed=True)


def check_measured(
    generation: Generation, case: Case, engine: Engine, file: Path, *, reference_hash: str | None
) -> None:
    """Checks that a kept row holds all that is measured of its prompt, by the texts and the reference of this run.

    Raises:
        UserError: If it does not: the run before it measured other things.
    """
    _check_answer(generation, case, file)
    if not engine.gives_likelihoods:
        return
    wants_solution = any(spec.kind == "log_likelihood" for spec in case.task.metrics)
    if wants_solution and generation.num_reference_tokens is None:
        raise _blame(generation, file, "the log-likelihood of its solution", "none")
    for name, likelihood in find_likelihoods(case.task).items():
        if name not in generation.likelihoods:
            raise _blame(generation, file, name, "none")
        if generation.likelihood_hashes.get(name) != case.hash_likelihood(likelihood, reference_hash=reference_hash):
            raise _blame(generation, file, f"{name} by this run's targets, refusals and reference", "one by others")


def _check_answer(generation: Generation, case: Case, file: Path) -> None:
    if not needs_answers(case.task):
        return
    if generation.finish_reason is None:
        raise _blame(generation, file, "an answer", "likelihoods alone")
    wanted = classify_for(case.task, generation.answer, generation.finish_reason)
    if wanted is not None and generation.kind != wanted:
        raise _blame(generation, file, f"the kind of its answer ({wanted})", generation.kind or "none")


def _blame(generation: Generation, file: Path, wanted: str, found: str) -> UserError:
    return UserError(
        f"{file} must hold what this run measures, of {generation.id} {wanted}, got {found}: give another folder, or "
        "measure what that run measured"
    )


def _check_engine(generation: Generation, engine: Engine, file: Path) -> None:
    if (generation.engine, generation.dtype) != (engine.name, engine.dtype):
        raise UserError(
            f"answers of one run must come from one engine and dtype, got {engine.name} in {engine.dtype}, and "
            f"{generation.engine} in {generation.dtype} in {file}"
        )
