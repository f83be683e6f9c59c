"""The plan of a study: from headers and options, with what is not known left empty."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import pytest

from safety_lightning.checkpoints import CheckpointReader
from safety_lightning.cli import main
from safety_lightning.data import InstructionSource, resolve_source
from safety_lightning.errors import UserError
from safety_lightning.evaluation.tasks import TaskSuite
from safety_lightning.study.executors import RayPool, check_executor
from safety_lightning.study.measuring import read_suite
from safety_lightning.study.plan import StudyGraph
from safety_lightning.study.planning import Estimator, sum_disk
from safety_lightning.study.planning.estimates import Estimate
from safety_lightning.study.planning.judging import list_paid_judges
from safety_lightning.study.planning.measures import LENGTHS, SHOTS, SOURCES, plan_measurements
from safety_lightning.study.planning.table import format_estimates
from safety_lightning.study.planning.texts import measure_source
from safety_lightning.study.planning.training import count_training_tokens
from safety_lightning.study.settings import KINDS, ExecutorSettings, MeasureSettings, StudyRun
from tests.kills import ROOT
from tests.sweep.test_cost import list_llama, write_hollow

JUDGE = {"class_path": "OpenAIJudge", "init_args": {"model": "gpt-4o-mini"}}
HARMFUL = {"source": {"preset": "advbench"}, "measures": ["harmfulness", "target_token_probability"]}


def test_the_plan_of_seven_billion_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    layouts = list(list_llama(3584, 18944, 28, 152064, 512))
    base, reference = (str(write_hollow(tmp_path / name, layouts, monkeypatch)) for name in ("base", "reference"))
    monkeypatch.setattr(CheckpointReader, "read_part", None)  # a weight that is read fails
    monkeypatch.setattr(CheckpointReader, "hash_files", None)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    words = ["study", "--config", str(ROOT / "configs/study/qwen2.5-7b.yaml"), "--out", str(tmp_path / "out")]
    rates = ["--workers.teraflops", "400", "--workers.gigabytes_per_second", "2000"]
    main([*words, "--base", base, "--reference", reference, "--dry_run", "true", *rates])
    printed = capsys.readouterr().out
    assert "400 Tflop a second of matrix products, 2000 GB a second (as named)" in printed
    assert "its key in OPENAI_API_KEY is missing" in printed
    lines = {line.split()[0]: line.split() for line in printed.splitlines() if line.strip()}
    weights = sum(layout.num_bytes for layout in layouts) // 2
    tokens = 3 * 512 * (20000 + 4000 + 25000)
    hours, minutes = divmod(round(8 * weights * tokens / (0.4 * 400e12) / 60), 60)
    assert lines["finetune"][1:7] == ["9", "0", f"{hours}", "h", f"{minutes}", "min"]
    num_answered = 2 + 3 * 10  # plain models and subspaces; scales and further draws are blunt, and given no answers
    assert lines["measure"][-3] == f"{9 * 520 * num_answered:,}"
    assert max(len(line) for line in printed.partition("Left ")[0].splitlines()) <= 80
    assert not (tmp_path / "out").exists()


def test_the_plan_knows_the_tasks_defaults() -> None:
    hints = get_type_hints(TaskSuite)
    for task, source in SOURCES.items():
        own = hints[task]()
        assert resolve_source(InstructionSource(**source) if isinstance(source, dict) else source) == resolve_source(
            own.source
        )
        assert LENGTHS[task] in (0, getattr(own, "max_new_tokens", 0)), task
        assert SHOTS.get(task, 0) == getattr(own, "num_shots", 0), task
    assert [task for task, length in LENGTHS.items() if length == 0] == ["mmlu"]  # letters are read off probabilities


def test_letters_are_read_and_never_written() -> None:
    settings = MeasureSettings(data={"tasks": ["mmlu"]}, num_prompts=10)
    plan = plan_measurements(settings, None)
    assert plan[False].written_tokens == 0
    assert plan[False].read_tokens > 0
    assert plan[True].read_tokens == 0  # no measure of the verdict can be chosen there


def test_a_machine_without_the_studys_device_plans_for_another(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["study", "--config", str(ROOT / "configs/study/lab.yaml"), "--out", str(tmp_path / "out"), "--dry_run"]
    rates = ["--workers.teraflops", "400", "--workers.gigabytes_per_second", "2000"]
    main([*words, "true", "--device", "cuda", *rates])
    assert "as named" in capsys.readouterr().out


def test_lengths_of_local_data_are_measured_and_those_of_the_hub_are_not() -> None:
    assert measure_source("advbench", None).num_rows == 520
    assert measure_source({"preset": "metamathqa"}, None).num_rows is None
    assert measure_source({"preset": "metamathqa", "size": 7}, None).num_rows == 7
    lab = measure_source({"preset": "lab:useful", "size": 4850}, None)
    assert lab.num_rows == 4850
    assert measure_source({"path": "nowhere.jsonl"}, None).num_rows is None


@pytest.mark.parametrize(
    ("trainer", "data", "rows"),
    [
        ({"max_steps": 10, "accumulate_grad_batches": 4}, {"batch_size": 3}, 120),
        ({"max_epochs": 2}, {"useful": {"preset": "metamathqa", "size": 50}}, 100),
        ({"max_epochs": 1, "limit_train_batches": 0.1}, {"useful": {"preset": "metamathqa", "size": 50}}, 5),
        ({"max_epochs": 1, "limit_train_batches": 5}, {"useful": {"preset": "metamathqa", "size": 50}}, 5),
        ({}, {"useful": {"preset": "metamathqa"}}, None),
        ({"max_epochs": -1}, {"useful": {"preset": "metamathqa", "size": 50}}, None),
        (
            {"max_epochs": 2, "max_steps": None, "limit_train_batches": None},
            {"useful": {"preset": "metamathqa", "size": 50}},
            100,
        ),
        ({"max_epochs": None}, {"useful": {"preset": "metamathqa", "size": 50}}, 50000),
    ],
)
def test_tokens_of_a_fit(trainer: dict[str, Any], data: dict[str, Any], rows: int | None) -> None:
    found = count_training_tokens({"trainer": trainer, "data": {"max_length_tokens": 64} | data}, None)
    assert found == (None if rows is None else 64 * rows)


def test_paid_judges_and_their_price(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    [judge] = list_paid_judges({"tasks": ["harmful"], "judge": JUDGE, "second_judge": "RuleJudge"})
    assert (judge.prices, judge.has_key) == ((0.15, 0.60), False)
    near, far = judge.price(100), judge.price(1_000_100)
    assert near is not None
    assert far is not None
    assert far - near == pytest.approx(0.15)
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    elsewhere = JUDGE | {"init_args": {"model": "gpt-4o-mini", "base_url": "http://localhost:1/v1"}}
    [judge] = list_paid_judges({"tasks": ["harmful"], "judge": elsewhere})
    assert judge.has_key
    assert judge.price(100) is None
    assert list_paid_judges({"tasks": ["gsm8k"], "judge": JUDGE}) == []
    assert list_paid_judges({"tasks": ["harmful"], "judge": JUDGE, "harmful": {"measures": ["refusal_log_odds"]}}) == []


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        ("OpenAIJudge", "the judge's key must be in"),
        ("HarmBenchJudge", "HarmBenchJudge must have its authors' wording"),
    ],
)
def test_a_judge_that_cannot_be_made_is_one_line(judge: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match=f"^{message}") as caught:
        read_suite({"tasks": ["lab"], "judge": {"class_path": f"safety_lightning.evaluation.judges.{judge}"}})
    assert "\n" not in str(caught.value)


def test_short_measurements_ask_no_judge_unless_the_verdict_needs_one() -> None:
    data = {"tasks": ["gsm8k", "harmful"], "harmful": HARMFUL, "judge": JUDGE}
    settings = MeasureSettings(utility="solution_token_probability", harm="target_token_probability", data=data)
    plans = plan_measurements(settings, None)
    assert (plans[False].num_judged, plans[True].num_judged) == (520, 0)
    assert plans[True].written_tokens == 0.0
    assert plan_measurements(MeasureSettings(harm="harmfulness", data=data), None)[True].num_judged == 520
    unknown = data | {"harmful": HARMFUL | {"source": {"path": "somebody/something"}}}
    assert plan_measurements(MeasureSettings(data=unknown), None)[False].num_judged is None


def test_what_is_not_known_is_empty() -> None:
    known, unknown = Estimate(seconds=60.0, num_judged=3, usd=0.5), Estimate(num_judged=None, usd=None)
    assert format_estimates([known], num_workers=1) == ["1 min", "", "", "3", "0.50 USD"]
    assert format_estimates([unknown], num_workers=1) == ["", "", "", "", ""]
    assert format_estimates([known, unknown], num_workers=1)[3:] == ["", ""]


def test_the_disk_holds_what_stays_and_what_runs_at_once() -> None:
    estimates = [Estimate(disk_bytes=1, scratch_bytes=size) for size in (10, 30, 20)]
    assert [sum_disk(estimates, num_workers=number) for number in (1, 2, 3)] == [33, 53, 63]


def test_time_is_work_over_rate(tmp_path: Path) -> None:
    def plan(rate: float) -> list[float | None]:
        workers = ExecutorSettings(teraflops=rate, gigabytes_per_second=1e9)
        measures = MeasureSettings(data={"tasks": ["lab"], "lab": {"measures": ["solution_probability"]}})
        data = {"data": {"kind": "useful", "useful": {"preset": "lab:useful", "size": 64}}, "trainer": {"max_steps": 5}}
        run = StudyRun(
            base="lab:base",
            reference="lab:aligned",
            finetunes=dict.fromkeys(KINDS, data),
            measures=measures,
            workers=workers,
            out=tmp_path / "out",
            device="cpu",
        )
        estimator = Estimator(run)
        return [estimator.estimate(stage).seconds for stage in StudyGraph(run, is_light=True).list_stages()]

    slow, fast = plan(1.0), plan(10.0)
    assert [one is None for one in slow] == [one is None for one in fast]
    assert [one for one in slow if one] == pytest.approx([10 * one for one in fast if one], rel=1e-3)
    assert sum(one is None for one in slow) == 2  # statistics and report


CONFIGS = ROOT / "configs/study"
PLANTED = ["--config", str(CONFIGS / "lab_planted.yaml")]
LAB = ["--config", str(CONFIGS / "lab.yaml")]
JUDGED = [
    *("--measures.data.tasks", "[lab, harmful]", "--measures.data.judge.class_path", "OpenAIJudge"),
    *("--measures.data.harmful.source", "advbench"),
]
PROJECTED = ["--fit.projection.subspace.base", "lab:base", "--fit.projection.subspace.source", "random"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*LAB, *JUDGED], "must have its key in the environment variable OPENAI_API_KEY before anything is trained"),
        ([*PLANTED, "--seed", "13999"], "the planting seed of lab:planted must differ from the seeds of the study's"),
        ([*LAB, *PROJECTED, "--fit.projection.subspace.seed", "2"], "projection.subspace.seed of"),
        ([*LAB, "--executor", "ray", "--workers.address", "127.0.0.1:1"], "nobody answers there"),
        ([*LAB, "--workers.teraflops", "0"], "workers.teraflops must be above 0"),
    ],
)
def test_what_would_fail_hours_later_is_said_before(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr("safety_lightning.study.executors.find_spec", lambda name: name)
    with pytest.raises(SystemExit) as stopped:
        main(["study", *words, "--out", str(tmp_path / "study")])
    assert stopped.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "study").exists()


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safety_lightning.study.executors.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"must have the package ray, it is not installed: pip install"):
        check_executor("ray", ExecutorSettings())


def test_a_disk_that_is_too_small_for_the_plan_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage(tmp_path)._replace(free=10_000_000)
    monkeypatch.setattr("safety_lightning.runs.shutil.disk_usage", lambda path: full)
    with pytest.raises(SystemExit):
        main(["study", *LAB, "--out", str(tmp_path / "study")])
    printed = capsys.readouterr().err  # six models of 1.3 MB, a checkpoint of three times that, 0.5 MB of activations
    assert "needs about 12.5 MB, the disk has 10.0 MB free" in printed
    assert not (tmp_path / "study").exists()


def test_seeds_and_draws_that_are_too_few_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["study", *LAB, "--out", str(tmp_path / "study"), "--dry_run", "true"]
    main([*words, "--variants.num_draws", "2"])
    printed = capsys.readouterr().out
    assert "1 of 3 that an interval over fine-tunes needs" in printed
    assert "2 of 3 that the blunt frontier needs" in printed
    main([*words, "--seeds", "[0, 1, 2]"])
    assert "of 3 that" not in capsys.readouterr().out


def test_a_cluster_that_goes_ends_the_study_in_one_line() -> None:
    class GoneError(Exception):
        pass

    def wait(pending: list[object], num_returns: int) -> None:
        raise GoneError("no GCS")

    pool = RayPool.__new__(RayPool)
    ray: Any = SimpleNamespace(wait=wait, exceptions=SimpleNamespace(RayError=GoneError, RayTaskError=GoneError))
    pool._ray = ray
    pool._pending = {object(): "finetune/useful-0"}
    with pytest.raises(UserError, match=r"it is gone while finetune/useful-0 ran .*the same command resumes"):
        pool.collect()


@pytest.mark.parametrize(("judge", "reply_tokens"), [("OpenAIJudge", 512), ("StrongREJECTRubric", 1024)])
def test_a_reply_is_as_long_as_its_judge_lets_it_be(judge: str, reply_tokens: int) -> None:
    [found] = list_paid_judges({"tasks": ["harmful"], "judge": judge})
    assert found.reply_tokens == reply_tokens
    [given] = list_paid_judges({"tasks": ["harmful"], "judge": {"class_path": judge, "init_args": {"max_tokens": 7}}})
    assert given.reply_tokens == 7
