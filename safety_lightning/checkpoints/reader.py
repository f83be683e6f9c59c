"""Reads the tensors of a checkpoint lazily, by name, from one or many safetensors files."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from safety_lightning.checkpoints.folders import find_file, read_json, read_json_of, show
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
_TIED = ("embed_tokens.weight", "lm_head.weight", "wte.weight", "embed_in.weight", "embed_out.weight")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """What a checkpoint's header says of one tensor.

    Attributes:
        name: Its name, without what torch.compile or data parallelism put into it.
        key: Its name in the file.
        shape: Its shape.
        dtype: Its dtype, or None when it is not a floating dtype.
        code: Its dtype as the file names it, such as ``BF16``.
        file: The safetensors file that holds it.
    """

    name: str
    key: str
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
            is absent or lies elsewhere, a file is truncated, the index and the shards disagree, two tensors have one
            name, weights are integers, or an output layer that the config ties to the embedding differs from it.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        index = find_file(self.folder, INDEX_FILE)
        places = {} if index is None else _read_index(index)
        self.files = _find_files(self.folder, places)
        self._states = {file: _read_state(file) for file in self.files}
        found = [info for file in self.files for info in _read_header(file)]
        if index is not None:
            _check_index(index, places, found)
        self.infos = _name_infos(self.folder, found)
        self._handles: dict[Path, Any] = {}
        self._check_tied()

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """The folder's ``config.json``, empty when there is none."""
        return read_json_of(self.folder, "config.json")

    @property
    def is_wrapped(self) -> bool:
        """Whether the names in the files hold what torch.compile or data parallelism put there."""
        return any(info.name != info.key for info in self.infos.values())

    def read(self, name: str) -> Tensor:
        """Reads one tensor in its stored dtype, on the CPU.

        Raises:
            KeyError: If the checkpoint has no tensor of that name.
        """
        tensor: Tensor = self._open(name).get_tensor(self.infos[name].key)
        return tensor

    def read_part(self, name: str, index: int | None) -> Tensor:
        """Reads one matrix of a stack, or the whole tensor where there is no index, in its stored dtype."""
        if index is None:
            return self.read(name)
        part: Tensor = self._open(name).get_slice(self.infos[name].key)[index]
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
        """Returns the SHA-256 of every weight file, by file name.

        Raises:
            UserError: If a file changed since it was opened.
        """
        hashes = {file.name: hash_file(file) for file in self.files}
        self.check_unchanged()
        return hashes

    def check_unchanged(self) -> None:
        """Raises UserError if a weight file changed since it was opened."""
        changed = [file for file, state in self._states.items() if _read_state(file) != state]
        if changed:
            raise UserError(f"{changed[0]} must stay as it is while it is used, it changed since it was opened")

    def close(self) -> None:
        """Closes the open files."""
        self._handles.clear()

    def _check_tied(self) -> None:
        """Tied weights that are stored twice must be equal, or it is open which of them the model has."""
        names = [name for name in self.infos if name.endswith(_TIED)]
        if len(names) != 2 or not self.config.get("tie_word_embeddings"):
            return
        first, second = (self.read(name) for name in names)
        if first.shape != second.shape or not torch.equal(first, second):
            raise UserError(
                f"{self.folder} must store {names[0]} and {names[1]} alike, for its config.json says "
                "tie_word_embeddings: true, but they differ"
            )


def _read_state(file: Path) -> tuple[int, int, int]:
    state = file.stat()
    return state.st_ino, state.st_size, state.st_mtime_ns


def _find_files(folder: Path, places: dict[str, str]) -> list[Path]:
    single = find_file(folder, SINGLE_FILE)
    if places:
        names = sorted(set(places.values()))
        files = {name: find_file(folder, name) for name in names}
        absent = [name for name, file in files.items() if file is None]
        if absent:
            raise UserError(f"{folder / INDEX_FILE} names {len(absent)} absent file(s): {', '.join(absent[:3])}")
        if single is not None and SINGLE_FILE not in names:
            raise UserError(f"{folder} must hold {SINGLE_FILE} or {INDEX_FILE}, it holds both: remove the one too many")
        return [file for file in files.values() if file is not None]
    if single is not None:
        return [single]
    _refuse_pickles(folder)
    raise UserError(f"{folder} must hold {SINGLE_FILE} or {INDEX_FILE}, found neither")


def _read_index(index: Path) -> dict[str, str]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(one, str) for one in places.values()):
        raise UserError(f"{index} must be JSON with a weight_map from tensors to files, it is not")
    return places


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
            for key in handle.keys():  # noqa: SIM118 (a safetensors handle is no mapping)
                if not key.isprintable():
                    raise UserError(f"{file} must name tensors in printable characters, got {show(key)}")
                view = handle.get_slice(key)
                code = view.get_dtype()
                yield TensorInfo(
                    name=key,
                    key=key,
                    shape=tuple(view.get_shape()),
                    dtype=FLOATING_DTYPES.get(code),
                    code=code,
                    file=file,
                )
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is truncated or is no safetensors file: {error}") from error


def _check_index(index: Path, places: dict[str, str], found: Iterable[TensorInfo]) -> None:
    """Checks that each tensor lies where the index says, and nowhere else."""
    held = {(info.key, info.file.name) for info in found}
    wrong = sorted({name for name, _ in set(places.items()) ^ held})
    if wrong:
        raise UserError(
            f"{index} and its shards must name the same tensors, {len(wrong)} differ: {', '.join(map(repr, wrong[:3]))}"
        )


def _name_infos(folder: Path, found: Iterable[TensorInfo]) -> dict[str, TensorInfo]:
    """Names tensors without wrappers; refuses weights that are integers, and names that come twice."""
    infos: dict[str, TensorInfo] = {}
    for info in found:
        clean = dataclasses.replace(info, name=unwrap(info.key))
        if clean.name in infos:
            raise UserError(f"{folder} must hold {clean.name} once, it holds {infos[clean.name].key} and {info.key}")
        if info.dtype is None and clean.name.endswith(".weight"):
            raise UserError(
                f"{folder} must hold floating weights, {info.key} is {info.code}: give the model from before"
            )
        infos[clean.name] = clean
    wrapped = next((info for info in infos.values() if info.name != info.key), None)
    if wrapped is not None:
        _say_wrapped(folder, wrapped.key, wrapped.name)
    return infos


@functools.lru_cache(maxsize=64)
def _say_wrapped(folder: Path, key: str, name: str) -> None:
    """Says once a process that names are mended."""
    _logger.warning("%s: tensor %s is read as %s, and all names of its kind alike", folder, key, name)


def unwrap(key: str) -> str:
    """Returns a tensor's name without what torch.compile or data parallelism put into it.

    Example:
        >>> unwrap("module._orig_mod.model.norm.weight")
        'model.norm.weight'
    """
    clean = key.replace("_orig_mod.", "")
    return clean.removeprefix("module.")
