"""Saves and loads the subspace of a whole model as one safetensors file with its manifest inside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from safety_lightning.errors import UserError
from safety_lightning.files import atomic_path
from safety_lightning.subspaces.bases import Basis
from safety_lightning.subspaces.hashing import hash_content

FORMAT = 2


@dataclass(frozen=True)
class Subspace:
    """The bases of a model's matrices, and what they were made from.

    Attributes:
        bases: A basis for every matrix, by the matrix's name.
        recipe: What determines the bases: hashes of the inputs and every setting. Plain JSON. Two subspaces of
            equal recipes are interchangeable.
    """

    bases: Mapping[str, Basis]
    recipe: Mapping[str, Any]

    @property
    def num_zero(self) -> int:
        """How many matrices have no subspace because their delta is zero."""
        return sum(basis.delta_norm == 0 for basis in self.bases.values())

    @property
    def num_capped(self) -> int:
        """How many bases stop short of their wanted rank at the numerical rank of their delta."""
        return sum(0 < basis.rank < basis.wanted_rank for basis in self.bases.values())


def save_subspace(subspace: Subspace, file: str | Path) -> None:
    """Writes a subspace atomically: the file is whole or absent, and holds the hash of its content.

    Args:
        subspace: What to write.
        file: A ``.safetensors`` path.
    """
    facts = {
        name: {"wanted_rank": basis.wanted_rank, "delta_norm": basis.delta_norm, "method": basis.method}
        for name, basis in subspace.bases.items()
    }
    manifest = {"format": FORMAT, "recipe": dict(subspace.recipe), "bases": facts}
    tensors = {name: basis.columns.cpu().contiguous() for name, basis in subspace.bases.items()}
    with atomic_path(Path(file)) as partial:
        whole = manifest | {"content": hash_content(tensors, _format(manifest))}
        save_file(tensors, partial, metadata={"manifest": _format(whole)})  # one entry: several come in any order


def load_subspace(file: str | Path) -> Subspace:
    """Reads a subspace that `save_subspace` wrote.

    Raises:
        UserError: If the file is no such file, is truncated, is of another format, or its content is not what was
            written.
    """
    try:
        with safe_open(file, framework="pt") as handle:
            metadata = handle.metadata() or {}
            manifest = _read_manifest(file, metadata)
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} must be a saved subspace, it cannot be read: {error}") from error
    if manifest.pop("content", None) != hash_content(tensors, _format(manifest)):
        raise UserError(
            f"{file} must hold the subspace that was saved, its content does not match its hash: make it anew"
        )
    bases = {
        name: Basis(tensors[name], facts["wanted_rank"], facts["delta_norm"], facts["method"])
        for name, facts in manifest["bases"].items()
    }
    return Subspace(bases, manifest["recipe"])


def _format(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest, sort_keys=True)


def _read_manifest(file: str | Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        manifest = json.loads(metadata.get("manifest", "{}"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} must be a saved subspace, its manifest is no JSON: {error}") from error
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise UserError(f"{file} must be a saved subspace of format {FORMAT}, got {found}")
    return dict(manifest)
