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

from safety_lightning.projection import SubspaceSpec, prepare_subspace
from tests.kills import ROOT, replace_options

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(*command: str) -> str:
    """Runs a command; returns what it printed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


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


def fit_words(words: list[str], strategy: str, run_dir: Path, *options: str) -> list[str]:
    """A fit in one process or, under a strategy, in two: the same examples in each step."""
    one = ["--data.batch_size", "8"]
    two = ["--trainer.devices", "2", "--trainer.strategy", strategy, "--data.batch_size", "4"]
    chosen = [*words, "--trainer.precision", "32-true", *(one if strategy == "auto" else two), *options]
    return ["-m", "safety_lightning", "fit", *replace_options(chosen), "--run_dir", str(run_dir)]


def needs(strategy: str) -> None:
    if strategy.startswith("zero"):
        pytest.importorskip("deepspeed")


@pytest.mark.parametrize("strategy", ["fsdp2", "zero1", "zero2", "zero3"])
def test_shared_run_resumes_bit_for_bit(words: list[str], tmp_path: Path, strategy: str) -> None:
    needs(strategy)
    options = ["--checkpoint.save_top_k", "-1", "--projection.every_n_steps", "2"]
    run(*fit_words(words, strategy, tmp_path / "straight", *options))
    shutil.copytree(tmp_path / "straight", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "model")
    for step in (4, 6):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / f"step={step}.ckpt")
    printed = run(*fit_words(words, strategy, tmp_path / "run", *options, "--ckpt_path", "last"))
    assert f"Resuming from {tmp_path / 'run' / 'checkpoints' / 'step=2.ckpt'}" in printed
    found, wanted = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("run", "straight"))
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")


def measure_leak(words: list[str], saved: dict[str, torch.Tensor]) -> float:
    """The share of the update of a saved model that is inside the subspace, float64; the fit kept what is outside."""
    options = dict(zip(words[::2], words[1::2], strict=True))
    base, reference = options["--projection.subspace.base"], options["--model.model"]
    prepared = prepare_subspace(SubspaceSpec(base=base, reference=reference))
    wrong = total = 0.0
    for slot in prepared.slots:
        start = prepared.reference.read(slot.tensor).double()
        update, basis = slot.view(saved[slot.tensor].double() - start), prepared.subspace.bases[slot.name].columns
        wrong += float((basis.double().mT @ update).square().sum())
        total += float(update.square().sum())
    assert total > 1e-4
    return float((wrong / total) ** 0.5)


@pytest.mark.parametrize("kind", ["weights", "end", "lora"])
def test_every_strategy_gives_the_weights_of_one_process(words: list[str], tmp_path: Path, kind: str) -> None:
    pytest.importorskip("deepspeed")
    options = {
        "weights": ["--trainer.max_steps", "20", "--trainer.gradient_clip_val", "0.5"],
        "end": ["--projection.when", "end", "--projection.storage_dtype", "bfloat16"],
        "lora": [
            "--model.lora.r",
            "4",
            "--projection.subspace.exclude",
            '["*norm*", "*embed*"]',
            "--save.merge",
            "true",
        ],
    }[kind]
    weights, leaks = {}, {}
    for strategy in ("auto", "ddp", "fsdp2", "zero1", "zero2", "zero3"):
        run(*fit_words(words, strategy, tmp_path / strategy, "--model.optimizer.lr", "0.001", *options))
        weights[strategy] = load_file(tmp_path / strategy / "model" / "model.safetensors")
        with (tmp_path / strategy / "projection.csv").open() as stream:
            leaks[strategy] = max(float(row["leak"]) for row in csv.DictReader(stream) if row["columns"] != "1")
        AutoModelForCausalLM.from_pretrained(tmp_path / strategy / "model")
    rounding = {"atol": 1e-5, "rtol": 2**-7} if kind == "end" else {"atol": 1e-5, "rtol": 0}  # bfloat16 of either side
    for strategy, found in weights.items():
        assert set(found) == set(weights["auto"])
        for name, tensor in weights["auto"].items():
            torch.testing.assert_close(found[name].float(), tensor.float(), **rounding, msg=f"{strategy} {name}")
        if kind == "end":
            assert measure_leak(words, found) < 0.1
        assert leaks[strategy] == pytest.approx(leaks["auto"], abs=1e-5, rel=0.1)


def test_batches_without_padding_give_the_weights_of_padded_ones(words: list[str], tmp_path: Path) -> None:
    """Processes and micro-batches hold different numbers of tokens; the mean is over all of them."""
    weights = {}
    for strategy in ("auto", "ddp", "fsdp2"):
        options = ["--data.padding_free", str(strategy != "auto").lower(), "--model.optimizer.lr", "0.001"]
        run(*fit_words(words, strategy, tmp_path / strategy, *options))
        weights[strategy] = load_file(tmp_path / strategy / "model" / "model.safetensors")
    for strategy in ("ddp", "fsdp2"):
        for name, expected in weights["auto"].items():
            torch.testing.assert_close(weights[strategy][name], expected, atol=1e-5, rtol=0, msg=f"{strategy} {name}")


@pytest.mark.parametrize("how", ["gradient", "decoupled"])
def test_penalty_gives_the_weights_of_one_process(
    words: list[str], pair: dict[str, Path], tmp_path: Path, how: str
) -> None:
    options = ["--penalty.subspace.base", str(pair["base"]), "--penalty.weight", "20", "--penalty.how", how]
    weights = {}
    for strategy, given in (("plain", []), ("auto", options), ("ddp", options), ("fsdp2", options)):
        used = "auto" if strategy == "plain" else strategy
        run(*fit_words(words, used, tmp_path / strategy, "--model.optimizer.lr", "0.001", *given))
        weights[strategy] = load_file(tmp_path / strategy / "model" / "model.safetensors")
    assert max((weights["plain"][name] - tensor).abs().max() for name, tensor in weights["auto"].items()) > 1e-4
    for strategy in ("ddp", "fsdp2"):
        for name, tensor in weights["auto"].items():
            torch.testing.assert_close(weights[strategy][name], tensor, atol=1e-5, rtol=0, msg=f"{strategy} {name}")


def test_command_in_two_processes_shares_one_run_folder(words: list[str], tmp_path: Path) -> None:
    options = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--run_dir", str(tmp_path / "run")]
    run("-m", "safety_lightning", "fit", *words, *options)
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["num_processes"] == 2
    rows = [json.loads(line) for line in (tmp_path / "run" / "results.jsonl").read_text().splitlines()]
    assert [row["model"] for row in rows] == ["reference", "projected"]
    AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
