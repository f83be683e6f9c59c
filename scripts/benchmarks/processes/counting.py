"""Counts what processes send each other, beneath whatever asks for it, and what a projection should send."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from safety_lightning.subspaces import rank_from_fraction

_FLOAT32_BYTES = 4


class CollectiveCounter(TorchDispatchMode):
    """Counts the collective operations of torch.distributed in a block, whichever function asks for them.

    Attributes:
        calls: How often each operation was asked for, by name (``allreduce_``, ``_allgather_base_``, ...).
        num_bytes: Bytes of the tensors that each was given.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.num_bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Counts an operation, and runs it."""
        space, name = func._schema.name.split("::")
        if space in ("c10d", "_c10d_functional"):
            self.calls[name] += 1
            self.num_bytes[name] += sum(one.nbytes for one in tree_leaves(args[0]) if isinstance(one, Tensor))
        return func(*args, **(kwargs or {}))


def count_coordinates(shapes: Iterable[Sequence[int]], fraction: float) -> int:
    """Counts by hand the bytes of a projection's coordinates: k × n float32 numbers of each m × n matrix.

    Args:
        shapes: Shapes of the tensors; a vector is an m × 1 matrix.
        fraction: Share of the smaller dimension that the subspace of each has.
    """
    total = 0
    for shape in shapes:
        num_rows, num_columns = (*shape, 1)[:2]
        total += rank_from_fraction(fraction, num_rows, num_columns) * num_columns
    return _FLOAT32_BYTES * total
