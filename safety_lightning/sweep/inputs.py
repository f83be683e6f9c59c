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
    open_finetuned,
    resolve_reference,
    select_slots,
)
from safety_lightning.errors import UserError
from safety_lightning.methods.rivals import Rivals
from safety_lightning.methods.variants import FRACTIONS
from safety_lightning.projection.operators import Component
from safety_lightning.projection.rows import Tied
from safety_lightning.subspaces import Side, Source


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """What a sweep does with its inputs.

    Attributes:
        sources: Where directions come from.
        components: Which parts are kept.
        fractions: Shares of the smaller dimension.
        rivals: Other methods, and their settings.
        side: ``left`` (output side) or ``right`` (input side).
        include: Patterns of tensor names that take part.
        exclude: Patterns of tensor names that do not.
        vectors: ``project`` treats 1-D tensors as M x 1 matrices, ``skip`` leaves them.
        common_rows: Accept a vocabulary that was resized between base and reference.
        mixed_dtypes: Accept checkpoints that round those they were trained from.
        tied: ``once``, or ``each`` to list an output layer beside the embedding that it is.
        storage_dtype: What saved weights are rounded to; their leak is measured after it.
        num_leak_columns: Columns of each matrix that tell the leak; 0 for all.
        seed: Seed of the random sources.
        skip_bad: Leave out matrices with NaN or infinity, counted, instead of stopping.

    Raises:
        UserError: If the number of columns is negative.
    """

    sources: list[Source] = field(default_factory=lambda: ["top_k", "random_k", "random"])
    components: list[Component] = field(default_factory=lambda: ["parallel", "orthogonal"])
    fractions: list[float] = field(default_factory=lambda: list(FRACTIONS))
    rivals: Rivals = field(default_factory=Rivals)
    side: Side = "left"
    include: list[str] = field(default_factory=lambda: ["*"])
    exclude: list[str] = field(default_factory=list)
    vectors: Vectors = "project"
    common_rows: bool = False
    mixed_dtypes: bool = False
    tied: Tied = "once"
    storage_dtype: StorageDtype = "float32"
    num_leak_columns: int = 32
    seed: int = 0
    skip_bad: bool = False

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
    base: str, reference: str, finetuned: Sequence[str], *, safety_tuned: str | None, settings: SweepSettings
) -> SweepInputs:
    """Opens checkpoints; reads headers and configurations only.

    Args:
        base: The checkpoint from before alignment.
        reference: The checkpoint that fine-tuning started from.
        finetuned: Finetuned models, folders of weights or of LoRA adapters; see `open_finetuned`.
        safety_tuned: A safety-tuned model, which SafeMERGE needs.
        settings: What will be done.

    Raises:
        UserError: If a checkpoint is not whole, they do not fit each other, or a rival lacks what it needs.
    """
    if "safe_merge" in settings.rivals.methods and safety_tuned is None:
        raise UserError("safe_merge must have --safety_tuned, the model whose update it merges with, got none")
    base_reader = CheckpointReader(resolve_reference(base))
    reference_reader = CheckpointReader(resolve_reference(reference))
    check_pair(base_reader, reference_reader, common_rows=settings.common_rows)
    models = open_finetuned(finetuned, reference_reader)
    safety = open_finetuned([f"safety_tuned={safety_tuned}"], reference_reader)[0] if safety_tuned else None
    unaligned = None
    if "resta" in settings.rivals.methods and settings.rivals.resta.unaligned is not None:
        unaligned = CheckpointReader(resolve_reference(settings.rivals.resta.unaligned))
        check_pair(unaligned, reference_reader, roles=("unaligned", "reference"))
    _check_dtypes(base_reader, reference_reader, models, settings)
    slots = select_slots(reference_reader, include=settings.include, exclude=settings.exclude, vectors=settings.vectors)
    return SweepInputs(base_reader, reference_reader, models, safety, unaligned, slots)


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
