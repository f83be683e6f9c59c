"""Checks YAML before anything is made of it: what would crash the parser, blow it up, or be dropped in silence."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml
from jsonargparse import _loaders_dumpers

from safety_lightning.errors import UserError

MAX_CHARACTERS = 1_000_000
MAX_DEPTH = 50
MAX_NODES = 100_000
"""How many values a text may hold when each alias is written out."""

_PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq", "merge")}
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TROUBLE = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class TextError(UserError, yaml.YAMLError):
    """A text is no YAML that can be taken; also YAML's own error, which parsers know as one of the user's."""


@dataclass
class _Open:
    """A mapping or a list whose end has not come yet."""

    is_mapping: bool
    anchor: str | None
    num_nodes: int = 1
    num_children: int = 0
    keys: set[str] = field(default_factory=set)


def check_text(text: str) -> set[str] | None:
    """Checks a YAML text without making anything of it.

    Args:
        text: The text.

    Returns:
        The keys of a mapping; None for a list or a single value.

    Raises:
        TextError: If it is no YAML; is longer, deeper or larger than a config can be; holds a key twice, of which
            YAML would take the last in silence; or holds a tag, an alias of itself or several documents.
    """
    if len(text) > MAX_CHARACTERS:
        raise TextError(f"a config must be of at most {MAX_CHARACTERS:,} characters, got {len(text):,}")
    if trouble := _TROUBLE.search(text):
        raise TextError(f"{_place(text, trouble.start())}: a config must be text, got the character {trouble[0]!r}")
    walk = _Walk()
    try:
        for event in yaml.parse(text, Loader=_Loader):
            walk.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise TextError(f"{place}{error.problem or error.context}") from None
    return walk.keys


def check_config_text(text: str, *, name: str) -> None:
    """Checks the text of a config.

    Args:
        text: The text.
        name: Where it comes from.

    Raises:
        UserError: If it is no mapping of keys to values, names another config, or see `check_text`.
    """
    try:
        keys = check_text(text)
    except TextError as error:
        raise UserError(f"{name}, {error}") from None
    if keys is None:
        raise UserError(f"{name} must be keys and values (model: ...), it is not")
    if "config" in keys:
        raise UserError(f"{name} must not hold the key config: several configs are given by several --config")


def guard_loader() -> None:
    """Has every YAML text that jsonargparse loads checked first: configs, values of options, values inside values."""
    loading: Any = _loaders_dumpers
    loading.yaml_default_loader = None  # or it would be the class that an earlier call has guarded
    plain: Any = loading.get_yaml_default_loader()

    class GuardedLoader(plain):
        def __init__(self, stream: str) -> None:
            check_text(stream)
            super().__init__(stream)

    loading.yaml_default_loader = GuardedLoader


class _Walk:
    """Follows the events of a YAML text, which come one by one however deep it is."""

    def __init__(self) -> None:
        self.keys: set[str] | None = None
        self._open: list[_Open] = []
        self._sizes: dict[str, int] = {}
        self._num_documents = 0

    def take(self, event: yaml.Event) -> None:
        """Takes the next event."""
        if isinstance(event, yaml.DocumentStartEvent):
            self._num_documents += 1
            _require(self._num_documents == 1, event, "a config must be one document, got another ---")
        elif isinstance(event, yaml.CollectionStartEvent):
            self._begin(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            closed = self._open.pop()
            if closed.anchor:
                self._sizes[closed.anchor] = closed.num_nodes
            self._add(event, closed.num_nodes)
        elif isinstance(event, yaml.AliasEvent):
            _require(event.anchor in self._sizes, event, f"*{event.anchor} must be an alias of what stands before it")
            self._count(event, is_text=False)
            self._add(event, self._sizes[str(event.anchor)])
        elif isinstance(event, yaml.ScalarEvent):
            self._check_tag(event)
            self._count(event, is_text=True)
            if event.anchor:
                self._sizes[event.anchor] = 1
            self._add(event, 1)

    def _begin(self, event: Any) -> None:
        self._check_tag(event)
        _require(len(self._open) < MAX_DEPTH, event, f"a config must be at most {MAX_DEPTH} levels deep, got more")
        self._count(event, is_text=False)
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        self._sizes.pop(event.anchor, None)
        self._open.append(_Open(is_mapping, event.anchor))
        if is_mapping and len(self._open) == 1:
            self.keys = self._open[0].keys

    def _check_tag(self, event: Any) -> None:
        known = event.tag is None or event.tag == "!" or event.tag in _PLAIN_TAGS
        _require(known, event, f"a config must be plain values, got the tag {event.tag}")

    def _count(self, event: Any, *, is_text: bool) -> None:
        """Counts a child of the collection that is open; every second child of a mapping is a key."""
        if not self._open:
            return
        parent = self._open[-1]
        if parent.is_mapping and parent.num_children % 2 == 0:
            _require(is_text, event, "a key must be text, got a list, a mapping or an alias")
            _require(event.value not in parent.keys, event, f"each key must stand once, got {event.value!r} twice")
            parent.keys.add(event.value)
        parent.num_children += 1

    def _add(self, event: Any, num_nodes: int) -> None:
        if self._open:
            self._open[-1].num_nodes += num_nodes
            fits = self._open[-1].num_nodes <= MAX_NODES
            _require(fits, event, f"a config must hold at most {MAX_NODES:,} values with its aliases written out")


def _require(is_met: bool, event: Any, wanted: str) -> None:
    if not is_met:
        mark = event.start_mark
        raise TextError(f"line {mark.line + 1}, column {mark.column + 1}: {wanted}")


def _place(text: str, at: int) -> str:
    before = text[:at]
    return f"line {before.count(chr(10)) + 1}, column {at - before.rfind(chr(10))}"
