"""The yardstick of the sweep does what the sweep does: the same weights come out."""

from pathlib import Path

import torch
from benchmarks.checkpoints.folders import save_checkpoints
from benchmarks.checkpoints.straightforward import take_straight_way
from benchmarks.checkpoints.sweep import MODELS, NUM_VARIANTS, sweep
from benchmarks.shapes import SHALLOW_QWEN, TOY
from safetensors.torch import load_file


def test_the_straightforward_way_gives_the_weights_of_the_sweep(tmp_path: Path) -> None:
    save_checkpoints(tmp_path, SHALLOW_QWEN | TOY, MODELS[:1])
    reference = load_file(tmp_path / "reference" / "model.safetensors")
    sweep(tmp_path, tmp_path / "out", save_models=["useful/top_k/*/0.25"])
    saved = {path.parts[-3]: load_file(path) for path in (tmp_path / "out").rglob("0.25/*.safetensors")}
    assert set(saved) == {"parallel", "orthogonal"}
    for component, found in saved.items():
        take_straight_way(tmp_path, "top_k", component, 0.25)
        for name, weights in load_file(tmp_path / "straight.safetensors").items():
            torch.testing.assert_close(found[name], weights, atol=1e-6, rtol=0)
            assert weights.ndim == 1 or (weights - reference[name]).abs().max() > 1e-5
    assert NUM_VARIANTS == 90
