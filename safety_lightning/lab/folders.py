"""Makes a folder in one step: it appears when it is whole, or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def fill_folder(out: Path) -> Iterator[Path]:
    """Gives a temporary folder beside ``out`` to fill, and renames it to ``out`` at the end.

    Args:
        out: The folder to make.

    Yields:
        The temporary folder, which is removed if filling it fails.

    Raises:
        FileExistsError: If ``out`` exists and is not an empty folder; nothing is written then.
    """
    out = out.expanduser().absolute()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise FileExistsError(f"out must be a new or an empty folder, got {out}")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        yield partial
        if out.exists():
            out.rmdir()
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
