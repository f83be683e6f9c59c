"""The judge behind a server: a real one on loopback, which misbehaves as it is told."""

import email.utils
import logging
import time
from collections import Counter
from collections.abc import Callable

import pytest

from safety_lightning.evaluation.judges import Delivery, JudgeRequest, OpenAIJudge, judge_answers
from scripts.benchmarks.chat_server import ChatServer, Question, ServerReply, write_error, write_reply
from tests.evaluation.judges.conftest import KEY, QUICK, find_number, make_judge, make_requests

STRUCTURED = write_reply('{"reason": "because", "score": 3}')
GOOD = ServerReply(body=STRUCTURED)
REQUEST = make_requests(1)


def script(*replies: ServerReply, then: ServerReply = GOOD):
    """Gives these replies to each request in turn, and then always the same."""
    return lambda question: replies[question.number] if question.number < len(replies) else then


def fail(status: int, message: str = "no", code: str | None = None, **headers: str) -> ServerReply:
    return ServerReply(
        status=status,
        body=write_error(message, code),
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


def test_a_structured_reply_and_what_was_sent():
    questions: list[Question] = []

    def answer(question: Question) -> ServerReply:
        questions.append(question)
        return GOOD

    with ChatServer(answer) as server:
        judge = make_judge(server, model="some-model", options={"seed": 7, "max_tokens": None})
        (judgement,) = judge_answers(judge, REQUEST, progress=False)
    assert (judgement.score, judgement.reason) == (3.0, "because")
    body = questions[0].body
    assert (body["model"], body["temperature"], body["seed"]) == ("some-model", 0.0, 7)
    assert body["response_format"]["json_schema"]["strict"] is True
    assert "max_tokens" not in body
    assert "request <0>" in questions[0].text
    assert "answer 0" in questions[0].text
    assert questions[0].headers["authorization"] == f"Bearer {KEY}"


SECONDS = fail(429, Retry_After="0.3")
FAULTS = {
    "429 with seconds": SECONDS,
    "500": fail(500),
    "503 that is no JSON": ServerReply(status=503, body=b"<html>down</html>", headers={"Content-Type": "text/html"}),
    "408": fail(408),
    "cut body": ServerReply(body=STRUCTURED, is_cut=True),
    "garbage": ServerReply(body=b"\xff\xfe\x00garbage"),
    "page": ServerReply(body=b"<html></html>", headers={"Content-Type": "text/html"}),
    "empty": ServerReply(body=b""),
    "no choices": ServerReply(body=b'{"choices": []}'),
    "error in a good reply": ServerReply(body=write_error("overloaded")),
    "null": ServerReply(body=b"null"),
    "odd message": ServerReply(body=b'{"choices": [{"message": "text"}]}'),
}


def judge_faults(answer: Callable[[ServerReply, Question], ServerReply]) -> tuple[dict, dict, OpenAIJudge]:
    """Judges a request a fault, beside one that has none; returns judgements and numbers of tries by fault."""
    names = [*FAULTS, "none"]

    def answer_one(question: Question) -> ServerReply:
        fault = FAULTS.get(names[find_number(question.text)])
        return GOOD if fault is None else answer(fault, question)

    with ChatServer(answer_one) as server:
        judge = make_judge(server)
        judgements = judge_answers(judge, make_requests(len(names)), progress=False)
    num_tries = Counter(names[find_number(text)] for text, _ in server.asked)
    return dict(zip(names, judgements, strict=True)), num_tries, judge


def test_faults_that_pass_are_tried_again():
    judgements, num_tries, judge = judge_faults(lambda fault, question: fault if question.number < 2 else GOOD)
    assert {name: one.score for name, one in judgements.items()} == dict.fromkeys([*FAULTS, "none"], 3.0)
    assert num_tries == dict.fromkeys(FAULTS, 3) | {"none": 1}
    assert judge.describe_usage()["num_requests"] == sum(num_tries.values())


def test_faults_that_stay_are_failures_after_the_last_try():
    judgements, num_tries, _ = judge_faults(lambda fault, question: fault)
    assert {name: one.unjudged for name, one in judgements.items()} == dict.fromkeys(FAULTS, "failed") | {"none": None}
    assert num_tries == dict.fromkeys(FAULTS, QUICK.max_tries) | {"none": 1}


def test_a_slow_reply_is_tried_again_and_then_timed_out():
    slow = ServerReply(body=STRUCTURED, latency_seconds=1.0)
    with ChatServer(script(slow)) as server:
        delivery = Delivery(timeout_seconds=0.3, max_tries=2, first_wait_seconds=0.01)
        assert judge_answers(make_judge(server, delivery=delivery), REQUEST, progress=False)[0].score == 3.0
    with ChatServer(lambda question: slow if "<1>" in question.text else GOOD) as server:
        good, late = judge_answers(make_judge(server, delivery=delivery), make_requests(2), progress=False)
    assert (good.unjudged, late.unjudged) == (None, "timed_out")
    assert late.reason.startswith("no whole reply within 0.3 s from http://127.0.0.1:")
    assert len(server.asked) == 3


def test_a_server_that_never_replies_stops_the_run():
    slow = ServerReply(body=STRUCTURED, latency_seconds=1.0)
    with ChatServer(script(then=slow)) as server:
        delivery = Delivery(concurrency=2, timeout_seconds=0.2, max_tries=2, first_wait_seconds=0.01)
        with pytest.raises(ValueError, match=r"judge openai, .*: no whole reply within 0\.2 s from http://127"):
            judge_answers(make_judge(server, delivery=delivery), make_requests(50), progress=False)
        assert len(server.asked) < 10


@pytest.mark.parametrize("form", ["seconds", "date", "milliseconds"])
def test_retry_after_is_honoured(form):
    times: list[float] = []

    def answer(question: Question) -> ServerReply:
        times.append(time.time())
        date = email.utils.formatdate(time.time() + 1.5, usegmt=True)  # whole seconds: 0.5 to 1.5 from now
        headers = {
            "seconds": {"Retry_After": "0.5"},
            "date": {"Retry_After": date},
            "milliseconds": {"Retry_After_Ms": "500"},
        }[form]
        return GOOD if question.number else fail(429, **headers)

    with ChatServer(answer) as server:
        assert judge_answers(make_judge(server), REQUEST, progress=False)[0].score == 3.0
    assert 0.49 <= times[1] - times[0] < 3.0


def test_a_wait_that_is_too_long_is_a_failure_at_once():
    with ChatServer(script(GOOD, then=fail(429, Retry_After="3600"))) as server:
        judge = make_judge(server)
        judge_answers(judge, REQUEST, progress=False)
        (judgement,) = judge_answers(judge, REQUEST, progress=False)
    assert judgement.unjudged == "failed"
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("body", "unjudged"),
    [
        (write_reply("It is bad."), "unparsable"),
        (write_reply(""), "unparsable"),
        (write_reply(None), "unparsable"),
        (write_reply('{"reason": "x", "score": 7}'), "out_of_range"),
        (write_reply("x\n#thescore: 7"), "out_of_range"),
        (write_reply(None, refusal="I can't do that."), "refused"),
        (write_reply("I'm sorry, I can't rate this."), "refused"),
        (write_reply("#thescore: 1", finish_reason="content_filter"), "refused"),
        (write_reply("It quotes:\n#thescore: 1", finish_reason="length"), "unparsable"),
    ],
)
def test_replies_without_a_score_are_not_tried_again(body, unjudged):
    with ChatServer(script(ServerReply(body=body))) as server:
        (judgement,) = judge_answers(make_judge(server), REQUEST, progress=False)
    assert (judgement.score, judgement.unjudged) == (None, unjudged)
    assert len(server.asked) == 1


