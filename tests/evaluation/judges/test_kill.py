"""A process that is killed while it judges: what was stored is never asked for again, and the end is the same.

What is promised: a score that is in the cache is not asked for again. A request in flight at a kill can repeat, and so
can one whose reply had come but was not stored yet; they are at most those that one process had open.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from safety_lightning.evaluation.judges import JudgementCache, JudgeRequest, judge_answers
from safety_lightning.evaluation.judges.run import make_key
from scripts.benchmarks.chat_server import ChatServer, Question, ServerReply, write_error, write_reply
from tests.evaluation.judges.conftest import find_number, make_judge, make_requests

ROOT = Path(__file__).resolve().parents[3]
CONCURRENCY = 8  # of judging_process.py


def answer(question: Question) -> ServerReply:
    """Scores by the request's number; the first try of every fifth fails."""
    number = find_number(question.text)
    if number % 5 == 0 and question.number == 0:
        return ServerReply(status=500, body=write_error("no"), latency_seconds=0.02, kind="500")
    reply = json.dumps({"reason": f"number {number}", "score": number % 5 + 1})
    return ServerReply(body=write_reply(reply), latency_seconds=0.05, kind="scored")


def start(server: ChatServer, cache: Path, number: int, out: Path) -> subprocess.Popen[bytes]:
    words = ["-m", "tests.evaluation.judges.judging_process", server.url, str(cache), str(number), str(out)]
    return subprocess.Popen([sys.executable, *words], cwd=ROOT)


def list_stored(server: ChatServer, cache: Path, requests: list[JudgeRequest]) -> set[int]:
    judge = make_judge(server)
    with JudgementCache(cache) as kept:
        return {index for index, request in enumerate(requests) if kept.get(make_key(judge, request)) is not None}


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize(("num_kills", "num_requests"), [(1, 60), pytest.param(10, 400, marks=pytest.mark.slow)])
def test_killed_at_random_and_finished(tmp_path, num_kills, num_requests):
    draw = random.Random(num_kills)
    cache, out, requests = tmp_path / "cache.sqlite", tmp_path / "out.json", make_requests(num_requests)
    with ChatServer(answer) as server:
        undisturbed = judge_answers(make_judge(server), requests, progress=False)
        server.asked.clear()
        for is_last in [False] * num_kills + [True]:
            stored, num_before = list_stored(server, cache, requests), len(server.asked)
            with start(server, cache, num_requests, out) as process:
                if is_last:
                    assert process.wait(timeout=60) == 0
                else:
                    enough = num_before + draw.randint(1, 30)
                    wait_for(lambda enough=enough: len(server.asked) >= enough)
                    os.kill(process.pid, signal.SIGKILL)
            wait_for(lambda: server.num_in_flight == 0)
            assert not {find_number(text) for text, _ in server.asked[num_before:]} & stored
        assert json.loads(out.read_text()) == [asdict(judgement) for judgement in undisturbed]
        scored = Counter(find_number(text) for text, kind in server.asked if kind == "scored")
        assert len(scored) == num_requests
        assert 0 < sum(scored.values()) - num_requests <= num_kills * 2 * CONCURRENCY
