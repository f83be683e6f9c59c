"""The progress bar of a test: answers of this process, and how far those in work are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar

from safety_lightning.evaluation.cases import Case
from safety_lightning.evaluation.records import Generation, GenerationLog


class AnswerProgressBar(TQDMProgressBar):
    """Counts answers as each is finished, where Lightning's own counts batches, which take minutes."""

    def on_test_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Shows how many answers there are to be, and how many an earlier run has left."""
        super().on_test_batch_start(trainer, *args)
        self.test_progress_bar.set_description("Answering")
        self.test_progress_bar.unit = "answer"

    def on_test_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Does nothing: the answers of the batch have been counted."""

    def show_total(self, num_answers: int, *, num_known: int) -> None:
        """Takes how many answers this process is to have, and how many of them it has."""
        self.test_progress_bar.total = num_answers
        self.test_progress_bar.initial = self.test_progress_bar.n = num_known
        self.test_progress_bar.refresh()

    def show_tokens(self, num_tokens: int, *, most_tokens: int) -> None:
        """Shows how many tokens the answers in work have."""
        self.test_progress_bar.set_postfix_str(f"token {num_tokens} of at most {most_tokens}")

    def advance(self) -> None:
        """Counts one answer."""
        self.test_progress_bar.update()


class BatchProgress:
    """Keeps and counts the answers of a batch as each is finished."""

    def __init__(self, log: GenerationLog, bar: AnswerProgressBar | None, cases: Sequence[Case]) -> None:
        self.log = log
        self.bar = bar
        self.most_tokens = cases[0].task.limits.max_new_tokens

    def on_tokens(self, num_tokens: int) -> None:
        """Shows how many tokens the answers in work have."""
        if self.bar is not None:
            self.bar.show_tokens(num_tokens, most_tokens=self.most_tokens)

    def on_generation(self, place: int, generation: Generation) -> None:
        """Keeps an answer, and counts it."""
        self.log.keep(generation)
        if self.bar is not None:
            self.bar.advance()
