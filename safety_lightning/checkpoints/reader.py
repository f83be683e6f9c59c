"""Reads the tensors of a checkpoint lazily, by name, from one or many safetensors files."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from safety_lightning.errors import NonFiniteError, UserError
from safety_lightning.files import hash_file

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
FLOATING_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """What a checkpoint's header says of one tensor.

    Attributes:
        name: Its name in the file.
        shape: Its shape.
        dtype: Its dtype, or None when it is not a floating dtype.
        code: Its dtype as the file names it, such as ``BF16``.
        file: The safetensors file that holds it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype | None
    code: str
    file: Path

    @property
    def num_numbers(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


class CheckpointReader:
    """The tensors of a model folder, read one at a time.

    Args:
        folder: A Hugging Face folder with ``model.safetensors`` or a sharded index.

    Raises:
        UserError: If there are no safetensors (pickled ``.bin`` files are refused), a shard that the index names
            is absent, a file is truncated, or the index and the shards disagree.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.files = _find_files(self.folder)
        self.infos = {info.name: info for file in self.files for info in _read_header(file)}
        _check_index(self.folder, self.infos)
        self._handles: dict[Path, Any] = {}

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """The folder's ``config.json``, empty when there is none."""
        file = self.folder / "config.json"
        return dict(json.loads(file.read_text())) if file.is_file() else {}

    def read(self, name: str) -> Tensor:
        """Reads one tensor in its stored dtype, on the CPU.

        Raises:
            KeyError: If the checkpoint has no tensor of that name.
        """
        tensor: Tensor = self._open(name).get_tensor(name)
        return tensor

    def read_part(self, name: str, index: int | None) -> Tensor:
        """Reads one matrix of a stack, or the whole tensor where there is no index, in its stored dtype."""
        if index is None:
            return self.read(name)
        part: Tensor = self._open(name).get_slice(name)[index]
        return part

    def read_finite(self, name: str, index: int | None = None) -> Tensor:
        """Reads one tensor, or one matrix of a stack, and checks that every number in it is finite.

        Raises:
            NonFiniteError: If it holds NaN or infinity; the tensor and the folder are named.
        """
        tensor = self.read_part(name, index)
        if not torch.isfinite(tensor).all():
            num_bad = int((~torch.isfinite(tensor)).sum())
            raise NonFiniteError(
                f"tensor {name} of {self.folder} must be finite, got {num_bad} NaN or infinite numbers"
            )
        return tensor

    def _open(self, name: str) -> Any:
        file = self.infos[name].file
        handle = self._handles.get(file)
        if handle is None:  # kept by hand: another thread may close the open files meanwhile
            handle = self._handles[file] = safe_open(file, framework="pt")
        return handle

    def hash_files(self) -> dict[str, str]:
        """Returns the SHA-256 of every weight file, by file name."""
        return {file.name: hash_file(file) for file in self.files}

    def close(self) -> None:
        """Closes the open files."""
        self._handles.clear()


def _find_files(folder: Path) -> list[Path]:
    index = folder / INDEX_FILE
    if index.is_file():
        names = sorted(set(_read_index(index).values()))
        absent = [name for name in names if not (folder / name).is_file()]
        if absent:
            raise UserError(f"{index} names {len(absent)} absent file(s): {', '.join(absent[:3])}")
        return [folder / name for name in names]
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE]
    _refuse_pickles(folder)
    raise UserError(f"{folder} must hold {SINGLE_FILE} or {INDEX_FILE}, found neither")


def _read_index(index: Path) -> dict[str, str]:
    try:
        return dict(json.loads(index.read_text())["weight_map"])
    except (json.JSONDecodeError, KeyError) as error:
        raise UserError(f"{index} must be JSON with a weight_map, it is not: {error}") from error


def _refuse_pickles(folder: Path) -> None:
    pickles = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern))
    if pickles:
        raise UserError(
            f"{folder} holds pickled weights ({', '.join(pickles[:3])}), which can run code when loaded and are "
            "refused. Convert them where you trust them: AutoModelForCausalLM.from_pretrained(FOLDER)"
            ".save_pretrained(NEW_FOLDER), which writes safetensors"
        )


def _read_header(file: Path) -> Iterator[TensorInfo]:
    try:
        with safe_open(file, framework="pt") as handle:
            for name in handle.keys():  # noqa: SIM118 (a safetensors handle is no mapping)
                view = handle.get_slice(name)
                code = view.get_dtype()
                dtype = FLOATING_DTYPES.get(code)
                yield TensorInfo(name=name, shape=tuple(view.get_shape()), dtype=dtype, code=code, file=file)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is truncated or is no safetensors file: {error}") from error


def _check_index(folder: Path, infos: dict[str, TensorInfo]) -> None:
    if not (folder / INDEX_FILE).is_file():
        return
    named = set(_read_index(folder / INDEX_FILE))
    wrong = sorted(named ^ set(infos))
    if wrong:
        raise UserError(
            f"{folder / INDEX_FILE} and its shards must name the same tensors, {len(wrong)} differ: "
            f"{', '.join(wrong[:3])}"
        )
