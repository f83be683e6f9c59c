"""Measures speed as ratios of two things in one run, alternated and repeated, and writes docs/benchmarks.md.

    python scripts/benchmark.py --out docs/benchmarks.md            # everything, about an hour on two cores
    python scripts/benchmark.py --only bases step --out /tmp/b.md

Shared machines are noisy: the two sides of a ratio take turns, and the median of the pairs' ratios is reported with
their range. Each section is a function of benchmarks/.
"""

from __future__ import annotations

import importlib
import logging
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.common import Result
from jsonargparse import auto_cli

from safety_lightning.cli.lists import gather_values
from safety_lightning.files import write_atomically
from safety_lightning.runs import describe_environment

SECTIONS = {
    "bases": "training:measure_bases",
    "step": "training:measure_step",
    "trainer": "training:measure_trainer",
    "grouping": "training:measure_grouping",
    "sweep": "sweep:measure_sweep",
    "memory": "sweep:measure_memory",
    "overlap": "overlap:measure_overlap",
    "variants": "variants:measure_variants",
    "errors": "errors:measure_errors",
    "capture": "capture:measure_capture",
    "judges": "judges:measure_judges",
    "generation": "generation:measure_generation",
    "likelihoods": "likelihoods:measure_likelihoods",
}


def benchmark(out: Path = Path("docs/benchmarks.md"), only: list[str] | None = None, num_pairs: int = 3) -> None:
    """Measure the ratios and write the page.

    Args:
        out: The page.
        only: Which sections; all by default. The other rows of the page stay.
        num_pairs: How often the two sides of a ratio take turns.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    unknown = sorted(set(only or ()) - set(SECTIONS))
    if unknown:
        raise SystemExit(f"--only must be of {', '.join(SECTIONS)}, got {unknown[0]}")
    for name in only or list(SECTIONS):
        started = time.perf_counter()
        rows = [result.format() for result in find_section(name)(num_pairs)]
        write_atomically(out, _format_page(_keep_others(out, rows)))
        print(*rows, f"[{time.perf_counter() - started:.0f} s]", sep="\n", flush=True)
    print(f"Written: {out}")


def find_section(name: str) -> Callable[[int], list[Result]]:
    """Returns the function that measures a section, given the number of pairs."""
    module, _, function = SECTIONS[name].partition(":")
    section: Callable[[int], list[Result]] = getattr(importlib.import_module(f"benchmarks.{module}"), function)
    return section


def _keep_others(out: Path, rows: Sequence[str]) -> list[str]:
    """Returns the rows of the page that are not measured anew, and the new ones."""
    names = {row.split("|")[1] for row in rows}
    lines = out.read_text(encoding="utf-8").splitlines() if out.is_file() else []
    written = [line for line in lines if line.startswith("| ") and "**" in line]
    return sorted([*(row for row in written if row.split("|")[1] not in names), *rows])


def _format_page(rows: Sequence[str]) -> str:
    facts = describe_environment()
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return "\n".join(
        [
            "# Benchmarks",
            "",
            f"Made by `python scripts/benchmark.py` on {facts['started'][:10]}: {facts['num_threads']} threads of "
            f"{platform.machine()}, {versions}.",
            "Each number is the median of the ratios of pairs that took turns in one run, with their range; `--only` "
            "measures some rows anew.",
            "",
            "| what | wanted | ratio | note |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    words = gather_values(["benchmark", *sys.argv[1:]], {"benchmark": benchmark})
    auto_cli(benchmark, args=words[1:], as_positional=False)
