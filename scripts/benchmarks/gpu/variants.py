"""Ninety variants of a fine-tune in the shape of Qwen2.5-7B, set into a live model one after the other."""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path

import torch
from torch import nn

from benchmarks.checkpoints.folders import save_checkpoints
from benchmarks.checkpoints.variants import copy_weights
from benchmarks.common import NotHereError, Result, Setup
from benchmarks.gpu.device import time_on
from benchmarks.shapes import QWEN_7B, Shape, list_shapes
from safety_lightning.methods import Method, list_components, list_variants
from safety_lightning.sweep import SweepSettings, VariantLoader, open_inputs, sort_variants

FRACTIONS = tuple(round(0.066 * step, 3) for step in range(1, 16))
METHODS: list[Method] = [*list_components(["top_k", "random_k", "random"], ["parallel", "orthogonal"], FRACTIONS)]


def measure_variants(setup: Setup) -> list[Result]:
    """Times the ninety against a copy of the weights each; before, all are loaded once, which reads and decomposes."""
    shape = setup.shrink(QWEN_7B)
    with tempfile.TemporaryDirectory() as name:
        check_room(Path(name), shape)
        model = save_checkpoints(Path(name), shape, ["tuned"], device=setup.device, dtype=torch.bfloat16)
        copying = time_copy(setup, model)
        settings = SweepSettings(storage_dtype="source")
        base, reference, tuned = (str(Path(name) / one) for one in ("base", "reference", "tuned"))
        inputs = open_inputs(base, reference, [tuned], methods=METHODS, settings=settings)
        loader = VariantLoader(inputs, settings, largest_fraction=max(FRACTIONS))
        variants = sort_variants(list_variants(["tuned"], METHODS))

        def load_all() -> None:
            for variant in variants:
                loader.load(model, variant)

        first, _ = time_on(setup.device, load_all)
        totals = [time_on(setup.device, load_all)[0] for _ in range(setup.num_pairs)]
        loader.close()
    ratios = [total / len(variants) / copying for total in totals]
    note = (
        f"bfloat16; 3 sources, 2 components, {len(FRACTIONS)} fractions; the first time, with all bases, {first:.0f} s"
    )
    return [
        Result(f"GPU, 7 B: {len(variants)} variants in memory", "told", totals, note, "seconds"),
        Result(
            "GPU, 7 B: time of loading a variant ÷ time of copying its weights",
            "told",
            ratios,
            f"{copying:.4f} s a copy",
        ),
    ]


def time_copy(setup: Setup, model: nn.Module) -> float:
    """Returns the seconds of a copy of all weights, the fastest of ten; what it is copied from is dropped."""
    copies = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    return min(time_on(setup.device, partial(copy_weights, model, copies))[0] for _ in range(10))


def check_room(folder: Path, shape: Shape) -> None:
    """Raises NotHereError unless three checkpoints have room on the disk."""
    wanted = 3 * 2 * sum(torch.Size(one).numel() for one in list_shapes(shape).values())
    free = shutil.disk_usage(folder).free
    if free < 1.1 * wanted:
        raise NotHereError(
            f"the section gpu_variants needs {1.1 * wanted / 1e9:.0f} GB in {folder} (TMPDIR says where)"
        )
