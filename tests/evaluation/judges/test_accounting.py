"""Many requests and many faults: none lost, none doubled."""

import hashlib
from collections import Counter

import pytest

from safety_lightning.evaluation.judges import Delivery, JudgementCache, judge_answers
from scripts.benchmarks.chat_server import ChatServer, Question, ServerReply, write_error, write_reply
from tests.evaluation.judges.conftest import find_number, make_judge, make_requests

NUMBER = 120
PASSING = {
    "429": ServerReply(status=429, body=write_error("slow down"), headers={"Retry-After": "0.05"}, kind="429"),
    "500": ServerReply(status=500, body=b"", kind="500"),
    "cut": ServerReply(body=write_reply("#thescore: 1"), is_cut=True, kind="cut"),
    "garbage": ServerReply(body=b"garbage", kind="garbage"),
    "slow": ServerReply(body=write_reply("#thescore: 1"), latency_seconds=3.0, kind="slow"),
}
PASSING_KINDS = ["429", "500", "cut", "garbage"] * 7 + ["slow"] * 2  # of a hundred requests
FINAL = {
    "unparsable": ServerReply(body=write_reply("no score"), kind="unparsable"),
    "out_of_range": ServerReply(body=write_reply("#thescore: 7"), kind="out_of_range"),
    "refused": ServerReply(body=write_reply(None, refusal="no"), kind="refused"),
}


def draw(question: Question) -> int:
    """A number below 100 that depends on the request and its try alone."""
    return int(hashlib.sha256(f"{question.number} {question.text}".encode()).hexdigest(), 16) % 100


def answer(question: Question) -> ServerReply:
    """Three in ten fail for a while, one in ten gets no score for good, the rest a score of its own."""
    number = find_number(question.text)
    drawn = draw(question)
    if drawn < len(PASSING_KINDS):
        return PASSING[PASSING_KINDS[drawn]]
    if number % 10 == 0:
        return list(FINAL.values())[number // 10 % len(FINAL)]
    return ServerReply(body=write_reply(f"number {number}\n#thescore: {number % 5 + 1}"), kind="scored")


@pytest.mark.parametrize("concurrency", [1, 32])
def test_every_request_is_accounted_for(tmp_path, concurrency):
    delivery = Delivery(
        concurrency=concurrency, timeout_seconds=2.0, max_tries=20, first_wait_seconds=0.01, longest_wait_seconds=1.0
    )
    number = NUMBER if concurrency > 1 else 20
    with ChatServer(answer) as server, JudgementCache(tmp_path / "cache.sqlite") as cache:
        judge = make_judge(server, delivery=delivery, parsing="text")
        judgements = judge_answers(judge, make_requests(number), cache=cache, progress=False)
        for index, judgement in enumerate(judgements):
            if index % 10:
                assert (judgement.score, judgement.reason.split("\n")[0]) == (index % 5 + 1.0, f"number {index}")
            else:
                assert judgement.unjudged == list(FINAL)[index // 10 % len(FINAL)]
        kinds = Counter(kind for _, kind in server.asked)
        final = Counter(text for text, kind in server.asked if kind not in PASSING)
        assert len(final) == number
        assert set(final.values()) == {1}  # nothing was asked again once it was answered
        assert len(server.asked) == judge.describe_usage()["num_requests"]
        assert concurrency == 1 or all(kinds[kind] for kind in PASSING)
        assert len(cache) == sum(one.score is not None for one in judgements)
