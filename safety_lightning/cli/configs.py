"""The configs that come with the package: a name stands for its file, and `configs` lists them."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile

from safety_lightning.cli.texts import check_config_text
from safety_lightning.errors import UserError

_FOLDER = Path(__file__).parents[1] / "configs"  # a link to configs/ in the repository, a copy of it in a wheel


class NamedConfigFile(ActionConfigFile):
    """The option ``--config``, which takes the name of a config of the package too: ``quickstart``, ``test/lab``."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Applies a config that has been checked; see `locate_config` and `check_config`."""
        super().__call__(parser, cfg, check_config(values), option_string)


def find_configs() -> dict[str, Path]:
    """Returns the files of the package's configs by name, in the order of their names.

    Example:
        >>> "quickstart" in find_configs(), "test/lab" in find_configs()
        (True, True)
    """
    files = {file.relative_to(_FOLDER).with_suffix("").as_posix(): file for file in _FOLDER.glob("*.yaml")}
    files |= {file.relative_to(_FOLDER).with_suffix("").as_posix(): file for file in _FOLDER.glob("*/*.yaml")}
    return dict(sorted(files.items()))


def locate_config(value: str) -> str:
    """Returns the file that a value of ``--config`` means.

    Args:
        value: A file; or, where there is no such file, the name of a config of the package. Text with a colon is a
            config itself.

    Returns:
        The path of the file, or the value itself where it is no name.

    Raises:
        UserError: If there is neither a file nor a config of that name.
    """
    configs = find_configs()
    if ":" in value or _is_file(value):
        return value
    if value not in configs:
        close = difflib.get_close_matches(value, configs, n=1)
        meant = f"\nDid you mean {close[0]}?" if close else ""
        raise UserError(f"--config must be a file or one of the names that `configs` lists, got {value!r}{meant}")
    return str(configs[value])


def check_config(value: str) -> str:
    """Checks a config before anything is made of it.

    Args:
        value: A value of ``--config``.

    Returns:
        What `locate_config` returns.

    Raises:
        UserError: If the file cannot be read; see `locate_config` and `check_config_text`.
    """
    located = locate_config(value)
    if not _is_file(located):
        check_config_text(located, name=f"--config {located[:80]!r}")
        return located
    try:
        text = Path(located).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"config {located} must be a readable text file: {error}") from error
    check_config_text(text, name=f"config {located}")
    return located


def check_configs(words: Sequence[str]) -> None:
    """Checks the configs among the words of a command, before the libraries are imported that its parser needs.

    Raises:
        UserError: See `check_config`.
    """
    for word, following in itertools.pairwise([*words, None]):
        if word in ("-c", "--config") and following is not None:
            check_config(following)
        elif word is not None and word.startswith("--config="):
            check_config(word.removeprefix("--config="))


def list_configs() -> None:
    """List the configs that come with the package."""
    configs = find_configs()
    width = max(len(name) for name in configs)
    for name, file in configs.items():
        with file.open() as stream:
            print(f"{name:{width}}  {stream.readline().removeprefix('#').strip().rstrip(':.')}")


def _is_file(value: str) -> bool:
    try:
        return Path(value).is_file()
    except OSError:  # too long for a name
        return False
