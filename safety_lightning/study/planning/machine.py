"""How fast a machine multiplies matrices and moves numbers: measured in a moment, or named."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from safety_lightning.errors import UserError
from safety_lightning.study.settings import StudyRun
from safety_lightning.system.devices import choose_device

SHARE = 0.4
"""Share of the rate of plain matrix products that training and forward passes are assumed to reach."""
_SIZES = {"cpu": 768, "cuda": 4096}
_COPIED_BYTES = 1 << 26
_ROUNDS = 3


@dataclass(frozen=True, kw_only=True)
class Machine:
    """How fast a task's machine is.

    Attributes:
        flops: Floating-point operations a second of a plain matrix product.
        bytes_per_second: Bytes that are read a second when weights are multiplied by few tokens.
        source: Where the numbers come from.
    """

    flops: float
    bytes_per_second: float
    source: str

    def time_products(self, work: float) -> float:
        """Returns the seconds of a model's passes that take so many floating-point operations."""
        return work / (SHARE * self.flops)

    def time_algebra(self, work: float) -> float:
        """Returns the seconds of float64 decompositions, of which a machine does about half as many."""
        return work / (SHARE / 2 * self.flops)

    def time_reads(self, num_bytes: float) -> float:
        """Returns the seconds in which so many bytes are read from memory."""
        return num_bytes / self.bytes_per_second

    def describe(self) -> str:
        """Says the rates in a line."""
        return (
            f"{self.flops / 1e12:.4g} Tflop a second of matrix products, {self.bytes_per_second / 1e9:.4g} GB a second "
            f"({self.source}); models are assumed to reach {SHARE:.0%} of the first"
        )


def find_machine(run: StudyRun) -> Machine:
    """Returns the machine that the settings name; what they leave open is measured on this one, in under a second.

    Args:
        run: The study.
    """
    device = _find_device(run)
    given, speed = run.workers.teraflops, run.workers.gigabytes_per_second
    flops = 1e12 * given if given is not None else _measure_products(device, run)
    rate = 1e9 * speed if speed is not None else _measure_copies(device)
    named = [given is not None, speed is not None]
    source = f"measured on this machine's {device.type}"
    return Machine(
        flops=flops, bytes_per_second=rate, source="as named" if all(named) else source + ", in part named" * any(named)
    )


def _find_device(run: StudyRun) -> torch.device:
    """Returns the study's device, or the CPU where this machine, which may only submit the tasks, has none such."""
    try:
        return choose_device(run.device)
    except UserError:
        return torch.device("cpu")


def _measure_products(device: torch.device, run: StudyRun) -> float:
    size = _SIZES.get(device.type, _SIZES["cpu"])
    dtype = torch.bfloat16 if device.type == "cuda" and run.measures.dtype == "bfloat16" else torch.float32
    matrix = torch.ones(size, size, dtype=dtype, device=device)
    return 2.0 * size**3 / _time(lambda: matrix @ matrix, device)


def _measure_copies(device: torch.device) -> float:
    numbers = torch.ones(_COPIED_BYTES // 4, device=device)
    target = torch.empty_like(numbers)
    return 2.0 * _COPIED_BYTES / _time(lambda: target.copy_(numbers), device)  # read and written


def _time(call: Callable[[], object], device: torch.device) -> float:
    best = math.inf
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return best
