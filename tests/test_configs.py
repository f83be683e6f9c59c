"""Every YAML file parses, its header says how it is launched, and the profiles differ where they should."""

from pathlib import Path

import pytest
import yaml

from safety_lightning.cli import main
from safety_lightning.profiles import EVALUATION_SETTINGS, SETTINGS, name_profile, read_settings

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(ROOT.glob("configs/**/*.yaml"))
FITS = [file for file in CONFIGS if file.parent.name in ("configs", "fit")]
LAYERED = {f"qwen2.5-7b-{name}": "qwen2.5-7b" for name in ("fsdp2", "zero2", "zero3")}  # what each stands behind
TESTS = [file for file in CONFIGS if file.parent.name == "test"]
PROJECTS = [file for file in CONFIGS if file.parent.name == "project"]
STUDIES = [file for file in CONFIGS if file.parent.name == "study"]
OTHERS = [file for file in CONFIGS if file.parent.name in ("predict", "validate")]


def resolve(capsys: pytest.CaptureFixture[str], verb: str, *files: Path) -> dict:
    args = [word for file in files for word in ("--config", str(file))]
    with pytest.raises(SystemExit) as stopped:
        main([verb, *args, "--print_config"])
    printed = capsys.readouterr()
    assert stopped.value.code in (0, None), printed.err
    return yaml.safe_load(printed.out)


@pytest.fixture(autouse=True)
def _bare_argv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["safety_lightning"])


@pytest.mark.parametrize("file", FITS, ids=lambda file: str(file.relative_to(ROOT)))
def test_config_parses_in_both_profiles(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [file.with_name(f"{LAYERED[file.stem]}.yaml"), file] if file.stem in LAYERED else [file]
    sound = resolve(capsys, "fit", *files)
    assert sound["model"]["model"]
    paper = resolve(capsys, "fit", *files, ROOT / "configs/profile/paper.yaml")
    is_half = sound["trainer"]["precision"] == "bf16-true"  # whose rounding at random neither profile has
    assert name_profile(read_settings(sound)) == ("mixed" if is_half else "sound")
    assert name_profile(read_settings(paper)) == "paper"
    assert paper["model"]["optimizer"]["init_args"]["lr"] == sound["model"]["optimizer"]["init_args"]["lr"]


@pytest.mark.parametrize("file", TESTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_evaluation_parses_in_both_profiles(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound = resolve(capsys, "test", file)
    paper = resolve(capsys, "test", file, ROOT / "configs/profile/paper_test.yaml")
    assert name_profile(read_settings(sound, EVALUATION_SETTINGS)) == "sound"
    found = read_settings(paper, EVALUATION_SETTINGS)
    assert name_profile(found) == "paper"
    assert len(found) == len(EVALUATION_SETTINGS)


@pytest.mark.parametrize("file", OTHERS, ids=lambda file: str(file.relative_to(ROOT)))
def test_config_of_another_verb_parses(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert resolve(capsys, file.parent.name, file)["model"]["model"]


@pytest.mark.parametrize("file", PROJECTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_config_of_project_parses(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert resolve(capsys, "project", file)["finetuned"]


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: str(file.relative_to(ROOT)))
def test_config_of_study_parses(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    below = [] if "base" in yaml.safe_load(file.read_text()) else ["--config", str(ROOT / "configs/study/lab.yaml")]
    with pytest.raises(SystemExit) as stopped:
        main(["study", *below, "--config", str(file), "--out", "study", "--print_config"])
    printed = capsys.readouterr()
    assert stopped.value.code in (0, None), printed.err
    assert set(yaml.safe_load(printed.out)["finetunes"]) == {"useful", "harmful", "contaminated"}


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: str(file.relative_to(ROOT)))
def test_header_holds_the_exact_command(file: Path) -> None:
    comments = [line for line in file.read_text().splitlines() if line.startswith("#")]
    command = next(line for line in comments if "python -m safety_lightning" in line)
    assert str(file.relative_to(ROOT)) in command
    if file.stem in LAYERED:
        assert f"--config configs/fit/{LAYERED[file.stem]}.yaml --config" in command


def test_fit_configs_serve_validate(capsys: pytest.CaptureFixture[str]) -> None:
    assert resolve(capsys, "validate", ROOT / "configs/quickstart.yaml")["data"]["kind"] == "contaminated"


def test_paper_models_follow_table_3(capsys: pytest.CaptureFixture[str]) -> None:
    for file in sorted(ROOT.glob("configs/fit/*[0-9]b.yaml")):
        config = resolve(capsys, "fit", file, ROOT / "configs/profile/paper.yaml")
        assert config["model"]["optimizer"]["class_path"] == "torch.optim.AdamW"
        assert config["model"]["optimizer"]["init_args"]["lr"] == 1e-5
        assert (config["model"]["schedule"], config["model"]["warmup_share"]) == ("cosine", 0.02)
        assert (config["data"]["batch_size"], config["trainer"]["accumulate_grad_batches"]) == (1, 32)
        assert (config["data"]["max_length_tokens"], config["trainer"]["max_epochs"]) == (512, 1)
        assert config["data"]["useful"]["size"] == 20000


def test_settings_have_names_of_their_own_and_part() -> None:
    settings = [*SETTINGS, *EVALUATION_SETTINGS]
    assert len({setting.name for setting in settings}) == len(settings)
    assert all(setting.paper != setting.sound for setting in settings)
