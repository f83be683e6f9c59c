"""Finds nulls where a value must be: jsonargparse lets them pass, so that a class would be made with None."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Any

from jsonargparse import Namespace

from safety_lightning.cli.suggestions import list_actions
from safety_lightning.errors import UserError


def check_nulls(parser: Any, config: Any) -> Any:
    """Checks that groups of a parsed config are mappings, and that no value is null where its type says otherwise.

    Args:
        parser: The parser of the config.
        config: What it has parsed; may hold some of the keys alone.

    Returns:
        The same config.

    Raises:
        UserError: If there is such a value. A key whose default is null takes null, whatever its type.
    """
    for action in list_actions(parser):
        if isinstance(action.choices, Mapping):
            for name, inner in action.choices.items():
                if isinstance(part := _find(config, name), Namespace):
                    check_nulls(inner, part)
            continue
        hint = getattr(action, "_typehint", None)
        must_be = hint is not None and action.default is not None and not takes_null(hint)
        if must_be and _find(config, action.dest, missing=...) is None:
            raise UserError(f"{action.dest} must be a value, got null")
    for group in parser.groups or {}:
        value = _find(config, group, missing=Namespace())
        if not isinstance(value, Namespace | Mapping):
            raise UserError(f"{group} must be keys and values, got {'null' if value is None else value}")
    return config


def takes_null(hint: Any) -> bool:
    """Says whether a type takes null.

    Example:
        >>> takes_null(int | None), takes_null(int), takes_null(Any)
        (True, False, True)
    """
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(takes_null(one) for one in typing.get_args(hint))
    return hint in (None, type(None), Any, object) or typing.get_origin(hint) is typing.Annotated


def _find(config: Any, key: str, missing: Any = None) -> Any:
    for part in key.split("."):
        if not isinstance(config, Namespace) or part not in config.__dict__:
            return missing
        config = config.__dict__[part]
    return config
