"""Projects matrices that processes share out, and measures their updates, without gathering one.

Only coordinates, which are small, cross between processes: those of many matrices in one bucket, which is added up
while the next one is computed. `project_gathered` is the plain form, which tests hold the other against.

Shapes in this file: R and S = rows and columns of a matrix as its tensor stores it, K = rank.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from safety_lightning.projection.operators import Component, project_update, sum_squares
from safety_lightning.projection.parts import Locate, MatrixPart, stored_shape

BUCKET_BYTES = 32 * 2**20


@dataclass
class Traffic:
    """What the last projection sent.

    Attributes:
        num_all_reduces: How many times processes added something up.
        num_bytes: How many bytes of coordinates they added up.
    """

    num_all_reduces: int = 0
    num_bytes: int = 0


def project_gathered(part: MatrixPart, basis: Tensor, *, component: Component) -> None:
    """Replaces weights by reference + projected update, in place, the plain way: every process gathers the matrix.

    Args:
        part: What this process holds of the matrix.
        basis: Its whole basis, float32, ``(R, K)`` or, for the right side, ``(S, K)``.
        component: Which part of the update is kept.
    """
    numbers = part.view_numbers()
    place = slice(*part.span)
    update_RS = numbers.new_zeros(stored_shape(part.slot), dtype=torch.float32)
    update_RS.view(-1)[place] = numbers.float() - part.reference.float()
    if part.home is not None:
        dist.all_reduce(update_RS, group=part.home)
    kept_RS = project_update(update_RS, basis, component=component, side=part.side)
    numbers.copy_(part.reference.float() + kept_RS.view(-1)[place])


def project_parts(parts: Sequence[MatrixPart], *, component: Component, bucket_bytes: int = BUCKET_BYTES) -> Traffic:
    """Does what `project_gathered` does to each matrix, and adds up coordinates alone, bucket by bucket.

    Args:
        parts: What this process holds of each matrix; every process must give the same matrices in the same order.
        component: Which part of the update is kept.
        bucket_bytes: The most coordinates in a bucket; those of a matrix that has more are a bucket of their own.

    Returns:
        What was sent.
    """
    traffic = Traffic()
    for part in (part.load() for part in parts if part.group is None):
        update = part.read_update()
        part.write(part.compute(update), component, out=update)
    waiting: _Bucket | None = None
    for bucket in _fill_buckets(parts, bucket_bytes, traffic):
        if waiting is not None:
            waiting.write(component)
        waiting = bucket
    if waiting is not None:
        waiting.write(component)
    return traffic


def measure_parts(parts: Sequence[MatrixPart], starts: Sequence[Tensor | None]) -> Tensor:
    """Measures updates; changes nothing.

    Args:
        parts: What this process holds of each matrix.
        starts: What each update is measured from: numbers of an earlier time, or None for the reference.

    Returns:
        For each matrix the squared norms inside and outside its subspace, and how many weights have not moved,
        float64, shape ``(matrices, 3)``, on the CPU.
    """
    sums = torch.zeros(len(parts), 3, dtype=torch.float64)
    begun = {id(part): start for part, start in zip(parts, starts, strict=True)}
    places = {id(part): place for place, part in enumerate(parts)}
    for part, coordinates in _compute_all(parts, begun):
        start, loaded = begun[id(part)], part.load()
        sums[places[id(part)]] = _measure(loaded, loaded.reference if start is None else start, coordinates)
    for group, members in itertools.groupby(range(len(parts)), key=lambda place: parts[place].home):
        if group is not None:
            mine = list(members)
            total = sums[mine].to(parts[mine[0]].view_numbers().device)
            dist.all_reduce(total, group=group)
            sums[mine] = total.cpu()
    return sums


def gather(tensor: Tensor) -> Tensor:
    """Returns the whole tensor on every process."""
    whole: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole


def count_numbers(parameter: nn.Parameter) -> int:
    """Returns how many numbers a parameter has; under ZeRO-3 it reads as empty."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def gather_numbers(parameter: nn.Parameter, find: Locate) -> Tensor:
    """Returns a whole parameter on every process, in its own shape."""
    held, shape = find(parameter), getattr(parameter, "ds_shape", parameter.shape)
    if held.group is None:
        return held.numbers.detach().view(shape)
    whole = held.numbers.new_zeros(count_numbers(parameter))
    whole[held.start : held.start + held.numbers.numel()] = held.numbers.detach()
    dist.all_reduce(whole, group=held.group)
    return whole.view(shape)


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is distributed over processes."""
    return isinstance(tensor, DTensor)


def agree_on(tensor: Tensor) -> Tensor:
    """Gives every process the first one's tensor, in place: decompositions may differ in their last digits."""
    if dist.is_available() and dist.is_initialized():
        dist.broadcast(tensor, src=0)
    return tensor


