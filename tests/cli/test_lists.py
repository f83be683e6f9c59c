import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest

from safety_lightning.cli.lists import gather_values


def command(
    names: list[str], folders: dict[str, str] | None = None, sizes: list[float] | None = None, n: int = 0
) -> None:
    raise AssertionError


@dataclass(kw_only=True)
class Inputs:
    names: tuple[str, ...]
    folders: Mapping[str, str] | None = None


@dataclass(kw_only=True)
class Run(Inputs):
    sizes: Sequence[float] | None = None
    n: int = 0


COMMANDS = {"one": command, "nested": {"_help": "Two of them.", "two": command}, "three": Run}


@pytest.mark.parametrize("start", [["one"], ["nested", "two"], ["three"]])
def test_words_become_one_value(start: list[str]) -> None:
    words = [*start, "--names", "a", "b", "--n", "3", "--folders", "x=A", "y=B=C", "--sizes", "0.5"]
    gathered = gather_values(words, COMMANDS)[len(start) :]
    assert gathered[::2] == ["--names", "--n", "--folders", "--sizes"]
    assert [json.loads(value) for value in gathered[1::2]] == [["a", "b"], 3, {"x": "A", "y": "B=C"}, ["0.5"]]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--help"],
        ["nested"],
        ["unknown", "--names", "a", "b"],
        ["one", "--names", "[a, b]"],
        ["one", "--names=[a]", "--n", "1"],
        ["one", "--names"],
    ],
)
def test_other_words_stay(words: list[str]) -> None:
    assert gather_values(words, COMMANDS) == words


def test_mapping_without_sign_is_refused() -> None:
    with pytest.raises(ValueError, match="--folders must be NAME=VALUE pairs, got 'A'"):
        gather_values(["one", "--folders", "x=A", "A"], COMMANDS)


def test_name_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="--folders must have each name once, got 'x' twice"):
        gather_values(["one", "--folders", "x=A", "x=B"], COMMANDS)
