"""Brings the weights of one matrix after the other to the device, on a GPU while the last one is worked on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from safety_lightning.checkpoints import MatrixSlot, subtract_base
from safety_lightning.errors import NonFiniteError
from safety_lightning.sweep.inputs import SweepInputs


@dataclass(frozen=True)
class LoadedMatrix:
    """The weights of one matrix, float32, ``(rows, columns)``, on the device.

    Attributes:
        slot: The matrix.
        reference: Reference weights.
        delta: reference − base.
        updates: The update of each finetuned model; None where it trained nothing.
        safety: Update of the safety-tuned model, None without one.
        vector: reference − unaligned, None where the delta serves.
        problem: Why there is nothing but the slot: what is wrong with the weights; None when all is well.
    """

    slot: MatrixSlot
    reference: Tensor
    delta: Tensor
    updates: Sequence[Tensor | None]
    safety: Tensor | None = None
    vector: Tensor | None = None
    problem: str | None = None


class MatrixLoader:
    """Reads matrices; each weight is read once.

    Args:
        inputs: The checkpoints.
        device: Where the weights go.
        skip_bad: Give matrices with NaN or infinity a problem instead of raising.
    """

    def __init__(self, inputs: SweepInputs, device: torch.device, *, skip_bad: bool) -> None:
        self.inputs = inputs
        self.device = device
        self.skip_bad = skip_bad

    @property
    def reads_ahead(self) -> bool:
        """Whether the next matrix is read meanwhile, which takes the memory of another."""
        return self.device.type == "cuda"

    def iterate(self, slots: Sequence[MatrixSlot]) -> Iterator[LoadedMatrix]:
        """Yields matrices in order; on a GPU the next one is read and copied meanwhile."""
        if not self.reads_ahead:
            yield from map(self.load, slots)
            return
        with ThreadPoolExecutor(1) as pool:
            waiting: Future[LoadedMatrix] | None = None
            for slot in slots:
                ahead = pool.submit(self._load_aside, slot)
                if waiting is not None:
                    yield waiting.result()
                waiting = ahead
            if waiting is not None:
                yield waiting.result()

    def load(self, slot: MatrixSlot) -> LoadedMatrix:
        """Reads one matrix.

        Raises:
            UserError: If a weight is NaN or infinite, and such matrices are not skipped.
        """
        try:
            return self._load(slot)
        except NonFiniteError as error:
            if not self.skip_bad:
                raise
            nothing = torch.empty(0)
            return LoadedMatrix(slot, nothing, nothing, [], problem=str(error))

    def _load(self, slot: MatrixSlot) -> LoadedMatrix:
        inputs, name, index = self.inputs, slot.tensor, slot.index
        stored = inputs.reference.read_finite(name, index).to(torch.float32, copy=True)
        reference = slot.view_part(stored)
        vector = None
        if inputs.unaligned is not None:
            away = stored.clone()
            subtract_base(away, inputs.unaligned, name, index)
            vector = self._bring(slot.view_part(away))
        updates = [self._bring(one.read_update(slot, reference)) for one in inputs.finetuned]
        safety = None if inputs.safety_tuned is None else self._bring(inputs.safety_tuned.read_update(slot, reference))
        on_device = self._bring(reference, copy=True)
        subtract_base(stored, inputs.base, name, index)
        delta = self._bring(slot.view_part(stored))
        assert on_device is not None
        assert delta is not None
        return LoadedMatrix(slot, on_device, delta, updates, safety, vector)

    def _bring(self, matrix: Tensor | None, *, copy: bool = False) -> Tensor | None:
        if matrix is None:
            return None
        if self.device.type == "cuda":
            return matrix.contiguous().pin_memory().to(self.device, non_blocking=True)
        return matrix.clone() if copy else matrix

    def _load_aside(self, slot: MatrixSlot) -> LoadedMatrix:
        """Loads on a stream of its own, in a thread of its own, so that copies overlap the work on the last matrix."""
        if self.device.type != "cuda":
            return self.load(slot)
        stream = torch.cuda.Stream(self.device)
        with torch.cuda.stream(stream):
            loaded = self.load(slot)
        stream.synchronize()
        for tensor in (loaded.reference, loaded.delta, loaded.safety, loaded.vector, *loaded.updates):
            if tensor is not None and tensor.is_cuda:
                tensor.record_stream(torch.cuda.default_stream(self.device))
        return loaded
