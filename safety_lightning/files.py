"""Files that are whole or absent, whatever kills the process: single files, folders, parts of a run, JSON lines."""

from __future__ import annotations

import functools
import glob
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from safety_lightning.errors import UserError
from safety_lightning.strict import check_record, parse_json
from safety_lightning.system.disks import explain_full_disk

PARTIAL = ".partial"
"""The ending of files and folders that are not complete."""

_HOST = socket.gethostname()
_PARTIAL_OF_HOST = f"{glob.escape(_HOST)}.*{PARTIAL}"

Row = TypeVar("Row")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside ``path`` to write, and renames it to ``path`` when the block has ended well.

    Two processes may write one path: each has a temporary path of its own, and the last to end well stays. Modes
    follow the umask, also of what libraries write for their user alone.

    Args:
        path: The file or folder to make; one of that name is replaced. Its parent is made.

    Yields:
        The temporary path, which ends in ``.partial``. It is removed if the block fails; what processes of this
        machine left that were killed is removed first.

    Raises:
        DiskFullError: If the disk has no room for it.
    """
    partial = path.with_name(f"{path.name}.{_HOST}.{os.getpid()}{PARTIAL}")
    try:
        with explain_full_disk(path, partial):
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_dead(path.parent.glob(f"{glob.escape(path.name)}.{_PARTIAL_OF_HOST}"))
            yield partial
            _settle(partial)
            if partial.is_dir():
                remove(path)
            os.replace(partial, path)
    finally:
        remove(partial)


def _settle(partial: Path) -> None:
    """Gives files the modes that the umask asks for, and has a single one on disk."""
    umask = os.umask(0o077)
    os.umask(umask)
    for file in partial.rglob("*") if partial.is_dir() else [partial]:
        if file.is_file() and not file.is_symlink():
            file.chmod(0o666 & ~umask)
    if partial.is_file():
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())


def find_parent(path: Path, *, what: str) -> Path:
    """Returns the nearest folder that exists of an output and the folders above it; writes nothing.

    Args:
        path: The file or folder that will be made.
        what: What errors call it, such as ``run folder``.

    Raises:
        UserError: If it cannot be made: there is a file, a broken link or a loop of links on its way, or its name is
            none.
    """
    try:
        for one in [path, *path.absolute().parents]:
            if one.is_dir():
                return one
            if one.is_symlink() and not one.exists():
                raise UserError(f"{what} {path} must be a place to write to, {one} is a link that leads nowhere")
            if one != path and one.exists():
                raise UserError(f"{what} {path} must lie in a folder, {one} is a file")
    except OSError as error:  # a name that is too long, or a folder that may not be looked into
        raise UserError(f"{what} {str(path)[:200]} must be a place to write to: {error.strerror}") from error
    raise UserError(f"{what} {str(path)!r} must be a path, it is not")  # such as one with a NUL


def expand(path: Path | str, *, what: str) -> Path:
    """Returns a path with its ``~`` written out.

    Raises:
        UserError: If there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{what} {path} must be a path: {error}") from error


def remove(path: Path) -> None:
    """Removes a file or a folder with all that it holds; does nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Removes what processes of this machine that were killed left unfinished anywhere in a folder."""
    _remove_dead(list(folder.rglob(f"*.{_PARTIAL_OF_HOST}")))


def _remove_dead(leftovers: Iterable[Path]) -> None:
    for leftover in leftovers:
        owner = leftover.name.removesuffix(PARTIAL).rpartition(".")[2]
        if owner.isdigit() and not _is_alive(int(owner)):
            remove(leftover)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def write_atomically(file: Path, text: str) -> None:
    """Writes a text file so that it is whole or absent."""
    with atomic_path(file) as partial:
        partial.write_text(text, encoding="utf-8")


def hash_file(file: Path) -> str:
    """Returns the SHA-256 of a file as hexadecimal digits; a file that has not changed is read once a process."""
    state = file.stat()
    return _hash_once(file.resolve(), state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _hash_once(file: Path, size: int, changed_ns: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class PartStore:
    """The parts of a long piece of work, a JSON file each, so that work that was killed resumes.

    Args:
        folder: Where the parts lie; made with the first.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, name: str) -> Any:
        """Returns the content of a part, None if it has not been written."""
        file = self.folder / f"{name}.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    def write(self, name: str, content: Any) -> None:
        """Writes a part; its content is plain JSON, and not None."""
        write_atomically(self.folder / f"{name}.json", json.dumps(content))

    def has(self, name: str) -> bool:
        """Whether a part has been written."""
        return (self.folder / f"{name}.json").is_file()

    def clear(self) -> None:
        """Removes all parts."""
        shutil.rmtree(self.folder, ignore_errors=True)


def format_rows(rows: Iterable[Any], *, to_json: Callable[[Any], dict[str, Any]] = asdict) -> str:
    """Formats rows of a dataclass as JSON lines.

    Args:
        rows: The rows.
        to_json: What makes a JSON object of a row.
    """
    return "".join(_format_line(to_json(row)) + "\n" for row in rows)


def _format_line(values: dict[str, Any]) -> str:
    """Formats one line; half a surrogate pair, which UTF-8 cannot write (a judge may send it), is written as escape."""
    line = json.dumps(values, ensure_ascii=False)
    try:
        line.encode()
    except UnicodeEncodeError:
        return json.dumps(values)
    return line


def write_rows(file: Path, rows: Iterable[Any], *, to_json: Callable[[Any], dict[str, Any]] = asdict) -> None:
    """Writes rows of a dataclass as JSON lines, atomically."""
    write_atomically(file, format_rows(rows, to_json=to_json))


def append_rows(file: Path, rows: Iterable[Any]) -> None:
    """Appends rows of a dataclass as JSON lines; they are on disk when it returns. A kill may tear the last line."""
    with file.open("a", encoding="utf-8") as stream:
        stream.write(format_rows(rows))
        stream.flush()
        os.fsync(stream.fileno())


def read_rows(file: Path, make_row: Callable[..., Row], *, what: str, is_torn_allowed: bool = False) -> list[Row]:
    """Reads rows that `write_rows` wrote.

    Args:
        file: The file.
        make_row: The dataclass, or a function of the same keywords.
        what: What a line must be, such as ``a score``, which an error says.
        is_torn_allowed: Whether a last line without its line break, which a kill has torn, is left out.

    Raises:
        UserError: If the file cannot be read or a line is no such row; the line's number is named.
    """
    try:
        lines = file.read_text(encoding="utf-8").split("\n")  # str.splitlines also breaks at U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} must be a readable file of JSON lines, each {what}, got an error: {error}") from error
    last = lines.pop()
    if last and not is_torn_allowed:
        lines.append(last)
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = make_row(**parse_json(line))
            check_record(row)
            rows.append(row)
        except (ValueError, TypeError) as error:
            raise UserError(f"{file}, line {number}, must be {what}, it is not: {error}") from error
    return rows
