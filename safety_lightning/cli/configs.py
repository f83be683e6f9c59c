"""The configs that come with the package: a name stands for its file, and `configs` lists them."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile

_FOLDER = Path(__file__).parents[1] / "configs"  # a link to configs/ in the repository, a copy of it in a wheel


class NamedConfigFile(ActionConfigFile):
    """The option ``--config``, which takes the name of a config of the package too: ``quickstart``, ``test/lab``."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Applies a config; see `locate_config`."""
        super().__call__(parser, cfg, locate_config(values), option_string)


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
        TypeError: If there is neither a file nor a config of that name; parsers make it an error of the user's.
    """
    configs = find_configs()
    if Path(value).is_file() or ":" in value:
        return value
    if value not in configs:
        close = difflib.get_close_matches(value, configs, n=1)
        meant = f"\nDid you mean {close[0]}?" if close else ""
        raise TypeError(f"--config must be a file or one of the names that `configs` lists, got {value!r}{meant}")
    return str(configs[value])


def list_configs() -> None:
    """List the configs that come with the package."""
    configs = find_configs()
    width = max(len(name) for name in configs)
    for name, file in configs.items():
        with file.open() as stream:
            print(f"{name:{width}}  {stream.readline().removeprefix('#').strip().rstrip(':.')}")
