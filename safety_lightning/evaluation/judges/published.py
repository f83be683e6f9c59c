"""Texts that judges' authors publish: fetched once from a fixed place, checked by their hash, and kept.

None is shipped with the package, and no file that is fetched is ever run.
"""

from __future__ import annotations

import ast
import logging
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safety_lightning.errors import UserError
from safety_lightning.evaluation.judges.rubric import hash_text
from safety_lightning.files import write_atomically
from safety_lightning.strict import parse_json

LONGEST_WAIT_SECONDS = 30.0
STRONGREJECT_FILE = (
    "https://raw.githubusercontent.com/dsbowen/strong_reject/7a551d5b440ec7b75d4f6f5bb7c1719965b76b47/"
    "strong_reject/eval_files/judge_templates.json"
)
"""The texts of StrongREJECT's judges."""

logger = logging.getLogger(__name__)


class FetchError(Exception):
    """A text that could not be had; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A text that a judge's authors publish in a file.

    Attributes:
        judge: The judge's class.
        url: The file at a fixed commit, JSON or Python, by https.
        keys: Where the text is in the file: keys, one inside the other. In Python the first is the name of a constant.
        licence: The licence that it is published under.
        hash: What `hash_text` gives of the text.
        other_hashes: The same of further wordings that the authors publish elsewhere.
        places: What the authors call the place of the prompt and that of the answer; none in a text without them.
        option: The judge's option that takes a file of the user's instead.

    Raises:
        ValueError: If the address is not of https.
    """

    judge: str
    url: str
    keys: tuple[str, ...]
    licence: str
    hash: str
    other_hashes: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    option: str = "template"

    def __post_init__(self) -> None:
        if not self.url.startswith("https://"):
            raise ValueError(f"url must begin with https://, got {self.url}")

    @property
    def place(self) -> str:
        """Where it is, in words."""
        return f"{'.'.join(self.keys)} of {self.url} ({self.licence})"


def fetch_text(published: Published) -> str:
    """Returns a published text: from the cache, and where it is not there from its authors' file.

    With ``HF_HUB_OFFLINE`` set the cache alone is asked. Nothing is kept but a text of the right hash.

    Args:
        published: Where it is.

    Raises:
        UserError: If it is not in the cache and cannot be fetched, or is another text than it was.
    """
    file = find_cached_file(published)
    try:
        text = _read_cached(file, published)
        if text is None:
            text = _fetch(published, file)
            _keep(file, text)
    except FetchError as error:
        raise UserError(
            f"{published.judge} must have its authors' wording, {published.place} did not give it: {error}; a "
            f"text file with it does as well ({published.option}: FILE)"
        ) from None
    return text


def find_cached_file(published: Published) -> Path:
    """Returns where the text is kept, beside what is downloaded from the hub: below ``HF_ASSETS_CACHE``."""
    from huggingface_hub import constants

    folder = Path(constants.HF_ASSETS_CACHE) / "safety_lightning" / "judges"
    return folder / f"{published.judge}-{published.option}-{published.hash}.txt"


def _read_cached(file: Path, published: Published) -> str | None:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return text if hash_text(text) == published.hash else None


def _fetch(published: Published, file: Path) -> str:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise FetchError(f"HF_HUB_OFFLINE is set, and {file} does not hold it")
    text = find_text(download(published.url), published.keys, is_json=published.url.endswith(".json"))
    if hash_text(text) != published.hash:
        raise FetchError(f"its hash must be {published.hash}, got {hash_text(text)}")
    logger.info("%s is asked in its authors' words: %s, kept in %s", published.judge, published.place, file)
    return text


def _keep(file: Path, text: str) -> None:
    try:
        write_atomically(file, text)
    except (OSError, UserError) as error:  # this run has the text; the next must fetch it again
        logger.warning("%s cannot be written, so that the next run fetches it again: %s", file, error)


def download(url: str) -> str:
    """Reads a text file from a server: no redirect, at most `client.LONGEST_REPLY` bytes, `LONGEST_WAIT_SECONDS`.

    Raises:
        FetchError: If there is no whole reply, or it is no text in UTF-8.
    """
    import anyio
    import httpx2
    from anyio.from_thread import start_blocking_portal

    from safety_lightning.evaluation.judges.client import BoundedClient

    async def ask() -> httpx2.Response:
        with anyio.fail_after(LONGEST_WAIT_SECONDS):
            async with BoundedClient() as client:
                return await client.get(url)

    try:
        with start_blocking_portal() as portal:  # a loop of its own: the caller may be in one
            response = portal.call(ask)
        if response.is_redirect:
            raise FetchError("it redirects, which is not followed")
        if response.status_code != httpx2.codes.OK:
            raise FetchError(f"its server replied with status {response.status_code}")
        return response.content.decode("utf-8")
    except TimeoutError:
        raise FetchError(f"there was no whole reply within {LONGEST_WAIT_SECONDS:g} seconds") from None
    except (httpx2.HTTPError, UnicodeDecodeError) as error:
        raise FetchError(str(error) or type(error).__name__) from error


def find_text(content: str, keys: tuple[str, ...], *, is_json: bool) -> str:
    """Returns a text that stands in a file, which is parsed and never run.

    Args:
        content: The file, JSON or Python.
        keys: Keys, one inside the other; in Python the first is the name of a constant.
        is_json: Whether it is JSON.

    Raises:
        FetchError: If the file cannot be parsed, or holds no text there.

    Example:
        >>> find_text("ASKED = {'prompt': 'Is it ' 'so?'}", ("ASKED", "prompt"), is_json=False)
        'Is it so?'
    """
    try:
        value = parse_json(content) if is_json else _list_constants(content)
        for key in keys:
            value = value[key]
    except (ValueError, SyntaxError, LookupError, TypeError, RecursionError, MemoryError) as error:
        raise FetchError(f"the file holds no {'.'.join(keys)}: {error}") from error
    if not isinstance(value, str):
        raise FetchError(f"{'.'.join(keys)} must be a text, got {type(value).__name__}")
    return value


def _list_constants(content: str) -> dict[str, Any]:
    """Returns the constants that a Python file assigns at its top; those that are computed are left out."""
    with warnings.catch_warnings(action="ignore"):  # of others' escapes
        statements = ast.parse(content).body
    found = {}
    for statement in statements:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            with suppress(ValueError, TypeError):
                found[statement.targets[0].id] = ast.literal_eval(statement.value)
    return found
