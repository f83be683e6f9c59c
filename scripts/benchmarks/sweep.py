"""Whole checkpoints in one pass, on random weights in the shape of a shallow Qwen2.5-0.5B."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks.common import Result, time_call
from safety_lightning.subspaces import rank_from_fraction
from safety_lightning.sweep import ProjectRun, project

QWEN = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 8000,
    "tie_word_embeddings": True,
}
FRACTIONS = (0.01, 0.25, 0.5, 0.75, 0.99)
MODELS = ("useful", "harmful", "contaminated")
NUM_VARIANTS = len(MODELS) * 3 * 2 * len(FRACTIONS)
# Of the 90 configurations the yardstick is timed on these; it does the same work in every one but for the rank.
TIMED = (("top_k", "parallel", 0.01), ("random", "orthogonal", 0.99), ("random_k", "parallel", 0.5))


def measure_sweep(num_pairs: int) -> list[Result]:
    """Times the sweep of three finetuned models against the straightforward procedure, and against its own parts."""
    ratios, quick_ratios, shares = [], [], []
    parts: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_checkpoints(folder, num_layers=2, models=MODELS)
        for repeat in range(num_pairs):
            yardstick = statistics.mean(time_call(partial(take_straight_way, folder, *config))[0] for config in TIMED)
            quick, _ = time_call(partial(sweep, folder, folder / f"quick{repeat}", save_models=["none"]))
            whole, _ = time_call(partial(sweep, folder, folder / f"saved{repeat}", save_models=["all"]))
            quick_ratios.append(yardstick * NUM_VARIANTS / quick)
            ratios.append(yardstick * NUM_VARIANTS / whole)
            parts = json.loads((folder / f"quick{repeat}" / "manifest.json").read_text())["seconds"]
            shares.append(quick / sum(parts.values()))
            shutil.rmtree(folder / f"saved{repeat}")
    note = f"yardstick timed on {len(TIMED)} of {NUM_VARIANTS} configurations and multiplied"
    shown = ", ".join(f"{what} {seconds / sum(parts.values()):.2f}" for what, seconds in parts.items())
    return [
        Result("sweep of 90 configurations, all saved: straightforward ÷ ours", "≥ 30", ratios, note),
        Result("the same without saving", "≥ 30", quick_ratios, "ours writes tables and figures alone"),
        Result("the same: total ÷ sum of decompositions, products and reads", "≤ 1.4", shares, f"shares: {shown}"),
    ]


def measure_memory(num_pairs: int) -> list[Result]:
    """Compares the peak memory of a sweep over 24 layers with that over 6 layers of the same shapes."""
    ratios, notes = [], []
    with tempfile.TemporaryDirectory() as name:
        for num_layers in (6, 24):
            make_checkpoints(Path(name) / str(num_layers), num_layers=num_layers, models=MODELS[:1])
        for repeat in range(num_pairs):
            peaks = {layers: find_peak(Path(name) / str(layers), f"out{repeat}") for layers in (6, 24)}
            ratios.append(peaks[24] / peaks[6])
            notes = [f"{layers} layers {peak / 1e6:.0f} MB" for layers, peak in peaks.items()]
    return [Result("peak memory of a sweep: 24 layers ÷ 6 layers", "≤ 1.15", ratios, ", ".join(notes))]


def make_checkpoints(folder: Path, *, num_layers: int, models: Sequence[str]) -> None:
    """Saves base, reference and finetuned models with dense random differences, float32."""
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(num_hidden_layers=num_layers, **QWEN))  # type: ignore[arg-type]
    model.save_pretrained(folder / "base")
    for name, size in (("reference", 2e-3), *((name, 1e-3) for name in models)):
        start = load_file(folder / ("base" if name == "reference" else "reference") / "model.safetensors")
        (folder / name).mkdir()
        changed = {key: weights + size * torch.randn_like(weights) for key, weights in start.items()}
        save_file(changed, folder / name / "model.safetensors", metadata={"format": "pt"})
        (folder / name / "config.json").write_text((folder / "base" / "config.json").read_text())


def sweep(folder: Path, out: Path, *, save_models: list[str]) -> None:
    """Runs the command in this process, without its terminal output."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        finetuned = [str(folder / name) for name in MODELS if (folder / name).is_dir()]
        base, reference = str(folder / "base"), str(folder / "reference")
        run = ProjectRun(
            base=base, reference=reference, finetuned=finetuned, out=out, save_models=save_models, device="cpu"
        )
        project(run)


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
        rank = rank_from_fraction(fraction, *delta.shape)
        left = torch.linalg.svd(torch.randn_like(delta) if source == "random" else delta, full_matrices=False)[0]
        basis = left[:, torch.randperm(left.shape[1])[:rank]] if source == "random_k" else left[:, :rank]
        inside = basis @ (basis.mT @ update)
        projected[name] = start + (inside if component == "parallel" else update - inside).view_as(start)
    save_file(projected, folder / "straight.safetensors")


def find_peak(folder: Path, out: str) -> int:
    """Returns the largest resident memory of a sweep in a process of its own, in bytes."""
    code = (
        "import sys; from pathlib import Path; from benchmarks.sweep import sweep; "
        "sweep(Path(sys.argv[1]), Path(sys.argv[1]) / sys.argv[2], save_models=['*/top_k/parallel/0.25']); "
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    command = [sys.executable, "-c", code, str(folder), out]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    return int(done.stdout.split()[-2]) * 1024  # "VmHWM: 1234 kB"; ru_maxrss would count the process it came from
