"""Makes a folder in one step: it appears when it is whole, or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safety_lightning.errors import UserError
from safety_lightning.files import atomic_path, expand, find_parent


@contextmanager
def fill_folder(out: Path) -> Iterator[Path]:
    """Gives a temporary folder beside ``out`` to fill, and renames it to ``out`` at the end.

    Args:
        out: The folder to make.

    Yields:
        The temporary folder, which is removed if filling it fails.

    Raises:
        UserError: If ``out`` exists and is not an empty folder; nothing is written then.
    """
    out = expand(out, what="out").absolute()
    find_parent(out, what="out")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"out must be a new or an empty folder, got {out}")
    with atomic_path(out) as partial:
        partial.mkdir()
        yield partial
