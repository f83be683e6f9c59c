"""How soon a mistake in an option of `fit` is told, beside the import of Lightning, which no check can do without."""

from __future__ import annotations

import os
import subprocess
import sys

from benchmarks.common import Result, Setup

MISTAKES = (("--data.kind", "nothing"), ("--model.model", "nowhere/at/all"), ("--run_dir", "."))


def measure_errors(setup: Setup) -> list[Result]:
    """Compares processor seconds until the error with those of `import lightning.pytorch.cli`, in turns."""
    results = []
    for words in MISTAKES:
        fit = ("-m", "safety_lightning", "fit", "--config", "quickstart", *words)
        turns = range(setup.num_pairs)
        ratios = [_count_seconds(*fit) / _count_seconds("-c", "import lightning.pytorch.cli") for _ in turns]
        results.append(Result(f"error of fit {words[0]}: until it is told ÷ import of Lightning", "≤ 1.35", ratios, ""))
    return results


def _count_seconds(*words: str) -> float:
    before = os.times()
    subprocess.run([sys.executable, *words], capture_output=True, check=False)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system
