"""Copies the lab's checkpoints out of the package."""

import shutil
from pathlib import Path

from safety_lightning.lab.folders import fill_folder

ASSETS = Path(__file__).resolve().parent / "assets"


def export_lab(out: Path) -> None:
    """Copies the shipped checkpoints to ``out/base`` and ``out/aligned``.

    Args:
        out: The folder to make.

    Raises:
        FileExistsError: If ``out`` exists and is not an empty folder.
    """
    with fill_folder(out) as folder:
        for name in ("base", "aligned"):
            shutil.copytree(ASSETS / name, folder / name)
