"""The package installed from its wheel: the console script, the configs that come with it, a run from any folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

from safety_lightning.cli import main
from safety_lightning.cli.configs import find_configs, locate_config

ROOT = Path(__file__).resolve().parents[1]


def test_configs_of_the_package_are_those_of_the_repository(capsys: pytest.CaptureFixture[str]) -> None:
    files = {file.relative_to(ROOT / "configs"): file.read_text() for file in ROOT.glob("configs/**/*.yaml")}
    assert {Path(f"{name}.yaml"): file.read_text() for name, file in find_configs().items()} == files
    main(["configs"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(files)
    titles = dict(line.split(maxsplit=1) for line in lines)
    assert titles["test/lab"] == "The lab's model on the lab's tasks, in seconds"


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["fit", "--config", "quickstart"], "trainer.max_steps", 100),
        (["test", "--config=test/lab", "--config", "profile/paper_test"], "data.tasks", ["lab"]),
        (["project", "--config", "project/lab"], "out", "logs/project"),
    ],
)
def test_name_stands_for_a_config_in_any_folder(
    words: list[str],
    key: str,
    value: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["safety_lightning"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main([*words, "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    for part in key.split("."):
        config = config[part]
    assert config == value


def test_file_goes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Path(locate_config("quickstart")).is_file()
    Path("quickstart").write_text("seed_everything: 1")
    assert locate_config("quickstart") == "quickstart"
    assert locate_config("seed_everything: 1") == "seed_everything: 1"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fit", "--config", "quikstart"], "got 'quikstart'\nDid you mean quickstart?"),
        (["project", "--config", "nothing.yaml"], "--config must be a file or one of the names that `configs` lists"),
    ],
)
def test_unknown_name_is_named(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["safety_lightning"])
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.split()[-1][0].isdigit()


def run(*command: str | Path, folder: Path) -> str:
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def install_wheel(folder: Path) -> Path:
    """Builds the wheel of a copy of the repository and installs it alone; the libraries are those of these tests."""
    tree = folder / "tree"
    for name in ("safety_lightning", "configs"):
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    pip = (sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "--no-cache-dir")
    run(*pip, "wheel", "--no-index", "--no-deps", "--no-build-isolation", "-w", folder, tree, folder=folder)
    shutil.rmtree(tree)
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", folder=folder)
    python = folder / "venv" / "bin" / "python"
    [wheel] = folder.glob("*.whl")
    run(*pip, "--python", python, "install", "--no-index", "--no-deps", wheel, folder=folder)
    [packages] = (folder / "venv").glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    return python.with_name("safety-lightning")


@pytest.mark.slow
def test_wheel_runs_the_quickstart_from_any_folder(tmp_path: Path) -> None:
    program = install_wheel(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert run(program, "--version", folder=elsewhere).startswith("safety-lightning ")
    assert "quickstart" in run(program, "configs", folder=elsewhere)
    where = run(program.with_name("python"), "-c", "import safety_lightning as s; print(s.__file__)", folder=elsewhere)
    assert Path(where).is_relative_to(tmp_path)
    words = ["--trainer.max_steps", "3", "--compare.num_prompts", "8", "--run_dir", "run"]
    assert "projected" in run(program, "fit", "--config", "quickstart", *words, folder=elsewhere)
    assert (elsewhere / "run" / "model" / "model.safetensors").exists()
