"""Damages that hypothesis draws: to JSON, to the header of a safetensors file, to files as such; how inputs ended."""

import copy
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

Damage = tuple[Any, ...]
TALLY: Counter[tuple[str, str]] = Counter()
_test: list[str | None] = [None]


def name_tally(test: str | None) -> None:
    """Sets the test whose inputs are counted from here on; None counts nothing."""
    _test[0] = test


def count(how: str) -> None:
    """Counts an input that has ended in some way."""
    if _test[0] is not None:
        TALLY[_test[0], how] += 1


ODD_VALUES = st.one_of(
    st.sampled_from(
        [None, True, False, -1, 0, 1, 2, 7, 10**12, -(10**12), 1e308, -0.5, 0.5, "", "x", "NaN", "../x", "/etc/passwd"]
    ),
    st.sampled_from([[], {}, [0], [[]], {"a": 1}, [None], ["x"], "\0", "é" * 300, {"": {}}]),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=8),
)
BROKEN_FILES = st.one_of(
    st.tuples(st.just("cut"), st.floats(0, 0.99)),
    st.tuples(
        st.just("prefix"), st.sampled_from(["{", "[", "x", "\0", "\ufeff\ufeff", "[" * 100_000, '{"a":' * 100_000])
    ),
    st.tuples(
        st.just("whole"),
        st.sampled_from(
            ["", "null", "[]", "1", '"x"', "NaN", "{}{}", '{"a": 1, "a": 1}', '{"a": Infinity}', '{"a": 1e999}']
        ),
    ),
    st.tuples(st.just("link"), st.sampled_from(["outside", "loop", "nowhere", "folder"])),
    st.tuples(st.just("bytes"), st.binary(min_size=1, max_size=40)),
)


def break_file(file: Path, how: str, what: Any) -> None:
    """Applies one of `BROKEN_FILES`."""
    content = file.read_bytes()
    if how == "cut":
        file.write_bytes(content[: int(len(content) * what)])
    elif how == "prefix":
        file.write_bytes(what.encode() + content)
    elif how == "whole":
        file.write_text(what)
    elif how == "bytes":
        file.write_bytes(what)
    else:
        file.unlink()
        _put_link(file, what, content)


def _put_link(file: Path, what: str, content: bytes) -> None:
    if what == "folder":
        file.mkdir()
        return
    outside = file.parent.parent / f"outside-{file.name}"
    outside.write_bytes(content)
    file.symlink_to({"outside": outside, "loop": file, "nowhere": file.parent / "nothing"}[what])


def list_paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Lists the paths to all values of a JSON value, at most six from each object or list."""
    pairs = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    found = [path] if path else []
    for key, one in pairs[:6] if len(path) > 1 else pairs[:40]:
        found += list_paths(one, (*path, key))
    return found


def set_value(file: Path, path: tuple[Any, ...], value: Any, *, remove: bool = False) -> None:
    """Sets one value of a JSON file, or removes it."""
    content = json.loads(file.read_text())
    place = content
    for key in path[:-1]:
        place = place[key]
    if remove:
        del place[path[-1]]
    else:
        place[path[-1]] = copy.deepcopy(value)
    file.write_text(json.dumps(content))


def read_header(file: Path) -> tuple[dict[str, Any], bytes]:
    """Returns a safetensors file's header and its numbers."""
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def write_header(file: Path, header: dict[str, Any], numbers: bytes) -> None:
    """Writes a safetensors file."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(len(text).to_bytes(8, "little") + text + numbers)


def flip_bit(file: Path, at: int, bit: int) -> None:
    """Flips one bit of a file in place."""
    with file.open("r+b") as stream:
        stream.seek(at)
        [byte] = stream.read(1)
        stream.seek(at)
        stream.write(bytes([byte ^ 1 << bit]))
        os.fsync(stream.fileno())
