"""From the command line: averages, early stopping, moments, compiling and loggers beside a projection; Safe LoRA."""

import csv
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from safety_lightning.checkpoints import AdapterReader
from tests.kills import ROOT

Run = Callable[..., tuple[int, str]]


def read_csv(file: Path) -> list[dict[str, str]]:
    with file.open() as stream:
        return list(csv.DictReader(stream))


@pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback", "ignore::DeprecationWarning")
def test_fit_with_everything_beside_it(run_cli: Run, words: list[str], tmp_path: Path) -> None:
    code, printed = run_cli(
        "fit",
        *words,
        *("--model.compile", "eager", "--projection.moments", "true"),
        *("--trainer.gradient_clip_val", "0.5", "--trainer.val_check_interval", "2"),
        *("--trainer.callbacks", "EMAWeightAveraging", "--trainer.callbacks.decay", "0.9"),
        *("--trainer.callbacks+", "EarlyStopping", "--trainer.callbacks.monitor", "val/loss"),
        *("--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", str(tmp_path / "csv")),
        *("--checkpoint.monitor", "val/loss", "--checkpoint.save_last", "true"),
        *("--run_dir", str(tmp_path / "run")),
    )
    assert code == 0, printed
    rows = read_csv(tmp_path / "run" / "projection.csv")
    assert len(rows) == 20
    assert max(float(row["leak"]) for row in rows if row["columns"] != "1") <= 1e-3  # the square of it is energy
    AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    logged = read_csv(next((tmp_path / "csv").rglob("metrics.csv")))
    assert [row["step"] for row in logged if row["train/loss"]] == [str(step) for step in range(1, 7)]
    assert sum(bool(row["update/leak"]) for row in logged) == 3
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--trainer.callbacks.monitor", "val/loss", "--data.num_validation", "0"], "EarlyStopping monitors val/loss"),
        (["--trainer.callbacks.monitor", "val_loss", "--trainer.val_check_interval", "2"], "`val_loss` which is not"),
    ],
)
def test_a_metric_that_nothing_logs_is_named_in_one_line(
    run_cli: Run, words: list[str], tmp_path: Path, options: list[str], told: str
) -> None:
    stop = ["--trainer.callbacks", "EarlyStopping", *options, "--compare.tasks", "[]"]
    code, printed = run_cli("fit", *words, *stop, "--run_dir", str(tmp_path / "run"))
    assert code == 2, printed
    assert told in printed.splitlines()[-1], printed
    assert "Traceback" not in printed
    assert (tmp_path / "run").exists() == ("num_validation" not in " ".join(options))


def test_an_absent_package_names_its_extra(
    run_cli: Run, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    words = [word for word in words if word not in ("--model.optimizer", "AdamW", "--model.optimizer.lr", "0.01")]
    code, printed = run_cli("fit", *words, "--model.optimizer", "torchao.optim.AdamW8bit", "--run_dir", str(tmp_path))
    assert code == 2, printed
    assert "pip install 'safety_lightning[torchao]'" in printed


def test_fit_logs_to_weights_and_biases_offline(
    run_cli: Run, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "wandb"
    options = ["--trainer.logger.save_dir", str(folder), "--trainer.logger.offline", "true"]
    code, printed = run_cli(
        "fit", *words, "--trainer.logger", "WandbLogger", *options, "--run_dir", str(tmp_path / "run")
    )
    assert code == 0, printed
    assert list(folder.rglob("*.wandb"))


def test_safe_lora_runs_by_the_commands_of_its_header(
    run_cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    header = (ROOT / "configs" / "project" / "safe_lora.yaml").read_text().splitlines()
    project, fit, _ = (shlex.split(line)[3:] for line in header if line.startswith("#   python -m "))
    fewer = ["--trainer.max_steps", "6", "--compare.tasks", "[loss]", "--data.num_validation", "8"]
    code, printed = run_cli(*fit[1:], *fewer)
    assert code == 0, printed
    AdapterReader(tmp_path / "logs" / "lora" / "model")
    code, printed = run_cli(*project[1:])
    assert code == 0, printed
    (row,) = [row for row in read_csv(tmp_path / "logs" / "safe-lora" / "energy.csv") if row["source"] == "safe_lora"]
    assert 0 < float(row["energy_kept"]) < 1
    AutoModelForCausalLM.from_pretrained(tmp_path / "logs" / "safe-lora" / "models" / "lora" / "safe_lora")
