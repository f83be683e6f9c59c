"""Finds the folder behind a reference to a model: a local folder, a hub name or `lab:NAME`."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from safety_lightning.errors import UserError

LAB_PREFIX = "lab:"
LAB_FOLDER = Path(__file__).resolve().parent.parent / "lab" / "assets"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?", re.ASCII)
_HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.bin.index.json"]


def locate_model(reference: str | Path, *, with_weights: bool = True) -> Path:
    """Returns the local folder that holds a model.

    Args:
        reference: A local folder, a hub name with an optional revision (``org/name@rev``) or ``lab:NAME``.
            A hub name is downloaded into the Hugging Face cache, without pickles and without code.
        with_weights: Whether the weights of a hub name are downloaded too.

    Returns:
        An existing folder.

    Raises:
        UserError: If there is no such folder, no such lab model or no such model on the hub (or no hub).
    """
    text = str(reference)
    if text.startswith(LAB_PREFIX):
        return _resolve_lab(text)
    folder = Path(text).expanduser()
    if folder.is_dir():
        return find_model(folder)
    if folder.is_symlink():
        raise UserError(f"a model must be a folder, {text} is a link that leads to none")
    if folder.exists():
        raise UserError(f"a model must be a folder, a hub name or lab:NAME, got the file {text}")
    if _means_path(text):
        raise UserError(f"model folder {text} does not exist (nor is it a hub name ORG/NAME or lab:NAME)")
    return _download(text, _HUB_FILES if with_weights else _HUB_FILES[1:])


def _means_path(text: str) -> bool:
    """Whether a name is meant as a path: it is written like one, or its first part is a folder that exists.

    A hub name would be asked for on the hub, where anyone may have taken it.
    """
    first, _, rest = text.partition("/")
    is_hub_name = _HUB_NAME.fullmatch(text) is not None and ".." not in text and "--" not in text
    return not is_hub_name or rest.endswith((".safetensors", ".ckpt", ".git")) or Path(first).is_dir()


def find_model(folder: Path) -> Path:
    """Returns a model's folder: the given one, or ``model`` in the run folder of a `fit`.

    Raises:
        UserError: If it is a run folder without a model, or that of a `project`, whose models are named.
    """
    if not (folder / "manifest.json").is_file() or (folder / "config.json").is_file():
        return folder
    found = sorted({file.parent for file in folder.glob("models/**/*config.json")})  # adapters too
    if (folder / "model").is_dir():
        return folder / "model"
    if found:
        listed = " or ".join(str(one) for one in found[:3]) + (", ..." if len(found) > 3 else "")
        raise UserError(f"a model must be a folder of weights, {folder} is a run folder of {len(found)}: name {listed}")
    raise UserError(f"a model must be a folder of weights, {folder} is a run folder that holds no model/")


def split_revision(reference: str) -> tuple[str, str | None]:
    """Splits ``org/name@rev`` into its name and its revision.

    Example:
        >>> split_revision("org/name@main")
        ('org/name', 'main')
        >>> split_revision("org/name")
        ('org/name', None)
    """
    name, _, revision = reference.partition("@")
    return name, revision or None


def _resolve_lab(reference: str) -> Path:
    name = reference.removeprefix(LAB_PREFIX)
    known = sorted(path.name for path in LAB_FOLDER.iterdir() if path.is_dir()) if LAB_FOLDER.is_dir() else []
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean lab:{close[0]}?" if close else ""
        raise UserError(f"lab model must be one of {', '.join('lab:' + k for k in known)}, got {reference}{hint}")
    return LAB_FOLDER / name


def _download(reference: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name, revision = split_revision(reference)
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(
            f"model {reference} is no local folder, and the hub did not give it: {str(error).splitlines()[0]}"
        ) from error
