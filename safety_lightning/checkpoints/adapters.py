"""Reads LoRA adapters that PEFT saved: two thin factors per module, whose product is the module's update.

Shapes in this file: M = output features, N = input features, R = the adapter's rank.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from safety_lightning.checkpoints.matrices import MatrixSlot
from safety_lightning.checkpoints.reader import CheckpointReader
from safety_lightning.errors import NonFiniteError, UserError
from safety_lightning.files import hash_file

ADAPTER_FILE = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."
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
        self.config = _read_config(folder / ADAPTER_CONFIG)
        self.shapes = _read_shapes(self.file)
        self.factors: dict[str, dict[str, str]] = {}
        self.whole: dict[str, str] = {}
        for key in self.shapes:
            match = _FACTOR.search(key)
            if match is None:
                self.whole[key.removeprefix(_PREFIX)] = key
            else:
                name = key[: match.start()].removeprefix(_PREFIX) + ".weight"
                self.factors.setdefault(name, {})[match["side"]] = key
        incomplete = sorted(name for name, keys in self.factors.items() if len(keys) != 2)
        if incomplete:
            raise UserError(f"{self.file} must hold lora_A and lora_B of each module, {incomplete[0]} has only one")

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
        module = name.removesuffix(".weight")
        alphas = self.config.get("alpha_pattern") or {}
        matches = (value for key, value in alphas.items() if re.match(rf"(.*\.)?({key})$", module))
        alpha = next(matches, self.config.get("lora_alpha", 8))
        return float(alpha) / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def _check_base(self, reference: CheckpointReader) -> None:
        """An adapter names the model it was trained on; where that can be looked at, it must be the reference."""
        base = self.config.get("base_model_name_or_path")
        folder = Path(str(base)).expanduser()
        if not base or not folder.is_dir() or folder.resolve() == reference.folder.resolve():
            return
        if set(CheckpointReader(folder).hash_files().values()) != set(reference.hash_files().values()):
            raise UserError(
                f"adapter {self.folder} must be trained on the reference {reference.folder}, it was trained on "
                f"{folder}, whose weights differ"
            )


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a PEFT adapter."""
    return (folder / ADAPTER_CONFIG).is_file()


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = dict(json.loads(file.read_text(encoding="utf-8")))
    except json.JSONDecodeError as error:
        raise UserError(f"{file} must be JSON, it is not: {error}") from error
    if config.get("peft_type") != "LORA":
        raise UserError(f"adapter {file.parent} must be a LoRA, got {config.get('peft_type')}: merge it first")
    for key, harmless in _REFUSED.items():
        value = config.get(key, harmless)
        if value != harmless and value:
            raise UserError(f"adapter {file.parent} must be a plain LoRA, got {key}: {value}: merge it first")
    return config


def _read_shapes(file: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    if not file.is_file():
        raise UserError(f"{file.parent} must hold {ADAPTER_FILE}, it does not (pickled adapters are refused)")
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
