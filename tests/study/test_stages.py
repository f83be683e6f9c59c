"""A stage runs once; it runs again when what it depends on has changed, and when its outputs have."""

import io
import os
from pathlib import Path

import pytest
from filelock import FileLock
from rich.console import Console

from safety_lightning.errors import UserError
from safety_lightning.study.executors import open_pool
from safety_lightning.study.running import choose_stages, run_stages
from safety_lightning.study.settings import ExecutorSettings
from safety_lightning.study.stages import Stage, StageStore
from tests.study.toys import make_toys


def run(study: Path, stages: list[Stage], *, num_workers: int = 1, max_retries: int = 3) -> str:
    printed = io.StringIO()
    study.mkdir(exist_ok=True)
    settings = ExecutorSettings(num_workers=num_workers)
    with open_pool("local", settings, folder=str(study / "jobs")) as pool:
        run_stages(stages, StageStore(study), pool, console=Console(file=printed), max_retries=max_retries)
    return printed.getvalue()


def read_runs(study: Path) -> list[str]:
    return [line.removeprefix("toy/") for line in (study / "runs.log").read_text().split()]


def test_stages_run_once_and_after_what_they_need(tmp_path: Path) -> None:
    printed = run(tmp_path, make_toys())
    assert (tmp_path / "last" / "text").read_text() == "alarz"
    assert read_runs(tmp_path) == ["first", "left", "right", "last"]
    assert "[4/4] toy/last: done in" in printed
    assert "done before" in run(tmp_path, make_toys())
    assert len(read_runs(tmp_path)) == 4


def test_another_recipe_runs_what_depends_on_it_and_no_more(tmp_path: Path) -> None:
    run(tmp_path, make_toys())
    changed = make_toys()
    changed[1] = type(changed[1])(
        name="toy/left", folder="left", text="L", needs=changed[1].needs, recipe={"text": "L"}
    )
    changed[3] = type(changed[3])(
        name="toy/last", folder="last", text="z", needs=(changed[1], changed[2]), recipe={"text": "z"}
    )
    run(tmp_path, changed)
    assert read_runs(tmp_path)[4:] == ["left", "last"]
    assert (tmp_path / "last" / "text").read_text() == "aLarz"


def test_the_same_content_from_another_recipe_stops_there(tmp_path: Path) -> None:
    run(tmp_path, make_toys())
    stages = make_toys()
    first = type(stages[0])(name="toy/first", folder="first", text="a", recipe={"text": "a", "note": "new"})
    left = type(stages[0])(name="toy/left", folder="left", text="l", needs=(first,), recipe={"text": "l"})
    run(tmp_path, [first, left])
    assert read_runs(tmp_path)[4:] == ["first"]


@pytest.mark.parametrize("harm", ["edited", "removed", "record"])
def test_outputs_that_were_changed_are_made_again(tmp_path: Path, harm: str) -> None:
    run(tmp_path, make_toys())
    file = tmp_path / "left" / "text"
    if harm == "edited":
        file.write_text("AL")
    elif harm == "removed":
        file.unlink()
    else:
        (tmp_path / "stages" / "toy.left.json").write_text("{")
    run(tmp_path, make_toys())
    assert read_runs(tmp_path)[4:] == ["left"]
    assert file.read_text() == "al"


def test_a_file_that_was_touched_is_read_and_found_unchanged(tmp_path: Path) -> None:
    run(tmp_path, make_toys())
    os.utime(tmp_path / "left" / "text", (1, 1))
    run(tmp_path, make_toys())
    assert len(read_runs(tmp_path)) == 4


def test_what_is_finished_is_kept_when_a_stage_fails(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="toy/right must work"):
        run(tmp_path, make_toys(fails=True))
    run(tmp_path, make_toys())
    assert read_runs(tmp_path) == ["first", "left", "right", "right", "last"]


def test_a_stage_is_one_process_s_at_a_time(tmp_path: Path) -> None:
    stages = make_toys()
    (tmp_path / "stages").mkdir()
    with FileLock(tmp_path / "stages" / "toy.first.lock"), pytest.raises(UserError, match=r"toy/first must be one"):
        run(tmp_path, stages)


def test_only_names_stages_whose_needs_are_done(tmp_path: Path) -> None:
    stages, store = make_toys(), StageStore(tmp_path)
    with pytest.raises(UserError, match=r"'none' names none of toy/first"):
        choose_stages(stages, ["none"], store)
    with pytest.raises(UserError, match=r"toy/left must come after toy/first"):
        choose_stages(stages, ["toy/left"], store)
    run(tmp_path, choose_stages(stages, ["*first"], store))
    run(tmp_path, choose_stages(stages, ["toy/left"], store))
    assert read_runs(tmp_path) == ["first", "left"]


@pytest.mark.slow
def test_a_process_that_is_killed_is_replaced(tmp_path: Path) -> None:
    printed = run(tmp_path, make_toys(dies=True), num_workers=2)
    assert "its worker was lost, it is run again" in printed
    assert (tmp_path / "last" / "text").read_text() == "alarz"


@pytest.mark.slow
def test_a_process_that_fails_ends_the_study_with_its_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="toy/right must work"):
        run(tmp_path, make_toys(fails=True), num_workers=2)
