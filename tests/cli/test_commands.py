"""The command line without its work: help, misplaced options, nearest names."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from safety_lightning.cli import COMMANDS, TRAINER_VERBS, Command, main
from safety_lightning.errors import UserError


def test_one_page_lists_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in {**TRAINER_VERBS, **COMMANDS})


@pytest.mark.parametrize(
    "words", [["--help"], ["lab", "--help"], ["lab", "build", "--help"], ["overlap", "weights", "--help"]]
)
def test_help_imports_no_heavy_library(words: list[str]) -> None:
    code = (
        "import sys\nfrom safety_lightning.cli import main\n"
        f"try: main({words!r})\nexcept SystemExit: pass\n"
        "assert not {'torch', 'lightning', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--config", "configs/quickstart.yaml", "fit"],
            "after the command: python -m safety_lightning fit --config",
        ),
        (["fti"], "Did you mean fit?"),
        (["lab", "biuld"], "Did you mean build?"),
        (["lab", "build", "--output", "x"], "Did you mean out?"),
        (["lab", "build", "--o", "x"], "unrecognized arguments: --o"),  # no abbreviations
        ([], "expected"),
    ],
)
def test_mistakes_are_named_with_the_nearest(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    printed = capsys.readouterr()
    assert stopped.value.code == 2
    assert message in printed.err


def test_pages_titles_are_those_of_their_functions() -> None:
    commands = [one for entry in COMMANDS.values() for one in (entry.values() if isinstance(entry, dict) else [entry])]
    commands = [one for one in commands if isinstance(one, Command)]
    assert len(commands) == 9
    for command in commands:
        assert (command.load().__doc__ or "").splitlines()[0] == command.title


@dataclass(frozen=True, kw_only=True)
class OwnSettings:
    """Settings.

    Attributes:
        sizes: How large.
    """

    sizes: Sequence[float] = (1.0,)

    def __post_init__(self) -> None:
        if min(self.sizes) < 0:
            raise UserError(f"sizes must be 0 or more, got {min(self.sizes)}")


@dataclass(frozen=True, kw_only=True)
class OwnInputs:
    """Inputs.

    Attributes:
        folders: Folders by name.
    """

    folders: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class OwnRun(OwnSettings, OwnInputs):
    """Do something of one's own."""


def run_own(run: OwnRun) -> None:
    if "bad" in run.folders:
        raise UserError(f"folders must be good, got {run.folders['bad']}")
    print(run)


@pytest.fixture
def own_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safety_lightning.own", sys.modules[__name__])
    command = Command("own:OwnRun", "Do something of one's own.", runner="own:run_own")
    monkeypatch.setitem(COMMANDS, "own", {"_help": "Commands of one's own.", "run": command})


@pytest.mark.usefixtures("own_command")
def test_dataclass_is_the_schema_of_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    main(["own", "run", "--folders", "x=A", "y=B", "--sizes", "1", "2"])
    assert "OwnRun(folders={'x': 'A', 'y': 'B'}, sizes=[1.0, 2.0])" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["own", "run", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert 0 < printed.index("Folders by name. (required") < printed.index("How large.")


@pytest.mark.usefixtures("own_command")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--folders", "x=A", "--sizes", "1", "-2"], "error: sizes must be 0 or more, got -2.0\n"),
        (["--folders", "bad=B"], "error: folders must be good, got B\n"),
        ([], "arguments are required: own.run.folders"),
    ],
)
def test_mistakes_in_a_dataclass_are_one_error(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["own", "run", *words])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
