"""Measures speed as ratios of two things in one run, alternated and repeated, and writes docs/benchmarks.md.

    python scripts/benchmark.py                          # everything, about two hours on two cores
    python scripts/benchmark.py --only bases step
    python scripts/benchmark.py --device cuda            # what a GPU alone can tell; needs no network
    python scripts/benchmark.py --toy true               # tries every section in seconds, and writes nothing
    python scripts/benchmark.py --list true

Shared machines are noisy: the two sides of a ratio take turns, and the median of the pairs' ratios is reported with
their range. Each section is a function of benchmarks/.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal

import torch
from benchmarks.common import NotHereError, Result, Setup
from benchmarks.page import describe_place, write_page
from jsonargparse import auto_cli

from safety_lightning.cli.lists import gather_values

SECTIONS = {
    "bases": "training:measure_bases",
    "step": "training:measure_step",
    "trainer": "training:measure_trainer",
    "grouping": "training:measure_grouping",
    "strategies": "processes.sections:measure_strategies",
    "sharded": "processes.sections:measure_sharded",
    "lora": "processes.sections:measure_lora",
    "sweep": "checkpoints.sweep:measure_sweep",
    "start": "checkpoints.start:measure_start",
    "memory": "checkpoints.sweep:measure_memory",
    "overlap": "overlap:measure_overlap",
    "variants": "checkpoints.variants:measure_variants",
    "errors": "errors:measure_errors",
    "capture": "capture:measure_capture",
    "judges": "judges:measure_judges",
    "generation": "generation:measure_generation",
    "likelihoods": "likelihoods:measure_likelihoods",
}
GPU_SECTIONS = {
    "gpu_fit": "gpu.fit:measure_fit",
    "gpu_step": "gpu.step:measure_step",
    "gpu_bases": "gpu.bases:measure_bases",
    "gpu_generation": "gpu.generation:measure_generation",
    "gpu_variants": "gpu.variants:measure_variants",
}


def benchmark(
    out: Path | None = None,
    only: list[str] | None = None,
    num_pairs: int = 3,
    device: Literal["cpu", "cuda"] = "cpu",
    toy: bool = False,
    list: bool = False,
) -> None:
    """Measure the ratios and write the page.

    Args:
        out: The page; docs/benchmarks.md by default, and of toys none.
        only: Which sections; all of the device by default. The other rows of the page stay.
        num_pairs: How often the two sides of a ratio take turns.
        device: Which sections: those of the CPU, or those that a GPU alone can tell.
        toy: Take sizes so small that each section takes seconds: tells that it runs. Those of the GPU run here too.
        list: Print the names of the sections, and measure nothing.
    """
    if list:
        print(*(f"{name:16}{find_section(name).__doc__}".splitlines()[0] for name in SECTIONS | GPU_SECTIONS), sep="\n")
        return
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # of several, Hugging Face's Trainer would take all
    setup = Setup(num_pairs=num_pairs, is_toy=toy, device=device)
    names = choose_sections(setup, only)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    page = out or (None if toy else Path("docs/benchmarks.md"))
    place, absent = describe_place(device), 0
    for name in names:
        started = time.perf_counter()
        gc.collect()  # what the section before held
        if device == "cuda":
            torch.cuda.empty_cache()
        try:
            for result in find_section(name)(setup):
                row = result.format(place)
                if page is not None:
                    write_page(page, [row])
                print(row, flush=True)
        except NotHereError as error:
            print(f"{name}: {error}", file=sys.stderr)
            absent += 1
            continue
        print(f"[{name}: {time.perf_counter() - started:.0f} s]", flush=True)
    print(f"Written: {page}" if page else "Nothing is written of toys, unless --out says where.")
    if absent:
        raise SystemExit(f"{absent} of {len(names)} sections could not be measured here")


def choose_sections(setup: Setup, only: list[str] | None) -> list[str]:
    """Returns the names of the sections that are measured.

    Raises:
        SystemExit: If there is none of a name, no pair, or no GPU where one is asked for.
    """
    if setup.num_pairs < 1:
        raise SystemExit(f"--num_pairs must be at least 1, got {setup.num_pairs}")
    if setup.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda must have a CUDA device, this machine has none (--toy true tries it on a CPU)")
    here: Mapping[str, str] = GPU_SECTIONS if setup.device == "cuda" else SECTIONS
    if setup.is_toy and setup.device == "cpu":
        here = SECTIONS | GPU_SECTIONS
    unknown = sorted(set(only or ()) - set(here))
    if unknown:
        raise SystemExit(f"--only must be of {', '.join(here)}, got {unknown[0]}")
    return only or [*here]


def find_section(name: str) -> Callable[[Setup], Iterable[Result]]:
    """Returns the function that measures a section; each row is kept as soon as it is there."""
    module, _, function = (SECTIONS | GPU_SECTIONS)[name].partition(":")
    section: Callable[[Setup], Iterable[Result]] = getattr(importlib.import_module(f"benchmarks.{module}"), function)
    return section


if __name__ == "__main__":
    words = gather_values(["benchmark", *sys.argv[1:]], {"benchmark": benchmark})
    auto_cli(benchmark, args=words[1:], as_positional=False)