class _Bucket:
    """Coordinates of several matrices in one tensor, which processes add up together."""

    def __init__(self, parts: Sequence[MatrixPart], begun: dict[int, Tensor | None], traffic: Traffic) -> None:
        self.parts = parts
        sizes = [shape[0] * shape[1] for part in parts if (shape := part.coordinates_shape)]
        self.numbers = parts[0].view_numbers().new_zeros(sum(sizes), dtype=torch.float32)
        views = self.numbers.split(sizes)
        self.views = [view.view(part.coordinates_shape) for view, part in zip(views, parts, strict=True)]
        for part, view in zip(parts, self.views, strict=True):
            loaded = part.load()
            loaded.compute(loaded.read_update(begun.get(id(part))), out=view)
        self.work = dist.all_reduce(self.numbers, group=parts[0].group, async_op=True)
        traffic.num_all_reduces += 1
        traffic.num_bytes += self.numbers.numel() * self.numbers.element_size()

    def read(self) -> Iterator[tuple[MatrixPart, Tensor]]:
        """Waits, and yields each matrix with its coordinates."""
        self.work.wait()
        yield from zip(self.parts, self.views, strict=True)

    def write(self, component: Component) -> None:
        """Waits, and projects each matrix."""
        for part, coordinates in self.read():
            part.load().write(coordinates, component)


def _fill_buckets(
    parts: Sequence[MatrixPart], bucket_bytes: int, traffic: Traffic, begun: dict[int, Tensor | None] | None = None
) -> Iterator[_Bucket]:
    shared = [part for part in parts if part.group is not None]
    for _, members in itertools.groupby(shared, key=lambda part: part.group):
        bucket: list[MatrixPart] = []
        num_bytes = 0
        for part in members:
            size = part.coordinates_shape[0] * part.coordinates_shape[1] * part.basis.element_size()
            if bucket and num_bytes + size > bucket_bytes:
                yield _Bucket(bucket, begun or {}, traffic)
                bucket, num_bytes = [], 0
            bucket.append(part)
            num_bytes += size
        yield _Bucket(bucket, begun or {}, traffic)


def _compute_all(parts: Sequence[MatrixPart], begun: dict[int, Tensor | None]) -> Iterator[tuple[MatrixPart, Tensor]]:
    """Yields every matrix with the coordinates of its whole update."""
    for part in (part for part in parts if part.group is None):
        loaded = part.load()
        yield part, loaded.compute(loaded.read_update(begun[id(part)]))
    for bucket in _fill_buckets(parts, BUCKET_BYTES, Traffic(), begun):
        yield from bucket.read()


def _measure(part: MatrixPart, start: Tensor, coordinates: Tensor) -> Tensor:
    numbers = part.view_numbers()
    start = start.to(numbers.device)
    inside = part.expand(coordinates)
    outside = (numbers.float() - start.float()).sub_(inside)
    num_stuck = (numbers == start.to(numbers.dtype)).sum()
    return torch.stack([sum_squares(inside), sum_squares(outside), num_stuck.double()]).cpu()
