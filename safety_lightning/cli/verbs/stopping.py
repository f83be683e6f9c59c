"""The Lightning callback that minds signals: SIGTERM saves at the end of the step, Slurm's signal requeues there."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L

from safety_lightning.cli.stops import interrupt, note_stop
from safety_lightning.cli.verbs.checkpoints import STOPPED, AtomicCheckpointIO, remove_stopped

_REQUEUE_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)  # of which Lightning takes one, under Slurm alone


class MindSignals(L.Callback):
    """Stops a verb when its process gets SIGTERM; a fit first ends its step and writes a checkpoint.

    Lightning acts within the handler or after the next micro-batch, so that it could save a step half taken, or drop
    gradients that are being accumulated. The other verbs keep their progress in files of their own and stop at once,
    as does a second signal. Under Slurm, the signal of its requeue (SIGUSR1) does what Lightning documents, also at
    the end of a step: a checkpoint, and ``scontrol requeue``.

    Args:
        folder: Where the checkpoint is written; None for verbs that write none.
    """

    def __init__(self, folder: str | None) -> None:
        self.folder = None if folder is None else Path(folder)
        self._is_training = False
        self._wants_stop = False
        self._wants_requeue = False
        self._handlers: dict[signal.Signals, Any] = {}  # from before Lightning set its own
        self._requeue: Callable[[], Any] | None = None
        self._last_step = 0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Looks which signals have handlers before Lightning sets its own."""
        self._handlers = {number: signal.getsignal(number) for number in _REQUEUE_SIGNALS}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Takes the signals over, and lets the checkpoint that was resumed from be replaced as any other."""
        self._is_training, self._last_step = self.folder is not None, trainer.global_step
        trainer.ckpt_path = None
        signal.signal(signal.SIGTERM, self._stop)
        for number, before in self._handlers.items():
            handler = signal.getsignal(number)
            if handler is not before:  # Lightning's, of its requeue
                self._requeue = lambda number=number, handler=handler: handler(number, None)
                signal.signal(number, self._note_requeue)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Acts on a signal when the optimizer has stepped; all processes at the same step."""
        step = trainer.global_step
        has_stepped, self._last_step = step > self._last_step, step
        if not has_stepped or self.folder is None:
            return
        if self._saved_step(trainer) == step:
            remove_stopped(self.folder, strategy=trainer.strategy)
        agree = trainer.strategy.reduce_boolean_decision
        if not agree(self._wants_stop or self._wants_requeue, all=False):
            return
        if agree(self._wants_requeue, all=False):
            self._wants_requeue = False
            self._save_and_requeue(trainer, step)
        if agree(self._wants_stop, all=False):
            if self._saved_step(trainer) != step:
                trainer.save_checkpoint(self._name(step))
            raise KeyboardInterrupt

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stops at once from now on."""
        self._is_training = False
        if self._wants_stop:
            raise KeyboardInterrupt

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Takes SIGTERM over from Lightning, which would run to the end of the batch, and exit 0."""
        signal.signal(signal.SIGTERM, interrupt)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Takes SIGTERM over from Lightning, which would run to the end."""
        signal.signal(signal.SIGTERM, interrupt)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Takes SIGTERM over from Lightning, unless a fit validates."""
        if not trainer.training and not self._is_training:
            signal.signal(signal.SIGTERM, interrupt)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if not self._is_training or self._wants_stop:
            interrupt(number, frame)
        self._wants_stop = True
        note_stop(number)

    def _note_requeue(self, number: int, frame: FrameType | None) -> None:
        self._wants_requeue = True

    def _save_and_requeue(self, trainer: L.Trainer, step: int) -> None:
        """Has Lightning save and requeue; its checkpoint gets a name under which it is found and removed as others."""
        if self._requeue is not None:
            self._requeue()
        if trainer.is_global_zero:
            for path in Path(trainer.default_root_dir).glob("hpc_ckpt_*.ckpt"):
                os.replace(path, self._name(step))
        trainer.strategy.barrier()

    def _name(self, step: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{STOPPED}step={step}.ckpt"

    def _saved_step(self, trainer: L.Trainer) -> int:
        plugin = getattr(trainer.strategy, "checkpoint_io", None)
        return plugin.last_step if isinstance(plugin, AtomicCheckpointIO) else -1
