"""Opens the checkpoints of a sweep and checks by their headers that they fit each other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from safety_lightning.checkpoints import (
    CheckpointReader,
    Finetuned,
    FinetunedCheckpoint,
    MatrixSlot,
    StorageDtype,
    Vectors,
    check_pair,
    find_mixed_dtypes,
    locate_model,
    open_finetuned,
    select_slots,
)
from safety_lightning.errors import UserError
from safety_lightning.methods import Method
from safety_lightning.projection import Tied
from safety_lightning.subspaces import Side


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """What a sweep does with its inputs, whatever the method.

    Attributes:
        storage_dtype: What saved weights are rounded to; the leak is measured after it. source keeps each tensor's own.
        num_leak_columns: Columns of each matrix that tell the leak; 0 for all.
        side: Output side (the paper's equations) or input side.
        include: Patterns of tensor names that take part.
        exclude: Patterns of tensor names that do not.
        vectors: Treat 1-D tensors as M x 1 matrices, or leave them as they were finetuned.
        tied: Count an embedding that is also the output layer once, or each.
        common_rows: Accept a vocabulary that was resized between base and reference.
        mixed_dtypes: Accept checkpoints that round those they were trained from.
        skip_bad: Leave out matrices with NaN or infinity, counted, instead of stopping.
        seed: Seed of the random sources.

    Raises:
        UserError: If the number of columns is negative.
    """

    storage_dtype: StorageDtype = "float32"
    num_leak_columns: int = 32
    side: Side = "left"
    include: list[str] = field(default_factory=lambda: ["*"])
    exclude: list[str] = field(default_factory=list)
    vectors: Vectors = "project"
    tied: Tied = "once"
    common_rows: bool = False
    mixed_dtypes: bool = False
    skip_bad: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_leak_columns < 0:
            raise UserError(f"num_leak_columns must be at least 0, got {self.num_leak_columns}")


@dataclass(frozen=True)
class SweepInputs:
    """The open checkpoints of a sweep and the matrices that take part."""

    base: CheckpointReader
    reference: CheckpointReader
    finetuned: Sequence[Finetuned]
    safety_tuned: Finetuned | None
    unaligned: CheckpointReader | None
    slots: Sequence[MatrixSlot]

    @property
    def tensors(self) -> list[list[MatrixSlot]]:
        """The matrices by the tensor that holds them."""
        return [list(group) for _, group in itertools.groupby(self.slots, key=lambda slot: slot.tensor)]

    def hash_files(self) -> dict[str, Any]:
        """Returns the SHA-256 of every file of every checkpoint."""
        hashes: dict[str, Any] = {
            "base": self.base.hash_files(),
            "reference": self.reference.hash_files(),
            "finetuned": {one.name: one.hash_files() for one in self.finetuned},
        }
        if self.safety_tuned is not None:
            hashes["safety_tuned"] = self.safety_tuned.hash_files()
        if self.unaligned is not None:
            hashes["unaligned"] = self.unaligned.hash_files()
        return hashes

    def close(self) -> None:
        """Lets go of the open files, and with them of the memory that their pages take."""
        for one in (self.base, self.reference, self.safety_tuned, self.unaligned, *self.finetuned):
            if one is not None:
                one.close()


def open_inputs(
    base: str,
    reference: str,
    finetuned: Sequence[str],
    *,
    methods: Sequence[Method],
    settings: SweepSettings,
    safety_tuned: str | None = None,
) -> SweepInputs:
    """Opens checkpoints; reads headers and configurations only.

    Args:
        base: The checkpoint from before alignment.
        reference: The checkpoint that fine-tuning started from.
        finetuned: Finetuned models, folders of weights or of LoRA adapters; see `open_finetuned`.
        methods: What the updates will be treated by.
        settings: What else will be done.
        safety_tuned: A safety-tuned model, which some methods need.

    Raises:
        UserError: If a checkpoint is not whole, they do not fit each other, or a method lacks what it needs.
    """
    for method in methods:
        if method.needs.safety_tuned and safety_tuned is None:
            raise UserError(
                f"{method.describe().source} must have --safety_tuned, the model whose update it merges with, got none"
            )
    base_reader = CheckpointReader(locate_model(base))
    reference_reader = CheckpointReader(locate_model(reference))
    check_pair(base_reader, reference_reader, common_rows=settings.common_rows)
    models = open_finetuned(finetuned, reference_reader)
    safety = open_finetuned([f"safety_tuned={safety_tuned}"], reference_reader)[0] if safety_tuned else None
    unaligned = _open_unaligned(methods, reference_reader)
    _check_dtypes(base_reader, reference_reader, models, settings)
    slots = select_slots(reference_reader, include=settings.include, exclude=settings.exclude, vectors=settings.vectors)
    for method in methods:
        method.check(slots)
    return SweepInputs(base_reader, reference_reader, models, safety, unaligned, slots)


def _open_unaligned(methods: Sequence[Method], reference: CheckpointReader) -> CheckpointReader | None:
    names = list(dict.fromkeys(one.needs.unaligned for one in methods if one.needs.unaligned is not None))
    if len(names) > 1:
        raise UserError(f"methods must name one unaligned checkpoint, got {' and '.join(names)}")
    if not names:
        return None
    unaligned = CheckpointReader(locate_model(names[0]))
    check_pair(unaligned, reference, roles=("unaligned", "reference"))
    return unaligned


def _check_dtypes(
    base: CheckpointReader, reference: CheckpointReader, models: Sequence[Finetuned], settings: SweepSettings
) -> None:
    stored = [one.reader for one in models if isinstance(one, FinetunedCheckpoint)]
    chains = [[base, reference], *([reference, reader] for reader in stored)]
    found = next((problem for chain in chains if (problem := find_mixed_dtypes(chain))), None)
    if found is not None and not settings.mixed_dtypes:
        raise UserError(
            f"checkpoints must not round those they were trained from, for rounding would count as their update: "
            f"{found}. --mixed_dtypes true accepts it"
        )
