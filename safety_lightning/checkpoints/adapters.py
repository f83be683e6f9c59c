"""Reads LoRA adapters that PEFT saved: two thin factors per module, whose product is the module's update.

Shapes in this file: M = output features, N = input features, R = the adapter's rank.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from safety_lightning.checkpoints.folders import find_file, read_json, show
from safety_lightning.checkpoints.matrices import MatrixSlot
from safety_lightning.checkpoints.reader import FLOATING_DTYPES, CheckpointReader
from safety_lightning.errors import NonFiniteError, UserError
from safety_lightning.files import hash_file

ADAPTER_FILE = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."
_MAX_PATTERN = 500
_REPEAT = re.compile(r"[*+{]")  # more than three, or of a group, may take for ever to match
_MAX_REPEATS = 3
_MAX_ALPHA = 1e6
_FACTOR = re.compile(r"\.lora_(?P<side>[AB])\.weight$")
_REFUSED = {  # what changes weights in a way that two factors do not tell
    "use_dora": False,
    "bias": "none",
    "lora_bias": False,
    "trainable_token_indices": None,
    "target_parameters": None,
    "alora_invocation_tokens": None,
}


@dataclass(frozen=True)
class LoraFactors:
    """The factors of one module's update, ``scale * b @ a``.

    Attributes:
        b_MR: float32, shape ``(M, R)``.
        a_RN: float32, shape ``(R, N)``.
        scale: What their product is multiplied by.
    """

    b_MR: Tensor
    a_RN: Tensor
    scale: float

    def multiply(self) -> Tensor:
        """Returns the update, float32, shape ``(M, N)``."""
        return (self.scale * self.b_MR) @ self.a_RN


class AdapterReader:
    """A LoRA adapter as PEFT saves it.

    Args:
        folder: A folder with ``adapter_config.json`` and ``adapter_model.safetensors``.

    Attributes:
        config: The adapter's configuration.
        shapes: Shape and dtype code of every tensor by its key in the file.
        factors: Keys of A and B by the name of the tensor that they update.
        whole: Keys of tensors that are stored whole (``modules_to_save``) by the name of the tensor that they replace.

    Raises:
        UserError: If it is no LoRA, or one that two factors do not describe (DoRA, biases, embeddings), or its file
            is absent or truncated.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / ADAPTER_FILE
        self.config = _read_config(folder)
        self.shapes = _read_shapes(folder)
        self.factors: dict[str, dict[str, str]] = {}
        self.whole: dict[str, str] = {}
        for key in self.shapes:
            match = _FACTOR.search(key)
            if match is None:
                self.whole[key.removeprefix(_PREFIX)] = key
            else:
                name = key[: match.start()].removeprefix(_PREFIX) + ".weight"
                self.factors.setdefault(name, {})[match["side"]] = key
        if not self.factors:
            raise UserError(f"{self.file} must hold lora_A and lora_B of a module, it holds none")
        for name, keys in self.factors.items():
            self._check_factors(name, [self.shapes[key] for key in keys.values()])
        incomplete = sorted(name for name, keys in self.factors.items() if len(keys) != 2)
        if incomplete:
            raise UserError(f"{self.file} must hold lora_A and lora_B of each module, {incomplete[0]} has only one")
        for name, keys in self.factors.items():
            rank, held = self._find_setting(name, "rank_pattern", "r"), self.shapes[keys["A"]][0][0]
            if rank != held:
                raise UserError(
                    f"{self.file} must hold factors of rank {rank} for {name}, as its config says, got {held}"
                )

    def _check_factors(self, name: str, found: Sequence[tuple[tuple[int, ...], str]]) -> None:
        for shape, code in found:
            if len(shape) != 2 or 0 in shape or code not in FLOATING_DTYPES:
                raise UserError(f"{self.file} must hold floating matrices as factors of {name}, got {shape} {code}")

    def check(self, reference: CheckpointReader) -> None:
        """Checks that the adapter fits a reference.

        Raises:
            UserError: If it was made for another model, has modules that the reference lacks, or shapes differ.
        """
        self._check_base(reference)
        absent = sorted({*self.factors, *self.whole} - set(reference.infos))
        if absent:
            raise UserError(
                f"adapter {self.folder} must update tensors of {reference.folder}, {len(absent)} are not there: "
                f"{', '.join(absent[:3])}"
            )
        for name, keys in self.factors.items():
            wanted = reference.infos[name].shape
            (b_rows, b_rank), (a_rank, a_columns) = self.shapes[keys["B"]][0], self.shapes[keys["A"]][0]
            found = (a_columns, b_rows) if self.is_transposed else (b_rows, a_columns)
            if b_rank != a_rank or found != wanted:
                raise UserError(
                    f"adapter {self.folder} must be made for {reference.folder}: {name} has shape {wanted}, the "
                    f"adapter's factors give {found}"
                )
        for name, key in self.whole.items():
            if self.shapes[key][0] != reference.infos[name].shape:
                raise UserError(
                    f"adapter {self.folder} must be made for {reference.folder}: {name} has shape "
                    f"{reference.infos[name].shape}, the adapter's {self.shapes[key][0]}"
                )

    @property
    def is_transposed(self) -> bool:
        """Whether the updated modules store their weights as (input, output)."""
        return bool(self.config.get("fan_in_fan_out"))

    def read(self, key: str, *, finite: bool = True) -> Tensor:
        """Reads one stored tensor, in its stored dtype.

        Raises:
            NonFiniteError: If it must be finite and holds NaN or infinity.
        """
        with safe_open(self.file, framework="pt") as handle:
            tensor: Tensor = handle.get_tensor(key)
        if finite and not torch.isfinite(tensor).all():
            raise NonFiniteError(f"tensor {key} of {self.folder} must be finite, it holds NaN or infinity")
        return tensor

    def read_factors(self, name: str) -> LoraFactors:
        """Reads the factors of one tensor's update."""
        keys = self.factors[name]
        a_RN, b_MR = (self.read(keys[side]).float() for side in "AB")
        return LoraFactors(b_MR, a_RN, self._find_scale(name, a_RN.shape[0]))

    def read_update(self, slot: MatrixSlot, reference: CheckpointReader) -> Tensor | None:
        """Reads the update of one matrix, float32, shape ``(rows, columns)``; None where the adapter has none."""
        if slot.tensor in self.factors:
            return self.read_factors(slot.tensor).multiply()
        if slot.tensor in self.whole:
            whole = self.read(self.whole[slot.tensor]).float() - reference.read(slot.tensor).float()
            return slot.view(whole)
        return None

    def hash_files(self) -> dict[str, str]:
        """Returns the SHA-256 of the adapter's files, by file name."""
        return {name: hash_file(self.folder / name) for name in (ADAPTER_CONFIG, ADAPTER_FILE)}

    def _find_scale(self, name: str, rank: int) -> float:
        alpha = float(self._find_setting(name, "alpha_pattern", "lora_alpha"))
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def _find_setting(self, name: str, patterns: str, default: str) -> Any:
        """Returns a setting of one module: of the first pattern that matches, as PEFT does, or that of all."""
        module = name.removesuffix(".weight")
        values = self.config.get(patterns) or {}
        matches = (value for key, value in values.items() if re.match(rf"(.*\.)?({key})$", module))
        return next(matches, self.config.get(default, 8))

    def _check_base(self, reference: CheckpointReader) -> None:
        """An adapter names the model it was trained on; where that can be looked at, it must be the reference."""
        base = self.config.get("base_model_name_or_path")
        if not isinstance(base, str) or not base or "\0" in base:
            return
        folder = Path(base).expanduser() if base.startswith(("/", "~/")) else Path(base)
        if not folder.is_dir() or folder.resolve() == reference.folder.resolve():
            return
        if set(CheckpointReader(folder).hash_files().values()) != set(reference.hash_files().values()):
            raise UserError(
                f"adapter {self.folder} must be trained on the reference {reference.folder}, it was trained on "
                f"{folder}, whose weights differ"
            )


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a PEFT adapter."""
    return (folder / ADAPTER_CONFIG).is_file()


def _read_config(folder: Path) -> dict[str, Any]:
    file = find_file(folder, ADAPTER_CONFIG)
    if file is None:
        raise UserError(f"{folder} must hold {ADAPTER_CONFIG}, it does not")
    config = read_json(file)
    if config.get("peft_type") != "LORA":
        raise UserError(f"adapter {folder} must be a LoRA, got {show(config.get('peft_type'))}: merge it first")
    for key, harmless in _REFUSED.items():
        value = config.get(key, harmless)
        if value != harmless and value:
            raise UserError(f"adapter {folder} must be a plain LoRA, got {key}: {show(value)}: merge it first")
    for key in ("use_rslora", "fan_in_fan_out"):
        if not isinstance(config.get(key, False), bool):
            raise UserError(f"{key} of {file} must be true or false, got {show(config[key])}")
    _check_scales(file, config)
    return config


def _check_scales(file: Path, config: dict[str, Any]) -> None:
    """Checks what updates are multiplied by, and the patterns that say where."""
    patterns = {key: config.get(key) or {} for key in ("alpha_pattern", "rank_pattern")}
    for key, found in patterns.items():
        if not isinstance(found, dict):
            raise UserError(f"{key} of {file} must be an object from patterns to numbers, it is not")
        for pattern in found:
            if not _is_pattern(pattern):
                raise UserError(f"{key} of {file} must have plain regular expressions as keys, got {show(pattern)}")
    alphas = {"lora_alpha": config.get("lora_alpha", 8), **patterns["alpha_pattern"]}
    for name, alpha in alphas.items():
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < abs(alpha) <= _MAX_ALPHA:
            raise UserError(f"{show(name)} of {file} must be a number other than 0, got {show(alpha)}")
    ranks = {"r": config.get("r", 8), **patterns["rank_pattern"]}
    for name, rank in ranks.items():
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise UserError(f"{show(name)} of {file} must be a whole number above 0, got {show(rank)}")


def _is_pattern(pattern: str) -> bool:
    if len(pattern) > _MAX_PATTERN or len(_REPEAT.findall(pattern)) > _MAX_REPEATS or re.search(r"\)[*+{]", pattern):
        return False
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def _read_shapes(folder: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    file = find_file(folder, ADAPTER_FILE)
    if file is None:
        raise UserError(f"{folder} must hold {ADAPTER_FILE}, it does not (pickled adapters are refused)")
    try:
        with safe_open(file, framework="pt") as handle:
            views = {key: handle.get_slice(key) for key in handle.keys()}  # noqa: SIM118 (no mapping)
            shapes = {key: (tuple(view.get_shape()), view.get_dtype()) for key, view in views.items()}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is truncated or is no safetensors file: {error}") from error
    strange = sorted(key for key in shapes if ".lora_" in key and not _FACTOR.search(key))
    if strange:
        raise UserError(f"{file} must hold lora_A and lora_B weights of linear modules, got {strange[0]}")
    return shapes
