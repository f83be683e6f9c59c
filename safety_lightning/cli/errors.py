"""Makes one line of the parser's errors, and adds the key or class that was meant."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, ArgumentParser

from safety_lightning.cli.configs import NamedConfigFile
from safety_lightning.cli.kinds import check_factory
from safety_lightning.cli.nulls import check_nulls
from safety_lightning.cli.suggestions import suggest_nearest
from safety_lightning.errors import UserError

PROGRAM = "safety-lightning" if Path(sys.argv[0]).stem == "safety-lightning" else "python -m safety_lightning"
_KEY = re.compile(r'^Parser key "(?P<key>.*)":\s*(?P<rest>.*)$')
_CLASS = re.compile(r"^Problem with given class_path '(?P<name>.*)':")
_GIVEN = re.compile(r"(?:^Given value|[.,]? ?Got value): ?(?P<value>.*)$")
_HINT = re.compile(r"Did you mean [\w.]+\?")
_TYPE = re.compile(r"^Expected an? (?!dot import path|instantiatable)(?P<kind>.*)$")
_PATH = re.compile(r"^Expected a dot import path string: (.*)$")
_NOISE = re.compile(
    r"^(Does not validate against any of|Subtypes: |Errors:|Given value type: |Subclass types expect one of|"
    r"a class path \(str\)|a dict with|a dict without|Expected a path but|Not a valid subclass of|All options: |tip: )"
)
_CALLABLE = re.compile(
    r"Type (?:typing|collections\.abc)\.Callable\S*(?: \S+\])? expects a function or a callable class: "
)
_DENIED = re.compile(r"Importing '([\w.]+)' is not allowed, .* to allow it")
_OTHER_KIND = re.compile(
    r"^(?:Import path (?:\S+ )?does not (?:correspond to a subclass of|implement protocol)|"
    r"Expected '[\w.]+' to be a (?:subclass of|function that returns)) (.+?)\.?$"
)
_MOST_CHARACTERS = 80


class SuggestingParser(ArgumentParser):
    """A parser whose errors are short and name the nearest thing that exists."""

    class_roots: tuple[type, ...] = ()
    """Base classes whose subclasses can be meant by a short class name."""
    factory_kinds: tuple[type, ...] = ()
    """What a function that is named in place of a class may make."""

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        """Adds an option; one for config files takes names too."""
        if kwargs.get("action") is ActionConfigFile:
            kwargs |= {"action": NamedConfigFile, "help": "A config file, or one of the names that `configs` lists."}
        return super().add_argument(*args, **kwargs)

    def add_function_arguments(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Adds the parameters of a function: a command, or what a config names, which is checked before it is called.

        jsonargparse 4.53 makes a parser of its own, which raises its errors, for what a config names.
        """
        if not self.exit_on_error:
            check_factory(function, self.factory_kinds)
        return super().add_function_arguments(function, *args, **kwargs)

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parses options; see `check_nulls`."""
        return check_nulls(self, super().parse_args(*args, **kwargs))

    def parse_object(self, *args: Any, **kwargs: Any) -> Any:
        """Parses a mapping, such as the settings of a class that a config names; see `check_nulls`."""
        return check_nulls(self, super().parse_object(*args, **kwargs))

    def parse_string(self, *args: Any, **kwargs: Any) -> Any:
        """Parses the text of a config; see `check_nulls`."""
        return check_nulls(self, super().parse_string(*args, **kwargs))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Stops with a message, and the nearest name where one was misspelt; the pages of options are under --help.

        Parsers of nested classes raise, as jsonargparse wants it: a value may still be of another of its types.
        """
        told = suggest_nearest(message, self)
        if not self.exit_on_error:
            super().error(f"{message}{told}", ex)
        stop(UserError(f"{shorten(str(message))}{told}\nAll options: {self.prog_name} --help"))

    @property
    def prog_name(self) -> str:
        """The program and its command, without the options between them; parsers of nested keys know no command."""
        name = " ".join(self.prog.replace("[options]", "").split())
        return name if name.startswith(PROGRAM) else f"{PROGRAM} COMMAND"


def stop(error: Exception) -> NoReturn:
    """Ends the process with an error that is the user's to mend, without a traceback."""
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2)


def shorten(message: str) -> str:
    """Returns the one line of a parser's error that matters: the key, what was wanted and what was found.

    Where a value may be of several types, jsonargparse lists what each of them finds wrong, one inside the other.

    Args:
        message: The error of jsonargparse 4.53; one of another form stays as it is.

    Example:
        >>> print(shorten('Parser key "data.size":\\n  Expected a <class \\'int\\'>. Got value: many'))
        data.size must be int, got many
    """
    hints = _HINT.findall(message)
    lines = [_CALLABLE.sub("", line.strip().removeprefix("- ")) for line in _HINT.sub("", message).splitlines()]
    keys: list[str] = []
    classes: list[str] = []
    values: list[str] = []
    faults: list[str] = []
    for line in filter(None, lines):
        if found := _KEY.match(line):
            keys += [found["key"]] if found["key"] != "config" else []
            line = found["rest"]
        if found := _GIVEN.search(line):
            values.append(found["value"])
            line = line[: found.start()]
        if found := _CLASS.match(line):
            classes.append(found["name"])
        elif line and not _NOISE.match(line):
            faults.append(clean_types(line))
    hint = "".join(f"\n{one}" for one in hints[:1])
    if not faults or not (keys or values):
        return "\n".join(faults or [clean_types(line) for line in filter(None, lines)]) + hint
    inner = [one for one in classes if not any(one in fault for fault in faults)]
    where = ", ".join([*keys[:1], *inner[-1:], *[key for key in keys[-1:] if key != keys[0]]])
    return _compose(where, faults, values[0] if values else None) + hint


def _compose(where: str, faults: list[str], value: str | None) -> str:
    kinds = [found["kind"] for line in faults if (found := _TYPE.match(line))]
    others = [line for line in faults if not _TYPE.match(line)]
    got = "" if value is None else f", got {cut(value) or 'nothing'}"
    if not others:
        return f"{where} must be {' or '.join(dict.fromkeys(kinds))}{got}".strip()
    told = others[0].rstrip(".")
    told = told if value is None or value in told or ", got " in told else f"{told}{got}"
    return f"{where}: {told}" if where else told


def clean_types(line: str) -> str:
    """Returns a line with types as a user writes them.

    Example:
        >>> clean_types("Expected a <class 'NoneType'> or typing.Literal['a', 'b']")
        "Expected a null or one of 'a', 'b'"
    """
    line = _OTHER_KIND.sub(r"Expected a \1", line)
    line = re.sub(r"^Not of type (\w+): (?!does not conform).*", r"Expected a \1", line)
    line = _DENIED.sub(r"\1 may not be named in a config (docs/security.md)", line)
    line = _PATH.sub(r"there is no class \1 (a class of one's own is named by its path, package.Class)", line)
    line = re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1", line)
    line = re.sub(r"typing\.Literal\[([^\]]*)\]", r"one of \1", line)
    line = re.sub(r"\b(?:typing|collections\.abc)\.", "", line)
    return line.replace("NoneType", "null").replace("..", ".")


def cut(value: str) -> str:
    """Returns a value as it is shown in an error: on one line, its beginning if it is long."""
    value = " ".join(value.replace("Namespace(", "(").split())
    value = re.sub(r"^\(class_path='([\w.]+)'\)$", r"\1", value)
    return value if len(value) <= _MOST_CHARACTERS else f"{value[:_MOST_CHARACTERS]}..."
