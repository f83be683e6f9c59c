"""One configuration of a sweep as one would write it: the yardstick, and a command of its own.

    python -m benchmarks.checkpoints.straightforward FOLDER SOURCE COMPONENT FRACTION   # in scripts/

It imports nothing but what it needs, so that its start is as short as it can be.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


def take_straight_way(folder: Path, source: str, component: str, fraction: float) -> None:
    """Does one configuration as one would: loads three checkpoints, decomposes every delta, projects, saves."""
    base, reference, tuned = (
        load_file(folder / name / "model.safetensors") for name in ("base", "reference", "useful")
    )
    projected: dict[str, Tensor] = {}
    for name, start in reference.items():
        delta, update = (start - base[name]), (tuned[name] - start)
        if start.ndim == 1:
            delta, update = delta.unsqueeze(1), update.unsqueeze(1)
        rank = max(1, int(fraction * min(delta.shape)))
        left = torch.linalg.svd(torch.randn_like(delta) if source == "random" else delta, full_matrices=False)[0]
        basis = left[:, torch.randperm(left.shape[1])[:rank]] if source == "random_k" else left[:, :rank]
        inside = basis @ (basis.mT @ update)
        projected[name] = start + (inside if component == "parallel" else update - inside).view_as(start)
    save_file(projected, folder / "straight.safetensors")


if __name__ == "__main__":
    take_straight_way(Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4]))
