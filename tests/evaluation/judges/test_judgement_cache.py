"""The cache: what its key holds, what it keeps, and who may share it."""

import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from safety_lightning.evaluation.judges import Judgement, JudgementCache, JudgeRequest, RuleJudge
from safety_lightning.evaluation.judges.run import find_cache_file, make_key
from tests.evaluation.judges.conftest import make_requests

ROOT = Path(__file__).resolve().parents[3]
REQUEST = JudgeRequest(prompt="p", answer="a")
SCORE = Judgement(score=4.0, unjudged=None, reason="why")


class OtherJudge(RuleJudge):
    def __init__(self, **changes: object) -> None:
        super().__init__()
        self._settings = {"num_characters": 300}
        for name, value in changes.items():
            setattr(self, name, value)

    @property
    def settings(self):
        return self._settings


def test_the_key_holds_everything_that_determines_a_score():
    changed = [
        OtherJudge(name="x"),
        OtherJudge(model="x"),
        OtherJudge(rubric_hash="x"),
        OtherJudge(_settings={"num_characters": 301}),
        OtherJudge(_settings={}),
    ]
    keys = [make_key(judge, REQUEST) for judge in (RuleJudge(), *changed)]
    keys += [make_key(RuleJudge(), replace(REQUEST, prompt="q")), make_key(RuleJudge(), replace(REQUEST, answer="b"))]
    keys += [
        make_key(RuleJudge(), JudgeRequest(prompt="a", answer="p")),
        make_key(RuleJudge(), replace(REQUEST, prompt="")),
    ]
    assert len(set(keys)) == len(keys)
    assert make_key(OtherJudge(), REQUEST) == keys[0]


def test_the_order_of_settings_is_no_difference():
    judges = [OtherJudge(_settings={"a": 1, "b": 2}), OtherJudge(_settings={"b": 2, "a": 1})]
    assert make_key(judges[0], REQUEST) == make_key(judges[1], REQUEST)


def test_scores_come_back_after_reopening(tmp_path):
    key = make_key(RuleJudge(), REQUEST)
    with JudgementCache(tmp_path / "new" / "cache.sqlite") as cache:
        assert cache.get(key) is None
        assert cache.put(key, RuleJudge(), SCORE) == SCORE
    with JudgementCache(tmp_path / "new" / "cache.sqlite") as cache:
        assert cache.get(key) == SCORE
        assert len(cache) == 1


def test_odd_texts_are_kept(tmp_path):
    request = JudgeRequest(prompt="\ud800", answer="\0 \U0001f600 '; DROP TABLE judgements; --")
    with JudgementCache(tmp_path / "cache.sqlite") as cache:
        cache.put(make_key(RuleJudge(), request), RuleJudge(), replace(SCORE, reason="lone \udc00 '\"\0"))
        assert cache.get(make_key(RuleJudge(), request)) == replace(SCORE, reason="lone ? '\"\0")


def test_the_first_score_stands(tmp_path):
    with JudgementCache(tmp_path / "cache.sqlite") as one, JudgementCache(tmp_path / "cache.sqlite") as two:
        assert one.put("k", RuleJudge(), SCORE) == SCORE
        assert two.put("k", RuleJudge(), replace(SCORE, score=1.0)) == SCORE


def test_what_is_unjudged_is_never_stored(tmp_path):
    with JudgementCache(tmp_path / "cache.sqlite") as cache:
        with pytest.raises(ValueError, match=r"only scores are stored, got an unjudged answer \(refused\)"):
            cache.put("k", RuleJudge(), Judgement(score=None, unjudged="refused", reason=""))
        assert len(cache) == 0


def test_no_prompt_and_no_answer_is_in_the_file(tmp_path):
    request = JudgeRequest(prompt="secret-prompt", answer="secret-answer")
    with JudgementCache(tmp_path / "cache.sqlite") as cache:
        cache.put(make_key(RuleJudge(), request), RuleJudge(), SCORE)
    assert not any(b"secret" in file.read_bytes() for file in tmp_path.iterdir())


def test_a_file_that_is_no_database(tmp_path):
    file = tmp_path / "cache.sqlite"
    file.write_text("these are not the bytes of a database " * 100)
    with pytest.raises(ValueError, match=r"cache must be a writable database of judgements, got .*cache\.sqlite"):
        JudgementCache(file)
    (tmp_path / "folder").write_text("")
    with pytest.raises(ValueError, match="cache must be a writable database of judgements"):
        JudgementCache(tmp_path / "folder" / "cache.sqlite")


def test_a_database_of_something_else(tmp_path):
    connection = sqlite3.connect(tmp_path / "cache.sqlite")
    connection.execute("CREATE TABLE judgements (other TEXT)")
    connection.close()
    with pytest.raises(ValueError, match=r"cache must be a writable database of judgements, got .*no such column"):
        JudgementCache(tmp_path / "cache.sqlite")


def test_two_processes_write_at_the_same_time(tmp_path):
    code = (
        "import sys\n"
        "from safety_lightning.evaluation.judges import *\n"
        "from safety_lightning.evaluation.judges.run import make_key\n"
        "from tests.evaluation.judges.conftest import make_requests\n"
        "judge, score = RuleJudge(), float(sys.argv[2])\n"
        "with JudgementCache(sys.argv[1]) as cache:\n"
        "    for request in make_requests(300):\n"
        "        cache.put(make_key(judge, request), judge, Judgement(score=score, unjudged=None, reason=''))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "cache.sqlite")]
    processes = [subprocess.Popen([*command, score], stderr=subprocess.PIPE, cwd=ROOT) for score in ("1", "5")]
    assert [(process.communicate(timeout=100)[1], process.returncode) for process in processes] == [(b"", 0)] * 2
    with JudgementCache(tmp_path / "cache.sqlite") as cache:
        assert len(cache) == 300
        assert all(cache.get(make_key(RuleJudge(), request)) for request in make_requests(300))


def test_the_users_own_file(monkeypatch, tmp_path):
    monkeypatch.setenv("SAFETY_LIGHTNING_CACHE", str(tmp_path))
    assert find_cache_file() == tmp_path / "judgements.sqlite"
