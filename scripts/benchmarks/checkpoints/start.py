"""The sweep as a command, with its start, against a command for each of its configurations."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.checkpoints.folders import save_checkpoints
from benchmarks.checkpoints.sweep import MODELS, NUM_VARIANTS, TIMED
from benchmarks.common import Result, Setup, run_module, take_turns, time_call
from benchmarks.shapes import SHALLOW_QWEN

START = f"sweep of {NUM_VARIANTS} configurations with start-up"
EACH = f"timed on {len(TIMED)} of {NUM_VARIANTS} and multiplied"


def measure_start(setup: Setup) -> list[Result]:
    """Times the sweep as one command against a command a configuration; each is a process with its imports."""
    turns: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_checkpoints(folder, setup.shrink(SHALLOW_QWEN), MODELS)
        for turn in range(setup.num_pairs):
            turns.append({side: time_call(run)[0] for side, run in take_turns(list_sides(folder), turn)})
            shutil.rmtree(folder / "out")
    last = turns[-1]
    each = {side: last[side] / len(TIMED) for side in ("straightforward", "single")}
    return [
        Result(
            f"{START}, {words}: a {other} ÷ ours for all",
            bound,
            [one[side] / len(TIMED) * NUM_VARIANTS / one[ours] for one in turns],
            f"{each[side]:.1f} s a configuration ({EACH}), {last[ours]:.1f} s for all",
        )
        for side, ours, words, other, bound in (
            ("straightforward", "all", "all saved", "straightforward command each", "≥ 60"),
            ("straightforward", "none", "tables alone", "straightforward command each", "≥ 60"),
            ("single", "all", "all saved", "command of ours each", "told"),
        )
    ]


def list_sides(folder: Path) -> dict[str, Callable[[], Any]]:
    """Returns what is timed: two ways of a command a configuration, and our command with all models saved or none."""
    everything = [str(folder / name) for name in MODELS]
    return {
        "straightforward": partial(run_straight_ways, folder),
        "single": partial(run_singles, folder),
        "all": partial(run_ours, folder, "all", "--finetuned", *everything, "--save_models", "all"),
        "none": partial(run_ours, folder, "none", "--finetuned", *everything, "--save_models", "none"),
    }


def run_straight_ways(folder: Path) -> None:
    """Runs the straightforward program, once a configuration."""
    for source, component, fraction in TIMED:
        run_module("benchmarks.checkpoints.straightforward", str(folder), source, component, str(fraction))


def run_singles(folder: Path) -> None:
    """Runs our command, once a configuration."""
    for source, component, fraction in TIMED:
        chosen = ("--sources", source, "--components", component, "--fractions", str(fraction), "--save_models", "all")
        run_ours(folder, f"single_{source}", "--finetuned", str(folder / MODELS[0]), *chosen)


def run_ours(folder: Path, out: str, *words: str) -> None:
    """Runs our command as a user does."""
    pair = ("--base", str(folder / "base"), "--reference", str(folder / "reference"))
    run_module("safety_lightning", "project", *pair, *words, "--out", str(folder / "out" / out), "--device", "cpu")
