"""The folder of an overlap run: measured parts as they come, then tables and figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from safety_lightning.errors import UserError
from safety_lightning.figures import save_figure
from safety_lightning.files import PartStore, atomic_path, write_atomically
from safety_lightning.runs import RunFolder, describe_environment
from safety_lightning.tables import write_csv, write_parquet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BOARD = "tensorboard"


class OverlapFolder:
    """What an overlap command writes.

    A run of the same command, settings and inputs that the folder holds, finished or not, is resumed; any other folder
    that is not empty is refused.

    Args:
        path: The folder; None makes a fresh one under ``logs/``.
        command: The command, which fresh folders are named after.
        recipe: What determines the results, plain JSON: the command, its settings, and hashes of its inputs.

    Raises:
        UserError: If the folder holds something else, or cannot be written. Nothing has been written then.
    """

    def __init__(self, path: Path | str | None, *, command: str, recipe: Mapping[str, Any]) -> None:
        self.recipe = json.loads(json.dumps(recipe))
        found = RunFolder(path, command=command)
        manifest = found.read_manifest()
        if not found.is_free():
            _check_same(found.path, manifest.get("recipe"), self.recipe)
        self._folder = RunFolder(found.path, command=command, resume=bool(manifest))
        self._folder.check()
        self.path = self._folder.path
        self.parts = PartStore(self.path / "parts")

    def create(self, config: Mapping[str, Any]) -> None:
        """Makes the folder with the resolved configuration and the manifest, unless its run is resumed.

        It is held until `release`.
        """
        self._folder.create()
        if not self._folder.resume:
            self._folder.write_manifest({"recipe": self.recipe, **describe_environment()})
        file = self.path / "config.yaml"
        if not file.exists():
            write_atomically(file, yaml.safe_dump(json.loads(json.dumps(config)), sort_keys=False))

    def release(self) -> None:
        """Lets go of the folder."""
        self._folder.release()

    def write_table(self, stem: str, row_class: type, rows: Sequence[Any]) -> None:
        """Writes rows as ``stem.csv`` and ``stem.parquet``."""
        write_parquet(self.path / f"{stem}.parquet", row_class, rows)
        write_csv(self.path / f"{stem}.csv", row_class, rows)


def publish_figures(out: Path, figures: Mapping[str, Figure]) -> None:
    """Saves figures as PNG and SVG, and shows them in TensorBoard.

    Args:
        out: The run's folder.
        figures: Figures by their file's stem.
    """
    from torch.utils.tensorboard import SummaryWriter

    for stem, figure in figures.items():
        save_figure(figure, out / "figures" / stem)
    if (out / _BOARD).exists():
        return  # a run that was finished before has shown them
    with atomic_path(out / _BOARD) as partial, SummaryWriter(str(partial)) as writer:
        for stem, figure in figures.items():
            writer.add_figure(f"overlap/{stem}", figure, close=False)


def _check_same(path: Path, found: Any, wanted: Mapping[str, Any]) -> None:
    if found == wanted:
        return
    if not isinstance(found, dict):
        raise UserError(f"out must be a new folder or one of the same run, {path} holds something else")
    differing = sorted(key for key in set(found) | set(wanted) if found.get(key) != wanted.get(key))
    raise UserError(
        f"out must be a new folder or one of the same run, the run in {path} differs in {', '.join(differing)}: "
        "nothing is overwritten, choose another --out"
    )
