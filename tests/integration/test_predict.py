"""`predict` from its command: what the run folder holds, resuming after a kill, several processes, and bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from safety_lightning.activations import HiddenCapture
from safety_lightning.activations.storage import INDEX_FILE, ActivationFolder
from safety_lightning.profiles import CAPTURE_SETTINGS, name_profile, read_settings
from tests.conftest import copy_checkpoint

Run = Callable[..., tuple[int, str]]
ROOT = Path(__file__).resolve().parents[2]
PAPER = ROOT / "configs" / "profile" / "paper_predict.yaml"


@pytest.fixture
def words(pair: dict[str, Path]) -> list[str]:
    """The options of a capture of two sets, in shards of 4 prompts."""
    return [
        *("--model.model", str(pair["aligned"]), "--trainer.accelerator", "cpu", "--trainer.devices", "1"),
        *("--data.sets.useful", "lab:useful", "--data.sets.harmful", "lab:harmful"),
        *("--data.num_prompts", "14", "--data.batch_size", "2", "--writer.shard_megabytes", "0.0016"),
    ]


def read_files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def read_layers(folder: Path) -> torch.Tensor:
    activations = ActivationFolder(folder)
    return torch.stack([activations.read_layer(layer) for layer in range(activations.num_layers + 1)], dim=1)


def test_run_folder_holds_what_is_promised(run_cli: Run, words: list[str], tmp_path: Path) -> None:
    code, printed = run_cli("predict", *words, "--run_dir", str(tmp_path / "run"))
    assert code == 0, printed
    assert {file.name for file in (tmp_path / "run").iterdir()} == {"activations", "config.yaml", "manifest.json"}
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (config["model"]["token"], config["return_predictions"]) == ("prompt", False)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["profile"] == "sound"
    assert manifest["settings"]["activation token position"] == "last_attended"
    assert set(manifest["inputs"]) == {"weights", "data", "settings"}
    assert {name: counts["num_prompts"] for name, counts in manifest["data"].items()} == {"useful": 14, "harmful": 14}
    for name in ("useful", "harmful"):
        activations = ActivationFolder(tmp_path / "run" / "activations" / name)
        assert activations.num_prompts == 14
        assert {record.set for record in activations.index.prompts} == {name}
        assert f"{name}: 14 prompts of" in printed
    assert "overlap activations --sets useful=" in printed
    code, printed = run_cli("predict", *words, "--run_dir", str(tmp_path / "run"))
    assert code == 2
    assert "must not exist yet: it is never overwritten" in printed


@pytest.mark.parametrize("token", ["generated", "mean"])
def test_vectors_of_responses(run_cli: Run, words: list[str], tmp_path: Path, token: str) -> None:
    options = ["--model.token", token, "--model.max_new_tokens", "3", "--run_dir", str(tmp_path / "run")]
    code, printed = run_cli("predict", *words, *options)
    assert code == 0, printed
    index = ActivationFolder(tmp_path / "run" / "activations" / "useful").index
    assert (index.token, index.settings["max_new_tokens"], index.settings["response"]) == (token, 3, "generated")


def test_given_responses_are_read(run_cli: Run, words: list[str], tmp_path: Path) -> None:
    options = ["--model.token", "mean", "--model.response", "given", "--run_dir", str(tmp_path / "run")]
    code, printed = run_cli("predict", *words, *options)
    assert code == 0, printed
    assert ActivationFolder(tmp_path / "run" / "activations" / "harmful").index.settings["response"] == "given"


def test_profile_paper_takes_position_minus_one(run_cli: Run, words: list[str], tmp_path: Path) -> None:
    for name, stacked in (("sound", []), ("paper", ["--config", str(PAPER)])):
        code, printed = run_cli("predict", *stacked, *words, "--run_dir", str(tmp_path / name))
        assert code == 0, printed
        assert f"Profile {name}." in printed
        manifest = json.loads((tmp_path / name / "manifest.json").read_text())
        assert manifest["profile"] == name
        assert len(manifest["settings"]) == len(CAPTURE_SETTINGS)
    paper = ActivationFolder(tmp_path / "paper" / "activations" / "harmful")
    assert paper.index.settings["token_position"] == "minus_one"


@pytest.mark.parametrize("file", sorted((ROOT / "configs" / "predict").glob("*.yaml")), ids=lambda file: file.name)
def test_every_config_parses_in_both_profiles(run_cli: Run, file: Path) -> None:
    for name, stacked in (("sound", []), ("paper", ["--config", str(PAPER)])):
        code, printed = run_cli("predict", "--config", str(file), *stacked, "--print_config")
        assert code == 0, printed
        settings = read_settings(yaml.safe_load(printed), CAPTURE_SETTINGS)
        assert name_profile(settings) == name
        assert len(settings) == len(CAPTURE_SETTINGS)


def test_matched_sets_say_how_many_match(run_cli: Run, words: list[str], tmp_path: Path) -> None:
    words = [*words, "--data.sets.ordinary", "lab:ordinary"]
    options = ["--data.match_lengths", "true", "--data.match_tolerance_tokens", "12"]
    code, printed = run_cli("predict", *words, *options, "--run_dir", str(tmp_path / "run"))
    assert code == 0, printed
    assert "without a match in length" in printed
    counts = json.loads((tmp_path / "run" / "manifest.json").read_text())["data"]["ordinary"]
    assert counts["num_prompts"] == 14 < counts["num_matched"] <= 512


def test_memory_is_kept_while_it_captures(
    run_cli: Run, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []
    for name in ("keep_freed_memory", "release_freed_memory"):
        monkeypatch.setattr(f"safety_lightning.activations.module.{name}", lambda name=name: called.append(name))
    capture = HiddenCapture.run
    monkeypatch.setattr(HiddenCapture, "run", lambda *args: called.append("run") or capture(*args))
    assert run_cli("predict", *words, "--run_dir", str(tmp_path / "run"))[0] == 0
    assert called == ["keep_freed_memory", *["run"] * 14, "release_freed_memory"]


def launch(words: list[str], run: Path, *, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "safety_lightning", "predict", *words, "--run_dir", str(run)]
    with log.open("ab") as stream:
        return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=stream, stderr=stream)


@pytest.mark.slow
def test_killed_capture_resumes_to_the_same_files(words: list[str], tmp_path: Path) -> None:
    words = [*words, "--data.num_prompts", "128", "--data.batch_size", "1"]
    log = tmp_path / "log"
    assert launch(words, tmp_path / "straight", log=log).wait() == 0, log.read_text()
    killed = tmp_path / "killed"
    process = launch(words, killed, log=log)
    while len(list(killed.rglob("*.safetensors"))) < 3:
        assert process.poll() is None, log.read_text()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(killed.rglob(INDEX_FILE))
    num_before = len(list(killed.rglob("*.safetensors")))
    assert launch([*words, "--ckpt_path", "last"], killed, log=log).wait() == 0, log.read_text()
    assert num_before < len(list(killed.rglob("*.safetensors")))
    assert read_files(killed / "activations") == read_files(tmp_path / "straight" / "activations")
    assert len(json.loads((killed / "manifest.json").read_text())["resumed"]) == 1


@pytest.mark.slow
def test_two_processes_write_what_one_writes(words: list[str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert launch(words, tmp_path / "one", log=log).wait() == 0, log.read_text()
    two = [*words, "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    assert launch(two, tmp_path / "two", log=log).wait() == 0, log.read_text()
    found = read_files(tmp_path / "two" / "activations")
    assert found == read_files(tmp_path / "one" / "activations")
    assert len([name for name in found if name.endswith("safetensors")]) == 8


@pytest.mark.slow
def test_more_processes_than_shards_end_as_one(words: list[str], tmp_path: Path) -> None:
    words = [*words, "--writer.shard_megabytes", "1", "--data.sets", '{"useful": "lab:useful"}']
    log = tmp_path / "log"
    two = [*words, "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    assert launch(two, tmp_path / "two", log=log).wait() == 0, log.read_text()
    assert ActivationFolder(tmp_path / "two" / "activations" / "useful").num_prompts == 14


def test_finished_run_can_be_told_to_go_on(run_cli: Run, words: list[str], tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    assert run_cli("predict", *words, "--run_dir", run)[0] == 0
    before = read_files(tmp_path / "run" / "activations")
    code, printed = run_cli("predict", *words, "--run_dir", run, "--ckpt_path", "last")
    assert code == 0, printed
    assert read_files(tmp_path / "run" / "activations") == before


@pytest.mark.parametrize("change", [["--data.batch_size", "4"], ["--model.token_position", "minus_one"]])
def test_changed_settings_stop_a_resume(run_cli: Run, words: list[str], tmp_path: Path, change: list[str]) -> None:
    run = str(tmp_path / "run")
    assert run_cli("predict", *words, "--run_dir", run)[0] == 0
    before = read_files(tmp_path / "run")
    code, printed = run_cli("predict", *words, *change, "--run_dir", run, "--ckpt_path", "last")
    assert code == 2
    assert "must be new or hold this very capture" in printed
    assert read_files(tmp_path / "run") == before


def poison(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Makes weights that are finite and whose product is not."""
    return tensor * 1e38 if "layers.1.mlp.up_proj" in name or "layers.1.mlp.down_proj" in name else tensor


