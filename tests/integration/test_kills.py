"""Every command that keeps its progress, killed, stopped, out of room or started twice: the files of a straight run."""

import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import copy_checkpoint
from tests.kills import DRIVER, finish, read_results, start

NUM_KILLS = int(os.environ.get("NUM_KILLS", "5"))
NUM_PAIRS = int(os.environ.get("NUM_PAIRS", "1"))
NUM_SIGNALS = int(os.environ.get("NUM_SIGNALS", "1"))
MEMORY = Path("/dev/shm")
COMMANDS = ["fit", "test", "predict", "project", "overlap weights", "overlap activations", "judge"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]
Make = Callable[[str, Path], list[str]]


@pytest.fixture
def make_words(words: list[str], pair: dict[str, Path], tmp_path: Path) -> Make:
    """Makes a command from its name and the folder that it fills."""
    model = ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.enable_progress_bar", "false"]
    tuned = copy_checkpoint(pair["aligned"], tmp_path / "tuned", lambda name, tensor: tensor * 1.01 + 0.001)
    weights = ["--base", str(pair["base"]), "--reference", str(pair["aligned"])]
    answers = tmp_path / "answers.jsonl"
    answers.write_text(
        "".join(f'{{"id": "{n}", "task": "t", "prompt": "p{n}", "answer": "I cannot {n}."}}\n' for n in range(20))
    )
    capture = ["--model.model", str(pair["aligned"]), "--data.sets.useful", "lab:useful", "--data.sets.harmful"]
    capture += ["lab:harmful", "--data.num_prompts", "14", "--data.batch_size", "2"]
    options = {
        "fit": [
            *(*words, "--projection.when", "end", "--save.keep_unprojected", "true"),
            *("--behaviour.every_n_steps", "3", "--behaviour.num_prompts", "2"),
            *("--trainer.enable_progress_bar", "false"),
        ],
        "test": [
            *("--model.model", str(pair["aligned"]), "--data.tasks", "[lab]", "--data.lab.num_prompts", "6"),
            *("--data.batch_size", "2", *model),
        ],
        "predict": [*capture, "--writer.shard_megabytes", "0.0016", *model],
        "project": [
            *(*weights, "--finetuned", f"a={tuned}", "--fractions", "0.25", "0.5", "--rivals", "safe_merge"),
            *("--safety_tuned", str(pair["base"]), "--save_models", "*/top_k/orthogonal/*", "*/safe_merge*"),
        ],
        "overlap weights": [*weights, "--updates", f"a={tuned}", "--device", "cpu", "--angle_etas", "0.9"],
        "overlap activations": ["--device", "cpu", "--sets"],
        "judge": ["--generations", str(answers), "--judge", "RuleJudge"],
    }

    def make(command: str, folder: Path) -> list[str]:
        if command in ("fit", "test", "predict"):
            return [command, *options[command], "--run_dir", str(folder), "--ckpt_path", "last"]
        if command == "overlap activations":
            sets = tmp_path / "captured" / "activations"
            if not sets.exists():
                assert finish(start(make("predict", tmp_path / "captured")))[0] == 0
            named = [f"{name}={sets / name}" for name in ("useful", "harmful")]
            return [*command.split(), *options[command], *named, "--out", str(folder)]
        return [*command.split(), *options[command], "--out", str(folder)]

    return make


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path | None]:
    """A TMPDIR on another file system than the run's."""
    if not MEMORY.is_dir() or MEMORY.stat().st_dev == tmp_path.stat().st_dev:
        yield None
        return
    folder = MEMORY / f"safety_lightning-{os.getpid()}"
    folder.mkdir()
    yield folder
    subprocess.run(["rm", "-r", str(folder)], check=True)


def run_straight(words: list[str], folder: Path) -> tuple[dict[str, object], float]:
    """Runs a command to its end; returns its files and the seconds it took. The folder is free again."""
    began = time.monotonic()
    code, printed = finish(start(words))
    assert code == 0, printed
    took, files = time.monotonic() - began, read_results(folder)
    folder.rename(folder.with_name("straight"))
    return files, took


def check_end(words: list[str], folder: Path, wanted: dict[str, object]) -> None:
    """Lets a command end, which the kills before must not hinder; the files are those of a straight run."""
    code, printed = finish(start(words))
    assert code == 0, printed
    compare(folder, wanted)


