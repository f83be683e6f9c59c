"""The page of the benchmarks: its rows, which of them are kept, and what is said of what cannot be measured."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from benchmarks.common import NotHereError, Result, Setup, take_turns
from benchmarks.page import describe_place, find_name, write_page


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return importlib.import_module("benchmark")


@pytest.mark.parametrize(
    ("kind", "ratios", "shown"),
    [
        ("ratio", [3.0, 1.0, 2.0], "**2.000** (1.000 to 3.000, 3 pairs)"),
        ("ratio", [0.5], "**0.500** (0.500 to 0.500, 1 pair)"),
        ("seconds", [4.0, 6.0], "**5.000 s** (4.000 to 6.000, 2 pairs)"),
        ("counted", [3], "**3** (counted)"),
        ("counted", [1.25e-14], "**1.25e-14** (counted)"),
    ],
)
def test_a_row_shows_the_median_and_the_range(kind: str, ratios: list[float], shown: str) -> None:
    row = Result("speed", "≥ 2", ratios, "a note", kind).format("2026-01-02, abc, here")
    assert row == f"| speed | ≥ 2 | {shown} | a note | 2026-01-02, abc, here |"
    assert find_name(row) == "speed"


def test_rows_that_are_not_measured_anew_keep_their_date(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    first = [Result(name, "≥ 1", [1.0], "n").format("2026-01-02, abc, here") for name in ("b", "a")]
    write_page(page, first)
    again = Result("a", "≥ 1", [2.0], "n").format("2026-03-04, def, there")
    write_page(page, [again])
    rows = [line for line in page.read_text().splitlines() if "**" in line]
    assert rows == [again, first[0]]


def test_rows_of_a_page_without_dates_are_kept_as_they_are(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    old = "| old | ≥ 1 | **1.000** (1.000 to 1.000, 1 pairs) | n |"
    head = "# Benchmarks\n\nMade **long** ago.\n\n| what | wanted | ratio | note |\n|---|---|---|---|\n"
    page.write_text(f"{head}{old}\n")
    new = Result("new", "≥ 1", [1.0], "n").format("2026-03-04, def, there")
    write_page(page, [new])
    lines = page.read_text().splitlines()
    assert lines[-2:] == [new, old]
    assert sum(line.startswith("| what |") for line in lines) == 1
    assert "long" not in page.read_text()


def test_a_row_says_when_and_of_what_it_was_measured() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\d, (no commit|[0-9a-f]{9})( and changes)?, \d+ × \w+", describe_place("cpu"))


def test_sides_take_turns() -> None:
    sides = {"one": lambda: None, "other": lambda: None}
    assert [name for turn in (0, 1) for name, _ in take_turns(sides, turn)] == ["one", "other", "other", "one"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_its_sections_are_refused_in_a_line(script: ModuleType) -> None:
    with pytest.raises(SystemExit, match="--device cuda must have a CUDA device, this machine has none"):
        script.benchmark(device="cuda")


def test_sections_are_chosen_by_device(script: ModuleType) -> None:
    assert script.choose_sections(Setup(), None) == [*script.SECTIONS]
    assert script.choose_sections(Setup(is_toy=True), ["gpu_step"]) == ["gpu_step"]
    with pytest.raises(SystemExit, match="--num_pairs must be at least 1, got 0"):
        script.choose_sections(Setup(num_pairs=0), None)
    with pytest.raises(SystemExit, match=r"--only must be of bases, .*, got gpu_step"):
        script.choose_sections(Setup(), ["gpu_step"])


def test_every_section_is_there_and_listed(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    script.benchmark(list=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*script.SECTIONS, *script.GPU_SECTIONS]
    assert all(line.endswith(".") for line in lines)


@pytest.fixture
def sections(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    def measure_nothing(setup: Setup) -> list[Result]:
        raise NotHereError("the section bases needs a thing, it does not exist")

    def measure_step(setup: Setup) -> list[Result]:
        return [Result("step", "≤ 2", [1.0] * setup.num_pairs, "n")]

    monkeypatch.setattr(script, "find_section", {"bases": measure_nothing, "step": measure_step}.__getitem__)
    return script


def test_what_cannot_be_measured_is_told_and_the_rest_is(
    sections: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    with pytest.raises(SystemExit, match="1 of 2 sections could not be measured here"):
        sections.benchmark(only=["bases", "step"], out=page, num_pairs=2)
    assert capsys.readouterr().err == "bases: the section bases needs a thing, it does not exist\n"
    assert "| step | ≤ 2 | **1.000** (1.000 to 1.000, 2 pairs) | n |" in page.read_text()


def test_a_toy_writes_no_page(sections: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sections.benchmark(only=["step"], toy=True)
    assert not [*tmp_path.iterdir()]
