"""Commands and code of README and docs run or parse, tables are those of the code, and the files they name exist."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import torch
from transformers import TrainingArguments

import safety_lightning
from safety_lightning.checkpoints import load_model, locate_model
from safety_lightning.cli import main
from safety_lightning.profiles import CAPTURE_SETTINGS, EVALUATION_SETTINGS, OVERLAP_SETTINGS, SETTINGS, Setting

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {file.name: file.read_text() for file in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}


def list_blocks(page: str, *languages: str) -> list[str]:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", PAGES[page], re.M | re.S)
    return [text for language, text in blocks if language in languages]


def list_commands() -> list[str]:
    """The lines of all shell blocks, continued ones joined, comments and repetitions left out."""
    lines = [
        line.partition(" #")[0].strip()
        for page in PAGES
        for block in list_blocks(page, "", "sh", "bash")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return sorted(set(lines))


COMMANDS = [line for line in list_commands() if re.match(r"(python -m safety_lightning|safety-lightning) ", line)]
OTHERS = [line for line in list_commands() if re.match(r"(make|python scripts/\S+|pip install) ", line)]


@pytest.mark.parametrize("command", COMMANDS)
def test_command_parses(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["safety_lightning"])
    monkeypatch.chdir(ROOT)
    words = shlex.split(command.removeprefix("python -m "))[1:]
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--help" if words == ["configs"] else "--print_config"])  # `configs` takes no options
    assert stopped.value.code in (0, None), capsys.readouterr().err


@pytest.mark.parametrize("command", OTHERS)
def test_other_command_names_what_there_is(command: str) -> None:
    program, first, *more = shlex.split(command)
    if program == "make":
        assert re.search(rf"^(\w+ )*{first}( \w+)*:", (ROOT / "Makefile").read_text(), re.M)
    elif program == "python":
        source = (ROOT / first).read_text()
        assert all(re.search(rf"\b{word[2:]}: ", source) for word in more if word.startswith("--"))
    else:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert all(name in extras for word in more for name in re.findall(r"\.\[(\w+)\]", word))


@pytest.mark.parametrize("page", [name for name in PAGES if list_blocks(name, "python")])
def test_code_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's blocks, one after the other, where the models that they name are the lab's."""
    for name in ("BASE", "ALIGNED", "TUNED", "Qwen/Qwen2.5-1.5B", "Qwen/Qwen2.5-1.5B-Instruct"):
        is_aligned = name.endswith(("ALIGNED", "Instruct"))
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(locate_model("lab:aligned" if is_aligned else "lab:base"))
    monkeypatch.chdir(tmp_path)
    model = load_model("lab:aligned", dtype=torch.float32)
    names = {
        "model": model,
        "optimizer": torch.optim.AdamW(model.parameters()),
        "args": TrainingArguments("out", use_cpu=True, report_to=[]),
        "dataset": [],
    }
    for block in list_blocks(page, "python"):
        exec(compile(block, page, "exec"), names)


def test_table_of_profiles_is_that_of_the_code() -> None:
    rows = [f"| {s.name} | {s.paper} | {s.sound} | {s.why} |" for s in SETTINGS]
    assert all(row in README for row in rows)


@pytest.mark.parametrize(
    ("page", "settings"),
    [("evaluation", EVALUATION_SETTINGS), ("overlap", OVERLAP_SETTINGS), ("overlap", CAPTURE_SETTINGS)],
)
def test_tables_of_measuring_are_those_of_the_code(page: str, settings: tuple[Setting, ...]) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text()
    for one in settings:
        assert f"| {one.name} | {one.paper} | {one.sound} | {one.why} |" in text


@pytest.mark.parametrize(
    "one", [*SETTINGS, *EVALUATION_SETTINGS, *CAPTURE_SETTINGS, *OVERLAP_SETTINGS], ids=lambda one: one.key
)
def test_page_of_the_paper_has_every_setting(one: Setting) -> None:
    assert f"| {one.name} | `{one.key}` | {one.paper} | {one.sound} | " in PAGES["paper.md"]


@pytest.mark.parametrize("page", PAGES)
def test_links_and_files_exist(page: str) -> None:
    folder = ROOT if page == "README.md" else ROOT / "docs"
    for link in re.findall(r"\]\(([\w/.-]+)\)", PAGES[page]):
        assert (folder / link).exists(), link
    for name in re.findall(r"\b(?<![/.])((?:scripts|configs|tests|examples)/[\w./-]+\.(?:py|yaml))", PAGES[page]):
        assert (ROOT / name).exists(), name


def test_every_place_of_the_architecture_exists() -> None:
    """Whatever is written as a path; and every room of the package is told of."""
    page = PAGES["architecture.md"]
    places = re.findall(r"`([\w./-]+/[\w./-]*)`", page)
    assert len(places) > 50
    assert [name for name in places if not (ROOT / name).exists()] == []
    rooms = {folder.parent.name for folder in (ROOT / "safety_lightning").glob("*/__init__.py")}
    assert {room for room in rooms if f"`safety_lightning/{room}/`" not in page} == set()


def test_public_names_are_there() -> None:
    for name in safety_lightning.__all__:
        assert getattr(safety_lightning, name).__doc__
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        safety_lightning.nothing  # noqa: B018
