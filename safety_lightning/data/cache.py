"""Keeps encoded data on disk under the hash of everything it was made from."""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import transformers
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from safety_lightning.data.dataset import EncodedDataset
from safety_lightning.files import atomic_path

CACHE_VARIABLE = "SAFETY_LIGHTNING_CACHE"
FORMAT_VERSION = 1  # to be raised whenever the same input is encoded in another way

logger = logging.getLogger(__name__)


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
    """Writes encoded data, whole or not at all; a folder that cannot be written to is logged and left alone."""
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
