"""Chooses which tensors of a checkpoint take part, and checks that two checkpoints fit each other."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import Tensor

from safety_lightning.checkpoints.matrices import MatrixSlot, find_slots
from safety_lightning.checkpoints.reader import CheckpointReader
from safety_lightning.errors import UserError

Vectors = Literal["project", "skip"]
_OUTPUT_NAME = "lm_head.weight"


def select_names(names: Iterable[str], *, include: Sequence[str], exclude: Sequence[str]) -> list[str]:
    """Returns the names that match a pattern of `include` and none of `exclude`, in their order.

    Args:
        names: Tensor names.
        include: Shell patterns (``*``, ``?``, ``[...]``) of which one must match.
        exclude: Shell patterns of which none may match.

    Raises:
        UserError: If a pattern matches no name, or nothing is left.

    Example:
        >>> select_names(["a.weight", "b.bias"], include=["*"], exclude=["*.bias"])
        ['a.weight']
    """
    known = list(names)
    for pattern in [*include, *exclude]:
        if not any(fnmatchcase(name, pattern) for name in known):
            close = difflib.get_close_matches(pattern.replace("*", ""), known, n=1, cutoff=0.3)
            example = close or known[:1]
            raise UserError(f"pattern {pattern!r} must match a tensor, it matches none (there is {example})")
    kept = [
        name
        for name in known
        if any(fnmatchcase(name, p) for p in include) and not any(fnmatchcase(name, p) for p in exclude)
    ]
    if not kept:
        raise UserError(f"include {list(include)} and exclude {list(exclude)} must leave a tensor, they leave none")
    return kept


def select_slots(
    checkpoint: CheckpointReader,
    *,
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    vectors: Vectors = "project",
) -> list[MatrixSlot]:
    """Lists the matrices of a checkpoint that take part: every floating tensor, tied weights once.

    Args:
        checkpoint: The checkpoint; only its headers are used.
        include: See `select_names`.
        exclude: See `select_names`.
        vectors: ``project`` counts 1-D tensors as M x 1 matrices, ``skip`` leaves them alone.

    Raises:
        UserError: If a pattern matches nothing or nothing is left.
    """
    tied = tied_output(checkpoint)
    shapes = {one.name: one.shape for one in checkpoint.infos.values() if one.dtype is not None and one.name != tied}
    model_type = str(checkpoint.config.get("model_type", ""))
    return select_named_slots(shapes, include=include, exclude=exclude, vectors=vectors, model_type=model_type)


def select_named_slots(
    shapes: Mapping[str, tuple[int, ...]],
    *,
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    vectors: Vectors = "project",
    model_type: str = "",
) -> list[MatrixSlot]:
    """Does what `select_slots` does for tensors of which names and shapes alone are known, tied ones named once.

    Args:
        shapes: Shapes of the floating tensors by name.
        include: See `select_names`.
        exclude: See `select_names`.
        vectors: See `select_slots`.
        model_type: The ``model_type`` of the model's config.

    Raises:
        UserError: If a pattern matches nothing or nothing is left.
    """
    slots = [
        slot
        for name in select_names(sorted(shapes), include=include, exclude=exclude)
        for slot in find_slots(name, shapes[name], model_type=model_type)
        if vectors == "project" or not slot.is_vector
    ]
    if not slots:
        raise UserError("the selection must hold a matrix, it holds only vectors and vectors are skipped")
    return slots


def tied_output(checkpoint: CheckpointReader) -> str | None:
    """Returns the name of the output layer when it shares the embedding's storage, else None."""
    return _OUTPUT_NAME if checkpoint.config.get("tie_word_embeddings") else None