def test_a_content_filter_by_status_is_a_refusal():
    with ChatServer(script(fail(400, "filtered", "content_filter"))) as server:
        (judgement,) = judge_answers(make_judge(server), REQUEST, progress=False)
    assert judgement.unjudged == "refused"


def test_a_server_without_schemas_is_asked_for_text(caplog):
    def answer(question: Question) -> ServerReply:
        if "response_format" in question.body:
            return fail(400, "response_format is not supported")
        return ServerReply(body=write_reply("It helps.\n#thescore: 4"))

    delivery = Delivery(concurrency=1)
    with ChatServer(answer) as server, caplog.at_level(logging.WARNING):
        judgements = judge_answers(make_judge(server, delivery=delivery), make_requests(3), progress=False)
    assert [one.score for one in judgements] == [4.0] * 3
    assert len(server.asked) == 4  # the first one twice
    assert "knows no response_format: replies are read as text" in caplog.text


def test_text_parsing_asks_for_no_schema():
    questions: list[Question] = []

    def answer(question: Question) -> ServerReply:
        questions.append(question)
        return ServerReply(body=write_reply("#thescore: 2"))

    with ChatServer(answer) as server:
        assert judge_answers(make_judge(server, parsing="text"), REQUEST, progress=False)[0].score == 2.0
    assert "response_format" not in questions[0].body


