"""Files are whole or absent, and what kills leave is cleared away."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from safety_lightning.errors import UserError
from safety_lightning.files import (
    PartStore,
    atomic_path,
    find_parent,
    hash_file,
    read_rows,
    write_atomically,
    write_rows,
)

KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
from safety_lightning.files import atomic_path
with atomic_path(Path(sys.argv[1])) as partial:
    partial.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@dataclass(frozen=True)
class Line:
    name: str
    number: float


def kill_while_writing(file: Path) -> None:
    """Has another process write a file and die in the middle."""
    assert subprocess.run([sys.executable, "-c", KILLED_WRITER, str(file)]).returncode == -9


def test_killed_writer_leaves_the_old_file_and_the_next_clears_away(tmp_path: Path) -> None:
    file = tmp_path / "file.txt"
    write_atomically(file, "old")
    kill_while_writing(file)
    assert file.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    write_atomically(file, "new")
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("file.txt", "new")]


def test_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with atomic_path(tmp_path / "deep" / "file") as partial:
            partial.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list((tmp_path / "deep").iterdir()) == []


def test_folder_is_replaced_whole(tmp_path: Path) -> None:
    for content in ("first", "second"):
        with atomic_path(tmp_path / "folder") as partial:
            partial.mkdir()
            (partial / content).touch()
    assert [file.name for file in tmp_path.rglob("*")] == ["folder", "second"]


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    file = tmp_path / "file"
    other = file.with_name(f"{file.name}.elsewhere.1.partial")  # a live process of another machine
    other.write_text("theirs")
    write_atomically(file, "ours")
    assert other.read_text() == "theirs"


def test_rows_return_whatever_their_texts_hold(tmp_path: Path) -> None:
    rows = [Line("a\u2028b\nc\x85", 0.1), Line("ü", float("nan"))]
    write_rows(tmp_path / "rows.jsonl", rows)
    found = read_rows(tmp_path / "rows.jsonl", Line, what="a line")
    assert [row.name for row in found] == [row.name for row in rows]
    assert found[0].number == 0.1


def test_torn_line_is_left_out_where_it_may_be(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"name": "a", "number": 1}\n{"name": "b", "num')
    assert read_rows(file, Line, what="a line", is_torn_allowed=True) == [Line("a", 1)]
    with pytest.raises(UserError, match=r"rows.jsonl, line 2, must be a line, it is not"):
        read_rows(file, Line, what="a line")


def test_parts_are_kept_until_they_are_cleared(tmp_path: Path) -> None:
    parts = PartStore(tmp_path / "parts")
    assert parts.read("one") is None
    assert not parts.has("one")
    parts.write("one", {"x": [1.5, None]})
    assert PartStore(tmp_path / "parts").read("one") == {"x": [1.5, None]}
    assert parts.has("one")
    parts.clear()
    assert not parts.has("one")


def test_hash_follows_the_content(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("a")
    assert hash_file(file).startswith("ca978112")
    file.write_text("ab")
    assert hash_file(file).startswith("fb8e20fc")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("file/x/y", r"out .*/file/x/y must lie in a folder, .*/file is a file"),
        ("loop/x", r"loop is a link that leads nowhere"),
        ("loop", r"loop is a link that leads nowhere"),
        ("nowhere", r"nowhere is a link that leads nowhere"),
        ("x" * 300, r"must be a place to write to: File name too long"),
    ],
)
def test_output_that_cannot_be_made_is_refused(place: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=message):
        find_parent(tmp_path / place, what="out")
    assert find_parent(tmp_path / "a" / "b", what="out") == tmp_path
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "loop", "nowhere"]
