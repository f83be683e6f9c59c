"""The part of a matrix that this process holds, whole or a range of its numbers, with what is needed to project it.

Strategies share a tensor out as ranges of its numbers in the order of its storage: FSDP2 by whole rows, DeepSpeed
wherever its partition ends. Both are one thing here, and a tensor that is whole is the range of all its numbers.

Shapes in this file: R and S = rows and columns of a matrix as its tensor stores it, r = rows of which a part is held,
K = rank.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from safety_lightning.checkpoints import MatrixSlot
from safety_lightning.errors import UserError
from safety_lightning.projection.operators import Component, compute_coordinates, expand_coordinates
from safety_lightning.subspaces import Side


@dataclass(frozen=True)
class HeldNumbers:
    """The numbers of a tensor that this process holds.

    Attributes:
        numbers: A view of the live numbers, 1-D.
        start: The place of the first of them in the tensor's storage.
        group: The processes that share the tensor out; None where each has all of it.
        cuts_rows: Whether a range may end in the middle of a row.
    """

    numbers: Tensor
    start: int = 0
    group: ProcessGroup | None = None
    cuts_rows: bool = False


Keep = Literal["device", "host", "file"]
"""Where reference and bases are between projections: on the parameter's device; in the host's memory, pinned beside a
GPU; or the bases in the host's memory, and the reference read from its file each time."""
Locate = Callable[[nn.Parameter], HeldNumbers]
"""Finds what this process holds of a parameter; asked anew each time, for strategies move a parameter's storage."""


def locate(parameter: Tensor) -> HeldNumbers:
    """Finds what this process holds of an ordinary tensor or of one that FSDP2 shards.

    Raises:
        UserError: If it is sharded along another dimension than its first, or along two dimensions of the mesh.
    """
    tensor = parameter.data
    if not isinstance(tensor, DTensor):
        return HeldNumbers(tensor.view(-1))
    sharding = [dim for dim, place in enumerate(tensor.placements) if not place.is_replicate()]
    if not sharding:
        return HeldNumbers(tensor.to_local().view(-1))
    if len(sharding) > 1 or tensor.placements[sharding[0]] != Shard(0):
        raise UserError(
            f"a sharded parameter must be sharded along its rows, got shape {tuple(tensor.shape)} with placements "
            f"{tensor.placements}"
        )
    _, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    row_length = tensor.shape[1:].numel()
    return HeldNumbers(tensor.to_local().view(-1), offset[0] * row_length, tensor.device_mesh.get_group(sharding[0]))


def add_up(tensor: Tensor, group: ProcessGroup | None) -> Tensor:
    """Adds a tensor up over the processes of a group, in place; without a group it is whole already."""
    if group is not None:
        dist.all_reduce(tensor, group=group)
    return tensor