def compare(folder: Path, wanted: dict[str, object]) -> None:
    """Compares a folder's files with those of a straight run; names those that differ."""
    found = read_results(folder)
    assert set(found) == set(wanted)
    assert [name for name in wanted if found[name] != wanted[name]] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_killed_at_any_write_or_moment(make_words: Make, command: str, tmp_path: Path, other_disk: Path | None) -> None:
    folder, dice = tmp_path / "run", random.Random(command)
    words = make_words(command, folder)
    wanted, took = run_straight(words, folder)
    num_kills = 0
    while num_kills < NUM_KILLS:
        is_at_write = dice.random() < 0.6
        code = DRIVER if is_at_write else None
        prefix = [dice.choice(["before", "after"]), str(dice.randint(1, 12))] if is_at_write else []
        process = start([*prefix, *words], tmpdir=other_disk if dice.random() < 0.5 else None, code=code)
        if not is_at_write:
            try:
                process.wait(dice.uniform(0.3, 1.0) * took)
            except subprocess.TimeoutExpired:
                process.kill()
        status, printed = finish(process)
        if status == 0 or "must not exist yet" in printed:  # it had ended before: judge refuses what is finished
            compare(folder, wanted)
            subprocess.run(["rm", "-r", str(folder)], check=True)
            continue
        assert status == -signal.SIGKILL, printed
        num_kills += 1
    if command == "judge" and folder.exists() and '"is_finished": true' in (folder / "manifest.json").read_text():
        compare(folder, wanted)
    else:
        check_end(words, folder, wanted)
        assert not (folder / ".lock").exists()
    assert not list(folder.rglob("*.partial"))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_by_a_signal(make_words: Make, command: str, number: signal.Signals, tmp_path: Path) -> None:
    folder, dice = tmp_path / "run", random.Random(command)
    words = make_words(command, folder)
    wanted, took = run_straight(words, folder)
    num_stopped = 0
    for _ in range(10 * NUM_SIGNALS):
        process = start(words)
        time.sleep(dice.uniform(0.4, 0.95) * took)
        process.send_signal(number)
        status, printed = finish(process)
        if status in (0, -number):  # it had ended, or was just about to start or to exit: nobody minds the signal then
            subprocess.run(["rm", "-rf", str(folder)], check=True)
            continue
        assert status == 128 + number, printed
        assert printed.count("Stopped.") == 1
        assert "Traceback" not in printed
        num_stopped += 1
        if num_stopped == NUM_SIGNALS:
            break
    else:  # the work of `judge` is done in no time
        assert num_stopped or command == "judge", "no signal came while the command was at work"
    if folder.exists():
        check_end(words, folder, wanted)


@pytest.mark.parametrize("command", COMMANDS)
def test_two_starts_together_do_not_mix(make_words: Make, command: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = make_words(command, folder)
    wanted, _ = run_straight(words, folder)
    for _ in range(NUM_PAIRS):
        together = [start(words) for _ in range(2)]
        ended = [finish(one) for one in together]
        statuses = sorted(status for status, _ in ended)
        refused = [printed for status, printed in ended if status == 2]
        assert statuses in ([0, 2], [0, 0]), ended  # the second may come when the first is done
        assert all("one command's at a time" in printed or "must not exist yet" in printed for printed in refused), (
            ended
        )
        compare(folder, wanted)
        subprocess.run(["rm", "-r", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of little room, where root may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_full_disk_is_one_line_and_the_same_command_resumes(
    make_words: Make, command: str, tmp_path: Path, small_disk: Path
) -> None:
    folder = small_disk / "run"
    words = make_words(command, folder)
    wanted, _ = run_straight(words, folder)
    size = sum(file.stat().st_size for file in (small_disk / "straight").rglob("*") if file.is_file())
    subprocess.run(["rm", "-r", str(small_disk / "straight")], check=True)
    num_full, dice = 0, random.Random(command)
    for _ in range(6):
        filler = small_disk / "filler"
        room = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
        filler.write_bytes(bytes(max(0, room - int(size * dice.uniform(0.1, 0.8)))))
        status, printed = finish(start(words))
        filler.unlink()
        if status == 0 or "must not exist yet" in printed:
            break
        assert status == 2, printed
        assert "Traceback" not in printed, printed
        lines = [line for line in printed.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, printed
        assert "disk" in lines[0], printed
        assert re.search(r"\d (B|kB|MB)", lines[0]), printed
        num_full += 1
    assert num_full
    if command != "judge" or not folder.exists():
        check_end(words, folder, wanted)
