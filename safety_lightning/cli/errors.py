"""Makes the parser's errors say which key or class was meant."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from safety_lightning.errors import UserError

PROGRAM = "python -m safety_lightning"
_UNKNOWN = re.compile(
    r"unrecognized arguments: (?:--)?(?P<option>[\w.]+)"
    r"|Option '(?P<nested>[\w.]+)' is not accepted"
    r"|does not accept option '(?P<given>[\w.]+)'"
    r"|dot import path string: (?P<class>[\w.]+)"
    r"|invalid choice: '(?P<choice>[\w.-]+)'"
)


class SuggestingParser(ArgumentParser):
    """A parser whose errors are short and name the nearest thing that exists."""

    class_roots: tuple[type, ...] = ()
    """Base classes whose subclasses can be meant by a short class name."""
    commands: Mapping[str, ArgumentParser] = {}
    """The parsers of this parser's commands."""

    def add_subcommands(self, *args: Any, **kwargs: Any) -> Any:
        """Keeps the commands that are added, whose keys can be meant too."""
        action = super().add_subcommands(*args, **kwargs)
        self.commands = action.choices
        return action

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Stops with a message, and the nearest name where one was misspelt; the pages of options are under --help."""
        lines = [line for line in str(message).splitlines() if line.strip()]
        stop(UserError("\n".join(lines) + suggest_nearest(message, self) + f"\nAll options: {self.prog_name} --help"))

    @property
    def prog_name(self) -> str:
        """The program and its command, without the options between them; parsers of nested keys know no command."""
        name = " ".join(self.prog.replace("[options]", "").split())
        return name if name.startswith(PROGRAM) else f"{PROGRAM} COMMAND"


def stop(error: Exception) -> NoReturn:
    """Ends the process with an error that is the user's to mend, without a traceback."""
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2)


def suggest_nearest(message: str, parser: ArgumentParser) -> str:
    """Returns a sentence that names the nearest key to the unknown one of a message, empty if there is none."""
    match = _UNKNOWN.search(message)
    if match is None:
        return ""
    unknown = next(group for group in match.groups() if group)
    known = list_keys(parser) | set(list_classes(parser))
    close = difflib.get_close_matches(unknown, known, n=1) or _match_last_part(unknown, known)
    return f"\nDid you mean {close[0]}?" if close else ""


def list_keys(parser: ArgumentParser) -> set[str]:
    """Returns every key of a parser and of its commands, the groups of keys and the names of the commands."""
    keys = {"help", "print_config", *parser.get_defaults().keys()}
    keys |= {key[: match.start()] for key in keys for match in re.finditer(r"\.", key)}
    for name, inner in getattr(parser, "commands", {}).items():
        keys |= {name, *list_keys(inner)}
    return keys


def list_classes(parser: Any) -> Iterable[str]:
    """Yields the names of all known subclasses of a parser's class roots."""
    waiting = list(getattr(parser, "class_roots", ()))
    while waiting:
        subclasses = waiting.pop().__subclasses__()
        yield from (one.__name__ for one in subclasses)
        waiting.extend(subclasses)


def _match_last_part(unknown: str, known: set[str]) -> list[str]:
    """Finds `trainer.max_steps` for `max_step`."""
    by_last_part = {key.rsplit(".", 1)[-1]: key for key in sorted(known)}
    close = difflib.get_close_matches(unknown.rsplit(".", 1)[-1], by_last_part, n=1)
    return [by_last_part[name] for name in close]