@dataclass(frozen=True)
class MatrixPart:
    """What this process holds of one matrix, with the reference weights and the directions of the same numbers.

    Attributes:
        slot: The matrix.
        parameter: The tensor that holds it.
        find: Finds what this process holds of the tensor.
        side: Which side the basis lies on, seen from the matrix as it is stored.
        basis: Orthonormal columns, float32: the rows that belong to what is held, ``(r, K)``, for the left side; all
            of them, ``(S, K)``, for the right.
        reference: Reference weights of the numbers that are held, 1-D, in a dtype that holds them exactly.
        span: Places of the first and behind the last of these numbers in the matrix as it is stored.
        read: Reads the tensor's whole reference weights, where they are not kept; `reference` is empty then.
    """

    slot: MatrixSlot
    parameter: nn.Parameter
    find: Locate
    side: Side
    basis: Tensor
    reference: Tensor
    span: tuple[int, int]
    read: Callable[[], Tensor] | None = None

    def load(self) -> MatrixPart:
        """Returns the part with reference and basis on the parameter's device; itself where they are there."""
        device = self.find(self.parameter).numbers.device
        if self.read is None and self.basis.device == device:
            return self
        reference = self.reference if self.read is None else _cut(self.read(), self.slot, self.span)
        basis, reference = (one.to(device, non_blocking=True) for one in (self.basis, reference))
        return replace(self, basis=basis, reference=reference, read=None)

    @property
    def rank(self) -> int:
        """K."""
        return self.basis.shape[1]

    @property
    def dimension(self) -> int:
        """Length of the whole basis's columns."""
        return stored_shape(self.slot)[0 if self.side == "left" else 1]

    @functools.cached_property
    def home(self) -> ProcessGroup | None:
        """The processes that share the matrix out; None where each has all of it."""
        return self.find(self.parameter).group

    @functools.cached_property
    def group(self) -> ProcessGroup | None:
        """The processes whose coordinates must be added up; None where each has all that it needs."""
        return self.home if self.side == "left" or self.find(self.parameter).cuts_rows else None

    @functools.cached_property
    def coordinates_shape(self) -> tuple[int, int]:
        """Shape of the coordinates: ``(K, S)``; on the right side ``(R, K)``, or ``(r, K)`` without a group."""
        num_rows, num_columns = stored_shape(self.slot)
        if self.side == "left":
            return self.rank, num_columns
        return num_rows if self.group is not None else self._rows.stop - self._rows.start, self.rank

    def view_numbers(self) -> Tensor:
        """Returns a view of the live numbers that are held, 1-D."""
        held, begin = self.find(self.parameter), _find_begin(self.slot)
        first, last = (begin + place - held.start for place in self.span)
        return held.numbers[first:last]

    def view_gradient(self) -> Tensor | None:
        """Returns a view of the gradients of the numbers that are held, 1-D; None where there are none."""
        gradient = self.parameter.grad
        if gradient is None:
            return None
        held, begin = self.find(self.parameter), _find_begin(self.slot)
        first, last = (begin + place - held.start for place in self.span)
        local = gradient.to_local() if isinstance(gradient, DTensor) else gradient
        return local.view(-1)[first:last]

    def find_removed(self, component: Component) -> Tensor:
        """Returns what a projection would take away of the numbers that are held, float32, 1-D."""
        coordinates = self.compute(self.read_update(), self._make_zeros() if self.group is not None else None)
        inside = self.expand(add_up(coordinates, self.group))
        if component == "orthogonal":
            return inside
        numbers = self.view_numbers()
        return numbers.float() - self.reference.to(numbers.device).float() - inside

    def stand_for(self, tensor: Tensor) -> MatrixPart:
        """Returns this part for another tensor of the same shape and sharding, whose reference is zero."""
        held = locate(tensor)
        zeros = torch.zeros(1, device=held.numbers.device).expand(self.span[1] - self.span[0])
        return replace(self, find=lambda _: held, reference=zeros, read=None)

    def is_at_reference(self) -> bool:
        """Whether the numbers that are held are the reference's, give or take a rounding to half precision."""
        numbers, start = self.view_numbers(), self.reference
        start = start.to(numbers.device)
        dtypes = (numbers.dtype, torch.bfloat16, torch.float16)
        return any(torch.equal(numbers, start.to(dtype).to(numbers.dtype)) for dtype in dtypes)

    def read_update(self, since: Tensor | None = None) -> Tensor:
        """Returns the displacement from the reference or an earlier time, float32, ``(r, S)``, 0 where not held."""
        start = self.reference if since is None else since
        numbers = self.view_numbers()
        return self._pad(numbers.float() - start.to(numbers.device).float())

    def compute(self, update: Tensor, out: Tensor | None = None) -> Tensor:
        """Returns this part's coordinates, of `coordinates_shape`; where there is a group, all processes' add up.

        Args:
            update: What `read_update` returned.
            out: Zeros, to which they are written.
        """
        coordinates = compute_coordinates(update, self.basis, side=self.side)
        if out is None:
            return coordinates
        self._pick(out).copy_(coordinates)
        return out

    def expand(self, coordinates: Tensor) -> Tensor:
        """Returns the update that has these coordinates: the numbers that are held, 1-D."""
        inside = expand_coordinates(self._pick(coordinates), self.basis, side=self.side)
        return inside.reshape(-1)[self._places]

    def write(self, coordinates: Tensor, component: Component, *, out: Tensor | None = None) -> None:
        """Replaces the live numbers by reference + the component of the update that is kept.

        Args:
            coordinates: Those of the whole update.
            component: Which part is kept.
            out: Memory of an update that is not needed any more.
        """
        numbers, mine = self.view_numbers(), self._pick(coordinates)
        start, sign = (self.reference.float(), 1) if component == "parallel" else (numbers.float(), -1)
        first, second = (self.basis, mine) if self.side == "left" else (mine, self.basis.mT)
        kept = torch.addmm(self._pad(start), first, second, alpha=sign, out=out)
        numbers.copy_(kept.view(-1)[self._places])

    def _make_zeros(self) -> Tensor:
        return self.basis.new_zeros(self.coordinates_shape)

    @functools.cached_property
    def _rows(self) -> slice:
        return _find_rows(self.slot, self.span)

    @functools.cached_property
    def _places(self) -> slice:
        """Where the held numbers lie among those of the rows of which a part is held."""
        begin = self._rows.start * stored_shape(self.slot)[1]
        return slice(self.span[0] - begin, self.span[1] - begin)

    def _pick(self, coordinates: Tensor) -> Tensor:
        return coordinates[self._rows] if self.side == "right" and self.group is not None else coordinates

    def _pad(self, numbers: Tensor) -> Tensor:
        """Fills numbers up to whole rows, ``(r, S)``."""
        num_rows, num_columns = self._rows.stop - self._rows.start, stored_shape(self.slot)[1]
        if len(numbers) == num_rows * num_columns:
            return numbers.view(num_rows, num_columns)
        padded = numbers.new_zeros(num_rows * num_columns)
        padded[self._places] = numbers
        return padded.view(num_rows, num_columns)


