"""Run folders: never overwritten, whole files, one clear error."""

import os
import shutil
from pathlib import Path

import pytest

from safety_lightning.files import write_atomically
from safety_lightning.runs import RunFolder, describe_environment
from tests.test_files import kill_while_writing


def test_fresh_folders_never_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = []
    for _ in range(3):
        run = RunFolder(None, command="fit")
        run.create()
        folders.append(run.path)
    assert len(set(folders)) == 3
    assert all(folder.parent == Path("logs") and folder.name.startswith("fit-") for folder in folders)


def test_folder_that_exists_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ValueError, match=r"must not exist yet: it is never overwritten\. .*--ckpt_path last"):
        RunFolder(tmp_path, command="fit").check()
    assert (tmp_path / "file").read_text() == "precious"


def test_file_that_a_kill_left_unfinished_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    kill_while_writing(tmp_path / "run" / "manifest.json")
    run = RunFolder(tmp_path / "run", command="fit")
    run.create()
    run.write_manifest({})
    assert not run.is_free()
    assert [file.name for file in run.path.iterdir()] == ["manifest.json"]
    with pytest.raises(ValueError, match="must not exist yet"):
        run.check()


def test_folder_to_go_on_with_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must exist to go on from its last checkpoint"):
        RunFolder(tmp_path / "absent", command="fit", resume=True).check()


def test_full_disk_is_found_before_work(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(ValueError, match=r"needs about .*TB, the disk has .* free"):
        RunFolder(tmp_path / "run", command="fit").check(num_bytes=free * 1000)
    assert not (tmp_path / "run").exists()


def test_folder_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the tests may run as root, who may write anywhere
    with pytest.raises(ValueError, match=f"there is no permission to write in {tmp_path}"):
        RunFolder(tmp_path / "deep" / "run", command="fit").check()


def test_last_checkpoint_is_that_of_the_most_steps(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, command="fit", resume=True)
    assert run.find_last_checkpoint() is None
    (tmp_path / "checkpoints").mkdir()
    for name in ("step=100.ckpt", "step=20.ckpt"):
        (tmp_path / "checkpoints" / name).touch()
    last = run.find_last_checkpoint()
    assert last is not None
    assert last.name == "step=100.ckpt"


def test_file_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "results.jsonl"
    write_atomically(file, "old\n")

    def fail(*args: object) -> None:
        raise OSError("killed here")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="killed here"):
        write_atomically(file, "new, and much longer\n")
    assert file.read_text() == "old\n"


def test_environment_names_what_a_repetition_needs() -> None:
    described = describe_environment()
    assert {"versions", "git_commit", "device", "num_threads", "started"} <= set(described)
    assert described["versions"]["torch"]
