"""Keeps decompositions of deltas in a folder, by the content of the delta, so that each is made once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from safety_lightning.errors import UserError
from safety_lightning.files import atomic_path, find_parent
from safety_lightning.subspaces.decomposition import Decomposition, Side, decompose_delta
from safety_lightning.subspaces.hashing import hash_content


class DecompositionLibrary:
    """Decompositions on disk. Whatever files a delta came from, equal numbers find the same decomposition.

    Args:
        folder: Where they lie, a file each; made when the first is added.

    Raises:
        UserError: If the folder cannot be made.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        find_parent(self.folder, what="library")

    def decompose(self, delta: Tensor, *, side: Side = "left", rank: int | None = None) -> Decomposition:
        """Finds a decomposition, or makes and keeps it.

        Args:
            delta: As in `decompose_delta`, float32.
            side: As in `decompose_delta`.
            rank: As in `decompose_delta`; one that was kept with a smaller rank is made anew.

        Raises:
            UserError: As `decompose_delta`, or if a file of the folder cannot be read.
        """
        file = self.folder / f"{hash_delta(delta, side)}.safetensors"
        found = _read(file, rank) if file.is_file() else None
        if found is None:
            found = decompose_delta(delta, side=side, rank=rank)
            self._write(file, found, is_whole=rank is None or found.rank < rank)
        vectors, values = found.vectors[:, :rank], found.singular_values[:rank]
        return Decomposition(vectors.to(delta.device), values.to(delta.device), found.method)

    def _write(self, file: Path, found: Decomposition, *, is_whole: bool) -> None:
        tensors = {
            "vectors": found.vectors.to(torch.float32).cpu().contiguous(),
            "singular_values": found.singular_values.cpu(),
        }
        facts = {"method": found.method, "is_whole": str(is_whole)}
        content = hash_content(tensors, _describe(file, facts))
        with atomic_path(file) as partial:
            save_file(tensors, partial, metadata={**facts, "content": content})


def hash_delta(delta: Tensor, side: Side) -> str:
    """Returns the SHA-256 of a delta's shape and numbers, and of the side, as hexadecimal digits."""
    digest = hashlib.sha256(f"{side}:{tuple(delta.shape)}:{delta.dtype}:".encode())
    digest.update(delta.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(file: Path, rank: int | None) -> Decomposition | None:
    """Reads a decomposition; None if it holds fewer vectors than are wanted."""
    try:
        with safe_open(file, framework="pt") as handle:
            metadata = handle.metadata() or {}
            tensors = {name: handle.get_tensor(name) for name in ("vectors", "singular_values")}
            if metadata["content"] != hash_content(tensors, _describe(file, metadata)):
                raise UserError(f"{file} must hold what was kept, its content does not match its hash: remove it")
    except (SafetensorError, OSError, KeyError) as error:
        raise UserError(f"{file} must be a kept decomposition, it cannot be read: {error}; remove it") from error
    vectors, values = tensors["vectors"], tensors["singular_values"]
    if metadata["is_whole"] != "True" and (rank is None or rank > len(values)):
        return None
    return Decomposition(vectors.double(), values, metadata["method"])


def _describe(file: Path, metadata: Mapping[str, str]) -> str:
    """Says what the hash of the content stands for beside the numbers: also which delta they belong to."""
    return f"{file.stem}:{metadata['method']}:{metadata['is_whole']}"