def take_part(
    slot: MatrixSlot,
    parameter: nn.Parameter,
    *,
    find: Locate,
    reference: Tensor,
    basis: Tensor,
    side: Side,
    keep: Keep = "device",
    read: Callable[[], Tensor] | None = None,
) -> MatrixPart:
    """Takes what belongs to the numbers that this process holds.

    Args:
        slot: The matrix.
        parameter: The tensor that holds it.
        find: Finds what this process holds of the tensor.
        reference: The tensor's whole reference weights, rounded to the dtype that training began in.
        basis: Orthonormal columns, float32, whole.
        side: Which side of the matrix the basis lies on.
        keep: Where the reference and the basis are kept.
        read: Reads the reference anew; needed to keep it in its ``file``.
    """
    held, (begin, size) = find(parameter), (_find_begin(slot), slot.rows * slot.columns)
    first = min(max(held.start - begin, 0), size)
    span = first, max(first, min(held.start + held.numbers.numel() - begin, size))
    stored_side: Side = "left" if (side == "left") != slot.transposed else "right"
    device = held.numbers.device
    if held.group is not None and stored_side == "left":
        basis = basis[_find_rows(slot, span)].clone()
    if keep == "file":
        return MatrixPart(slot, parameter, find, stored_side, _to_host(basis), reference.new_empty(0), span, read)
    mine = _cut(reference, slot, span)
    mine = mine.clone() if held.group is not None else mine
    if keep == "host":
        return MatrixPart(slot, parameter, find, stored_side, _to_host(basis), _to_host(mine), span)
    return MatrixPart(slot, parameter, find, stored_side, basis.to(device), mine.to(device), span)


def _cut(reference: Tensor, slot: MatrixSlot, span: tuple[int, int]) -> Tensor:
    """Returns the numbers of a tensor between two places of a matrix in it, 1-D."""
    begin = _find_begin(slot)
    return reference.reshape(-1)[begin + span[0] : begin + span[1]]


def _to_host(tensor: Tensor) -> Tensor:
    """Brings a tensor to the host's memory; from pinned memory a GPU takes it without the host waiting."""
    return tensor.cpu().pin_memory() if torch.cuda.is_available() else tensor.cpu()


def stored_shape(slot: MatrixSlot) -> tuple[int, int]:
    """Returns rows and columns of a matrix as its tensor stores it."""
    return (slot.columns, slot.rows) if slot.transposed else (slot.rows, slot.columns)


def _find_begin(slot: MatrixSlot) -> int:
    return (slot.index or 0) * slot.rows * slot.columns


def _find_rows(slot: MatrixSlot, span: tuple[int, int]) -> slice:
    """Returns the stored rows of which a part lies between two places."""
    num_columns = stored_shape(slot)[1]
    first = span[0] // num_columns
    return slice(first, max(first, -(-span[1] // num_columns)) if span[1] > span[0] else first)
