"""Holds encoded examples in flat tensors, and keeps them on disk under the hash of everything they were made from."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
import transformers
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from safety_lightning.data.chat import EncodedExample
from safety_lightning.files import atomic_path

CACHE_VARIABLE = "SAFETY_LIGHTNING_CACHE"
FORMAT_VERSION = 1  # to be raised whenever the same input is encoded in another way
_SPLIT, _TRUNCATED = 1, 2  # bits of `flags`

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EncodedDataset(Dataset[EncodedExample]):
    """Encoded examples one after the other: small in memory, quick to save, shared with worker processes.

    Attributes:
        input_ids: All ids, one example's after the other's, int32.
        ends: Where each example's ids end, int64.
        prompt_lengths: Ids of each prompt, int32.
        tail_lengths: Ids at each end that are not trained, int32.
        flags: Whether it was split (1) or truncated (2), uint8.
        positions: Where each example stood among those that were encoded, int64 (some were dropped).
    """

    input_ids: Tensor
    ends: Tensor
    prompt_lengths: Tensor
    tail_lengths: Tensor
    flags: Tensor
    positions: Tensor

    @classmethod
    def pack(cls, examples: Iterable[tuple[int, EncodedExample]]) -> EncodedDataset:
        """Packs examples, each with its position among those that were encoded, as they come."""
        ids, rows = array("i"), []
        for position, example in examples:
            ids.extend(example.input_ids)
            flags = _SPLIT * example.is_split + _TRUNCATED * example.is_truncated
            rows.append((len(ids), example.num_prompt_tokens, example.num_masked_tail, flags, position))
        columns = torch.tensor(rows, dtype=torch.int64).reshape(len(rows), 5).unbind(1)
        return cls(
            input_ids=torch.from_numpy(np.array(ids, dtype=np.int32)),
            ends=columns[0].clone(),
            prompt_lengths=columns[1].int(),
            tail_lengths=columns[2].int(),
            flags=columns[3].to(torch.uint8),
            positions=columns[4].clone(),
        )

    @property
    def lengths(self) -> list[int]:
        """How many ids each example has."""
        return self.ends.diff(prepend=self.ends.new_zeros(1)).tolist()

    @property
    def num_trained_tokens(self) -> int:
        """How many ids carry a label, in all examples together."""
        return len(self.input_ids) - int(self.prompt_lengths.sum()) - int(self.tail_lengths.sum())

    @property
    def num_truncated(self) -> int:
        """How many examples lost their end."""
        return int((self.flags & _TRUNCATED).bool().sum())

    @property
    def num_split(self) -> int:
        """How many examples had prompt and response tokenized apart."""
        return int((self.flags & _SPLIT).bool().sum())

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> EncodedExample:
        start = int(self.ends[index - 1]) if index > 0 else 0
        flags = int(self.flags[index])
        return EncodedExample(
            input_ids=self.input_ids[start : int(self.ends[index])].tolist(),
            num_prompt_tokens=int(self.prompt_lengths[index]),
            num_masked_tail=int(self.tail_lengths[index]),
            is_split=bool(flags & _SPLIT),
            is_truncated=bool(flags & _TRUNCATED),
        )


def find_cache_folder(folder: str | None = None) -> Path:
    """Returns the folder given, or ``encoded`` in the one of ``SAFETY_LIGHTNING_CACHE``, or in ``~/.cache``."""
    if folder is not None:
        return Path(folder).expanduser()
    root = os.environ.get(CACHE_VARIABLE) or "~/.cache/safety_lightning"
    return Path(root).expanduser() / "encoded"


def compute_key(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]], options: dict[str, Any]) -> str:
    """Hashes everything that encoded data depends on.

    Args:
        tokenizer: The tokenizer, whose whole content counts (vocabulary, merges, special tokens, chat template).
        pairs: Prompts and responses, in their order.
        options: The options of encoding, as JSON values.

    Returns:
        A SHA-256 in hexadecimal.
    """
    digest = hashlib.sha256()
    header = {"format": FORMAT_VERSION, "transformers": transformers.__version__, "options": options}
    parts = [json.dumps(header, sort_keys=True), _describe_tokenizer(tokenizer)]
    for part in parts + [json.dumps(pair) for pair in pairs]:
        digest.update(part.encode())
        digest.update(b"\n")
    return digest.hexdigest()


def save_encoded(folder: Path, key: str, dataset: EncodedDataset) -> None:
    """Writes encoded data atomically; if the folder cannot be written to, that is logged and nothing is kept."""
    tensors = {field.name: getattr(dataset, field.name) for field in fields(dataset)}
    content = safetensors.torch.save(tensors, metadata={"sha256": _hash_tensors(key, tensors)})
    try:
        with atomic_path(folder / f"{key}.safetensors") as partial:
            partial.write_bytes(content)
    except OSError as error:
        logger.warning("Encoded data is not kept, %s cannot be written: %s", folder, error)


def load_encoded(folder: Path, key: str) -> EncodedDataset | None:
    """Reads encoded data, or returns ``None`` where there is none or the file is damaged (which is logged)."""
    path = folder / f"{key}.safetensors"
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    except (OSError, safetensors.SafetensorError) as error:
        logger.warning("Damaged cache file %s is made again: %s", path, error)
        return None
    names = {field.name for field in fields(EncodedDataset)}
    if set(tensors) != names or metadata.get("sha256") != _hash_tensors(key, tensors):
        logger.warning("Damaged cache file %s is made again: its content does not match its hash", path)
        return None
    return EncodedDataset(**tensors)


def _hash_tensors(key: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(key.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}\n".encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()


def _describe_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Writes out all that a tokenizer's output depends on."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = json.loads(backend.to_str()) if backend is not None else {"vocabulary": tokenizer.get_vocab()}
    for setting in ("padding", "truncation"):  # set anew in every call
        content.pop(setting, None)
    description = {
        "class": type(tokenizer).__name__,
        "content": content,
        "special_tokens": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "chat_template": tokenizer.chat_template,
    }
    return json.dumps(description, sort_keys=True)
