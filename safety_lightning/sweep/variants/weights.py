"""The matrices of reference and finetuned models, read once each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from safety_lightning.checkpoints import Finetuned, FinetunedCheckpoint, MatrixSlot, read_delta
from safety_lightning.errors import NonFiniteError
from safety_lightning.sweep.inputs import SweepInputs
from safety_lightning.sweep.variants.shelf import Shelf

REFERENCE = "reference"


@dataclass(frozen=True)
class WeightPair:
    """One matrix of both models, ``(rows, columns)``, on the device, in the dtype in which it is stored.

    Attributes:
        reference: Reference weights.
        finetuned: Finetuned weights; the reference's where nothing was trained.
        is_trained: Whether they were trained.
    """

    reference: Tensor
    finetuned: Tensor
    is_trained: bool

    def subtract(self) -> Tensor:
        """Returns the update, finetuned − reference, float32."""
        return self.finetuned.float() - self.reference.float()


class KeptWeights:
    """Reads matrices, and keeps them on a shelf.

    Args:
        inputs: The checkpoints.
        shelf: Where matrices are kept.
        skip_bad: Return None for a matrix with NaN or infinity instead of raising.
    """

    def __init__(self, inputs: SweepInputs, shelf: Shelf, *, skip_bad: bool) -> None:
        self.inputs = inputs
        self.shelf = shelf
        self.skip_bad = skip_bad
        self._norms: dict[str, float] = {}
        self._last: tuple[str, Tensor] | None = None
        self._bad: set[tuple[str, str]] = set()
        self._untrained: set[tuple[str, str]] = set()

    def find(self, slot: MatrixSlot, finetuned: Finetuned) -> WeightPair | None:
        """Returns one matrix of both models; None where weights are bad and such matrices are skipped.

        Raises:
            NonFiniteError: If a weight is NaN or infinite, and such matrices are not skipped.
        """
        key = finetuned.name, slot.name
        if key in self._bad:
            return None
        try:
            self.measure_delta(slot)  # base must be finite too, as in a sweep
            reference = self._find_reference(slot)
            return self._find_pair(slot, finetuned, reference)
        except NonFiniteError:
            if not self.skip_bad:
                raise
            self._bad.add(key)
            return None

    def measure_delta(self, slot: MatrixSlot) -> float:
        """Returns the Frobenius norm of the delta; read once."""
        if slot.name not in self._norms:
            self.read_delta(slot)
        return self._norms[slot.name]

    def read_delta(self, slot: MatrixSlot) -> Tensor:
        """Reads reference − base, float32, ``(rows, columns)``, on the device; the last one alone is kept."""
        if self._last is not None and self._last[0] == slot.name:
            return self._last[1]
        delta = slot.view_part(read_delta(self.inputs.base, self.inputs.reference, slot.tensor, slot.index))
        self._norms[slot.name] = float(torch.linalg.vector_norm(delta, dtype=torch.float64))
        self._last = slot.name, delta.to(self.shelf.device)
        return self._last[1]

    def forget(self) -> None:
        """Lets go of open files and of the last delta."""
        self._last = None
        self.inputs.close()

    def _find_reference(self, slot: MatrixSlot) -> Tensor:
        found = self.shelf.find(REFERENCE, slot.name)
        if found is None:
            part = self.inputs.reference.read_finite(slot.tensor, slot.index)
            found = self.shelf.keep(REFERENCE, slot.name, slot.view_part(part).to(self.shelf.device))
        return found

    def _find_pair(self, slot: MatrixSlot, finetuned: Finetuned, reference: Tensor) -> WeightPair:
        group = name_finetuned(finetuned.name)
        found = self.shelf.find(group, slot.name)
        if found is None and (group, slot.name) not in self._untrained:
            weights = self._read_finetuned(slot, finetuned, reference)
            if weights is None:
                self._untrained.add((group, slot.name))
            else:
                found = self.shelf.keep(group, slot.name, weights.to(self.shelf.device))
        return WeightPair(reference, reference if found is None else found, found is not None)

    def _read_finetuned(self, slot: MatrixSlot, finetuned: Finetuned, reference: Tensor) -> Tensor | None:
        if isinstance(finetuned, FinetunedCheckpoint):
            return slot.view_part(finetuned.reader.read_finite(slot.tensor, slot.index))
        start = reference.float().cpu()
        update = finetuned.read_update(slot, start)
        return None if update is None else start + update


def name_finetuned(name: str) -> str:
    """Returns the group of a finetuned model's weights."""
    return f"finetuned:{name}"
