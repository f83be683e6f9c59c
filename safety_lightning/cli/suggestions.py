"""Finds the nearest key, class or choice to a name that there is not."""

from __future__ import annotations

import dataclasses
import difflib
import re
import sys
import typing
from collections.abc import Iterable
from typing import Any

from jsonargparse import ArgumentParser

_UNKNOWN = re.compile(
    r"unrecognized arguments: (?:--)?(?P<option>[\w.]+)"
    r"|Option '(?P<nested>[\w.]+)' is not accepted"
    r"|does not accept option '(?P<given>[\w.]+)'"
    r"|dot import path string: (?P<class>[\w.]+)"
    r"|invalid choice: '(?P<choice>[\w.-]+)'"
)
_ABSENT = re.compile(r"No module named '(?P<package>\w+)|import of (?P<blocked>\w+) halted")
_EXTRAS = {"torchao": "torchao", "bitsandbytes": "qlora", "deepspeed": "deepspeed"}  # whose classes a config may name
_MISSING = re.compile(r"module '(?P<module>[\w.]+)' has no attribute '(?P<name>\w+)'")


def suggest_nearest(message: str, parser: ArgumentParser) -> str:
    """Returns what is added to a message: the nearest key to an unknown one, or the extra that a class needs."""
    absent = _ABSENT.search(message)
    extra = _EXTRAS.get(absent["package"] or absent["blocked"]) if absent is not None else None
    if extra is not None:
        return f" (here: pip install 'safety_lightning[{extra}]')"
    if "Did you mean" in message:
        return ""
    close = _find_in_module(message)
    match = _UNKNOWN.search(message)
    if not close and match is not None:
        unknown = next(group for group in match.groups() if group)
        close = find_nearest(unknown, {*list_keys(parser), *list_classes(parser)})
    return f"\nDid you mean {close}?" if close else ""


def find_nearest(unknown: str, known: Iterable[str]) -> str | None:
    """Returns the nearest name: below the same group first, then anywhere, then by the last part alone.

    Example:
        >>> find_nearest("projection.fractoin", ["projection.folder", "projection.subspace.fraction", "data.fraction"])
        'projection.subspace.fraction'
        >>> find_nearest("trainer.max_step", ["trainer.max_steps", "trainer.min_steps"])
        'trainer.max_steps'
    """
    known = sorted(set(known))
    group = unknown.partition(".")[0]
    inside = [key for key in known if "." in unknown and key.startswith(f"{group}.")]
    return (
        _match_last_part(unknown, inside)
        or next(iter(difflib.get_close_matches(unknown, known, n=1)), None)
        or _match_last_part(unknown, known)
    )


def list_actions(parser: Any) -> list[Any]:
    """Returns the actions of a parser (keys, types, defaults), which jsonargparse tells in no public place."""
    return list(parser._actions)


def list_keys(parser: Any) -> Iterable[str]:
    """Yields every key of a parser and of its commands, and the fields of a key whose value is a dataclass."""
    for action in list_actions(parser):
        if isinstance(action.choices, dict):
            for name, inner in action.choices.items():
                yield name
                yield from list_keys(inner)
        elif action.dest:
            yield action.dest
            hint = getattr(action, "_typehint", None)
            for one in [hint, *typing.get_args(hint)]:
                if dataclasses.is_dataclass(one):
                    yield from (f"{action.dest}.{field.name}" for field in dataclasses.fields(one))


def list_classes(parser: Any) -> Iterable[str]:
    """Yields the names of all known subclasses of a parser's class roots."""
    waiting = list(getattr(parser, "class_roots", ()))
    while waiting:
        subclasses = waiting.pop().__subclasses__()
        yield from (one.__name__ for one in subclasses)
        waiting.extend(subclasses)


def _match_last_part(unknown: str, known: Iterable[str]) -> str | None:
    """Finds `trainer.max_steps` for `max_step`; of keys that end alike, the shortest."""
    by_last_part = {key.rpartition(".")[2]: key for key in sorted(known, key=len, reverse=True)}
    close = difflib.get_close_matches(unknown.rpartition(".")[2], by_last_part, n=1, cutoff=0.7)
    return by_last_part[close[0]] if close else None


def _find_in_module(message: str) -> str | None:
    match = _MISSING.search(message)
    if match is None:
        return None
    names = list(vars(sys.modules.get(match["module"], sys)))
    close = difflib.get_close_matches(match["name"], names, n=1)
    return f"{match['module']}.{close[0]}" if close else None
