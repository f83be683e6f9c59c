"""The script of the paper's five studies: its text is sound, and it runs the shipped config of each model."""

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts/reproduce_paper.sh"


def run(tmp_path: Path, *models: str) -> tuple[int, str, list[str]]:
    """Runs the script with a python that only writes down what it is asked."""
    fake, asked = tmp_path / "python", tmp_path / "asked"
    fake.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    fake.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "OUT": str(tmp_path / "out")}
    done = subprocess.run(["bash", str(SCRIPT), *models], env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr, asked.read_text().splitlines() if asked.exists() else []


def test_bash_reads_it() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)


def test_every_model_is_planned_and_run(tmp_path: Path) -> None:
    code, _, asked = run(tmp_path)
    assert code == 0
    named = [re.search(r"--config (\S+) --out (\S+)", line) for line in asked]
    configs = [match[1] for match in named if match]
    assert len(configs) == len(asked) == 10
    assert all((ROOT / config).is_file() for config in configs)
    assert len(set(configs)) == 5
    assert [line.endswith("--dry_run true") for line in asked] == [True, False] * 5


def test_the_table_in_its_head_has_a_line_for_each() -> None:
    lines = re.findall(r"^#   (\S+) +[\d.]+ +\d+ GB +\d+ GB", SCRIPT.read_text(), flags=re.MULTILINE)
    papers = {file.stem for file in (ROOT / "configs/study").glob("*.yaml") if re.search(r"\db$", file.stem)}
    assert set(lines) == papers


def test_a_model_that_there_is_not_runs_nothing(tmp_path: Path) -> None:
    code, error, asked = run(tmp_path, "qwen2.5-7b", "gpt-2")
    assert (code, asked) == (2, [])
    assert "MODEL must be one of" in error
