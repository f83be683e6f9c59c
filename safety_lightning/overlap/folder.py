"""The folder of an overlap run: measured parts as they come, so that a killed run goes on, and tables at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from safety_lightning.errors import UserError
from safety_lightning.files import write_atomically
from safety_lightning.runs import RunFolder, describe_environment
from safety_lightning.tables import write_csv, write_parquet

_PARTS = "parts"


class OverlapFolder:
    """What an overlap command writes.

    A folder that holds an unfinished or a finished run of the same command, settings and inputs goes on with it; any
    other folder that is not empty is refused.

    Args:
        path: The folder; None makes a fresh one under ``logs/``.
        command: The command, as fresh folders are called by it.
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

    def create(self, config: Mapping[str, Any]) -> None:
        """Makes the folder with the resolved configuration and the manifest, unless its run goes on."""
        if not self._folder.resume:
            self._folder.create()
            self._folder.write_manifest({"recipe": self.recipe, **describe_environment()})
        file = self.path / "config.yaml"
        if not file.exists():
            write_atomically(file, yaml.safe_dump(json.loads(json.dumps(config)), sort_keys=False))

    def read_part(self, name: str) -> Any:
        """Returns what `write_part` wrote under a name, None if it has not."""
        file = self._name_part(name)
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    def write_part(self, name: str, content: Any) -> None:
        """Keeps one measured part; anything that is plain JSON."""
        write_atomically(self._name_part(name), json.dumps(content))

    def write_table(self, stem: str, row_class: type, rows: Sequence[Any]) -> None:
        """Writes rows as ``stem.csv`` and ``stem.parquet``."""
        write_parquet(self.path / f"{stem}.parquet", row_class, rows)
        write_csv(self.path / f"{stem}.csv", row_class, rows)

    def _name_part(self, name: str) -> Path:
        return self.path / _PARTS / f"{name}.json"


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
