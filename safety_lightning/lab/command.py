"""The command `lab`, which imports nothing heavy before there is work to do, and the copying of the shipped models."""

from __future__ import annotations

import shutil
from pathlib import Path

from safety_lightning.lab.folders import fill_folder

ASSETS = Path(__file__).resolve().parent / "assets"
MODELS = ("base", "aligned", "planted")


def build(out: Path, seed: int = 0) -> None:
    """Build the lab's models from nothing: base, aligned, and planted for control; takes about five minutes.

    Args:
        out: Folder to make; it must not exist yet, or be empty.
        seed: Seed of the data, the initial weights and the order.
    """
    from safety_lightning.lab.build import build_lab

    build_lab(out, seed=seed)
    print(f"The lab: {out}/base, {out}/aligned and {out}/planted")


def export(out: Path) -> None:
    """Copy the lab's models that come with the package.

    Args:
        out: Folder to make; it must not exist yet, or be empty.
    """
    export_lab(out)
    print(f"The lab: {out}/base, {out}/aligned and {out}/planted")


def export_lab(out: Path) -> None:
    """Copies the shipped checkpoints to ``out/base``, ``out/aligned`` and ``out/planted``.

    Args:
        out: The folder to make.

    Raises:
        UserError: If ``out`` exists and is not an empty folder.
    """
    with fill_folder(out) as folder:
        for name in MODELS:
            shutil.copytree(ASSETS / name, folder / name)
