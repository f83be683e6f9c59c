"""Two processes on CPU (gloo) give the weights of one, whole (DDP) or sharded (FSDP2)."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(*command: str) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_two_processes_give_the_weights_of_one(pico_base: Path, pico_aligned: Path, tmp_path: Path) -> None:
    script = str(ROOT / "tests" / "integration" / "distributed_fit.py")
    weights, rows = {}, {}
    for strategy in ("one", "ddp", "fsdp2"):
        folder = tmp_path / strategy
        run(script, strategy, str(folder), str(pico_base), str(pico_aligned))
        weights[strategy] = load_file(folder / "model" / "model.safetensors")
        with (folder / "projection.csv").open() as stream:
            rows[strategy] = list(csv.DictReader(stream))
        AutoModelForCausalLM.from_pretrained(folder / "model")
    start = load_file(pico_aligned / "model.safetensors")
    for strategy in ("ddp", "fsdp2"):
        assert set(weights[strategy]) == set(weights["one"])
        for name, expected in weights["one"].items():
            torch.testing.assert_close(weights[strategy][name], expected, atol=2e-6, rtol=0)
            assert (expected - start[name]).abs().max() > 1e-3
        for row, expected_row in zip(rows[strategy], rows["one"], strict=True):
            assert float(row["update_norm"]) == pytest.approx(float(expected_row["update_norm"]), rel=1e-4)
            assert float(row["leak"]) < 1e-4


def test_sharded_run_resumes_bit_for_bit(words: list[str], tmp_path: Path) -> None:
    options = ["--trainer.devices", "2", "--trainer.strategy", "fsdp2", "--checkpoint.save_top_k", "-1"]
    options = [*words, *options, "--trainer.precision", "32-true", "--behaviour.every_n_steps", "3", "--run_dir"]
    run("-m", "safety_lightning", "fit", *options, str(tmp_path / "straight"), "--behaviour.num_prompts", "2")
    shutil.copytree(tmp_path / "straight", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "model")
    for step in (4, 6):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / f"step={step}.ckpt")
    resumed = [*options, str(tmp_path / "run"), "--behaviour.num_prompts", "2", "--ckpt_path", "last"]
    run("-m", "safety_lightning", "fit", *resumed)
    found, wanted = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("run", "straight"))
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")


def test_command_in_two_processes_shares_one_run_folder(words: list[str], tmp_path: Path) -> None:
    options = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--run_dir", str(tmp_path / "run")]
    run("-m", "safety_lightning", "fit", *words, *options)
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["num_processes"] == 2
    rows = [json.loads(line) for line in (tmp_path / "run" / "results.jsonl").read_text().splitlines()]
    assert [row["model"] for row in rows] == ["reference", "projected"]
    AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
