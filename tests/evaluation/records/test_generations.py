"""The file of answers: torn lines, batches that are not whole, several processes, other engines."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from safety_lightning.errors import UserError
from safety_lightning.evaluation.cases import CasePlan, check_format, encode_text, make_plan
from safety_lightning.evaluation.grading import answer_cases
from safety_lightning.evaluation.measurement import LOG_LIKELIHOOD, MetricSpec
from safety_lightning.evaluation.records import Generation, GenerationLog, read_generations
from safety_lightning.evaluation.tasks import Lab, Prompt
from tests.evaluation.tasks.test_lab_tasks import TOKENIZER, FixedEngine

ENGINE = FixedEngine(lambda text: f"answer to {text}")


@pytest.fixture(scope="module")
def plan() -> CasePlan:
    return make_plan(Lab(num_prompts=7).make_tasks(), TOKENIZER, batch_size=3, max_context_tokens=None)


def answer_all(plan: CasePlan) -> list[list[Generation]]:
    return [answer_cases(ENGINE, [plan.cases[index] for index in batch]) for batch in plan.batches]


def write_all(plan: CasePlan, folder: Path) -> str:
    log = GenerationLog(folder, plan)
    for rows in answer_all(plan):
        log.append(rows)
    log.finish()
    return log.file.read_text()


def test_plan_holds_each_case_once_longest_first(plan: CasePlan) -> None:
    assert sorted(index for batch in plan.batches for index in batch) == list(range(21))
    for task in plan.tasks:
        own = [batch for batch in plan.batches if plan.cases[batch[0]].task is task]
        lengths = [len(plan.cases[index].token_ids) for batch in own for index in batch]
        assert lengths == sorted(lengths, reverse=True)
        assert [len(batch) for batch in own] == ([1, 3, 3] if task is plan.tasks[0] else [3, 3, 1])  # soon an answer
    assert len({case.prompt.id for case in plan.cases}) == 21


@pytest.mark.parametrize("num_characters", [1, 100, 1000])
def test_torn_file_goes_on_to_the_same_content(plan: CasePlan, tmp_path: Path, num_characters: int) -> None:
    (tmp_path / "whole").mkdir()
    whole = write_all(plan, tmp_path / "whole")
    log = GenerationLog(tmp_path, plan)
    log.file.write_text(whole[:-num_characters])
    log.recover(ENGINE)
    known = log.read()
    assert whole.startswith(log.file.read_text())
    assert len(known) < 21
    assert all(set(batch) <= set(known) or not set(batch) & set(known) for batch in plan.batches)
    for batch, rows in zip(plan.batches, answer_all(plan), strict=True):
        if not set(batch) <= set(known):
            log.append(rows)
    log.finish()
    assert log.file.read_text() == whole


def test_answers_of_several_processes_become_one_file(plan: CasePlan, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    whole = write_all(plan, tmp_path / "one")
    logs = [GenerationLog(tmp_path, plan, rank=rank, num_processes=2) for rank in range(2)]
    for number, rows in enumerate(answer_all(plan)):
        logs[number % 2].append(rows)
    assert not logs[0].file.exists()
    logs[0].finish()
    assert logs[0].file.read_text() == whole
    assert [file.name for file in tmp_path.glob("*.jsonl")] == ["generations.jsonl"]


def test_run_of_two_processes_goes_on_in_one(plan: CasePlan, tmp_path: Path) -> None:
    GenerationLog(tmp_path, plan, rank=1, num_processes=2).append(answer_all(plan)[1])
    log = GenerationLog(tmp_path, plan)
    log.recover(ENGINE)
    assert set(log.read()) == set(plan.batches[1])


@pytest.mark.parametrize("change", [{"engine": "vllm"}, {"dtype": "bfloat16"}])
def test_engines_are_never_mixed(plan: CasePlan, tmp_path: Path, change: dict) -> None:
    log = GenerationLog(tmp_path, plan)
    log.append([replace(one, **change) for one in answer_all(plan)[0]])
    before = log.file.read_text()
    with pytest.raises(ValueError, match="answers of one run must come from one engine and dtype, got fixed in none"):
        log.recover(ENGINE)
    assert log.file.read_text() == before


def test_answers_to_other_prompts_are_refused(plan: CasePlan, tmp_path: Path) -> None:
    log = GenerationLog(tmp_path, plan)
    log.append([replace(answer_all(plan)[0][0], prompt_hash="other")])
    with pytest.raises(ValueError, match="must hold answers to this run's prompts, got one to lab_problems/"):
        log.read()


def test_broken_line_in_the_middle_is_named(plan: CasePlan, tmp_path: Path) -> None:
    log = GenerationLog(tmp_path, plan)
    log.append(answer_all(plan)[0])
    log.file.write_text("{broken\n" + log.file.read_text())
    with pytest.raises(ValueError, match=r"generations\.jsonl, line 1, must be an answer"):
        read_generations(log.file)


def test_rows_say_how_they_came_about(plan: CasePlan, tmp_path: Path) -> None:
    row = json.loads(write_all(plan, tmp_path).splitlines()[0])
    wanted = {"id", "task", "prompt", "answer", "num_tokens", "finish_reason", "engine", "dtype", "batch_size"}
    assert wanted | {"prompt_hash"} <= set(row)
    assert (row["engine"], row["dtype"], row["batch_size"]) == ("fixed", "none", 1)


def make_task(text: str, *, max_new_tokens: int, solution: str = "") -> SimpleNamespace:
    prompt = Prompt(id="t/0", task="t", request=text, text=text, solution=solution)
    limits = SimpleNamespace(max_new_tokens=max_new_tokens)
    return SimpleNamespace(
        name="t",
        is_harmful=False,
        prompt_format="raw",
        limits=limits,
        metrics=(MetricSpec(name="utility", kind="share"), LOG_LIKELIHOOD),
        read_prompts=lambda: [prompt],
    )


def test_context_that_is_too_long_is_named() -> None:
    text = "Ada has 30 apples."
    length = len(TOKENIZER(text)["input_ids"])
    fits = make_task(text, max_new_tokens=5)
    make_plan([fits], TOKENIZER, batch_size=1, max_context_tokens=length + 5)
    with pytest.raises(ValueError, match=rf"model's context of {length + 4} tokens, prompt t/0 has {length}"):
        make_plan([fits], TOKENIZER, batch_size=1, max_context_tokens=length + 4)
    longer = make_task(text, max_new_tokens=1, solution="The answer is 30.")
    with pytest.raises(ValueError, match="its answer may have 6"):
        make_plan([longer], TOKENIZER, batch_size=1, max_context_tokens=length + 3)


def test_raw_text_is_as_the_tokenizer_writes_it() -> None:
    assert encode_text(TOKENIZER, "Sure.", prompt_format="raw") == TOKENIZER("Sure.")["input_ids"]
    with pytest.raises(ValueError, match="prompt format must be chat, plain or raw, got 'alpaca'"):
        check_format(TOKENIZER, "alpaca")


def test_answers_under_other_limits_are_refused(plan: CasePlan, tmp_path: Path) -> None:
    log = GenerationLog(tmp_path, plan)
    log.append([replace(answer_all(plan)[0][0], asked_hash="other")])
    with pytest.raises(UserError, match="must hold answers under this run's format, limits and solutions, got one to"):
        log.read()


def test_answers_of_an_unfinished_batch_are_kept_and_asked_for_no_more(plan: CasePlan, tmp_path: Path) -> None:
    batch = plan.batches[1]
    cases = [plan.cases[index] for index in batch]
    rows = answer_cases(ENGINE, cases)
    GenerationLog(tmp_path, plan).keep(rows[1])
    with (tmp_path / "unfinished.jsonl").open("a") as stream:
        stream.write('{"id": "torn')
    log = GenerationLog(tmp_path, plan)
    log.recover(ENGINE)
    known = log.read_unfinished()
    assert known == {batch[1]: rows[1]}
    asked = []
    engine = FixedEngine(lambda text: asked.append(text) or f"answer to {text}")
    again = answer_cases(engine, cases, known={1: known[batch[1]]})
    assert again == rows  # the batch's size too
    assert len(asked) == len(batch) - 1
    for found in answer_all(plan):
        log.append(found)
    log.finish()
    assert not (tmp_path / "unfinished.jsonl").exists()
