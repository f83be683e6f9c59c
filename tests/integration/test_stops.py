"""A fit under a cluster: Slurm's requeue, and SIGTERM to several processes; the files of a straight run."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kills import finish, read_results, replace_options, start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NAME": "tuning",
    "SLURM_NTASKS": "1",
    "SLURM_NTASKS_PER_NODE": "1",
    "SLURM_NNODES": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}


@pytest.fixture
def long_words(words: list[str]) -> list[str]:
    """A fit that lasts long enough for a signal to meet it."""
    more = ["--trainer.max_steps", "100", "--trainer.enable_progress_bar", "false"]
    return replace_options(["fit", *words, *more, "--ckpt_path", "last", "--checkpoint.every_n_train_steps", "5"])


def wait_for(is_there: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Waits until something is there, as long as a process runs."""
    while not is_there():
        assert process.poll() is None or is_there(), process.communicate()[0]
        time.sleep(0.005)


def compare_end(words: list[str], folder: Path, straight: Path, **variables: str) -> None:
    """Lets a command end, and one that was never stopped; their files are the same."""
    for place in (folder, straight):
        status, printed = finish(start([*words, "--run_dir", str(place)], **variables))
        assert status == 0, printed
    found, wanted = read_results(folder), read_results(straight)
    assert set(found) == set(wanted)
    differing = [name for name in wanted if found[name] != wanted[name]]
    assert differing == ["config.yaml"]  # which holds the folder


def find_scheduled(folder: Path) -> int:
    """Returns the step of the last checkpoint of the schedule, which tells that training is under way."""
    return max((int(path.stem.split("=")[1]) for path in folder.glob("checkpoints/step=*.ckpt")), default=0)


@pytest.mark.parametrize("then", ["kill -9 $PPID", "true"])
def test_slurm_requeues_a_fit_that_resumes(long_words: list[str], tmp_path: Path, then: str) -> None:
    called, tools = tmp_path / "called", tmp_path / "bin"
    tools.mkdir()
    (tools / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {called}\n{then}\n')
    (tools / "scontrol").chmod(0o755)
    folder, slurm = tmp_path / "run", SLURM | {"PATH": f"{tools}:{os.environ['PATH']}"}
    for number in (1, 2):  # a requeued job may be requeued again
        before = find_scheduled(folder)
        process = start([*long_words, "--run_dir", str(folder)], **slurm)
        wait_for(lambda: find_scheduled(folder) > before, process)  # noqa: B023 (called at once)
        process.send_signal(signal.SIGUSR1)
        wait_for(lambda: called.exists() and len(called.read_text().splitlines()) == number, process)  # noqa: B023
        process.kill()
        finish(process)
    assert called.read_text() == "requeue 4711\n" * 2
    assert not list(folder.glob("hpc_ckpt*"))
    compare_end(long_words, folder, tmp_path / "straight", **slurm)


def test_processes_of_a_fit_stop_together_and_resume(long_words: list[str], tmp_path: Path) -> None:
    words = [*long_words, "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    folder = tmp_path / "run"
    process = start([*words, "--run_dir", str(folder)])
    wait_for(lambda: find_scheduled(folder) > 0, process)
    os.killpg(process.pid, signal.SIGTERM)  # as Slurm and kubernetes do: each process gets it
    status, printed = finish(process)
    assert status == 128 + signal.SIGTERM, printed
    assert "Traceback" not in printed
    assert len(list(folder.glob("checkpoints/*.ckpt"))) >= 1
    compare_end(words, folder, tmp_path / "straight")
