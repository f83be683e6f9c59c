"""Reads JSON strictly, and checks the types of rows made of it: what could be read in two ways is refused."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

_LONGEST_QUOTE = 60  # characters of a wrong value in an error
_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false", types.NoneType: "null"}


def parse_json(text: str | bytes) -> Any:
    """Reads JSON text, in which each object has each of its keys once.

    Python's own parser takes the last of several equal keys in silence.

    Raises:
        ValueError: If the text is no JSON, nests too deeply, has a number of thousands of digits or a key twice.

    Example:
        >>> parse_json('{"score": 1, "score": 5}')
        Traceback (most recent call last):
        ValueError: the key 'score' comes twice
    """
    try:
        return json.loads(text, object_pairs_hook=_make_object)
    except RecursionError:
        raise ValueError("it nests too deeply") from None


def check_finite_numbers(value: Any) -> None:
    """Raises ValueError if there is NaN or infinity anywhere in a value that was read from JSON."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, float) and not math.isfinite(one):
            raise ValueError(f"numbers must be finite, got {one}")
        if isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


def check_record(record: Any) -> None:
    """Checks that the fields of a dataclass that was made of JSON are of the types that its hints say.

    Raises:
        TypeError: If one is not; the message names the field, what was wanted and what was found.
    """
    for name, hint in _read_hints(type(record)).items():  # type: ignore[arg-type]
        value = getattr(record, name)
        if not _fits(value, hint):
            found = repr(value)
            found = found if len(found) <= _LONGEST_QUOTE else found[:_LONGEST_QUOTE] + "..."
            raise TypeError(f"{name} must be {_describe(hint)}, got {found}")


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} comes twice")
    return made


@functools.lru_cache(maxsize=64)
def _read_hints(record_class: Hashable) -> dict[str, Any]:
    hints = typing.get_type_hints(record_class)
    return {field.name: hints[field.name] for field in dataclasses.fields(record_class)}  # type: ignore[arg-type]


def _fits(value: Any, hint: Any) -> bool:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in args)
    if origin is typing.Literal:
        return any(value == one and type(value) is type(one) for one in args)
    if origin in (list, Sequence):
        return isinstance(value, list) and all(_fits(one, args[0]) for one in value)
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(_fits(one, args[1]) for one in value.values())
    if hint is Any or not isinstance(hint, type):
        return True
    if hint in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float)) if hint is float else isinstance(value, hint)


def _describe(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _join(_describe(one) for one in args)
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin in (list, Sequence):
        return f"a list, each entry {_describe(args[0])}"
    if origin in (dict, Mapping):
        return f"an object, each value {_describe(args[1])}"
    return _NAMES.get(hint, str(getattr(hint, "__name__", "anything")))


def _join(names: Iterable[str]) -> str:
    return " or ".join(names)