def test_nan_is_one_error_that_names_layer_and_prompt(
    run_cli: Run, words: list[str], pair: dict[str, Path], tmp_path: Path
) -> None:
    bad = copy_checkpoint(pair["aligned"], tmp_path / "bad", poison)
    code, printed = run_cli("predict", *words, "--model.model", str(bad), "--run_dir", str(tmp_path / "run"))
    assert code == 2
    assert "activations must be finite, got NaN or infinity in layer 2 of prompt useful-" in printed
    assert "Traceback" not in printed
    assert not list(tmp_path.rglob("activations*.safetensors"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--data.sets", "{{}}"], "sets must name at least one prompt set, got none"),
        (["--data.sets.few", "{tmp}/few.jsonl"], "few must hold the 14 prompts asked for, got 2 distinct ones"),
        (["--data.sets.few", "{tmp}/empty.jsonl"], "must hold at least one row of data, got none"),
        (["--data.sets.few", "{tmp}/long.jsonl", "--data.num_prompts", "1"], "must fit the model's context of 2048"),
        (["--model.model", "{tmp}/bare"], "whose tokenizer has no chat template"),
        (["--model.model", "{tmp}/nowhere"], "nowhere does not exist"),
        (["--model.token", "last"], "last"),
        (["--model.response", "given"], "response must be generated where token is prompt, got given"),
        (["--trainer.precision", "bf16-true"], "precision of the Trainer must be 32-true, got bf16-true"),
        (["--data.match_lengths", "true"], "must match in token length within 0 tokens, no prompts do"),
        (["--data.sets.useful", "lab:usefull"], "did you mean lab:useful?"),
        (["--data.num_promts", "3"], "Did you mean data.num_prompts?"),
        (["--ckpt_path", "some.ckpt"], "--ckpt_path must be last (which resumes the run) or left out, got some.ckpt"),
    ],
)
def test_bad_input_stops_before_anything_is_written(
    run_cli: Run, words: list[str], pair: dict[str, Path], tmp_path: Path, args: list[str], message: str
) -> None:
    (tmp_path / "few.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "long.jsonl").write_text(json.dumps({"prompt": "a " * 2100}) + "\n")
    bare = copy_checkpoint(pair["aligned"], tmp_path / "bare", lambda name, tensor: tensor)
    (bare / "chat_template.jinja").unlink()
    filled = [arg.format(tmp=tmp_path) for arg in args]
    code, printed = run_cli("predict", *words, *filled, "--run_dir", str(tmp_path / "run"))
    assert code == 2, printed
    assert message in " ".join(printed.split())
    assert "Traceback" not in printed
    assert not (tmp_path / "run").exists()
