"""The progress bar of a test: answers of this process, and how far those in work are."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar


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
