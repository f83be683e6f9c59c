"""The projection after each step in the shape of Qwen2.5-1.5B: its time and its leak, in float32 and in TF32."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from benchmarks.common import Result, Setup, take_turns
from benchmarks.gpu.device import time_on
from benchmarks.shapes import QWEN_1_5B, make_model
from benchmarks.training import FRACTION, take_step
from safety_lightning.checkpoints import find_slots
from safety_lightning.projection.parts import MatrixPart, locate, take_part
from safety_lightning.projection.sharding import measure_parts, project_parts
from safety_lightning.subspaces import rank_from_fraction

Precision = Literal["ieee", "tf32"]
BATCH_SIZE = 8


def measure_step(setup: Setup) -> list[Result]:
    """Times an optimizer step of 32 × 512 tokens with a projection in either precision against one without."""
    model = make_model(setup.shrink(QWEN_1_5B), device=setup.device)
    parts = make_parts(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    num_rows = setup.choose(32, BATCH_SIZE)
    step = partial(take_step, model, optimizer, num_micro_batches=num_rows // BATCH_SIZE, batch_size=BATCH_SIZE)
    sides: dict[str, Callable[[], Any]] = {
        "without": step,
        "ieee": partial(take_projected, step, parts, "ieee"),
        "tf32": partial(take_projected, step, parts, "tf32"),
    }
    step()  # makes the optimizer's state
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(-1, setup.num_pairs):  # the first one warms up
        timed = {name: time_on(setup.device, side)[0] for name, side in take_turns(sides, turn)}
        for name in sides if turn >= 0 else ():
            seconds[name].append(timed[name])
    results = []
    for precision, words, bound in (("ieee", "float32", "≤ 1.10"), ("tf32", "TF32", "≤ 1.03")):
        ratios = [one / other for one, other in zip(seconds[precision], seconds["without"], strict=True)]
        sides[precision]()
        note = (
            f"bf16 autocast, fraction {FRACTION}, off the subspace; leak {measure_leak(parts):.1e} of the update's norm"
        )
        name = f"GPU, 1.5 B: step of {num_rows} × 512 tokens, with projection in {words} ÷ without"
        results.append(Result(name, bound, ratios, note))
    return results


def make_parts(model: PreTrainedModel) -> list[MatrixPart]:
    """Takes the weights as they are for the reference, and a random subspace of each matrix, which costs the same."""
    parts = []
    generator = torch.Generator(model.device).manual_seed(0)
    for name, parameter in model.named_parameters():
        [slot] = find_slots(name, tuple(parameter.shape))
        rank = rank_from_fraction(FRACTION, slot.rows, slot.columns)
        drawn = torch.randn(slot.rows, rank, generator=generator, device=model.device)
        basis, reference = torch.linalg.qr(drawn)[0].contiguous(), parameter.detach().clone()
        parts.append(take_part(slot, parameter, find=locate, reference=reference, basis=basis, side="left"))
    return parts


def take_projected(step: Callable[[], None], parts: Sequence[MatrixPart], precision: Precision) -> None:
    """Takes a step, and projects after it."""
    step()
    with torch.no_grad(), products_in(precision):
        project_parts(parts, component="orthogonal")


def measure_leak(parts: Sequence[MatrixPart]) -> float:
    """Returns the share of the update's norm that is left inside the subspace, measured in full float32."""
    with torch.no_grad(), products_in("ieee"):
        inside, outside, _ = measure_parts(parts, [None] * len(parts)).sum(dim=0).tolist()
    return float((inside / (inside + outside)) ** 0.5)


@contextmanager
def products_in(precision: Precision) -> Iterator[None]:
    """Has float32 products made in a precision for the time of a block; `UpdateProjector` knows full float32 alone."""
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = precision
        yield
    finally:
        for backend, chosen in zip(backends, before, strict=True):
            backend.fp32_precision = chosen
