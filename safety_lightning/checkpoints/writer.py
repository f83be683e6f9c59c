"""Writes safetensors files tensor by tensor: each lands at its place in a file that was laid out before.

Memory holds one tensor, a kill loses at most one, and several processes may write to one file.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from safety_lightning.checkpoints.reader import FLOATING_DTYPES, INDEX_FILE, SINGLE_FILE
from safety_lightning.errors import UserError
from safety_lightning.files import write_atomically
from safety_lightning.system.disks import explain_full_disk

CODES = {dtype: code for code, dtype in FLOATING_DTYPES.items()}
_NUM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "BOOL": 1} | {
    f"{sign}{bits}": bits // 8 for sign in "IU" for bits in (8, 16, 32, 64)
}
_ALIGNMENT = 8
_ZEROS = 2**24


@dataclass(frozen=True, kw_only=True)
class TensorLayout:
    """A tensor that is to be written.

    Attributes:
        name: Its name in the file.
        shape: Its shape.
        code: Its dtype as safetensors names it, such as ``BF16``.
    """

    name: str
    shape: tuple[int, ...]
    code: str

    @property
    def num_bytes(self) -> int:
        """Its size in the file."""
        return math.prod(self.shape) * _NUM_BYTES[self.code]


@dataclass(frozen=True)
class _Shard:
    file: str
    header: bytes
    offsets: dict[str, int]  # from the beginning of the file
    num_bytes: int


class ShardWriter:
    """Lays out the safetensors files of a folder, and fills them in any order.

    Args:
        folder: Where the files go.
        tensors: What they will hold, in this order.
        single_file: The file's name where one shard holds all.
        max_shard_bytes: The largest shard; a tensor that is larger has a shard of its own.

    Raises:
        UserError: If there is no tensor, or two have one name.
    """

    def __init__(
        self,
        folder: Path,
        tensors: Sequence[TensorLayout],
        *,
        single_file: str = SINGLE_FILE,
        max_shard_bytes: int = 5_000_000_000,
    ) -> None:
        self.folder = folder
        self.tensors = {tensor.name: tensor for tensor in tensors}
        if not tensors or len(self.tensors) != len(tensors):
            raise UserError(f"tensors must have one name each, got {len(tensors)} with {len(self.tensors)} names")
        groups = list(_group(tensors, max_shard_bytes))
        names = _name_shards(single_file, len(groups))
        self._shards = [_lay_out(file, group) for file, group in zip(names, groups, strict=True)]
        self._shard_of = {name: shard for shard in self._shards for name in shard.offsets}

    @property
    def num_bytes(self) -> int:
        """The size of all files."""
        return sum(shard.num_bytes for shard in self._shards)

    def create(self) -> None:
        """Makes the files at their full size; files that exist keep their tensors, so that a resumed run adds to them.

        Raises:
            OSError: If the disk has no room for them.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for shard in self._shards:
            with (self.folder / shard.file).open("ab") as stream:
                allocate(stream, shard.num_bytes)
            with (self.folder / shard.file).open("r+b") as stream:
                stream.write(shard.header)
        if len(self._shards) > 1:
            write_atomically(self.folder / INDEX_FILE, self._format_index())

    def write(self, name: str, tensor: Tensor, *, index: int | None = None) -> None:
        """Writes a tensor, or one matrix of a stack, to its place.

        Args:
            name: The tensor's name.
            tensor: The numbers, in the dtype of the layout and on any device.
            index: Which matrix of the stack it is; None for the whole tensor.

        Raises:
            UserError: If shape or dtype are not those of the layout.
            OSError: If the file cannot be written.
        """
        layout = self.tensors[name]
        shape = layout.shape if index is None else layout.shape[1:]
        code = CODES.get(tensor.dtype, layout.code)
        if tuple(tensor.shape) != shape or code != layout.code:
            raise UserError(
                f"tensor {name} must have shape {shape} and dtype {layout.code}, got {tuple(tensor.shape)} and {code}"
            )
        shard = self._shard_of[name]
        numbers = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        start = shard.offsets[name] + (index or 0) * len(numbers)
        with explain_full_disk(self.folder / shard.file), (self.folder / shard.file).open("r+b") as stream:
            stream.seek(start)
            stream.write(numbers.data)

    def _format_index(self) -> str:
        weight_map = {name: shard.file for name, shard in self._shard_of.items()}
        total = sum(tensor.num_bytes for tensor in self.tensors.values())
        return json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2) + "\n"


def allocate(stream: BinaryIO, num_bytes: int) -> None:
    """Takes a file's room on the disk at once, so that a full disk is an error before the work."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(stream.fileno(), 0, num_bytes)
        return
    missing = num_bytes - os.fstat(stream.fileno()).st_size  # macOS has no such call: zeros are written
    while missing > 0:
        missing -= stream.write(bytes(min(missing, _ZEROS)))


def _group(tensors: Sequence[TensorLayout], max_shard_bytes: int) -> Iterator[list[TensorLayout]]:
    group: list[TensorLayout] = []
    for tensor in tensors:
        if group and sum(one.num_bytes for one in group) + tensor.num_bytes > max_shard_bytes:
            yield group
            group = []
        group.append(tensor)
    yield group


def _name_shards(single_file: str, num_shards: int) -> list[str]:
    if num_shards == 1:
        return [single_file]
    stem = single_file.removesuffix(".safetensors")
    return [f"{stem}-{at:05d}-of-{num_shards:05d}.safetensors" for at in range(1, num_shards + 1)]


def _lay_out(file: str, tensors: Sequence[TensorLayout]) -> _Shard:
    """Makes the header; the format puts the largest dtypes first, so that every tensor is aligned."""
    ordered = sorted(tensors, key=lambda tensor: -_NUM_BYTES[tensor.code])
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    starts, end = {}, 0
    for tensor in ordered:
        starts[tensor.name] = end
        end += tensor.num_bytes
        entries[tensor.name] = {
            "dtype": tensor.code,
            "shape": list(tensor.shape),
            "data_offsets": [starts[tensor.name], end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    header = len(text).to_bytes(8, "little") + text
    return _Shard(file, header, {name: len(header) + start for name, start in starts.items()}, len(header) + end)
