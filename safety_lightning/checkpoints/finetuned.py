"""Finetuned models as updates from a reference: whole checkpoints and LoRA adapters behind one interface."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from safety_lightning.checkpoints.adapters import AdapterReader, is_adapter
from safety_lightning.checkpoints.matrices import MatrixSlot
from safety_lightning.checkpoints.reader import CheckpointReader, TensorInfo
from safety_lightning.checkpoints.references import locate_model
from safety_lightning.checkpoints.selection import check_pair, tied_output
from safety_lightning.errors import UserError


class FinetunedCheckpoint:
    """A finetuned model whose weights are all stored.

    Args:
        name: What it is called in tables.
        folder: Its folder.
        reference: The checkpoint it was trained from.
        kind: What it is called in errors.

    Attributes:
        infos: The tensors of the finished model, without an output layer that is the embedding.

    Raises:
        UserError: If it holds other tensors than the reference, or of other shapes.
    """

    adapter: AdapterReader | None = None

    def __init__(self, name: str, folder: Path, reference: CheckpointReader, *, kind: str = "finetuned model") -> None:
        self.name = name
        self.folder = folder
        self.reader = CheckpointReader(folder)
        check_pair(reference, self.reader, roles=("reference", f"{kind} {name}"))
        self.infos = list_untied(self.reader)

    def read_update(self, slot: MatrixSlot, reference_MN: Tensor) -> Tensor | None:
        """Reads the update of one matrix.

        Args:
            slot: The matrix.
            reference_MN: Its reference weights, float32, on the CPU.

        Returns:
            float32, shape ``(rows, columns)``, on the CPU; None where nothing was trained.

        Raises:
            UserError: If a weight is NaN or infinite.
        """
        return slot.view_part(self.reader.read_finite(slot.tensor, slot.index)).float() - reference_MN

    def read(self, name: str) -> Tensor:
        """Reads one tensor of the finished model, in the dtype that `infos` tells."""
        return self.reader.read(name)

    def hash_files(self) -> dict[str, str]:
        """Returns the SHA-256 of its files, by file name."""
        return self.reader.hash_files()

    def close(self) -> None:
        """Closes the open files."""
        self.reader.close()


class FinetunedAdapter:
    """A LoRA adapter on the reference. Each product of factors is made when it is asked for.

    Args:
        name: What it is called in tables.
        folder: The adapter's folder.
        reference: The checkpoint it was trained on.

    Attributes:
        infos: The tensors of the merged model, without an output layer that is the embedding.

    Raises:
        UserError: If it is no plain LoRA, or was made for another model.
    """

    def __init__(self, name: str, folder: Path, reference: CheckpointReader) -> None:
        self.name = name
        self.folder = folder
        self.adapter = AdapterReader(folder)
        self.adapter.check(reference)
        self.infos = list_untied(reference)
        self._reference = reference

    def read_update(self, slot: MatrixSlot, reference_MN: Tensor) -> Tensor | None:
        """Reads the update of one matrix, as `FinetunedCheckpoint.read_update`; None where the adapter has none."""
        return self.adapter.read_update(slot, self._reference)

    def read(self, name: str) -> Tensor:
        """Reads one tensor of the merged model."""
        tensor = self._reference.read(name)
        if name in self.adapter.whole:
            return self.adapter.read(self.adapter.whole[name]).to(tensor.dtype)
        if name in self.adapter.factors:
            update = self.adapter.read_factors(name).multiply()
            return (tensor.float() + (update.mT if self.adapter.is_transposed else update)).to(tensor.dtype)
        return tensor

    def hash_files(self) -> dict[str, str]:
        """Returns the SHA-256 of its files, by file name."""
        return self.adapter.hash_files()

    def close(self) -> None:
        """Does nothing: each read closes its file."""


Finetuned = FinetunedCheckpoint | FinetunedAdapter


def open_finetuned(arguments: Sequence[str], reference: CheckpointReader) -> list[Finetuned]:
    """Opens finetuned models and checks them by their headers.

    Args:
        arguments: Folders, hub names or ``lab:NAME``, each plain or as ``NAME=WHERE``; a plain one is called by the
            last part of its path.
        reference: The checkpoint they were trained from.

    Raises:
        UserError: If there are none, two have one name, or one does not fit the reference.
    """
    if not arguments:
        raise UserError("finetuned must name at least one model, got none")
    found: list[Finetuned] = []
    for argument in arguments:
        name, where = _split(argument)
        if name in [one.name for one in found]:
            raise UserError(f"finetuned models must have different names, got {name} twice: write NAME=WHERE")
        found.append(open_one(name, where, reference))
    return found


def open_one(name: str, where: str, reference: CheckpointReader, *, kind: str = "finetuned model") -> Finetuned:
    """Opens one finetuned model, a whole checkpoint or an adapter, and checks it by its headers.

    Args:
        name: What it is called in tables.
        where: A folder, a hub name or ``lab:NAME``.
        reference: The checkpoint it was trained from.
        kind: What it is called in errors.

    Raises:
        UserError: If it does not fit the reference.
    """
    folder = locate_model(where)
    if is_adapter(folder):
        return FinetunedAdapter(name, folder, reference)
    return FinetunedCheckpoint(name, folder, reference, kind=kind)


def list_untied(reader: CheckpointReader) -> dict[str, TensorInfo]:
    """Returns a checkpoint's tensors without an output layer that is the embedding."""
    tied = tied_output(reader)
    return {name: info for name, info in reader.infos.items() if name != tied}


def find_mixed_dtypes(readers: Sequence[CheckpointReader]) -> str | None:
    """Says where matrices are stored in more than one dtype, or one narrower than that before; None if nowhere.

    A rounding between two checkpoints would count as a part of the update.

    Args:
        readers: Checkpoints in the order in which they were trained.
    """
    widths: list[tuple[CheckpointReader, torch.dtype]] = []
    for reader in readers:
        matrices = {info.dtype for info in reader.infos.values() if info.dtype and len(info.shape) > 1}
        if len(matrices) > 1:
            return f"{reader.folder} stores matrices in {' and '.join(sorted(map(str, matrices)))}"
        widths += [(reader, dtype) for dtype in matrices]
    for (before, wide), (after, narrow) in itertools.pairwise(widths):
        if torch.promote_types(wide, narrow) != narrow:
            return f"{before.folder} stores {wide}, {after.folder} {narrow}, which rounds it"
    return None


def _split(argument: str) -> tuple[str, str]:
    name, sign, where = argument.partition("=")
    if sign and "/" not in name:
        return name, where
    last = argument.rstrip("/").replace("lab:", "").partition("@")[0].rsplit("/", 1)[-1]
    return last, argument
