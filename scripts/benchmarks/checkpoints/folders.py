"""The checkpoints that are swept: random weights, and dense random differences from one to the next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from benchmarks.shapes import Shape, make_model

FIRST, SECOND = "base", "reference"


def save_checkpoints(
    folder: Path,
    shape: Shape,
    finetuned: Sequence[str],
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
    """Saves base, reference and finetuned models.

    Args:
        folder: Where their folders are made.
        shape: The model's shape.
        finetuned: Names of the finetuned models.
        device: Where weights are made.
        dtype: The dtype that they are stored in.

    Returns:
        The base, live on the device.
    """
    model = make_model(shape, device=device, dtype=dtype)
    model.save_pretrained(folder / FIRST, max_shard_size="1000GB")
    for name, size in ((SECOND, 2e-3), *((name, 1e-3) for name in finetuned)):
        start = load_file(folder / (FIRST if name == SECOND else SECOND) / "model.safetensors", device=device)
        (folder / name).mkdir()
        for weights in start.values():
            weights += size * torch.randn_like(weights)
        save_file(start, folder / name / "model.safetensors", metadata={"format": "pt"})
        (folder / name / "config.json").write_text((folder / FIRST / "config.json").read_text())
    return model
