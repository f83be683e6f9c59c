"""Measures the overlap of updates of weights: named checkpoints, matrix by matrix."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor
from tqdm import tqdm

from safety_lightning.checkpoints import (
    CheckpointReader,
    MatrixSlot,
    check_pair,
    iterate_deltas,
    read_delta,
    resolve_reference,
    select_slots,
)
from safety_lightning.errors import UserError
from safety_lightning.overlap.settings import DELTA, WeightSettings
from safety_lightning.overlap.weights.matrices import Pair

CEILING = "{} (other seed)"


@dataclass(frozen=True)
class Update:
    """The difference of two checkpoints, read a tensor at a time."""

    start: CheckpointReader
    end: CheckpointReader

    def hash_files(self) -> dict[str, dict[str, str]]:
        """Returns the hashes of both checkpoints' files."""
        return {"start": self.start.hash_files(), "end": self.end.hash_files()}


class WeightUpdates:
    """The updates that are compared, with the pairs of them.

    Args:
        reference: The checkpoint that fine-tuning started from: a folder, a hub name or ``lab:NAME``.
        updates: Fine-tuned checkpoints by the updates' names.
        base: The checkpoint from before alignment, which adds the update `DELTA`, reference − base; None without.
        ceilings: Fine-tuned checkpoints of another seed, by names of ``updates``.
        settings: Which tensors take part.

    Raises:
        UserError: If there are not two updates, a name is taken or unknown, or checkpoints do not fit each other.
    """

    def __init__(
        self,
        reference: str,
        updates: Mapping[str, str],
        *,
        base: str | None = None,
        ceilings: Mapping[str, str] | None = None,
        settings: WeightSettings,
    ) -> None:
        _check_names(updates, ceilings or {}, has_delta=base is not None)
        start = _open(reference)
        self.reference = start
        self.updates = {name: Update(start, _open_fitting(name, start, found)) for name, found in updates.items()}
        if base is not None:
            self.updates[DELTA] = Update(_open_base(base, start, common_rows=settings.common_rows), start)
        self.pairs: list[Pair] = list(itertools.combinations(self.updates, 2))
        self.ceilings = {name: (name, CEILING.format(name)) for name in ceilings or {}}
        for name, found in (ceilings or {}).items():
            self.updates[CEILING.format(name)] = Update(start, _open_fitting(name, start, found))
        self.slots = select_slots(start, include=settings.include, exclude=settings.exclude, vectors=settings.vectors)

    @property
    def num_layers(self) -> int:
        """The number of decoder layers, by the config or the tensors' names."""
        known = [slot.layer for slot in self.slots if slot.layer is not None]
        return max(int(self.reference.config.get("num_hidden_layers") or 0), *(layer + 1 for layer in known), 1)

    def check(self) -> None:
        """Reads every tensor once.

        Raises:
            UserError: If a weight is NaN or infinite, or an update is zero in all matrices.
        """
        names = list(dict.fromkeys(slot.tensor for slot in self.slots))
        changed = dict.fromkeys(self.updates, False)
        for tensor in tqdm(names, desc="Checking", unit="tensor", delay=1):
            for name, update in self.updates.items():
                changed[name] |= bool(read_delta(update.start, update.end, tensor).any())
        unchanged = [name for name, any_changed in changed.items() if not any_changed]
        if unchanged:
            update = self.updates[unchanged[0]]
            raise UserError(
                f"update {unchanged[0]} must not be zero, {update.end.folder} and {update.start.folder} are identical "
                f"in all {len(names)} selected tensors"
            )

    def iterate(self, slots: Sequence[MatrixSlot]) -> Iterator[tuple[MatrixSlot, dict[str, Tensor]]]:
        """Yields some matrices with every update of them, float32, on the CPU."""
        streams = [iterate_deltas(update.start, update.end, slots) for update in self.updates.values()]
        for found in zip(*streams, strict=True):
            yield found[0][0], {name: delta for name, (_, delta) in zip(self.updates, found, strict=True)}

    def all_pairs(self) -> list[Pair]:
        """Lists the pairs, and those of two seeds of one update."""
        return [*self.pairs, *self.ceilings.values()]


def _check_names(updates: Mapping[str, str], ceilings: Mapping[str, str], *, has_delta: bool) -> None:
    if has_delta and DELTA in updates:
        raise UserError(f"updates must not be called {DELTA}, which is reference − base, got {DELTA}={updates[DELTA]}")
    if len(updates) + has_delta < 2:
        raise UserError(f"updates must be at least two (base adds one), got {list(updates) or 'none'}")
    unknown = sorted(set(ceilings) - set(updates))
    if unknown:
        raise UserError(f"ceilings must be of the updates {list(updates)}, got {unknown[0]}")


def _open(reference: str) -> CheckpointReader:
    return CheckpointReader(resolve_reference(reference))


def _open_fitting(name: str, reference: CheckpointReader, finetuned: str) -> CheckpointReader:
    reader = _open(finetuned)
    check_pair(reference, reader, roles=("reference", f"update {name}"))
    return reader


def _open_base(base: str, reference: CheckpointReader, *, common_rows: bool) -> CheckpointReader:
    reader = _open(base)
    check_pair(reader, reference, common_rows=common_rows)
    return reader
