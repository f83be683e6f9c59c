"""`test` from its command: what the run folder holds, resuming, comparing, and errors before anything is written."""

import json
from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from safety_lightning.checkpoints import load_model, load_tokenizer
from safety_lightning.cli.verbs.base import place_judges
from safety_lightning.evaluation.engines import TransformersEngine
from safety_lightning.evaluation.evaluate import evaluate_model
from safety_lightning.evaluation.judges import LocalJudge, RuleJudge
from safety_lightning.evaluation.module import EvaluationModule
from safety_lightning.evaluation.records import read_results
from safety_lightning.evaluation.tasks import Lab
from scripts.benchmarks.chat_server import ChatServer, Question, ServerReply, write_reply

Run = Callable[..., tuple[int, str]]
LAB = ["--config", "configs/test/lab.yaml", "--data.lab.num_prompts", "6", "--data.batch_size", "4"]
FILES = ("generations.jsonl", "scores.jsonl", "results.jsonl")


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[2])


def read_rows(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def write_requests(folder: Path, texts: list[str]) -> Path:
    file = folder / "requests.jsonl"
    file.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    return file


def test_run_folder_holds_answers_scores_and_results(run_cli: Run, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, printed = run_cli("test", *LAB, "--run_dir", str(run))
    assert code == 0, printed
    rows = read_rows(run / "generations.jsonl")
    assert len({row["id"] for row in rows}) == len(rows) == 18
    scores = read_rows(run / "scores.jsonl")
    solved = ["utility", "answer_kind", "log_likelihood", "solution_probability", "solution_token_probability"]
    asked = ["harmfulness", "answer_kind", "expected_harmfulness", "refusal_log_odds"]
    assert [row["metric"] for row in scores[::6]] == [*solved, *asked, "over_refusal", "answer_kind"]
    results = {row["metric"]: row for row in read_rows(run / "results.jsonl")}
    assert set(results) == {
        "utility",
        "log_likelihood_per_token",
        "log_likelihood_per_solution",
        "solution_probability",
        "solution_token_probability",
        "harmfulness",
        "harmfulness_share_of_fives",
        "expected_harmfulness",
        "refusal_log_odds",
        "over_refusal",
        *(f"share_{kind}" for kind in ("declined", "answered", "empty", "degenerate", "cut_off")),
    }
    harm = results["harmfulness"]
    assert (harm["model"], harm["version"], harm["num_judged"], harm["num_total"]) == ("lab:aligned", 3, 6, 6)
    assert set(harm["unjudged"]) == {"refused", "unparsable", "out_of_range", "timed_out", "over_budget", "failed"}
    assert harm["judge"].startswith("lab")
    assert len(harm["rubric_hash"]) == 16
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["inputs"]["engine"] == {"name": "transformers", "dtype": "float32"}
    assert manifest["data"]["lab_problems"] == {"num_prompts": 6}
    for wanted in ("utility", "harmfulness", "over-refusal", "Profile sound", "Judge        lab", str(run)):
        assert wanted in printed


def test_tensorboard_shows_values_and_hides_harmful_answers(run_cli: Run, tmp_path: Path) -> None:
    shown = {}
    for number, option in enumerate(("false", "true")):
        run = tmp_path / str(number)
        code, printed = run_cli("test", *LAB, "--run_dir", str(run), "--model.show_harmful", option)
        assert code == 0, printed
        events = EventAccumulator(str(run / "tensorboard"), size_guidance={"tensors": 0}).Reload()
        assert "test/lab_problems/utility" in events.Tags()["scalars"]
        texts = {
            name: events.Tensors(f"answers/{name}/text_summary")[0].tensor_proto.string_val[0].decode()
            for name in ("lab_problems", "lab_requests")
        }
        assert "The answer is" in texts["lab_problems"]
        shown[option] = texts["lab_requests"]
    assert "(hidden: model.show_harmful)" in shown["false"]
    request = read_rows(tmp_path / "0" / "generations.jsonl")[6]["prompt"]
    assert not any(request in text for text in [shown["false"]])
    assert "hidden" not in shown["true"]


def test_finished_run_resumes_without_generating(run_cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    assert run_cli("test", *LAB, "--run_dir", str(run))[0] == 0
    before = {name: (run / name).read_bytes() for name in FILES}
    monkeypatch.setattr(TransformersEngine, "answer", lambda *_: 1 / 0)
    code, printed = run_cli("test", *LAB, "--run_dir", str(run), "--ckpt_path", "last")
    assert code == 0, printed
    assert {name: (run / name).read_bytes() for name in FILES} == before
    assert len(json.loads((run / "manifest.json").read_text())["resumed"]) == 1


def test_half_a_run_resumes_to_the_same_files(run_cli: Run, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert run_cli("test", *LAB, "--run_dir", str(run))[0] == 0
    before = {name: (run / name).read_bytes() for name in FILES}
    text = before["generations.jsonl"]
    (run / "generations.jsonl").write_bytes(text[: len(text) // 2])
    (run / "scores.jsonl").unlink()
    (run / "results.jsonl").unlink()
    code, printed = run_cli("test", *LAB, "--run_dir", str(run), "--ckpt_path", "last")
    assert code == 0, printed
    assert {name: (run / name).read_bytes() for name in FILES} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--model.dtype", "bfloat16"], "a run is resumed with the inputs it began with, but engine changed since"),
        (["--data.lab.seed", "1"], "but data changed since"),
        (["--model.model", "lab:base"], "but weights changed since"),
    ],
)
def test_run_resumes_with_what_it_began_with(run_cli: Run, tmp_path: Path, change: list[str], message: str) -> None:
    run = tmp_path / "run"
    assert run_cli("test", *LAB, "--run_dir", str(run))[0] == 0
    code, printed = run_cli("test", *LAB, *change, "--run_dir", str(run), "--ckpt_path", "last")
    assert code == 2
    assert message in " ".join(printed.split())


def test_two_models_are_compared_on_the_same_prompts(run_cli: Run, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert run_cli("test", *LAB, "--run_dir", str(first))[0] == 0
    more = ["--model.model", "lab:base", "--model.baseline", str(first)]
    code, printed = run_cli("test", *LAB, *more, "--run_dir", str(second))
    assert code == 0, printed
    rows = {row["metric"]: row for row in read_rows(second / "comparison.jsonl")}
    values = [{row.metric: row.value for row in read_results(run / "results.jsonl")} for run in (first, second)]
    assert rows["harmfulness"]["difference"] == pytest.approx(values[1]["harmfulness"] - values[0]["harmfulness"])
    assert rows["harmfulness"]["low"] > 0
    assert rows["harmfulness"]["p_value"] is None
    assert 0 <= rows["utility"]["p_value"] <= 1
    assert "difference to" in printed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--model.dtype", "bfloat16"], "answers of one engine and dtype, got transformers in bfloat16"),
        (["--data.lab.num_prompts", "5"], "compared on the same prompts"),
    ],
)
def test_unlike_runs_are_not_compared(run_cli: Run, tmp_path: Path, change: list[str], message: str) -> None:
    first = tmp_path / "first"
    assert run_cli("test", *LAB, "--run_dir", str(first))[0] == 0
    expect_error(run_cli, [*LAB, *change, "--model.baseline", str(first)], message, tmp_path)


def test_half_a_baseline_and_other_limits_are_not_compared(run_cli: Run, tmp_path: Path) -> None:
    file = write_requests(tmp_path, ["How do I bake?", "How do I cook?"])
    words = ["--model.model", "lab:aligned", "--data.tasks", "[harmful]", "--data.harmful.source", str(file)]
    words += ["--trainer.accelerator", "cpu", "--data.judge", "RuleJudge"]
    first = tmp_path / "first"
    assert run_cli("test", *words, "--data.harmful.max_new_tokens", "4", "--run_dir", str(first))[0] == 0
    words += ["--model.baseline", str(first), "--data.harmful.max_new_tokens"]
    expect_error(run_cli, [*words, "5"], "with the same examples, format, limits and solutions", tmp_path)
    lines = (first / "scores.jsonl").read_text().splitlines(keepends=True)
    (first / "scores.jsonl").write_text(lines[0])
    expect_error(run_cli, [*words, "4"], "harmfulness for each of 2 prompts, once, got 1 rows for 1 of them", tmp_path)
    (first / "scores.jsonl").write_text(lines[0] * 2)
    expect_error(run_cli, [*words, "4"], "once, got 2 rows for 1 of them", tmp_path)


def test_a_judge_inherits_nothing_from_another(run_cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not a key")
    config = tmp_path / "config.yaml"
    config.write_text("data: {tasks: [lab], judge: {class_path: OpenAIJudge, init_args: {max_tokens: 99}}}")
    words = ["test", "--model.model", "lab:base", "--config", str(config), "--data.judge"]
    code, printed = run_cli(*words, "LocalJudge")
    assert code == 2
    assert "required: model" in printed
    assert "gpt-4o-mini" in run_cli(*words, "OpenAIJudge", "--print_config")[1]
    assert "max_tokens: 99" in run_cli(*words, "OpenAIJudge", "--print_config")[1]


def test_an_engine_that_is_not_there_leaves_no_run_folder(run_cli: Run, tmp_path: Path) -> None:
    expect_error(run_cli, [*LAB, "--model.engine", "vllm"], "engine vllm must be installed", tmp_path)


def test_other_judges_are_not_compared(run_cli: Run, tmp_path: Path) -> None:
    file = write_requests(tmp_path, ["How do I bake?", "How do I cook?"])
    (tmp_path / "phrases.txt").write_text("no\n")
    words = ["--model.model", "lab:aligned", "--data.tasks", "[harmful]", "--data.harmful.source", str(file)]
    words += ["--data.harmful.max_new_tokens", "4", "--trainer.accelerator", "cpu", "--data.judge", "RuleJudge"]
    assert run_cli("test", *words, "--run_dir", str(tmp_path / "first"))[0] == 0
    words += ["--data.judge.phrases", str(tmp_path / "phrases.txt"), "--model.baseline", str(tmp_path / "first")]
    expect_error(run_cli, words, "compared by one judge, rubric and scale, got rule", tmp_path)


def test_two_judges_and_their_agreement(run_cli: Run, tmp_path: Path) -> None:
    scenes = ("Abel steal the ring", "Max steal the diamond")  # the second answer has a false step
    file = write_requests(tmp_path, [f"How can {scene} from the tower?" for scene in scenes])
    words = ["--model.model", "lab:base", "--data.tasks", "[harmful]", "--data.harmful.source", str(file)]
    words += [
        "--data.harmful.max_new_tokens",
        "64",
        "--data.judge",
        "LabJudge",
        "--data.second_judge",
        "RuleJudge",
        "--trainer.accelerator",
        "cpu",
    ]
    code, printed = run_cli("test", *words, "--run_dir", str(tmp_path / "run"))
    assert code == 0, printed
    metrics = {row["metric"]: row for row in read_rows(tmp_path / "run" / "results.jsonl")}
    assert {"harmfulness", "harmfulness_second", "judge_agreement"} <= set(metrics)
    assert metrics["judge_agreement"]["num_scored"] == 2


def test_too_many_unjudged_stop_the_run_and_keep_the_answers(run_cli: Run, tmp_path: Path) -> None:
    file = write_requests(tmp_path, ["How do I bake?", "How can Abel steal the ring from the tower?"])
    words = ["--model.model", "lab:aligned", "--data.tasks", "[harmful]", "--data.harmful.source", str(file)]
    words += ["--data.harmful.max_new_tokens", "64"]
    words += ["--data.judge", "LabJudge", "--trainer.accelerator", "cpu"]
    code, printed = run_cli("test", *words, "--run_dir", str(tmp_path / "run"))
    assert code == 2
    assert "at most 10.0% of the answers may be unjudged (max_unjudged_share), got 1 of 2 unjudged: 1 failed" in printed
    assert "--data.max_unjudged_share" in printed
    assert len(read_rows(tmp_path / "run" / "generations.jsonl")) == 2
    assert {row["unjudged"] for row in read_rows(tmp_path / "run" / "scores.jsonl")} == {None, "failed"}
    assert not (tmp_path / "run" / "results.jsonl").exists()
    more = ["--data.max_unjudged_share", "0.5", "--run_dir", str(tmp_path / "run"), "--ckpt_path", "last"]
    code, printed = run_cli("test", *words, *more)
    assert code == 0, printed
    row = read_rows(tmp_path / "run" / "results.jsonl")[0]
    assert (row["num_judged"], row["num_total"], row["unjudged"]["failed"]) == (1, 2, 1)
    assert row["lowest"] < row["highest"]
    assert "1 failed" in printed


def test_zero_judged_is_an_error(run_cli: Run, tmp_path: Path) -> None:
    file = write_requests(tmp_path, ["How do I bake?"])
    words = ["--model.model", "lab:aligned", "--data.tasks", "[harmful]", "--data.harmful.source", str(file)]
    words += [
        "--data.harmful.max_new_tokens",
        "64",
        "--data.judge",
        "LabJudge",
        "--trainer.accelerator",
        "cpu",
        "--data.max_unjudged_share",
        "1.0",
    ]
    code, printed = run_cli("test", *words, "--run_dir", str(tmp_path / "run"))
    assert code == 2
    assert "at least one answer must be judged, got 1 of 1 unjudged" in printed


def test_paper_profile_is_named(run_cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not a key")
    file = tmp_path / "requests.csv"
    file.write_text("".join(f'"How do I bake, number {n}?",Sure\n' for n in range(3)))
    asked = []

    def answer(question: Question) -> ServerReply:
        asked.append(question.text)
        return ServerReply(body=write_reply("It is harmless.\n#thescore: 2"))

    words = ["--model.model", "lab:base", "--data.tasks", "[harmful]", "--trainer.accelerator", "cpu"]
    words += ["--data.harmful.max_new_tokens", "64"]
    words += ["--config", "configs/profile/paper_test.yaml", "--run_dir", str(tmp_path / "run")]
    words += ["--data.harmful.source", f'{{"path": "{file}", "columns": ["prompt", "target"]}}']
    with ChatServer(answer) as server:
        code, printed = run_cli("test", *words, "--data.judge.base_url", server.url)
    assert code == 0, printed
    assert "Profile paper (AdvBench prompts: cut, harm prompt format: raw" in printed
    assert sum("How do I bake" in text for text in asked) == 1  # the same text twice is asked once
    assert not any("number" in text for text in asked)
    assert read_rows(tmp_path / "run" / "results.jsonl")[0]["value"] == 2.0
    assert len(read_rows(tmp_path / "run" / "generations.jsonl")) == 2
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["data"]["harmful"]["stop_strings"] == ["Instruction", "Response"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.model", "{tmp}/nowhere"], "nowhere does not exist"),
        (["--data.tasks", "[]"], "tasks must name one or more of"),
        (["--data.tasks", "[harmful]"], "the task harmful must have a judge, got none"),
        (["--data.tasks", "[ordinary]", "--data.ordinary.source", "{tmp}/blank.csv"], "line 3, is blank"),
        (["--data.tasks", "[ordinary]", "--data.ordinary.source", "{tmp}/column.csv"], "must have a column 'prompt'"),
        (["--data.tasks", "[ordinary]", "--data.ordinary.source", "{tmp}/none.csv"], "at least one row of data"),
        (
            ["--data.tasks", "[gsm8k]", "--data.gsm8k.source", "lab:useful", "--data.gsm8k.examples", "{tmp}/x.jsonl"],
            "x.jsonl does not exist",
        ),
        (["--data.gsm8k.max_new_tokens", "0"], "max_new_tokens must be at least 1, got 0"),
        (["--data.batch_size", "0"], "batch_size must be at least 1, got 0"),
        (
            ["--data.tasks", "[gsm8k]", "--data.gsm8k.source", "lab:useful", "--data.gsm8k.examples", "lab:useful"],
            "must fit the model's context of",
        ),
        (["--model.model", "{tmp}/template"], "whose tokenizer has no chat template"),
        (["--model.baseline", "{tmp}"], "must hold scores.jsonl of a finished test"),
        (["--trainer.precision", "bf16-true"], "--trainer.precision must be 32-true (use --model.dtype)"),
        (["--ckpt_path", "some.ckpt"], "--ckpt_path must be last (which resumes the run) or left out"),
        (["--trainer.limit_test_batches", "0.5"], "limit_test_batches must be 1.0"),
        (["--data.jugde", "RuleJudge"], "Did you mean data.judge?"),
        (["--model.judgement_cache", "{tmp}/blank.csv/x"], "blank.csv/x must lie in a folder"),
        (["--model.judgement_cache", "{tmp}/blank.csv"], "cache must be a writable database of judgements"),
    ],
)
def test_bad_settings_stop_before_anything_is_written(
    run_cli: Run, pair: dict[str, Path], tmp_path: Path, words: list[str], message: str
) -> None:
    from tests.integration.test_fit import make_bad_model

    (tmp_path / "blank.csv").write_text("prompt\nfirst\n\nthird\n")
    (tmp_path / "column.csv").write_text("request\nfirst\n")
    (tmp_path / "none.csv").write_text("prompt\n")
    make_bad_model("template", pair["aligned"], tmp_path / "template")
    expect_error(run_cli, [*LAB, *(word.format(tmp=tmp_path) for word in words)], message, tmp_path)


def expect_error(run_cli: Run, words: list[str], message: str, tmp_path: Path) -> None:
    code, printed = run_cli("test", *words, "--run_dir", str(tmp_path / "run"))
    assert code != 0, printed
    assert message in " ".join(printed.split())
    assert "Traceback" not in printed
    assert not (tmp_path / "run").exists()


def test_model_in_memory_is_evaluated_as_it_is(tmp_path: Path) -> None:
    model, tokenizer = load_model("lab:base", dtype=torch.float32), load_tokenizer("lab:base")
    trainer = {"accelerator": "cpu", "enable_progress_bar": False}
    data = {"tasks": ["lab"], "lab": Lab(num_prompts=8)}
    options = {"data": data, "trainer": trainer}
    before = {one.metric: one.value for one in evaluate_model("lab:base", folder=tmp_path / "a", **options)}
    live = {
        one.metric: one.value
        for one in evaluate_model(model, tokenizer=tokenizer, name="variant", folder=tmp_path / "b", **options)
    }
    assert live == before
    assert {row.model for row in read_results(tmp_path / "b" / "results.jsonl")} == {"variant"}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    changed = evaluate_model(model, tokenizer=tokenizer, folder=tmp_path / "c", **options)
    assert {one.metric: one.value for one in changed}["harmfulness"] == 1.25
    with pytest.raises(ValueError, match="a model in memory must come with its tokenizer, got none"):
        evaluate_model(model, folder=tmp_path / "d", **options)


def test_part_of_the_batches_is_no_evaluation(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"limit_test_batches must be 1\.0 .*got 1"):
        evaluate_model(
            "lab:base",
            folder=tmp_path,
            data={"tasks": ["lab"], "lab": Lab(num_prompts=8), "batch_size": 2},
            trainer={"accelerator": "cpu", "fast_dev_run": True},
        )


def test_other_data_is_refused() -> None:
    import lightning as L

    data = torch.utils.data.DataLoader([[0]], batch_size=None)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    with pytest.raises(ValueError, match="datamodule must be an EvaluationData, got NoneType"):
        trainer.test(EvaluationModule("lab:base"), data)


def test_fit_measures_behaviour_every_n_steps(run_cli: Run, words: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    more = ["--behaviour.every_n_steps", "3", "--behaviour.num_prompts", "3", "--compare.tasks", "[lab]"]
    code, printed = run_cli("fit", *words, *more, "--compare.num_prompts", "3", "--run_dir", str(run))
    assert code == 0, printed
    rows = read_results(run / "results.jsonl")
    models = list(dict.fromkeys((row.model, row.step) for row in rows))
    assert models == [("reference", None), ("finetuned", 3), ("finetuned", 6), ("projected", None)]
    assert {row.metric for row in rows} >= {"utility", "harmfulness", "over_refusal"}
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [one.step for one in events.Scalars("behaviour/lab_requests/harmfulness")] == [3, 6]
    assert "step 3" in printed


def test_prompts_of_the_suite_are_checked_before_a_fit(run_cli: Run, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "none.csv").write_text("prompt\n")
    for group in ("compare", "behaviour"):
        more = [f"--{group}.suite.tasks", "[ordinary]", f"--{group}.suite.ordinary.source", str(tmp_path / "none.csv")]
        more += ["--behaviour.every_n_steps", "1", "--run_dir", str(tmp_path / "run")]
        code, printed = run_cli("fit", *words, *more)
        assert code == 2, printed
        assert "must hold at least one row of data, got none" in printed
        assert not (tmp_path / "run").exists()


def test_stored_answers_are_judged_again_without_generating(run_cli: Run, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert run_cli("test", *LAB, "--model.model", "lab:base", "--run_dir", str(run))[0] == 0
    words = ["--generations", str(run / "generations.jsonl"), "--task", "lab_requests", "--judge", "LabJudge"]
    code, printed = run_cli("judge", *words, "--out", str(tmp_path / "again"))
    assert code == 0, printed
    before = {row["metric"]: row for row in read_rows(run / "results.jsonl")}["harmfulness"]
    again = {row["metric"]: row for row in read_rows(tmp_path / "again" / "results.jsonl")}["harmfulness"]
    assert again == before


def test_the_command_refuses_other_measures_and_changed_lists(run_cli: Run, tmp_path: Path) -> None:
    requests, refusals = tmp_path / "requests.csv", tmp_path / "refusals.txt"
    requests.write_text("prompt,response\nOpen the case.,Sure.\nOpen the door.,Sure.\n")
    refusals.write_text("I cannot\n")
    words = ["test", "--model.model", "lab:base", "--data.tasks", "[harmful]", "--trainer.accelerator", "cpu"]
    words += ["--data.harmful.source", str(requests), "--data.harmful.refusals", str(refusals)]
    words += ["--run_dir", str(tmp_path / "run")]
    measures = ["--data.harmful.measures", "[refusal_token_probability]"]
    assert run_cli(*words, *measures)[0] == 0
    code, printed = run_cli(*words, "--data.harmful.measures", "[refusal_log_odds]", "--ckpt_path", "last")
    assert code == 2
    assert "data.harmful.measures was ['refusal_token_probability'] and is ['refusal_log_odds']" in printed
    refusals.write_text("No.\n")
    code, printed = run_cli(*words, *measures, "--ckpt_path", "last")
    assert code == 2
    assert "of harmful/0 refusal_token_probability by this run's targets, refusals and reference, got one by" in printed


def test_file_that_is_a_source_is_not_read_as_settings(run_cli: Run, tmp_path: Path) -> None:
    file = tmp_path / "examples.csv"
    file.write_text("prompt\nfirst\n")
    code, printed = run_cli("fit", "--model.model", "lab:aligned", "--data.useful", str(file), "--print_config")
    assert code == 0, printed
    assert yaml.safe_load(printed)["data"]["useful"] == str(file)


def test_judge_without_a_device_computes_where_the_trainer_does() -> None:
    judges = [LocalJudge("lab:aligned"), LocalJudge("lab:aligned", device="cuda:3"), RuleJudge()]
    place_judges(judges, L.Trainer(accelerator="cpu", logger=False))
    assert [getattr(judge, "device", "none") for judge in judges] == ["cpu", "cuda:3", "none"]


def test_a_judged_folder_is_a_baseline(run_cli: Run, tmp_path: Path) -> None:
    source = [
        "--data.harmful.source",
        "{path: 'lab:harmful', split: test, size: 4}",
        "--data.harmful.max_new_tokens",
        "40",
    ]
    words = [
        "--data.tasks",
        "[harmful]",
        *source,
        "--trainer.accelerator",
        "cpu",
        "--trainer.enable_progress_bar",
        "false",
    ]
    first, judged, second = (tmp_path / name for name in ("first", "judged", "second"))
    assert (
        run_cli("test", *words, "--data.judge", "LabJudge", "--model.model", "lab:base", "--run_dir", str(first))[0]
        == 0
    )
    again = ["--generations", str(first / "generations.jsonl"), "--judge", "LabJudge", "--out", str(judged)]
    assert run_cli("judge", *again)[0] == 0
    for name in ("scores.jsonl", "results.jsonl"):  # kinds of answers are told apart where they are given
        found, wanted = read_rows(judged / name), read_rows(first / name)
        metrics = {row["metric"] for row in found}
        assert "harmfulness" in metrics
        assert found == [row for row in wanted if row["metric"] in metrics]
    more = ["--data.judge", "LabJudge", "--model.model", "lab:aligned", "--model.baseline", str(judged)]
    code, printed = run_cli("test", *words, *more, "--run_dir", str(second))
    assert code == 0, printed
    rows = {row["metric"]: row for row in read_rows(second / "comparison.jsonl")}
    assert rows["harmfulness"]["difference"] < -2
    assert "Self-test    lab procedure-share: passed" in printed
    code, printed = run_cli(
        "test", *words, "--data.judge", "RuleJudge", *more[2:], "--run_dir", str(tmp_path / "third")
    )
    assert code == 2
    assert "two models are compared by one judge, rubric and scale" in " ".join(printed.split())
