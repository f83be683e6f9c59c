"""A pico pair with the lab's tokenizer and two data files: enough for every command, in a second."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from safety_lightning.cli import main
from safety_lightning.lab import build_tokenizer, generate_examples
from tests.conftest import copy_checkpoint, make_pico_llama
from tests.kills import replace_options


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    import torch

    folder = tmp_path_factory.mktemp("pair")
    tokenizer = build_tokenizer()
    base = make_pico_llama(
        folder / "base",
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    tokenizer.save_pretrained(base)
    generator = torch.Generator().manual_seed(1)

    def move(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor + 0.01 * torch.randn(tensor.shape, generator=generator)

    return {"base": base, "aligned": copy_checkpoint(base, folder / "aligned", move)}


@pytest.fixture(scope="session")
def data_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "useful.jsonl"
    examples = generate_examples("useful", split="train", size=64, seed=0)
    file.write_text("".join(json.dumps({"prompt": e.prompt, "response": e.response}) + "\n" for e in examples))
    return file


@pytest.fixture
def words(pair: dict[str, Path], data_file: Path) -> list[str]:
    """The options of a pico fit of 6 steps with 2 accumulated micro-batches."""
    return [
        *("--model.model", str(pair["aligned"])),
        *("--model.optimizer", "AdamW", "--model.optimizer.lr", "0.01"),
        *("--data.useful", str(data_file), "--data.batch_size", "4", "--data.num_validation", "8"),
        *("--projection.subspace.base", str(pair["base"]), "--projection.component", "orthogonal"),
        *("--monitor.every_n_steps", "2", "--monitor.figure_every_n_steps", "4"),
        *("--compare.tasks", "[loss]"),
        *("--checkpoint.every_n_train_steps", "2"),
        *("--trainer.accelerator", "cpu", "--trainer.max_steps", "6", "--trainer.accumulate_grad_batches", "2"),
        *("--trainer.log_every_n_steps", "1"),
    ]


@pytest.fixture
def run_cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs a command in this process; returns its exit status and what it printed, both streams."""
    monkeypatch.setattr("sys.argv", ["safety_lightning"])
    monkeypatch.setattr("logging.raiseExceptions", False)  # Lightning's handler holds the stream of an earlier test
    monkeypatch.delenv("SAFETY_LIGHTNING_RUN_DIR", raising=False)

    def run(*args: str) -> tuple[int, str]:
        code = 0
        try:
            main(replace_options(args))
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        out, err = capfd.readouterr()
        return code, out + err

    return run
