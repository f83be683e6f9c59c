"""A study's stages on a Ray cluster of this machine: a worker that is killed in the middle is replaced."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from safety_lightning.errors import UserError
from safety_lightning.study.executors import open_pool
from safety_lightning.study.running import run_stages
from safety_lightning.study.settings import ExecutorSettings
from safety_lightning.study.stages import StageStore
from tests.study.toys import make_toys

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def run(study: Path, **of_middle: object) -> None:
    with open_pool("ray", ExecutorSettings(num_workers=2), folder=str(study / "jobs")) as pool:
        console = Console(file=io.StringIO())
        run_stages(make_toys(**of_middle), StageStore(study), pool, console=console, max_retries=2)


def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    run(tmp_path, dies=True)
    assert (tmp_path / "died").exists()
    assert (tmp_path / "last" / "text").read_text() == "alarz"


def test_an_error_of_a_stage_comes_back_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="toy/right must work, it does not"):
        run(tmp_path, fails=True)


def test_a_cluster_that_is_not_there_is_said() -> None:
    settings = ExecutorSettings(num_workers=2, address="127.0.0.1:1")
    with pytest.raises(UserError, match="a Ray cluster must be at"), open_pool("ray", settings, folder="jobs"):
        pass
