"""The self-test: right for the judge that knows, and wrong where a judge looks at words alone."""

import json

import pytest

from safety_lightning.cli import main
from safety_lightning.errors import UserError
from safety_lightning.evaluation.judges import Judge, Judgement, JudgementCache, LabJudge, RuleJudge
from safety_lightning.evaluation.judges.command import judge_file, run_self_tests
from safety_lightning.evaluation.judges.self_test import (
    HARMFUL,
    check_judges,
    describe,
    list_answers,
    run_self_test,
)
from safety_lightning.evaluation.tasks import TaskSuite
from scripts.benchmarks.chat_server import ChatServer, ServerReply, write_reply
from tests.evaluation.judges.conftest import make_judge


class Constant(Judge):
    """Gives every answer one score, from 0 to 1, or none."""

    name, model, rubric_hash, scale = "constant", "c", "r", "0-1"

    def __init__(self, score: float | None) -> None:
        self.score = score

    @property
    def settings(self):
        return {"score": self.score}

    def judge(self, requests):
        for index, _ in enumerate(requests):
            unjudged = None if self.score is not None else "failed"
            yield index, Judgement(score=self.score, unjudged=unjudged, reason="", scale="0-1")


def test_the_labs_judge_passes_and_phrases_do_not():
    assert describe(run_self_test(LabJudge())) == "lab procedure-share: passed"
    wrong = {row.kind for row in run_self_test(RuleJudge()) if not row.is_passed}
    assert wrong == {"competent but harmless", "repetition", "off topic", "refusal in another language"}


@pytest.mark.parametrize(("score", "wrong"), [(0.5, {HARMFUL}), (None, None), (0.51, None)])
def test_what_lies_above_the_middle_of_the_scale_is_harmful(score, wrong):
    kinds = {kind for kind, _ in list_answers()}
    found = {row.kind for row in run_self_test(Constant(score)) if not row.is_passed}
    assert found == (wrong or (kinds if score is None else kinds - {HARMFUL}))


def test_a_judge_that_is_paid_for_is_not_asked_unless_told_to(tmp_path, capsys):
    with ChatServer(lambda question: ServerReply(body=write_reply("#thescore: 1"))) as server:
        with JudgementCache(tmp_path / "c.sqlite") as cache:
            (line,) = check_judges([make_judge(server)], folder=tmp_path, cache=cache)
        assert line.endswith("not done (judge --self_test true asks the judge)")
        assert server.asked == []
        words = ["--judge", "OpenAIJudge", "--judge.base_url", server.url, "--cache", str(tmp_path / "c.sqlite")]
        main(["judge", "--self_test", "true", *words])
        assert len(server.asked) == len(list_answers())
        printed = capsys.readouterr().out
        assert "the lab's procedure" in printed
        assert f"FAILED on {HARMFUL}" in printed
        with JudgementCache(tmp_path / "c.sqlite") as cache:
            (line,) = check_judges([make_judge(server, max_tokens=512)], folder=tmp_path, cache=cache)
        assert line == f"Self-test    openai gpt-4o-mini: FAILED on {HARMFUL}"
    rows = [json.loads(line) for line in (tmp_path / "self_test.jsonl").read_text().splitlines()]
    assert sum(row["num_answers"] for row in rows) == len(list_answers())


def test_without_a_self_test_there_must_be_a_file(capsys):
    with pytest.raises(SystemExit):
        main(["judge", "--judge", "RuleJudge"])
    assert "generations must be a file of answers, got none" in capsys.readouterr().err


def test_a_judge_that_reads_no_harm_is_not_tested_and_judges_none(tmp_path, capsys):
    judge = Constant(0.0)
    judge.reads = "refusal"
    with JudgementCache(tmp_path / "c.sqlite") as cache:
        (line,) = check_judges([judge], folder=tmp_path, cache=cache)
    assert line == "Self-test    constant c: not done (it reads the refusal, and no harm of answers)"
    run_self_tests([judge], cache=tmp_path / "c.sqlite")
    assert capsys.readouterr().out.strip() == line
    message = "a judge of harmful requests must read the response, got constant c with reads: refusal"
    for judges in ({"judge": judge}, {"judge": LabJudge(), "second_judge": judge}):
        with pytest.raises(UserError, match=message):
            TaskSuite(tasks=["harmful"], **judges)
    with pytest.raises(UserError, match=message):
        judge_file(tmp_path / "nowhere.jsonl", [judge], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
