import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest

from safety_lightning.cli.lists import check_repeats, gather_values
from safety_lightning.errors import UserError


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


def test_words_of_an_option_given_again_are_added() -> None:
    words = ["one", "--names", "a", "--n", "1", "--config", "c.yaml", "--names", "b", "c", "--folders", "x=A"]
    wanted = ["one", "--n", "1", "--config", "c.yaml", "--names", '["a", "b", "c"]', "--folders", '{"x": "A"}']
    assert gather_values(words, COMMANDS) == wanted
    check_repeats(wanted)


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["fit", "--seed_everything", "1", "--seed_everything", "2"], "--seed_everything"),
        (["fit", "--seed_everything=1", "--seed_everything", "1"], "--seed_everything"),
        (["fit", "--model.optimizer.lr", "1", "--model.optimizer.init_args.lr", "2"], "--model.optimizer.lr"),
        (["one", "--names", "[a]", "--names", "[b]"], "--names"),
        (
            ["fit", "--trainer.callbacks+=A", "--trainer.callbacks.n=1", "--trainer.callbacks.n=2"],
            "--trainer.callbacks.n",
        ),
    ],
)
def test_option_given_twice_is_refused(words: list[str], option: str) -> None:
    with pytest.raises(UserError, match=f"^{option} must be given once, got it twice"):
        check_repeats(words)


def test_configs_and_what_is_added_to_a_list_may_repeat() -> None:
    check_repeats(["fit", "--config", "a.yaml", "--config=b.yaml", "-1.0", "-1.0"])
    check_repeats(["fit", *["--trainer.callbacks+=A", "--trainer.callbacks.n=1"] * 2])
