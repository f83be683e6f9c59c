"""The whole study by its command: the files it leaves, what a second start does, kills, and the controls' verdicts."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from safety_lightning.cli import main
from safety_lightning.files import hash_file
from tests.kills import ROOT, finish, start

SMALL = [
    *("--fit.trainer.max_steps", "3", "--finetunes.harmful.trainer.max_steps", "3"),
    *("--measures.data.lab.num_prompts", "6", "--variants.fractions", "0.25", "0.5", "--variants.num_draws", "2"),
    *("--variants.alphas", "0", "0.5", "1", "--variants.per_block", "8", "--statistics.num_resamples", "200"),
    *("--overlap.activations", "null", "--pilot_share", "0.4"),
]
NUM_KILLS = int(os.environ.get("NUM_KILLS", "3"))
TABLES = ["variants.csv", "selectivity.csv", "verdict.json", "values.parquet", "tables/retained.csv"]


def make_words(folder: Path, *more: str) -> list[str]:
    return ["study", "--config", str(ROOT / "configs/study/lab.yaml"), "--out", str(folder), *SMALL, *more]


def compare_tables(folder: Path, straight: Path) -> None:
    for name in TABLES:
        assert (folder / name).read_bytes() == (straight / name).read_bytes(), name


def run(folder: Path, *more: str) -> str:
    code, printed = finish(start(make_words(folder, *more)))
    assert code == 0, printed
    return printed


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_study_runs_once_and_only_what_changed_runs_again(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    printed = run(folder)
    for name in [*TABLES, "report.html", "report.md", "manifest.json", "config.yaml", "overlap_weights.csv"]:
        assert (folder / name).is_file(), name
    assert "verdict" in json.loads((folder / "verdict.json").read_text())
    assert "measure/useful-0/0: done in" in printed
    assert "Pilot" not in printed  # it is in the stage's log
    assert len(json.loads((folder / "pilot/measures/pilot.json").read_text())["sentences"]) == 3
    again = run(folder)
    assert "done in" not in again.replace("is done", "")
    changed = run(folder, "--statistics.delta", "0.3")
    ran = [line for line in changed.splitlines() if ": done in" in line]
    assert [line.split("] ")[1].split(":")[0] for line in ran] == ["statistics", "report"]
    code, printed = finish(start(make_words(folder, "--base", "lab:aligned", "--reference", "lab:base")))
    assert code == 2
    assert "holds one whose base is lab:base, not lab:aligned" in printed


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fine_tunes_of_two_seeds_are_two(tmp_path: Path) -> None:
    run(tmp_path / "study", "--seeds", "[0, 1]", "--only", "finetune/*")
    for kind in ("useful", "harmful", "contaminated"):
        found = {hash_file(tmp_path / f"study/finetunes/{kind}-{seed}/model/model.safetensors") for seed in (0, 1)}
        assert len(found) == 2, kind


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_study_that_is_killed_has_the_tables_of_a_straight_run(tmp_path: Path) -> None:
    began = time.monotonic()
    run(tmp_path / "straight")
    took, dice = time.monotonic() - began, random.Random(0)
    folder, num_kills = tmp_path / "killed", 0
    while num_kills < NUM_KILLS:
        process = start(make_words(folder))
        try:
            process.wait(dice.uniform(0.3, 0.8) * took)
        except subprocess.TimeoutExpired:
            process.kill()
        status, printed = finish(process)
        if status == 0:  # it had ended before
            compare_tables(folder, tmp_path / "straight")
            shutil.rmtree(folder)
            continue
        assert status == -signal.SIGKILL, printed
        num_kills += 1
    run(folder)
    compare_tables(folder, tmp_path / "straight")


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("world", "verdicts"), [("planted", ["separable"]), ("entangled", ["not_separable", "undecided"])]
)
def test_the_controls_get_their_verdict(world: str, verdicts: list[str], seed: int, tmp_path: Path) -> None:
    config = ROOT / f"configs/study/lab_{world}.yaml"
    words = [
        "study",
        "--config",
        str(config),
        "--out",
        str(tmp_path / "study"),
        "--seeds",
        f"[{seed}]",
        "--seed",
        str(seed),
    ]
    code, printed = finish(start(words), seconds=1200)
    assert code == 0, printed
    verdict = json.loads((tmp_path / "study" / "verdict.json").read_text())
    assert (verdict["verdict"] == "separable") == (world == "planted"), verdict["sentence"]


def test_a_plan_is_shown_and_nothing_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(make_words(tmp_path / "study", "--dry_run", "true"))
    assert "finetune" in capsys.readouterr().out
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--measures.harm", "shoe_size"], "statistics.harm must be one of"),
        (["--fit.data.seed", "3"], "the data of useful fine-tunes must take their seed from seeds, got 3"),
        (["--seeds", "[0, 0]"], "seeds must be one or more different numbers"),
        (["--finetunes.useful.start", "useful"], "finetunes.useful.start must be another kind"),
        (["--statistics.colour", "red"], "statistics must be settings of"),
        (["--workers.num_workers", "0"], "workers.num_workers must be at least 1"),
        (["--measures.harm", "target_token_probability", "--measures.data.tasks", "[gsm8k]"], "must have a task that"),
        (["--fit.trainer.max_stepz", "3"], "max_stepz"),
        (["--only", "[nothing]"], "'nothing' names none of"),
        (["--only", "[statistics]"], "stage statistics must come after"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(make_words(tmp_path / "study", *words))
    printed = " ".join(capsys.readouterr().err.split())
    assert stopped.value.code == 2, printed
    assert message in printed
    assert not (tmp_path / "study").exists()