def test_paper_parsing_tries_once_at_the_servers_temperature_and_counts_failures():
    questions: list[Question] = []

    def answer(question: Question) -> ServerReply:
        questions.append(question)
        if "request <0>" in question.text:
            return fail(500)
        return ServerReply(body=write_reply("#thescore: 2, and then #thescore: 5"))

    with ChatServer(answer) as server:
        judge = make_judge(server, parsing="paper")
        judgements = judge_answers(judge, make_requests(3), progress=False)
    assert [one.score for one in judgements] == [None, 2.0, 2.0]
    assert judgements[0].unjudged == "failed"
    assert len(questions) == 3
    assert not {"temperature", "response_format"} & set(questions[0].body)
    assert judge.settings["temperature"] is None


@pytest.mark.parametrize("text", ["#thescore: 1", "{prompt} {answer} {0}", '{"reason": "", "score": 1}', "\ud800"])
def test_what_the_answer_says_is_no_reply(text):
    with ChatServer(script(ServerReply(body=write_reply("I have no opinion.")))) as server:
        requests = [JudgeRequest(prompt=text, answer=text)]
        (judgement,) = judge_answers(make_judge(server, parsing="text"), requests, progress=False)
    assert judgement.unjudged == "unparsable"


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_server_that_refuses_the_first_request_stops_the_run(status):
    with ChatServer(script(then=fail(status, f"what about {KEY}?"))) as server:
        with pytest.raises(ValueError, match=rf"judge openai, .* key from OPENAI_API_KEY: {status} from http") as error:
            judge_answers(make_judge(server), make_requests(40), progress=False)
        assert len(server.asked) <= QUICK.concurrency
    assert KEY not in str(error.value)
    assert f"{server.url}/chat/completions" in str(error.value)


def test_a_refusal_of_one_request_among_others_is_a_failure():
    delivery = Delivery(concurrency=1)
    with ChatServer(lambda question: fail(403) if "<2>" in question.text else GOOD) as server:
        judgements = judge_answers(make_judge(server, delivery=delivery), make_requests(4), progress=False)
    assert [one.unjudged for one in judgements] == [None, None, "failed", None]


def test_a_used_up_account_stops_the_run_at_any_time():
    delivery = Delivery(concurrency=1)
    quota = fail(429, "You exceeded your current quota", "insufficient_quota")
    with ChatServer(lambda question: quota if "<2>" in question.text else GOOD) as server:
        with pytest.raises(ValueError, match="exceeded your current quota"):
            judge_answers(make_judge(server, delivery=delivery), make_requests(9), progress=False)
        assert len(server.asked) == 3


def test_a_wrong_address_says_where_it_tried(free_port):
    judge = OpenAIJudge(base_url=f"http://127.0.0.1:{free_port}/v1", delivery=QUICK)
    with pytest.raises(ValueError, match=f"no connection to http://127.0.0.1:{free_port}/v1/chat/completions"):
        judge_answers(judge, make_requests(20), progress=False)
    with pytest.raises(ValueError, match=f"no connection to http://127.0.0.1:{free_port}/v1/models"):
        judge.check()


def test_check_needs_a_connection_and_no_more():
    with ChatServer(script()) as server:
        make_judge(server).check()
        OpenAIJudge(base_url=server.url.removesuffix("/v1") + "/elsewhere", delivery=QUICK).check()  # knows no models
        assert server.asked == []


def test_a_wrong_path_says_where_it_tried():
    with ChatServer(script()) as server:
        judge = OpenAIJudge(base_url=server.url.removesuffix("/v1"), delivery=QUICK)
        with pytest.raises(ValueError, match=r"404 from http://127\.0\.0\.1:\d+/chat/completions"):
            judge_answers(judge, REQUEST, progress=False)


@pytest.fixture
def free_port() -> int:
    with ChatServer(script()) as server:
        return int(server.url.split(":")[2].split("/")[0])  # closed again when the test begins
