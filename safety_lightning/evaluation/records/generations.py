"""Keeps answers in `generations.jsonl` as they come, so that a run that is killed resumes where it was."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safety_lightning.disks import explain_full_disk
from safety_lightning.errors import UserError
from safety_lightning.evaluation.cases import CasePlan
from safety_lightning.evaluation.engines import Engine, Finish
from safety_lightning.files import format_rows, read_rows, write_atomically

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
        finish_reason: Why it ends.
        engine: What generated it.
        dtype: The dtype computed in.
        batch_size: Prompts answered at once.
        prompt_hash: Hash of the token ids that the model read.
        reference_log_likelihood: Log-likelihood of the solution in nats, None without one.
        num_reference_tokens: Tokens of the solution.
    """

    id: str
    task: str
    prompt: str
    answer: str
    num_tokens: int
    finish_reason: Finish
    engine: str
    dtype: str
    batch_size: int
    prompt_hash: str
    reference_log_likelihood: float | None = None
    num_reference_tokens: int | None = None


class GenerationLog:
    """The answers of a run.

    One process appends to ``generations.jsonl``; of several, each appends to a file of its own, and the first merges
    them. The finished file holds the answers in the plan's order, whatever was killed and however many processes there
    were.

    Args:
        folder: The run folder.
        plan: What is to be answered.
        rank: This process.
        num_processes: How many processes share the plan.
    """

    def __init__(self, folder: Path, plan: CasePlan, *, rank: int = 0, num_processes: int = 1) -> None:
        self.folder = folder
        self.file = folder / FILE_NAME
        self.plan = plan
        self._own = self.file if num_processes == 1 else folder / f"generations.rank{rank}.jsonl"

    def recover(self, engine: Engine) -> None:
        """Merges what an earlier run left, in the first process; drops torn lines and batches that are not whole.

        Args:
            engine: What will generate the rest.

        Raises:
            UserError: If a line is no answer, or an answer is of another prompt, engine or dtype: two engines are
                never mixed.
        """
        found = self._collect()
        for generation in found.values():
            _check_engine(generation, engine, self.file)
        whole = [i for batch in self.plan.batches if all(index in found for index in batch) for i in batch]
        self._replace([found[index] for index in whole])

    def read(self) -> dict[int, Generation]:
        """Returns the answers in ``generations.jsonl`` by the index of their case."""
        return self._index(read_generations(self.file)) if self.file.is_file() else {}

    def append(self, generations: Sequence[Generation]) -> None:
        """Adds answers; they are on disk when it returns."""
        with explain_full_disk(self._own), self._own.open("a", encoding="utf-8") as stream:
            stream.write(format_rows(generations))
            stream.flush()
            os.fsync(stream.fileno())

    def finish(self) -> None:
        """Merges the answers of all processes, in the plan's order; called in the first."""
        found = self._collect()
        self._replace([found[index] for batch in self.plan.batches for index in batch])

    def _collect(self) -> dict[int, Generation]:
        files = [self.file, *sorted(self.folder.glob("generations.rank*.jsonl"))]
        return self._index([row for file in files if file.is_file() for row in read_generations(file)])

    def _replace(self, generations: Sequence[Generation]) -> None:
        text = format_rows(generations)
        if self.file.is_file() or text:
            write_atomically(self.file, text)
        for file in self.folder.glob("generations.rank*.jsonl"):
            file.unlink()

    def _index(self, generations: Sequence[Generation]) -> dict[int, Generation]:
        places = {case.prompt.id: index for index, case in enumerate(self.plan.cases)}
        found = {}
        for generation in generations:
            index = places.get(generation.id)
            if index is None or self.plan.cases[index].prompt_hash != generation.prompt_hash:
                raise UserError(f"{self.file} must hold answers to this run's prompts, got one to {generation.id}")
            found[index] = generation
        return found


def read_generations(file: Path) -> list[Generation]:
    """Reads a file of answers; a last line that a kill has torn is left out.

    Raises:
        UserError: If another line is no answer; its number is named.
    """
    return read_rows(file, Generation, what="an answer", is_torn_allowed=True)


def _check_engine(generation: Generation, engine: Engine, file: Path) -> None:
    if (generation.engine, generation.dtype) != (engine.name, engine.dtype):
        raise UserError(
            f"answers of one run must come from one engine and dtype, got {engine.name} in {engine.dtype}, and "
            f"{generation.engine} in {generation.dtype} in {file}"
        )
