"""The command line without its work: help, misplaced options, nearest names."""

import subprocess
import sys

import pytest

from safety_lightning.cli import COMMANDS, TRAINER_VERBS, Command, main


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
    assert len(commands) == 7
    for command in commands:
        assert (command.load().__doc__ or "").splitlines()[0] == command.title
