"""What a config may name: classes of the kinds that its keys are for. docs/security.md says it in words."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any

from jsonargparse import set_parsing_settings

from safety_lightning.cli.texts import guard_loader


def guard_parsing() -> None:
    """Has jsonargparse take from configs and options what is of the wanted kind alone.

    - Nothing is made of a class path where any value may stand; it stays a value.
    - Modules that run commands, open files or change the program (``os``, ``subprocess``, ``pickle``, ...) are not
      imported for a value.
    - Configs are local files: no address is opened.
    - Every YAML text is checked before it is parsed.
    """
    set_parsing_settings(
        instantiate_subclass_spec_in_any=False,
        import_path_denylist=[],  # enforces jsonargparse's own list
        config_read_mode_fsspec_enabled=False,
        config_read_mode_urls_enabled=False,
    )
    guard_loader()


def check_factory(function: Callable[..., Any], kinds: tuple[type, ...]) -> None:
    """Checks a function that a config gives settings to, before it is called.

    Args:
        function: What the class path names.
        kinds: What it may make.

    Raises:
        ValueError: If its annotation does not say that it returns one of the kinds; parsers make it the user's error.
    """
    try:
        made = typing.get_type_hints(function).get("return")
    except (NameError, TypeError):
        made = None
    if not (inspect.isclass(made) and set(kinds) & set(made.__mro__)):  # a protocol is no base of isinstance
        name = f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', function)}"
        wanted = ", ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"must be a class, or a function annotated to return one of {wanted}, got {name}")
