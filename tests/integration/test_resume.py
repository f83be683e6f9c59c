"""What a resumed fit starts from, what it refuses, and that no old number stands beside a new model."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from safety_lightning.cli.verbs.checkpoints import AtomicCheckpointIO, find_newest
from safety_lightning.training import CausalLMModule

Run = Callable[..., tuple[int, str]]


def read_rows(run: Path) -> dict[str, float]:
    rows = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    return {row["model"]: row["value"] for row in rows}


def test_longer_resume_measures_everything_again(run_cli: Run, words: list[str], tmp_path: Path) -> None:
    words = [*words, "--projection.when", "end", "--run_dir", str(tmp_path / "run"), "--ckpt_path", "last"]
    code, printed = run_cli("fit", *words)
    assert code == 0, printed
    assert "holds no run yet: one is started in it" in printed
    short = read_rows(tmp_path / "run")
    code, printed = run_cli("fit", *words, "--trainer.max_steps", "12")
    assert code == 0, printed
    long = read_rows(tmp_path / "run")
    assert long["reference"] == short["reference"]
    assert long["finetuned"] != short["finetuned"]
    assert long["projected"] != short["projected"]
    assert [file.name for file in (tmp_path / "run" / "checkpoints").iterdir()] == ["step=12.ckpt"]  # not the first's


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (["--projection.component", "parallel"], "projection.component was 'orthogonal' and is 'parallel'"),
        (["--model.optimizer.lr", "0.02"], "model.optimizer.init_args.lr was 0.01 and is 0.02"),
        (["--seed_everything", "1"], "seed_everything was 0 and is 1"),
        (["--trainer.accumulate_grad_batches", "1"], "trainer.accumulate_grad_batches was 2 and is 1"),
    ],
)
def test_other_settings_are_refused_by_name(
    run_cli: Run, words: list[str], tmp_path: Path, changed: list[str], told: str
) -> None:
    words = [*words, "--run_dir", str(tmp_path / "run"), "--ckpt_path", "last"]
    assert run_cli("fit", *words)[0] == 0
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*")}
    code, printed = run_cli("fit", *words, *changed)
    assert code == 2, printed
    assert told in printed
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*")} == before


@pytest.mark.parametrize(
    "more",
    [[], ["--trainer.val_check_interval", "3", "--checkpoint.monitor", "val/loss"]],
    ids=["after the first micro-batch of a resumed run", "at a validation"],
)
def test_what_was_saved_within_a_step_takes_it_from_its_beginning(
    run_cli: Run, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    """A step is two micro-batches; Lightning saves after one of them, whose gradients no checkpoint holds."""
    words = [*words, *more, "--ckpt_path", "last", "--run_dir"]
    assert run_cli("fit", *words, str(tmp_path / "straight"))[0] == 0
    take_step, progress = CausalLMModule.training_step, []
    for num_batches in (7, 1, 2):
        count = iter(range(num_batches))

        def take_some(module: CausalLMModule, batch: Any, batch_idx: int, count: Iterator[int] = count) -> Any:
            if next(count, None) is None:
                raise KeyboardInterrupt
            return take_step(module, batch, batch_idx)

        monkeypatch.setattr(CausalLMModule, "training_step", take_some)
        assert run_cli("fit", *words, str(tmp_path / "run"))[0] == 130
        found, _ = find_newest([tmp_path / "run" / "checkpoints"])
        assert found is not None
        loops = torch.load(found, weights_only=True)["loops"]["fit_loop"]
        progress.append(loops["epoch_loop.batch_progress"]["current"]["processed"])
        assert progress[-1] == loops["state_dict"]["combined_loader"][0]["num_yielded"]
    assert all(processed % 2 == 0 for processed in progress)
    monkeypatch.setattr(CausalLMModule, "training_step", take_step)
    assert run_cli("fit", *words, str(tmp_path / "run"))[0] == 0
    for name in ("model/model.safetensors", "results.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes(), name


@pytest.mark.parametrize("keeps", ["1", "2", "-1"])
def test_what_a_kill_left_behind_is_removed(run_cli: Run, words: list[str], tmp_path: Path, keeps: str) -> None:
    folder = tmp_path / "run" / "checkpoints"
    monitored = ["--checkpoint.monitor", "train/loss"] if keeps == "2" else []
    words = [*words, *monitored, "--checkpoint.save_top_k", keeps]
    words = [*words, "--run_dir", str(tmp_path / "run"), "--ckpt_path", "last"]
    assert run_cli("fit", *words, "--trainer.max_steps", "4")[0] == 0
    left = folder / "step=1.ckpt"  # a straight run has none: as if a kill had come before it was removed
    content = torch.load(folder / "step=4.ckpt", weights_only=True)
    torch.save(content | {"global_step": 1}, left)
    assert run_cli("fit", *words)[0] == 0
    assert left.exists() == (keeps == "-1")
    assert len(set(folder.iterdir()) - {left}) == {"1": 1, "2": 2, "-1": 3}[keeps]


def test_checkpoints_that_were_to_be_kept_stay(run_cli: Run, words: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    words = [*words, "--run_dir", str(tmp_path / "run"), "--ckpt_path", "last", "--checkpoint.save_top_k"]
    assert run_cli("fit", *words, "-1", "--trainer.max_steps", "4")[0] == 0
    assert run_cli("fit", *words, "1")[0] == 0
    assert {"step=2.ckpt", "step=6.ckpt"} <= {file.name for file in folder.iterdir()}


def test_torn_checkpoint_falls_back_to_the_one_before(run_cli: Run, words: list[str], tmp_path: Path) -> None:
    run, straight = tmp_path / "run", tmp_path / "straight"
    words = [*words, "--checkpoint.save_top_k", "-1", "--checkpoint.filename", "at-{epoch}-{step:03d}", "--ckpt_path"]
    words = [*words, "last", "--checkpoint.auto_insert_metric_name", "false"]
    assert run_cli("fit", *words, "--run_dir", str(straight))[0] == 0
    assert run_cli("fit", *words, "--run_dir", str(run))[0] == 0
    newest = max((run / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:-1000])
    code, printed = run_cli("fit", *words, "--run_dir", str(run))
    assert code == 0, printed
    assert f"Checkpoint {newest} is passed over: it cannot be read" in printed
    assert "004.ckpt" in printed.split("Resuming from ")[1].splitlines()[0]
    found, wanted = (load_file(one / "model" / "model.safetensors") for one in (run, straight))
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 10**9), is_cut=st.booleans())
def test_damaged_checkpoint_is_never_chosen(tmp_path_factory: pytest.TempPathFactory, place: int, is_cut: bool) -> None:
    folder, plugin = tmp_path_factory.mktemp("checkpoints"), AtomicCheckpointIO()
    for step in (1, 2):
        weights = {"weight": torch.arange(50.0) + step}
        plugin.save_checkpoint(
            {"global_step": step, "state_dict": weights, "optimizer_states": []}, folder / f"{step}.ckpt"
        )
    file = folder / "2.ckpt"
    content = file.read_bytes()
    at = place % len(content)
    file.write_bytes(content[:at] if is_cut else content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
    newest, _ = find_newest([folder])
    assert newest is not None
    if newest == file:  # only where no number is another one: padding and fields that nobody reads
        read = torch.load(file, weights_only=True)
        assert read["global_step"] == 2
        assert torch.equal(read["state_dict"]["weight"], torch.arange(50.0) + 2)
