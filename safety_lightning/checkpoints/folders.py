"""Opens what a model folder holds: its files lie inside it, and its JSON is what JSON allows."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safety_lightning.errors import UserError

MAX_JSON_BYTES = 256 * 2**20  # the largest tokenizers take some 40 MB
_MAX_LINE = 300
_MAX_SHOWN = 60


def find_file(folder: Path, name: str) -> Path | None:
    """Returns a file of a folder; None if there is none of that name.

    Links stay inside the folder. Those of the hub's cache may lead to the blobs that lie beside its snapshots.

    Args:
        folder: A model's folder.
        name: The name of a file directly in it.

    Raises:
        UserError: If the name holds a path, or the file is a link that leads outside or nowhere.
    """
    if not name or Path(name).name != name or "\\" in name or "\0" in name:
        raise UserError(f"{folder} must name files that lie in it, got {show(name)}")
    file = folder / name
    if file.is_symlink():
        _check_link(folder, file)
    return file if file.is_file() else None


def read_json(file: Path) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Args:
        file: The file, which exists.

    Raises:
        UserError: If it is too large, no JSON object, names a key twice, or holds a number that is not finite.
    """
    size = file.stat().st_size
    if size > MAX_JSON_BYTES:
        raise UserError(f"{file} must be JSON of at most {MAX_JSON_BYTES} bytes, it has {size}")
    try:
        found = json.loads(
            file.read_text(encoding="utf-8"),
            object_pairs_hook=_make_object,
            parse_constant=_refuse_number,
            parse_float=_parse_float,
        )
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} must be JSON, it is not: {_shorten(str(error))}") from error
    if not isinstance(found, dict):
        raise UserError(f"{file} must be a JSON object, got {_name_kind(found)}")
    return found


def read_json_of(folder: Path, name: str) -> dict[str, Any]:
    """Reads a file of a folder by `find_file` and `read_json`; an empty object if there is none of that name."""
    file = find_file(folder, name)
    return {} if file is None else read_json(file)


@contextmanager
def blame(what: str) -> Iterator[None]:
    """Turns errors of a library that reads a user's file into one line that names the file.

    Args:
        what: The beginning of the line: the file, and what it must be.

    Raises:
        UserError: For any error in the block but those of memory and our own.
    """
    import torch

    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # libraries raise of every class over what they read, tokenizers the bare Exception
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = " ".join(lines[:2]) or "no reason given"
        raise UserError(f"{what}, it is not: {type(error).__name__}: {_shorten(said)}") from error


def _check_link(folder: Path, file: Path) -> None:
    try:
        target = file.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # a loop is a RuntimeError before Python 3.13
        raise UserError(f"{file} must be a file, it is a link that leads nowhere") from error
    home = folder.resolve()
    allowed = [home, home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [home]
    if not any(target.is_relative_to(place) for place in allowed):
        raise UserError(
            f"{file} must lie in its folder, it is a link to {target}: copy the file, or link the whole folder"
        )


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {show(next(key for key in keys if keys.count(key) > 1))} stands there twice")
    return found


def _refuse_number(name: str) -> float:
    raise ValueError(f"numbers must be finite, got {name}")


def _parse_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"numbers must be finite, got {text[:40]}")
    return number


def _name_kind(found: object) -> str:
    return {list: "a list", str: "a text", bool: "true or false", type(None): "null"}.get(type(found), "a number")


def show(value: object) -> str:
    """Returns a value of a file in one short line, for an error."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def _shorten(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _MAX_LINE else f"{flat[:_MAX_LINE]}…"
