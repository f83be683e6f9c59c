"""Says which subspace is wanted, and builds it from a pair of checkpoints or finds it saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from safety_lightning.checkpoints import (
    CheckpointReader,
    MatrixSlot,
    Vectors,
    check_pair,
    iterate_deltas,
    locate_model,
    select_slots,
)
from safety_lightning.errors import UserError
from safety_lightning.subspaces import (
    Basis,
    DecompositionLibrary,
    Side,
    Source,
    Subspace,
    check_fraction,
    load_subspace,
    save_subspace,
    span_subspace,
)
from safety_lightning.system.devices import in_full_precision

_LOCATIONS = {"base", "reference", "file", "library"}  # where things lie moves no basis: the contents are hashed


@dataclass(frozen=True, kw_only=True)
class SubspaceSpec:
    """Which subspace of which delta.

    Attributes:
        base: The checkpoint from before alignment: a folder, a hub name (``org/name@rev``) or ``lab:NAME``.
        reference: The checkpoint that fine-tuning starts from; None for the model that is trained.
        source: ``top_k`` leading singular vectors of the delta, ``random_k`` as many of them at random, or a
            ``random`` subspace.
        fraction: Share of the smaller dimension of each matrix that the subspace spans, in (0, 1].
        side: ``left`` (output side, the paper's equations) or ``right`` (input side).
        include: Patterns of tensor names that take part.
        exclude: Patterns of tensor names that do not.
        vectors: ``project`` treats 1-D tensors as M x 1 matrices, on the line of their delta; ``skip`` leaves them.
        common_rows: Accept a vocabulary that was resized between base and reference; rows that only the reference
            has lie outside the subspace.
        seed: Seed of the random sources.
        file: Where the subspace is saved, and taken from when its inputs and settings are the same.
        library: Folder of decompositions, such as ``project --library`` makes: each delta is decomposed once for
            all fractions and runs.

    Raises:
        UserError: If the fraction is outside (0, 1].
    """

    base: str
    reference: str | None = None
    source: Source = "top_k"
    fraction: float = 0.25
    side: Side = "left"
    include: list[str] = field(default_factory=lambda: ["*"])
    exclude: list[str] = field(default_factory=list)
    vectors: Vectors = "project"
    common_rows: bool = False
    seed: int = 0
    file: str | None = None
    library: str | None = None

    def __post_init__(self) -> None:
        check_fraction(self.fraction)


@dataclass(frozen=True)
class PreparedSubspace:
    """A subspace, the matrices it is for, and the checkpoint that updates are measured from."""

    spec: SubspaceSpec
    slots: Sequence[MatrixSlot]
    subspace: Subspace
    reference: CheckpointReader


@in_full_precision()
def prepare_subspace(
    spec: SubspaceSpec, *, device: torch.device | str = "cpu", origin: str | None = None
) -> PreparedSubspace:
    """Checks a pair of checkpoints and spans the subspace of their delta, or loads it where it is saved.

    Nothing is written: `save_prepared` writes the subspace.

    Args:
        spec: What is wanted; its reference must be given.
        device: Where to decompose.
        origin: The checkpoint that updates are measured from; None for the subspace's reference.

    Returns:
        The subspace on the CPU.

    Raises:
        UserError: If the checkpoints do not fit each other, hold NaN or infinity, are identical, or a pattern
            matches nothing.
    """
    if spec.reference is None:
        raise UserError("subspace.reference must name the checkpoint that fine-tuning starts from, got None")
    base = CheckpointReader(locate_model(spec.base))
    reference = CheckpointReader(locate_model(spec.reference))
    check_pair(base, reference, common_rows=spec.common_rows)
    slots = select_slots(reference, include=spec.include, exclude=spec.exclude, vectors=spec.vectors)
    recipe = _describe(spec, base, reference)
    saved = _find_saved(spec, recipe)
    subspace = saved or Subspace(_span_all(spec, base, reference, slots, torch.device(device)), recipe)
    base.close()
    if origin is not None:
        start = CheckpointReader(locate_model(origin))
        check_pair(start, reference, roles=("origin", "reference"), common_rows=spec.common_rows)
        reference.close()
        reference = start
    return PreparedSubspace(spec, slots, subspace, reference)


def save_prepared(prepared: PreparedSubspace) -> None:
    """Saves a subspace where its spec says, unless the same one is there already.

    Raises:
        UserError: If the file holds something that is no subspace.
    """
    if prepared.spec.file is None:
        return
    if _find_saved(prepared.spec, prepared.subspace.recipe) is None:
        Path(prepared.spec.file).parent.mkdir(parents=True, exist_ok=True)
        save_subspace(prepared.subspace, Path(prepared.spec.file))


def _describe(spec: SubspaceSpec, base: CheckpointReader, reference: CheckpointReader) -> dict[str, Any]:
    settings = {key: value for key, value in asdict(spec).items() if key not in _LOCATIONS}
    return {"base": base.hash_files(), "reference": reference.hash_files(), **settings}


def _find_saved(spec: SubspaceSpec, recipe: Mapping[str, Any]) -> Subspace | None:
    if spec.file is None or not Path(spec.file).exists():
        return None
    saved = load_subspace(Path(spec.file))
    return saved if saved.recipe == recipe else None


def _span_all(
    spec: SubspaceSpec,
    base: CheckpointReader,
    reference: CheckpointReader,
    slots: Sequence[MatrixSlot],
    device: torch.device,
) -> dict[str, Basis]:
    bases = {}
    library = DecompositionLibrary(Path(spec.library)) if spec.library else None
    deltas = tqdm(iterate_deltas(base, reference, slots), total=len(slots), desc="Bases", unit="matrix", delay=1)
    for slot, delta in deltas:
        basis = span_subspace(
            delta.to(device),
            fraction=spec.fraction,
            source=spec.source,
            side=spec.side,
            name=slot.name,
            seed=spec.seed,
            library=library,
        )
        bases[slot.name] = Basis(basis.columns.cpu(), basis.wanted_rank, basis.delta_norm, basis.method)
    if all(basis.delta_norm == 0 for basis in bases.values()):
        raise UserError(
            f"base and reference must differ, {base.folder} and {reference.folder} are identical in all "
            f"{len(bases)} selected matrices: there is no delta"
        )
    return bases
