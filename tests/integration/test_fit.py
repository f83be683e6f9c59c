"""The main job from its command: what the run folder holds, resuming after a kill, and errors before work."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, AutoTokenizer

from safety_lightning.errors import UserError
from safety_lightning.training import CausalLMModule
from tests.conftest import copy_checkpoint
from tests.kills import replace_options

Run = Callable[..., tuple[int, str]]


def test_run_folder_holds_what_is_promised(run_cli: Run, words: list[str], tmp_path: Path) -> None:
    code, printed = run_cli(
        "fit", *words, "--projection.when", "end", "--save.keep_unprojected", "true", "--run_dir", str(tmp_path / "run")
    )
    assert code == 0, printed
    run = tmp_path / "run"

    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["trainer"]["max_steps"] == 6
    assert config["model"]["schedule"] == "cosine"  # defaults are written too

    manifest = json.loads((run / "manifest.json").read_text())
    assert {"command", "versions", "git_commit", "seed", "precision", "device", "inputs"} <= set(manifest)
    assert manifest["profile"] == "sound"
    assert set(manifest["inputs"]["weights"]) == {"model", "base"}
    assert manifest["data"]["train"]["num_examples"] == 56
    assert manifest["subspaces"] == [{"num_matrices": 20, "num_zero_delta": 0, "num_capped_at_rank": 0}]

    rows = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    assert [(row["model"], row["metric"]) for row in rows] == [
        ("reference", "loss"),
        ("finetuned", "loss"),
        ("projected", "loss"),
    ]
    assert all(row["low"] < row["value"] < row["high"] and row["num_scored"] == 8 for row in rows)
    assert rows[1]["value"] < rows[0]["value"]

    with (run / "projection.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == 20
    for name in ("model", "model_unprojected"):
        AutoModelForCausalLM.from_pretrained(run / name)
        assert AutoTokenizer.from_pretrained(run / name).chat_template
    assert not list(run.rglob("*.partial"))

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0}).Reload()
    scalars = events.Tags()["scalars"]
    assert {"train/loss", "train/lr", "train/tokens_per_second", "update/energy_inside", "update/stuck_share"} <= set(
        scalars
    )
    assert "update/energy_inside/q_proj" in scalars
    assert [event.step for event in events.Scalars("update/norm")] == [2, 4, 6]
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    images = {"update/by_layer", "outcome/update/by_layer", "outcome/update/by_module", "outcome/models"}
    assert set(events.Tags()["images"]) == images
    for row in rows:
        (value,) = events.Scalars(f"outcome/{row['model']}/loss")
        assert (value.step, value.value) == (6, pytest.approx(row["value"], rel=1e-5))

    for wanted in (
        "20 matrices, 0 without a delta",
        "reference",
        "finetuned",
        "projected",
        str(run),
        "tensorboard --logdir",
    ):
        assert wanted in printed

    before = {file: file.stat().st_mtime_ns for file in run.rglob("*")}
    code, printed = run_cli("fit", *words, "--run_dir", str(run))
    assert code == 2
    assert "must not exist yet: it is never overwritten" in printed
    assert before == {file: file.stat().st_mtime_ns for file in run.rglob("*")}


@pytest.mark.parametrize(("more", "seed"), [([], 7), (["--data.seed", "3"], 3)])
def test_data_take_the_seed_of_the_run_unless_they_have_their_own(
    run_cli: Run, words: list[str], tmp_path: Path, more: list[str], seed: int
) -> None:
    code, printed = run_cli("fit", *words, "--seed_everything", "7", *more, "--run_dir", str(tmp_path / "run"))
    assert code == 0, printed
    config = tmp_path / "run" / "config.yaml"
    assert yaml.safe_load(config.read_text())["data"]["seed"] == seed
    model = ["--model.model", str(tmp_path / "run" / "model")]
    for name, options in (("same", ["--config", str(config), *model]), ("again", [*words, *model])):
        code, printed = run_cli("validate", *options, "--run_dir", str(tmp_path / name))
        assert code == 0, printed
        assert yaml.safe_load((tmp_path / name / "config.yaml").read_text())["data"]["seed"] == seed, name


def test_validate_writes_the_loss_with_its_interval(run_cli: Run, words: list[str], tmp_path: Path) -> None:
    code, printed = run_cli("validate", *words, "--run_dir", str(tmp_path / "run"))
    assert code == 0, printed
    (row,) = [json.loads(line) for line in (tmp_path / "run" / "results.jsonl").read_text().splitlines()]
    assert row["low"] < row["value"] < row["high"]
    assert "val/perplexity" in printed


def launch(words: list[str], run: Path, *, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "safety_lightning", "fit", *replace_options(words), "--run_dir", str(run)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    with log.open("ab") as stream:
        return subprocess.Popen(
            command, env=environment, stdout=stream, stderr=subprocess.STDOUT, preexec_fn=_mind_interrupts
        )


def _mind_interrupts() -> None:
    """Has a new process mind Ctrl-C, which shells have ignored where the tests themselves run in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["every_n_steps", "end"])
