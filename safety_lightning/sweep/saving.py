"""Saves the variants of a sweep as Hugging Face folders, matrix by matrix: merged weights, or an adapter again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from safety_lightning.checkpoints import (
    ADAPTER_CONFIG,
    ADAPTER_FILE,
    CODES,
    AdapterReader,
    Finetuned,
    MatrixSlot,
    ShardWriter,
    StorageDtype,
    TensorInfo,
    TensorLayout,
    choose_dtype,
)
from safety_lightning.files import write_atomically
from safety_lightning.methods.variants import Variant
from safety_lightning.projection.operators import project_update
from safety_lightning.subspaces import Side

_COPIED = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken")
_NOT_COPIED = ("*.index.json", "trainer_state.json", "manifest.json", "adapter_config.json", "config.json")


class SavedModel:
    """One variant's folder while it is made; it has another name until it is whole.

    Args:
        variant: The variant.
        folder: Where it will lie.
        finetuned: The model that it is a variant of.
        source_folder: The folder whose configuration and tokenizer it takes: the finetuned model's, or the
            reference's where the finetuned one is an adapter.
        storage_dtype: What its floating weights are stored in.
    """

    def __init__(
        self, variant: Variant, folder: Path, finetuned: Finetuned, source_folder: Path, storage_dtype: StorageDtype
    ) -> None:
        self.variant = variant
        self.folder = folder
        self.finetuned = finetuned
        self._source_folder = source_folder
        self._storage_dtype = storage_dtype
        self.writer = ShardWriter(self._partial, self._lay_out(), single_file=self._single_file)

    @property
    def is_adapter(self) -> bool:
        """Whether it is saved as an adapter, which both components of a split allow: they act on one factor alone."""
        return self.finetuned.adapter is not None and self.variant.component is not None

    def create(self) -> None:
        """Makes its files at their full size, unless it is whole already."""
        if not self.folder.is_dir():
            self.writer.create()

    def write_matrix(self, slot: MatrixSlot, weights: Tensor) -> Tensor:
        """Writes one matrix of the merged weights, float32, ``(rows, columns)``; returns it as stored, float32."""
        layout = self.writer.tensors[slot.tensor]
        shape = layout.shape if slot.index is None else layout.shape[1:]
        stored = weights.to(self._find_dtype(self.finetuned.infos[slot.tensor]))
        self.writer.write(slot.tensor, slot.restore_part(stored, shape), index=slot.index)
        return stored.to(torch.float32)

    def write_factors(self, slot: MatrixSlot, basis: Tensor, *, side: Side) -> Tensor:
        """Projects one factor of an adapter's update and writes both; the rank does not grow.

        Args:
            slot: The matrix.
            basis: Orthonormal columns of the subspace.
            side: The side they lie on: the left one acts on B, the right one on A.

        Returns:
            The update as it is stored, float32, ``(rows, columns)``.
        """
        adapter = self._require_adapter()
        assert self.variant.component is not None
        factors = adapter.read_factors(slot.tensor)
        keys = adapter.factors[slot.tensor]
        b_MR, a_RN = factors.b_MR.to(basis.device), factors.a_RN.to(basis.device)
        if side == "left":
            b_MR = project_update(b_MR, basis, component=self.variant.component)
        else:
            a_RN = project_update(a_RN, basis, component=self.variant.component, side="right")
        stored = {}
        for key, factor in ((keys["B"], b_MR), (keys["A"], a_RN)):
            stored[key] = factor.to(self._find_adapter_dtype(key))
            self.writer.write(key, stored[key])
        update: Tensor = (factors.scale * stored[keys["B"]].float()) @ stored[keys["A"]].float()
        return update

    def write_whole(self, slot: MatrixSlot, weights: Tensor) -> Tensor:
        """Writes a tensor that an adapter stores whole; returns it as stored, float32."""
        key = self._require_adapter().whole[slot.tensor]
        stored = slot.restore_part(weights, self.writer.tensors[key].shape).to(self._find_adapter_dtype(key))
        self.writer.write(key, stored)
        return slot.view_part(stored).float()

    def write_others(self, treated: set[str]) -> None:
        """Writes the tensors that take no part."""
        for name in self.finetuned.infos:
            if name not in treated:
                self.write_own(name)

    def write_own(self, name: str) -> None:
        """Writes a tensor as the finetuned model has it; an adapter has factors of it, or nothing."""
        if self.is_adapter:
            adapter = self._require_adapter()
            keys = [*adapter.factors.get(name, {}).values(), *([adapter.whole[name]] if name in adapter.whole else [])]
            for key in keys:
                self.writer.write(key, adapter.read(key, finite=False).to(self._find_adapter_dtype(key)))
            return
        info, tensor = self.finetuned.infos[name], self.finetuned.read(name)
        self.writer.write(name, tensor if info.dtype is None else tensor.to(self._find_dtype(info)))

    def finish(self, card: str, reference: str) -> None:
        """Writes configuration, tokenizer and model card; the folder gets its name."""
        self._copy_small_files(reference)
        write_atomically(self._partial / "README.md", card)
        os.replace(self._partial, self.folder)

    @property
    def _partial(self) -> Path:
        return self.folder.with_name(self.folder.name + ".partial")

    @property
    def _single_file(self) -> str:
        return ADAPTER_FILE if self.is_adapter else "model.safetensors"

    def _lay_out(self) -> list[TensorLayout]:
        if self.is_adapter:
            shapes = self._require_adapter().shapes
            return [
                TensorLayout(name=key, shape=shape, code=CODES[self._find_adapter_dtype(key)])
                for key, (shape, _) in shapes.items()
            ]
        return [
            TensorLayout(
                name=name,
                shape=info.shape,
                code=info.code if info.dtype is None else CODES[self._find_dtype(info)],
            )
            for name, info in self.finetuned.infos.items()
        ]

    def _find_dtype(self, info: TensorInfo) -> torch.dtype:
        assert info.dtype is not None
        return choose_dtype(self._storage_dtype, info.dtype)

    def _find_adapter_dtype(self, key: str) -> torch.dtype:
        own = {code: dtype for dtype, code in CODES.items()}[self._require_adapter().shapes[key][1]]
        return choose_dtype(self._storage_dtype, own)

    def _require_adapter(self) -> AdapterReader:
        assert self.finetuned.adapter is not None
        return self.finetuned.adapter

    def _copy_small_files(self, reference: str) -> None:
        folder = self.finetuned.folder if self.is_adapter else self._source_folder
        for file in sorted(file for pattern in _COPIED for file in folder.glob(pattern)):
            if not any(file.match(pattern) for pattern in _NOT_COPIED):
                shutil.copyfile(file, self._partial / file.name)
        if self.is_adapter:
            config = dict(self._require_adapter().config) | {"base_model_name_or_path": reference}
            write_atomically(self._partial / ADAPTER_CONFIG, _format_json(config))
        else:
            config = json.loads((self._source_folder / "config.json").read_text(encoding="utf-8"))
            write_atomically(self._partial / "config.json", _format_json(self._set_dtype(config)))

    def _set_dtype(self, config: Mapping[str, Any]) -> dict[str, Any]:
        if self._storage_dtype == "source":
            return dict(config)
        return {key: value for key, value in config.items() if key != "torch_dtype"} | {"dtype": self._storage_dtype}


def _format_json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2) + "\n"