def check_pair(
    base: CheckpointReader,
    reference: CheckpointReader,
    *,
    common_rows: bool = False,
    roles: tuple[str, str] = ("base", "reference"),
) -> None:
    """Checks by their headers that two checkpoints are of one architecture.

    Args:
        base: The checkpoint from before.
        reference: The checkpoint from after.
        common_rows: Accept tensors that differ in their number of rows alone (a resized vocabulary).
        roles: What the two are called in errors.

    Raises:
        UserError: If architectures, names or shapes differ; says which, up to three, and how many.
    """
    types = base.config.get("model_type"), reference.config.get("model_type")
    if types[0] != types[1]:
        raise UserError(
            f"{roles[0]} and {roles[1]} must be of one architecture, got {types[0]} ({base.folder}) and {types[1]} "
            f"({reference.folder})"
        )
    _check_names(base, reference, roles)
    _check_shapes(base, reference, roles, common_rows=common_rows)


def iterate_deltas(
    base: CheckpointReader, reference: CheckpointReader, slots: Sequence[MatrixSlot]
) -> Iterator[tuple[MatrixSlot, Tensor]]:
    """Yields each slot with its delta, reference − base, reading each tensor once.

    Rows that only the reference has (an enlarged vocabulary) have a delta of zero.

    Yields:
        The slot and its delta, float32, shape ``(rows, columns)``, on the CPU.

    Raises:
        UserError: If a weight is NaN or infinite.
    """
    name, delta = "", torch.empty(0)
    for slot in slots:
        if slot.tensor != name:
            name, delta = slot.tensor, read_delta(base, reference, slot.tensor)
        yield slot, slot.view(delta)


def read_delta(base: CheckpointReader, reference: CheckpointReader, name: str, index: int | None = None) -> Tensor:
    """Reads reference − base of one tensor, or of one matrix of a stack, float32, in the reference's shape.

    Raises:
        UserError: If a weight is NaN or infinite.
    """
    delta = reference.read_finite(name, index).to(torch.float32, copy=True)
    subtract_base(delta, base, name, index)
    return delta


def subtract_base(delta: Tensor, base: CheckpointReader, name: str, index: int | None = None) -> None:
    """Turns reference weights, float32, into reference − base, in place.

    Rows that only the reference has become zero.

    Raises:
        UserError: If a weight of the base is NaN or infinite.
    """
    start = base.read_finite(name, index).to(torch.float32)
    num_common = min(len(delta), len(start)) if delta.ndim else None
    if delta.ndim == 0 or num_common == len(delta):
        delta.sub_(start[:num_common] if delta.ndim else start)
        return
    delta[:num_common].sub_(start[:num_common])
    delta[num_common:].zero_()


def _check_names(base: CheckpointReader, reference: CheckpointReader, roles: tuple[str, str]) -> None:
    ignored = {tied_output(base), tied_output(reference)}
    only_base = sorted(set(base.infos) - set(reference.infos) - ignored)
    only_reference = sorted(set(reference.infos) - set(base.infos) - ignored)
    if only_base or only_reference:
        raise UserError(
            f"{roles[0]} and {roles[1]} must hold the same tensors, got "
            f"{len(only_base)} only in {base.folder} ({', '.join(only_base[:3]) or 'none'}) and "
            f"{len(only_reference)} only in {reference.folder} ({', '.join(only_reference[:3]) or 'none'})"
        )


def _check_shapes(
    base: CheckpointReader, reference: CheckpointReader, roles: tuple[str, str], *, common_rows: bool
) -> None:
    wrong: list[str] = []
    resized: list[str] = []
    for name in sorted(set(base.infos) & set(reference.infos)):
        first, second = base.infos[name].shape, reference.infos[name].shape
        if first != second:
            only_rows = len(first) == len(second) > 0 and first[1:] == second[1:]
            (resized if only_rows else wrong).append(f"{name} {first} and {second}")
    differing = wrong if common_rows else wrong + resized
    if differing:
        offer = ""
        if not wrong and roles == ("base", "reference"):
            offer = " (a resized vocabulary? common_rows: true compares the rows that both have)"
        raise UserError(
            f"{roles[0]} and {roles[1]} must have equal shapes, {len(differing)} tensors differ: "
            f"{'; '.join(differing[:3])}{offer}"
        )
