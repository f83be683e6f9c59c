"""A study shared out: by torchrun, and on a Ray cluster one of whose workers is killed; the tables of one process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from safety_lightning.study.executors import share_gpus
from safety_lightning.system.processes import lead_processes
from tests.kills import ROOT, finish, start
from tests.study.test_study import compare_tables, make_words, run

pytestmark = pytest.mark.timeout(900)


def test_every_worker_has_gpus_of_its_own_as_far_as_there_are_enough() -> None:
    gpus = [str(number) for number in range(8)]
    for num_workers in range(1, 9):
        shares = [share_gpus(gpus, worker, num_workers) for worker in range(num_workers)]
        assert sorted(one for share in shares for one in share) == gpus
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert [share_gpus(gpus[:2], worker, 3) for worker in range(3)] == [["0"], ["1"], ["0"]]


def test_of_torchruns_processes_the_first_works(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lead_processes() == 1
    for name, value in {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert lead_processes() == 0
    monkeypatch.setenv("RANK", "0")
    assert lead_processes() == 2
    assert not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"} & set(os.environ)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight") / "study"
    run(folder)
    return folder


@pytest.mark.slow
def test_torchrun_shares_a_study(straight: Path, tmp_path: Path) -> None:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "safety_lightning"]
    done = subprocess.run(
        [sys.executable, *launch, *make_words(tmp_path / "study")],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("is done (") == 1
    compare_tables(tmp_path / "study", straight)


def find_holder(stages: Path) -> int | None:
    """Returns a process of Ray that is at work on a stage: it holds its lock open."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            is_rays = process.joinpath("cmdline").read_bytes().startswith(b"ray::")
            held = [os.readlink(link) for link in process.joinpath("fd").iterdir()] if is_rays else []
        except OSError:  # it has ended, or is another user's
            continue
        if any(Path(link).parent == stages and link.endswith(".lock") for link in held):
            return int(process.name)
    return None


@pytest.mark.slow
def test_a_study_on_ray_loses_a_worker_and_nothing_else(straight: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    folder = tmp_path / "study"
    process = start(make_words(folder, "--executor", "ray", "--workers.num_workers", "2"))
    began, killed = time.monotonic(), 0
    while process.poll() is None and killed < 2:
        is_wanted = (folder / "stages").exists() and len(list((folder / "stages").glob("*.json"))) >= 6 * killed + 1
        if is_wanted and (found := find_holder(folder / "stages")) is not None:
            os.kill(found, signal.SIGKILL)
            killed += 1
        time.sleep(0.02)
        assert time.monotonic() - began < 600
    code, printed = finish(process, seconds=600)
    assert code == 0, printed
    assert killed == 2
    compare_tables(folder, straight)
