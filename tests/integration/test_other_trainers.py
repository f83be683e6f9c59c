"""Two processes under accelerate, whole or sharded, give the weights of one: its loop and the Hugging Face Trainer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.kills import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SETTINGS = {  # what accelerate's launcher hands on
    "one": {},
    "ddp": {},
    "fsdp2": {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    },
}


def launch(strategy: str, way: str, folder: Path, *models: Path) -> str:
    """Trains under torchrun, the same examples in each step; returns what was printed."""
    folder.mkdir()
    script = str(ROOT / "tests" / "integration" / "accelerate_fit.py")
    start = [] if strategy == "one" else ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    words = [script, way, str(folder), *map(str, models), "2" if strategy == "one" else "1"]
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"} | SETTINGS[strategy]
    done = subprocess.run(
        [sys.executable, *start, *words],
        env=os.environ | own,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("way", ["loop", "trainer"])
def test_two_processes_give_the_weights_of_one(way: str, pico_base: Path, pico_aligned: Path, tmp_path: Path) -> None:
    weights = {}
    for strategy in SETTINGS:
        printed = launch(strategy, way, tmp_path / strategy, pico_base, pico_aligned)
        assert f"sharded: {strategy == 'fsdp2'}" in printed
        weights[strategy] = load_file(tmp_path / strategy / "weights.safetensors")
    start = load_file(pico_aligned / "model.safetensors")
    assert max(float((weights["one"][name] - tensor).abs().max()) for name, tensor in start.items()) > 1e-2
    for strategy in ("ddp", "fsdp2"):
        for name, wanted in weights["one"].items():
            torch.testing.assert_close(weights[strategy][name], wanted, atol=1e-5, rtol=0, msg=f"{strategy} {name}")
