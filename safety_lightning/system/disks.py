"""Full disks: whatever library was writing, the command ends with one line that names the file and the bytes."""

from __future__ import annotations

import errno
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safety_lightning.errors import UserError

_CODES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_WORDS = ("no space left on device", "disk quota exceeded", "file too large", "disk is full")  # of Rust, C++ and SQLite


class DiskFullError(UserError):
    """A file could not be written for want of room."""


@contextmanager
def explain_full_disk(path: Path, partial: Path | None = None) -> Iterator[None]:
    """Makes one line of what a library raises when the disk is full while it writes a file.

    Args:
        path: The file or folder that the block writes.
        partial: Where it is written until it is whole; None is ``path`` itself.

    Raises:
        DiskFullError: If the block fails for want of room.
    """
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise DiskFullError(describe_full_disk(path, partial)) from error


@contextmanager
def quieten_full_disk() -> Iterator[None]:
    """Lets threads die of a full disk without a traceback of their own: TensorBoard's hands the error on."""
    report = threading.excepthook

    def report_others(fault: threading.ExceptHookArgs) -> None:
        if fault.exc_value is None or not is_disk_full(fault.exc_value):
            report(fault)

    threading.excepthook = report_others
    try:
        yield
    finally:
        threading.excepthook = report


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one that it came from, says that the disk is full."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.errno in _CODES:
            return True
        if any(words in str(link).lower() for words in _WORDS):
            return True
        link = link.__cause__ or link.__context__
    return False


def format_bytes(num_bytes: float) -> str:
    """Formats a size.

    Example:
        >>> format_bytes(269_000_000)
        '269.0 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def describe_full_disk(path: Path, partial: Path | None = None) -> str:
    """Says that there is no room for a file or folder: how much of it was written, and how much is free."""
    folder = next((one for one in path.absolute().parents if one.is_dir()), Path("/"))
    written, free = format_bytes(_measure(partial or path)), format_bytes(shutil.disk_usage(folder).free)
    return (
        f"{path} must have room on its disk, which is full: {written} of it were written, {free} are free. "
        "What was finished before is kept: make room, and the same command resumes"
    )


def _measure(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
