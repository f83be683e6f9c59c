"""Lists and mappings written as words (``--names a b c``, ``--folders one=DIR two=DIR``); options given twice.

A mapping that holds the options of another command takes single ones by their path: ``--fit.trainer.max_steps 7``.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from safety_lightning.errors import UserError


def gather_values(words: Sequence[str], commands: Mapping[str, Any]) -> list[str]:
    """Joins the words behind an option that takes several values into the one value that the parser wants.

    Args:
        words: The command and its options.
        commands: The table of commands, typed functions or dataclasses; nested commands are tables in it.

    Returns:
        The words, where ``--names a b``, or ``--names a --names b``, has become ``--names ["a", "b"]`` and
        ``--folders x=A y=B`` has become ``--folders {"x": "A", "y": "B"}``. Values that are written that way already
        are left as they are.

        ``--fit.trainer.max_steps 7`` has become a word of ``--overrides`` where the command has such an option: the
        parser itself would forget all else that a config says of ``fit.trainer``.

    Raises:
        UserError: If a word of a mapping has no ``=``, a name comes twice, or a path has no value.

    Example:
        >>> def command(names: list[str]) -> None: ...
        >>> gather_values(["command", "--names", "a", "b"], {"command": command})
        ['command', '--names', '["a", "b"]']
    """
    schema = _find_schema(words, commands)
    if schema is None:
        return list(words)
    takers, nested = _find_takers(schema)
    gathered: list[str] = []
    told: dict[str, list[str]] = {}
    overrides: list[str] = []
    at = 0
    while at < len(words):
        word = words[at]
        if word.startswith(nested):
            at += _take_override(words[at:], overrides)
            continue
        values = _take_values(words[at + 1 :]) if word in takers else []
        at += 1 + len(values)
        if values and not (len(values) == 1 and values[0][:1] in ("[", "{")):
            if word in told:  # all of them stand where the last stands, for a --config between them
                before = gathered.index(word)
                del gathered[before : before + 2]
            told[word] = [*told.get(word, []), *values]
            values = [takers[word](word, told[word])]
        gathered += [word, *values]
    return [*gathered, *(["--overrides", json.dumps(overrides)] if overrides else [])]


def _find_takers(
    schema: Callable[..., Any], prefix: str = "--"
) -> tuple[dict[str, Callable[[str, Sequence[str]], str]], tuple[str, ...]]:
    """Returns what joins the words of each option, and the beginnings of the paths into options of other commands."""
    hints = typing.get_type_hints(schema)
    takers = {f"{prefix}{name}": taker for name, hint in hints.items() if (taker := _choose(hint))}
    nested = tuple(f"{prefix}{name}." for name, hint in hints.items() if _is_nested(hint))
    for name, hint in hints.items():
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            own, deeper = _find_takers(hint, f"{prefix}{name}.")
            takers |= own
            nested += deeper
    return takers, nested if prefix != "--" or "overrides" in hints else ()


def _is_nested(hint: Any) -> bool:
    """Whether a value is a mapping of values of any kind, or a mapping of such mappings."""
    return hint is dict or any(_is_nested(one) for one in typing.get_args(hint))


def _take_override(words: Sequence[str], overrides: list[str]) -> int:
    """Adds one ``path=value`` to a list; returns how many words it took."""
    path, equals, value = words[0].removeprefix("--").partition("=")
    if not equals and (len(words) == 1 or words[1].startswith("--")):
        raise UserError(f"--{path} must have a value, got none")
    overrides.append(f"{path}={value if equals else words[1]}")
    return 1 if equals else 2


def check_repeats(words: Sequence[str]) -> None:
    """Checks that no option is given twice: the parser would take the last in silence.

    ``--config`` may be repeated, and so may what adds to a list (``--trainer.callbacks+ A``) with the settings of
    what it adds (``--trainer.callbacks.patience 3``).

    Args:
        words: The command and its options, after `gather_values`.

    Raises:
        UserError: If an option comes twice.

    Example:
        >>> check_repeats(["fit", "--config", "a", "--config", "b", "--seed_everything", "1"])
    """
    seen: set[str] = set()
    for word in words:
        if not word.startswith("--"):
            continue
        option = word.partition("=")[0].replace(".init_args.", ".")
        if option.endswith("+"):
            seen = {one for one in seen if not one.startswith(f"{option[:-1]}.")}
        elif option in seen:
            raise UserError(f"{option} must be given once, got it twice: the first would count for nothing")
        elif option != "--config":
            seen.add(option)


def _find_schema(words: Sequence[str], commands: Mapping[str, Any]) -> Callable[..., Any] | None:
    found: Any = commands
    for word in words:
        if not isinstance(found, Mapping) or word not in found:
            break
        found = found[word]
    return found if callable(found) else None


def _choose(hint: Any) -> Callable[[str, Sequence[str]], str] | None:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return next((taker for one in typing.get_args(hint) if (taker := _choose(one))), None)
    return _TAKERS.get(origin)


def _take_values(words: Sequence[str]) -> list[str]:
    until = next((at for at, word in enumerate(words) if word.startswith("--")), len(words))
    return list(words[:until])


def _write_list(option: str, values: Sequence[str]) -> str:
    return json.dumps(list(values))


def _write_mapping(option: str, values: Sequence[str]) -> str:
    pairs = [value.partition("=") for value in values]
    bad = [value for value, pair in zip(values, pairs, strict=True) if not (pair[0] and pair[1])]
    if bad:
        raise UserError(f"{option} must be NAME=VALUE pairs, got {bad[0]!r}")
    names = [pair[0] for pair in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{option} must have each name once, got {twice[0]!r} twice")
    return json.dumps({name: value for name, _, value in pairs})


_TAKERS: dict[Any, Callable[[str, Sequence[str]], str]] = {
    list: _write_list,
    tuple: _write_list,
    Sequence: _write_list,
    dict: _write_mapping,
    Mapping: _write_mapping,
}
