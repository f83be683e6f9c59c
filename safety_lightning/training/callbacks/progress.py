"""The progress bar of training: optimizer steps of the whole run, with an estimate of the time left."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar

_SECONDS_BETWEEN_METRICS = 1.0  # to read one waits for the device


class StepProgressBar(TQDMProgressBar):
    """Counts optimizer steps over all epochs, where Lightning's own counts micro-batches of one epoch."""

    def on_train_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Makes the bar; a run that was resumed within an epoch does not start that epoch."""
        super().on_train_start(trainer, *args)
        self._shown_seconds = 0.0
        self.on_train_epoch_start(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Shows how many steps are done, also after a resume."""
        self.train_progress_bar.set_description("Training")
        self.train_progress_bar.unit = "step"
        self.train_progress_bar.total = int(trainer.estimated_stepping_batches)
        if self.train_progress_bar.n == 0:
            self.train_progress_bar.initial = trainer.global_step
            self.train_progress_bar.n = trainer.global_step
        self.train_progress_bar.refresh()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Moves on when the optimizer has stepped."""
        if trainer.global_step > self.train_progress_bar.n:
            if (now := time.monotonic()) >= self._shown_seconds + _SECONDS_BETWEEN_METRICS:
                self._shown_seconds = now
                self.train_progress_bar.set_postfix(self.get_metrics(trainer, pl_module), refresh=False)
            self.train_progress_bar.update(trainer.global_step - self.train_progress_bar.n)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Shows the epoch's metrics."""
        self.train_progress_bar.set_postfix(self.get_metrics(trainer, pl_module))
