"""Saves the variants of a sweep as Hugging Face folders, matrix by matrix: merged weights or an adapter, and a card."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
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
from safety_lightning.methods import Variant
from safety_lightning.subspaces import Side
from safety_lightning.sweep.inputs import SweepSettings
from safety_lightning.sweep.rows import EnergyRow

_PAPER = "Safety Subspaces are Not Linearly Distinct: A Fine-Tuning Case Study (arXiv 2505.14185)"
_COPIED = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken")
_NOT_COPIED = ("*.index.json", "trainer_state.json", "manifest.json", "adapter_config.json", "config.json")


class SavedModel:
    """Writes one variant's folder, which is called NAME.partial until it is complete.

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
        """Whether it is saved as an adapter, which methods allow that act on one of the two factors alone."""
        return self.finetuned.adapter is not None and self.variant.method.describe().keeps_rank

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

    def write_factors(
        self, slot: MatrixSlot, treat: Callable[[Tensor], Tensor], *, side: Side, device: torch.device
    ) -> Tensor:
        """Treats one factor of an adapter's update and writes both; the rank does not grow.

        Args:
            slot: The matrix.
            treat: What the method does to a factor, float32, ``(M, R)`` as seen from the subspace's side.
            side: The subspace's side: the left one acts on B, the right one on A.
            device: Where to work.

        Returns:
            The update as it is stored, float32, ``(rows, columns)``.
        """
        adapter = self._require_adapter()
        factors = adapter.read_factors(slot.tensor)
        keys = adapter.factors[slot.tensor]
        b_MR, a_RN = factors.b_MR.to(device), factors.a_RN.to(device)
        if side == "left":
            b_MR = treat(b_MR)
        else:
            a_RN = treat(a_RN.mT).mT
        stored = {}
        for key, factor in ((keys["B"], b_MR), (keys["A"], a_RN)):
            stored[key] = factor.to(self._find_adapter_dtype(key)).contiguous()
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


def write_card(
    model: SavedModel, row: EnergyRow, settings: SweepSettings, *, base: str, reference: str, num_bad: int
) -> str:
    """Returns the text of a model card.

    Args:
        model: The saved model.
        row: What the sweep found of its variant.
        settings: What was done.
        base: What the base was called.
        reference: What the reference was called.
        num_bad: Matrices that were left as they were finetuned, for they held NaN or infinity.
    """
    described = model.variant.method.describe()
    where = f", {settings.side} side, seed {settings.seed}" if described.component is not None else ""
    facts = {
        "base": base,
        "reference": reference,
        "finetuned": str(model.finetuned.folder),
        "method": described.text + where,
        "energy kept": _format(row.energy_kept, ".6g"),
        "chance level": _format(row.chance, ".6g"),
        "storage dtype": settings.storage_dtype,
        "leak after the cast": _format(row.leak, ".2e"),
        "matrices": f"{row.num_matrices}, of which {row.num_changed} were treated",
        "vectors": settings.vectors,
        "left as they were for NaN or infinity": str(num_bad),
    }
    library = "peft" if model.is_adapter else "transformers"
    return "\n".join(
        [
            f"---\nlibrary_name: {library}\ntags:\n- safety_lightning\n---",
            f"# {model.variant.name}",
            "",
            "Made by `python -m safety_lightning project` from the update (finetuned − reference) of a fine-tune and",
            "the delta (reference − base). Projecting an update is no proof of safety: measure the model.",
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in facts.items()),
            "",
            f"The method is that of {_PAPER}." if row.component is not None else "",
            "",
        ]
    )


def _format(value: float | None, form: str) -> str:
    return "not defined" if value is None else format(value, form)
