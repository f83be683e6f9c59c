"""Hashes what a file of tensors holds, so that a change of a byte is noticed."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def hash_content(tensors: Mapping[str, Tensor], facts: str) -> str:
    """Returns the SHA-256 of tensors with their names, dtypes and shapes, and of what is kept with them.

    Args:
        tensors: On the CPU and contiguous.
        facts: What else the hash stands for.
    """
    digest = hashlib.sha256(facts.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\0{name}:{tensor.dtype}:{tuple(tensor.shape)}:".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
