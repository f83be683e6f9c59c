"""Holds tensors where there is room for them: on the device, in this machine's memory, in a scratch file."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from safety_lightning.checkpoints import allocate
from safety_lightning.errors import UserError
from safety_lightning.system.disks import DiskFullError, explain_full_disk

Place = Literal["auto", "device", "host", "disk", "nowhere"]

_SHARE = 0.5  # of what is free, that ``auto`` takes
_SHARE_ASKED = 0.9  # the same where the user named the place
_SLAB_BYTES = 2**28  # of a scratch file: a file a tensor would be more than the kernel maps
_ALIGNMENT = 64

_logger = logging.getLogger(__name__)


class Shelf:
    """Tensors by group and name, on the first place with room; the groups used longest ago make room for new ones.

    What finds no room is not kept, and made anew by whoever needs it. Scratch files have no name once they are open,
    so that none is left whatever ends the process.

    Args:
        device: Where tensors are worked on.
        place: Where they lie: ``device``, ``host`` (memory), ``disk``, ``nowhere``, or ``auto`` for the first of
            the three with room.
        scratch: Folder of scratch files; None is the system's temporary folder.
        room_bytes: Bytes that each place may hold; None for a share of what is free now.

    Raises:
        UserError: If the scratch folder does not exist.
    """

    def __init__(
        self,
        device: torch.device,
        place: Place = "auto",
        *,
        scratch: Path | None = None,
        room_bytes: int | None = None,
    ) -> None:
        self.device = device
        self.scratch = Path(tempfile.gettempdir()) if scratch is None else scratch
        if not self.scratch.is_dir():
            raise UserError(f"scratch must be a folder that exists, got {self.scratch}")
        places = [place] if place != "auto" else ["device", "host", "disk"]
        share = _SHARE if place == "auto" else _SHARE_ASKED
        self._room = {
            one: int(share * self._count_free(one)) if room_bytes is None else room_bytes
            for one in dict.fromkeys("host" if one == "device" and device.type == "cpu" else one for one in places)
            if one != "nowhere"
        }
        self._groups: dict[str, _Group] = {}  # the one used last stands last
        self._in_use: Collection[str] = ()

    def use(self, groups: Collection[str]) -> None:
        """Says which groups are needed now: they make no room for others."""
        self._in_use = groups
        for group in groups:
            if group in self._groups:
                self._groups[group] = self._groups.pop(group)

    def find(self, group: str, name: str) -> Tensor | None:
        """Returns a tensor on the device, None where it is not kept; whoever changes it puts it back by `keep`."""
        kept = self._groups[group].tensors.get(name) if group in self._groups else None
        return None if kept is None else kept.to(self.device)

    def keep(self, group: str, name: str, tensor: Tensor) -> Tensor:
        """Keeps a tensor of the device, in place of one of that name and its shape.

        Returns:
            The tensor to work on: the one that is kept, where it lies on the device.
        """
        held = self._groups.setdefault(group, _Group())
        kept = held.tensors.get(name)
        if kept is None:
            place = self._find_room(tensor.nbytes)
            if place is None:
                return tensor
            try:
                kept = held.tensors[name] = self._make(held, place, tensor)
            except (DiskFullError, OSError, torch.OutOfMemoryError) as error:
                _logger.warning("%s has less room than it said, nothing more is kept there: %s", place, error)
                self._room[place] = 0
                return tensor
            held.num_bytes[place] = held.num_bytes.get(place, 0) + tensor.nbytes
            self._room[place] -= tensor.nbytes
        elif kept.data_ptr() != tensor.data_ptr():
            kept.copy_(tensor)
        return kept if kept.device == tensor.device else tensor

    def drop(self, group: str) -> None:
        """Lets go of a group."""
        if group in self._groups:
            for place, num_bytes in self._groups.pop(group).num_bytes.items():
                self._room[place] += num_bytes

    def close(self) -> None:
        """Lets go of everything."""
        for group in list(self._groups):
            self.drop(group)

    def _find_room(self, num_bytes: int) -> str | None:
        while True:
            for place, room in self._room.items():
                if num_bytes <= room:
                    return place
            oldest = next((one for one, held in self._groups.items() if one not in self._in_use and held.tensors), None)
            if oldest is None:
                return None
            _logger.debug("no room for all of the variants' parts: lets go of %s", oldest)
            self.drop(oldest)

    def _make(self, held: _Group, place: str, tensor: Tensor) -> Tensor:
        if place == "device":
            return tensor.clone()
        if place == "host":
            return tensor.to("cpu", copy=True)
        made = held.slab.take(tensor, self.scratch, room=self._room[place])
        return made.copy_(tensor)

    def _count_free(self, place: str) -> int:
        if place == "disk":
            return shutil.disk_usage(self.scratch).free
        if place == "device" and self.device.type == "cuda":
            return int(torch.cuda.mem_get_info(self.device)[0])
        return count_free_memory()


class _Slab:
    """Cuts tensors out of scratch files."""

    def __init__(self) -> None:
        self._bytes = torch.empty(0, dtype=torch.uint8)
        self._taken = 0

    def take(self, like: Tensor, folder: Path, *, room: int) -> Tensor:
        """Returns a place for a tensor, contiguous, of its shape and dtype; a new file takes the room at most."""
        start = -(-self._taken // _ALIGNMENT) * _ALIGNMENT
        if start + like.nbytes > len(self._bytes):
            self._bytes, start = _map_scratch(folder, max(min(_SLAB_BYTES, room), like.nbytes)), 0
        self._taken = start + like.nbytes
        return self._bytes[start : self._taken].view(like.dtype).view(like.shape)


class _Group:
    """The tensors of one group, and how many bytes of each place they take."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.num_bytes: dict[str, int] = {}
        self.slab = _Slab()


def _map_scratch(folder: Path, num_bytes: int) -> Tensor:
    """Maps a new file without a name; its room on the disk is taken at once, for a full disk would kill later."""
    number, name = tempfile.mkstemp(prefix="variants-", dir=folder)
    try:
        with explain_full_disk(Path(name)), os.fdopen(number, "r+b") as stream:
            allocate(stream, num_bytes)
        return torch.from_file(name, shared=True, size=num_bytes, dtype=torch.uint8)
    finally:
        os.unlink(name)


def count_free_memory() -> int:
    """Returns how many bytes of this machine's memory can be had without swapping; 0 where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return found[0] if found else 0
