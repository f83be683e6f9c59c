"""What every section of the benchmark uses: what it is asked for, the row of the page, and the turns of two sides."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.shapes import TOY, Shape

SCRIPTS = Path(__file__).resolve().parents[1]


class NotHereError(RuntimeError):
    """Something that a section needs is not on this machine."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a section is asked for.

    Attributes:
        num_pairs: How often the two sides of a ratio take turns.
        is_toy: Whether sizes are so small that a section takes seconds; what it tells then is only that it runs.
        device: ``cpu`` or ``cuda``.
    """

    num_pairs: int = 3
    is_toy: bool = False
    device: str = "cpu"

    def shrink(self, shape: Shape) -> dict[str, Any]:
        """Returns the settings of a model's configuration, at toy size where that is asked for."""
        return {**shape, **(TOY if self.is_toy else {})}

    def choose(self, size: int, toy: int) -> int:
        """Returns a size, or the one that it has in a toy."""
        return toy if self.is_toy else size


@dataclass(frozen=True)
class Result:
    """One row of the page.

    Attributes:
        name: What is measured.
        bound: What it should be.
        ratios: What was found, one a pair.
        note: How it was measured, and what else was found.
        kind: ``ratio``, ``seconds``, or what was ``counted`` and comes out the same each time.
    """

    name: str
    bound: str
    ratios: Sequence[float]
    note: str
    kind: Literal["ratio", "seconds", "counted"] = "ratio"

    def format(self, measured: str) -> str:
        """Formats the row in Markdown.

        Args:
            measured: When, of which commit and where.
        """
        return f"| {self.name} | {self.bound} | {self._format_value()} | {self.note} | {measured} |"

    def _format_value(self) -> str:
        middle = statistics.median(self.ratios)
        if self.kind == "counted":
            return f"**{middle:.4g}** (counted)"
        unit, number = " s" if self.kind == "seconds" else "", len(self.ratios)
        span = f"{min(self.ratios):.3f} to {max(self.ratios):.3f}, {number} pair{'s' if number > 1 else ''}"
        return f"**{middle:.3f}{unit}** ({span})"


def take_turns(sides: Mapping[str, Callable[[], Any]], turn: int) -> list[tuple[str, Callable[[], Any]]]:
    """Returns the sides in an order that changes from turn to turn."""
    ordered = list(sides.items())
    return ordered if turn % 2 == 0 else ordered[::-1]


def time_call(call: Callable[[], Any]) -> tuple[float, Any]:
    """Returns a call's seconds and its result."""
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def run_module(module: str, *words: str, **environment: str) -> str:
    """Runs a module in a new process, in scripts/ and without network.

    Args:
        module: Its name.
        *words: Its options.
        **environment: Further variables of its environment.

    Returns:
        What it printed.

    Raises:
        RuntimeError: If it fails; with what it said.
    """
    variables = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(SCRIPTS.parent)} | environment
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(command, cwd=SCRIPTS, env=variables, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{module} {' '.join(words)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout
