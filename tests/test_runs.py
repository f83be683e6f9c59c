"""Run folders: never overwritten, whole files, one clear error."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from safety_lightning.errors import UserError
from safety_lightning.files import write_atomically
from safety_lightning.runs import LOCK, RunFolder, describe_environment
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
    assert {file.name for file in run.path.iterdir()} == {"manifest.json", LOCK}
    with pytest.raises(ValueError, match="must not exist yet"):
        run.check()


def test_folder_to_resume_may_be_free_and_must_else_hold_a_run(tmp_path: Path) -> None:
    RunFolder(tmp_path / "absent", command="fit", resume=True).check()
    (tmp_path / "config.yaml").touch()  # killed before the manifest
    RunFolder(tmp_path, command="fit", resume=True).check()
    (tmp_path / "letter.txt").touch()
    with pytest.raises(UserError, match="must hold a run to resume, it holds no manifest"):
        RunFolder(tmp_path, command="fit", resume=True).check()


def test_full_disk_is_found_before_work(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(ValueError, match=r"needs about .*TB, the disk has .* free"):
        RunFolder(tmp_path / "run", command="fit").check(num_bytes=free * 1000)
    assert not (tmp_path / "run").exists()


def test_folder_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the tests may run as root, who may write anywhere
    with pytest.raises(ValueError, match=f"there is no permission to write in {tmp_path}"):
        RunFolder(tmp_path / "deep" / "run", command="fit").check()


def test_folder_is_one_commands_at_a_time(tmp_path: Path) -> None:
    first, second = (RunFolder(tmp_path / "run", command="fit", resume=True) for _ in range(2))
    first.create()
    with pytest.raises(UserError, match="must be one command's at a time, another one is at work in it now"):
        second.create()
    (first.path / "manifest.json").touch()
    first.release()
    second.create()
    second.release()
    assert [file.name for file in first.path.iterdir()] == ["manifest.json"]


def test_folder_in_which_nothing_was_written_goes_again(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run", command="fit")
    with run.releasing():
        run.create()
        assert run.path.is_dir()
    assert not run.path.exists()


def test_lock_that_a_kill_left_is_nobodys(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom safety_lightning.runs import RunFolder\n"
        "RunFolder(sys.argv[1], command='fit').create()\nos.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=False)
    assert (tmp_path / "run" / LOCK).exists()
    run = RunFolder(tmp_path / "run", command="fit")
    run.create()
    run.release()


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