def test_killed_run_resumes_to_the_same_weights(words: list[str], tmp_path: Path, when: str) -> None:
    words = [*words, "--projection.when", when, "--trainer.max_steps", "40", "--checkpoint.every_n_train_steps", "3"]
    log = tmp_path / "log"
    assert launch(words, tmp_path / "straight", log=log).wait() == 0, log.read_text()
    killed = tmp_path / "killed"
    process = launch(words, killed, log=log)
    while not list(killed.glob("checkpoints/step=*.ckpt")):
        assert process.poll() is None, log.read_text()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "model").exists()
    assert launch([*words, "--ckpt_path", "last"], killed, log=log).wait() == 0, log.read_text()
    expected = load_file(tmp_path / "straight" / "model" / "model.safetensors")
    found = load_file(killed / "model" / "model.safetensors")
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    for name in ("results.jsonl", "projection.csv"):
        assert (killed / name).read_text() == (tmp_path / "straight" / name).read_text()
    assert len(json.loads((killed / "manifest.json").read_text())["resumed"]) == 1


@pytest.mark.slow
def test_interrupted_run_says_how_to_go_on(words: list[str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = launch([*words, "--trainer.max_steps", "100000"], tmp_path / "run", log=log)
    while not list((tmp_path / "run").glob("checkpoints/step=*.ckpt")):
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    try:
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.wait()
    assert f"--run_dir {tmp_path / 'run'} --ckpt_path last resumes it" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_steps_taken_again_after_a_resume_are_logged_once(
    run_cli: Run, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    original = CausalLMModule.on_before_optimizer_step

    def stop(module: CausalLMModule, optimizer: object) -> None:
        original(module, optimizer)
        if module.trainer.global_step == 5:
            raise UserError("stopped")

    monkeypatch.setattr(CausalLMModule, "on_before_optimizer_step", stop)
    run_cli("fit", *words, "--run_dir", str(run), "--checkpoint.every_n_train_steps", "3")
    monkeypatch.setattr(CausalLMModule, "on_before_optimizer_step", original)
    code, printed = run_cli(
        "fit", *words, "--run_dir", str(run), "--checkpoint.every_n_train_steps", "3", "--ckpt_path", "last"
    )
    assert code == 0, printed
    assert "3/6" in printed
    assert not re.search(r" [1-9]\d*/\?", printed)  # the bar knows how many steps there are
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in events.Scalars("update/norm")] == [2, 4, 6]


def test_changed_inputs_stop_a_resume(run_cli: Run, words: list[str], data_file: Path, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    changed = tmp_path / "useful.jsonl"
    changed.write_text(data_file.read_text())
    words = [*words, "--data.useful", str(changed)]
    assert run_cli("fit", *words, "--run_dir", run)[0] == 0
    changed.write_text("".join(data_file.read_text().splitlines(keepends=True)[1:]))
    code, printed = run_cli("fit", *words, "--run_dir", run, "--ckpt_path", "last")
    assert code == 2
    assert "a run is resumed with the inputs it began with, but data changed since" in printed


def poison(name: str, tensor: torch.Tensor) -> torch.Tensor:
    return tensor.index_fill(0, torch.tensor([1]), float("nan")) if "layers.1.mlp.up_proj" in name else tensor


def make_bad_model(kind: str, good: Path, folder: Path) -> Path:
    """Makes a model folder with one fault."""
    copy = copy_checkpoint(good, folder, poison if kind == "nan" else lambda name, tensor: tensor)
    file = copy / "model.safetensors"
    if kind == "truncated":
        file.write_bytes(file.read_bytes()[:-64])
    elif kind == "pickle":
        torch.save(load_file(file), copy / "pytorch_model.bin")
        file.unlink()
    elif kind == "names":
        tensors = load_file(file)
        tensors["model.layers.0.self_attn.q_norm.weight"] = torch.ones(4)
        save_file(tensors, file, metadata={"format": "pt"})
    elif kind == "vocabulary":
        tensors = load_file(file)
        tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:-3].clone()
        save_file(tensors, file, metadata={"format": "pt"})
    elif kind == "architecture":
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(config | {"model_type": "qwen2"}))
    elif kind == "template":
        (copy / "chat_template.jinja").unlink()
    return copy


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nan", "tensor model.layers.1.mlp.up_proj.weight of"),
        ("truncated", "is truncated or is no safetensors file"),
        ("pickle", "holds pickled weights (pytorch_model.bin), which can run code when loaded and are refused"),
        ("names", "1 only in"),
        ("vocabulary", "common_rows: true compares the rows that both have"),
        ("architecture", "must be of one architecture, got qwen2"),
    ],
)
def test_bad_base_stops_before_anything_is_written(
    run_cli: Run, words: list[str], pair: dict[str, Path], tmp_path: Path, kind: str, message: str
) -> None:
    bad = make_bad_model(kind, pair["base"], tmp_path / "bad")
    expect_error(run_cli, [*words, "--projection.subspace.base", str(bad)], message, tmp_path)


