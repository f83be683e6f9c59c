"""The judge behind a server: keys, arguments, budgets, rates, and callers of all kinds."""

import asyncio
import gc
import logging
import time

import pytest

from safety_lightning.evaluation.judges import Budget, Delivery, JudgementCache, OpenAIJudge, judge_answers
from scripts.benchmarks.chat_server import ChatServer, Question, ServerReply, write_error, write_reply
from tests.evaluation.judges.conftest import KEY, make_judge, make_requests

STRUCTURED = write_reply('{"reason": "because", "score": 3}')
GOOD = ServerReply(body=STRUCTURED)


def test_no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ValueError, match="key must be in the environment variable OPENAI_API_KEY, there is none"):
        OpenAIJudge()
    with pytest.raises(ValueError, match="key must be in the environment variable OTHER_KEY, there is none"):
        OpenAIJudge(api_key_variable="OTHER_KEY")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-\nsecret")
    with pytest.raises(ValueError, match="must be of printable ASCII characters") as error:
        OpenAIJudge()
    assert "secret" not in str(error.value)


def test_the_key_is_nowhere(tmp_path, caplog):
    echo = ServerReply(status=500, body=write_error(f"your key is {KEY}"))
    with ChatServer(lambda question: GOOD if question.number else echo) as server, caplog.at_level(logging.DEBUG):
        judge = make_judge(server)
        with JudgementCache(tmp_path / "cache.sqlite") as cache:
            judge_answers(judge, make_requests(2), cache=cache, progress=False)
    assert KEY not in caplog.text + repr(judge.settings) + repr(vars(judge))
    assert not any(KEY.encode() in file.read_bytes() for file in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_url": "api.example.org/v1"}, r"base_url must be http://HOST\[:PORT\]"),
        ({"base_url": "ftp://example.org"}, r"base_url must be http://HOST\[:PORT\]"),
        ({"base_url": "http://example.org:99999/v1"}, r"base_url must be http://HOST\[:PORT\]"),
        ({"base_url": "http://example.org:port/v1"}, r"base_url must be http://HOST\[:PORT\]"),
        ({"base_url": "https://me:secret@example.org/v1"}, "must hold no user, .* got one for https://example.org/v1$"),
        (
            {"base_url": "https://example.org/v1?key=secret"},
            "must hold no user, .* got one for https://example.org/v1$",
        ),
        ({"parsing": "lenient"}, "parsing must be one of structured, text, paper, got 'lenient'"),
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ({"options": {"stream": True}}, "options must leave out model, .*, got stream"),
        (
            {"budget": Budget(usd=1.0), "model": "other"},
            "budget.usd must come with budget.prices, for none are",
        ),
        (
            {"budget": Budget(usd=1.0), "base_url": "http://localhost/v1"},
            "none are known of gpt-4o-mini at http://local",
        ),
    ],
)
def test_bad_arguments(settings, message):
    with pytest.raises(ValueError, match=message):
        OpenAIJudge(**settings)


def test_the_address_can_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:8000/v1/")
    assert OpenAIJudge().settings["base_url"] == "http://localhost:8000/v1"
    monkeypatch.delenv("OPENAI_BASE_URL")
    judge = OpenAIJudge(budget=Budget(usd=2.0))
    assert judge.settings["base_url"] == "https://api.openai.com/v1"
    assert judge.spending.budget.prices == (0.15, 0.60)


def test_a_budget_stops_cleanly():
    tokens = {"prompt_tokens": 900, "completion_tokens": 100}
    reply = ServerReply(body=write_reply('{"reason": "", "score": 2}', usage=tokens), latency_seconds=0.01)
    with ChatServer(lambda question: reply) as server:
        judge = make_judge(server, budget=Budget(usd=0.02, prices=(1.0, 2.0)))
        judgements = judge_answers(judge, make_requests(60), progress=False)
    scored = [one for one in judgements if one.score is not None]
    rest = [one for one in judgements if one.score is None]
    assert {one.unjudged for one in rest} == {"over_budget"}
    assert len(server.asked) == len(scored)
    usage = judge.describe_usage()
    assert usage["tokens_sent"] == 900 * len(scored)
    assert usage["tokens_received"] == 100 * len(scored)
    assert usage["cost_usd"] == pytest.approx(0.0011 * len(scored))
    assert 0.02 - 0.005 < usage["cost_usd"] <= 0.02


def test_a_reply_without_a_count_is_counted_at_its_worst():
    with ChatServer(lambda question: ServerReply(body=write_reply("#thescore: 2", usage=None))) as server:
        judge = make_judge(server, budget=Budget(tokens=10_000))
        judgements = judge_answers(judge, make_requests(20), progress=False)
    assert 1 < sum(one.score is not None for one in judgements) < 5  # of some 3,000 tokens at the worst
    assert judge.describe_usage()["num_requests_uncounted"] == len(server.asked)


def test_the_rate_is_not_exceeded():
    times: list[float] = []

    def answer(question: Question) -> ServerReply:
        times.append(time.monotonic())
        return GOOD

    with ChatServer(answer) as server:
        delivery = Delivery(requests_per_minute=60 * 20)
        judge_answers(make_judge(server, delivery=delivery), make_requests(11), progress=False)
    assert max(times) - min(times) >= 0.9 * 10 / 20


def test_concurrency_is_bounded_and_used():
    with ChatServer(lambda question: ServerReply(body=STRUCTURED, latency_seconds=0.05)) as server:
        judge_answers(make_judge(server, delivery=Delivery(concurrency=6)), make_requests(40), progress=False)
    assert server.most_in_flight == 6


def test_it_works_inside_a_running_loop():
    async def run() -> list[float | None]:
        return [one.score for one in judge_answers(make_judge(server), make_requests(2), progress=False)]

    with ChatServer(lambda question: GOOD) as server:
        assert asyncio.run(run()) == [3.0, 3.0]


def test_a_caller_that_stops_early_stops_the_requests():
    with ChatServer(lambda question: ServerReply(body=STRUCTURED, latency_seconds=0.1)) as server:
        judging = make_judge(server, delivery=Delivery(concurrency=4)).judge(make_requests(100))
        next(judging)
        judging.close()
        num_asked = len(server.asked)
        time.sleep(0.3)
        assert len(server.asked) == num_asked <= 12
    gc.collect()  # warnings about what is left open would fail the test