def test_resized_vocabulary_is_projected_on_common_rows(
    run_cli: Run, words: list[str], pair: dict[str, Path], tmp_path: Path
) -> None:
    bad = make_bad_model("vocabulary", pair["base"], tmp_path / "bad")
    args = ["--projection.subspace.base", str(bad), "--projection.subspace.common_rows", "true"]
    code, printed = run_cli("fit", *words, *args, "--run_dir", str(tmp_path / "run"))
    assert code == 0, printed


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--projection.subspace.fraction", "1.5"], "fraction must be in (0, 1], got 1.5"),
        (
            ["--projection.subspace.include", '["*experts*"]'],
            "pattern '*experts*' must match a tensor, it matches none",
        ),
        (["--projection.subspace.base", "{aligned}"], "are identical in all 20 selected matrices: there is no delta"),
        (["--data.useful", "{tmp}/empty.jsonl"], "empty.jsonl"),
        (["--data.useful", "{tmp}/broken.jsonl"], "line 2"),
        (["--data.useful", '{{"path": "{tmp}/one.jsonl", "prompt": "promt"}}'], "did you mean prompt?"),
        (["--data.useful.prompt", "promt"], "a source must name a preset or a path, got neither"),
        (
            ["--data.max_length_tokens", "3"],
            "max_length_tokens must leave room for responses (too_long: truncate), got 3",
        ),
        (["--data.num_validation", "0"], "needs held-out data, there is none"),
        (["--model.model", "{tmp}/template", "--projection.subspace", "null"], "template: plain"),
        (["--model.model", "{tmp}/nowhere"], "nowhere does not exist"),
        (["--projection.subspace.fractoin", "0.5"], "Did you mean fraction?"),
        (["--data.useful", '{{"path": "x.jsonl", "sise": 3}}'], "sise"),
        (["--trainer.max_step", "3"], "Did you mean trainer.max_steps?"),
        (["--trainer.max_epoch", "3"], "Did you mean trainer.max_epochs?"),
        (["--model.optimizer", "AdamWW"], "Did you mean AdamW?"),
        (["--trainer.callbacks", "ProjectUpdat"], "Did you mean ProjectUpdate?"),
        (["--projection.componant", "parallel"], "Did you mean projection.component?"),
        (["--projection.component", "sideways"], "sideways"),
        (["--config", "{tmp}/misspelt.yaml"], "Did you mean projection.every_n_steps?"),
        (["--model.optimizer.lr", "-1"], "must take their settings, got: Invalid learning rate: -1.0"),
        (["--model.optimizer.lr", ".inf"], "must have finite settings, got lr inf"),
        (["--model.lr_scheduler", "StepLR", "--model.lr_scheduler.step_size", "0"], "must take their settings, got"),
        (["--trainer.accelerator", "gpu"], "must be made of options it takes, got: No supported gpu backend found!"),
        (["--trainer.strategy", "fsdp"], "fsdp2 is the strategy that this program takes in its place"),
        (["--trainer.gradient_clip_val", "-1"], "trainer.gradient_clip_val must be at least 0, got -1"),
        (["--trainer.accumulate_grad_batches", "0"], "trainer.accumulate_grad_batches must be at least 1, got 0"),
        (["--trainer.limit_train_batches", "0"], "trainer.limit_train_batches must not be 0"),
        (["--trainer.val_check_interval", "1000"], "val_check_interval must be at most the"),
        (["--trainer.limit_train_batches", "1e-7"], "trainer.limit_train_batches must hold one of the"),
        (
            ["--trainer.limit_val_batches", "1e-7"],
            "trainer.limit_val_batches must hold one of the 2 batches, got 1e-07",
        ),
        (
            ["--trainer.strategy", "DDPStrategy", "--trainer.strategy.dict_kwargs.foo", "1"],
            "trainer.strategy.dict_kwargs must be keywords of DistributedDataParallel, got foo",
        ),
        (
            [
                *("--trainer.logger", "TensorBoardLogger", "--trainer.logger.save_dir", "{tmp}/logs"),
                *("--trainer.logger.dict_kwargs.foo", "1"),
            ],
            "trainer.logger.dict_kwargs must be keywords of SummaryWriter, got foo",
        ),
    ],
)
def test_bad_settings_stop_before_anything_is_written(
    run_cli: Run, words: list[str], pair: dict[str, Path], tmp_path: Path, args: list[str], message: str
) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "broken.jsonl").write_text('{"prompt": "a", "response": "b"}\n{"prompt": \n')
    (tmp_path / "one.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    (tmp_path / "misspelt.yaml").write_text("projection:\n  every_n_step: 2\n")
    make_bad_model("template", pair["aligned"], tmp_path / "template")
    filled = [arg.format(tmp=tmp_path, aligned=pair["aligned"]) if "{" in arg else arg for arg in args]
    expect_error(run_cli, [*words, *filled], message, tmp_path)


def test_resume_needs_to_know_the_run(run_cli: Run, words: list[str]) -> None:
    code, printed = run_cli("fit", *words, "--ckpt_path", "last")
    assert code == 2
    assert "--ckpt_path last must come with the --run_dir of the run to resume" in printed


def test_processes_started_together_must_be_told_their_folder(
    run_cli: Run, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")  # as torchrun does
    code, printed = run_cli("fit", *words)
    assert code == 2
    assert "--run_dir must be given when several processes are started together, got none" in printed


def test_run_folder_without_permission_stops_before_work(
    run_cli: Run, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    expect_error(run_cli, words, "there is no permission to write in", tmp_path)


def expect_error(run_cli: Run, args: list[str], message: str, tmp_path: Path) -> None:
    code, printed = run_cli("fit", *args, "--run_dir", str(tmp_path / "run"))
    assert code == 2, printed
    assert message in " ".join(printed.split())
    assert "Traceback" not in printed
    assert not (tmp_path / "run").exists()


def test_a_strategy_without_its_package_names_the_extra(
    run_cli: Run, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning.pytorch.strategies.deepspeed._DEEPSPEED_AVAILABLE", False)
    monkeypatch.setattr("safety_lightning.cli.verbs.base.find_version", lambda package: None)
    asked = [*words, "--trainer.strategy", "deepspeed"]
    expect_error(run_cli, asked, "pip install 'safety_lightning[deepspeed]'", tmp_path)
