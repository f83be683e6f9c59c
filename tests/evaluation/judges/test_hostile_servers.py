"""The judge behind a server that means no good: elsewhere, endless, unreadable, or too curious about the key."""

import gzip
import json
from pathlib import Path

import pytest

from safety_lightning.errors import UserError
from safety_lightning.evaluation.judges import Judgement
from safety_lightning.evaluation.judges.client import LONGEST_REPLY
from safety_lightning.evaluation.judges.served.requests import read_completion
from safety_lightning.files import read_rows, write_rows
from scripts.benchmarks.chat_server import ChatServer, ServerReply, write_reply
from tests.evaluation.judges.conftest import KEY, find_number, make_judge, make_requests

GOOD = ServerReply(body=write_reply('{"reason": "because", "score": 3}'))


def test_a_redirect_is_not_followed() -> None:
    with ChatServer(lambda question: GOOD) as other:
        address = f"{other.url}/chat/completions"
        away = ServerReply(body=b"", status=307, headers={"Location": f"{address}?token=secret"})
        with ChatServer(lambda question: away) as server, pytest.raises(UserError) as caught:
            list(make_judge(server).judge(make_requests(1)))
        assert other.asked == []
    assert f"it redirects to {address}, which is not followed" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (ServerReply(body=write_reply("x" * LONGEST_REPLY)), "must have at most 1048576 bytes, got more"),
        (ServerReply(body=gzip.compress(GOOD.body), headers={"Content-Encoding": "gzip"}), "must not be compressed"),
        (ServerReply(body=write_reply('{"score": ' + "1" * 5000 + "}")), "1111"),
        (ServerReply(body=write_reply('{"score": ' + "1" * 400 + "}")), "score of 400 digits"),
        (ServerReply(body=write_reply('{"score": 1, "reason": "", "score": 5}')), '"score": 5'),
        (ServerReply(body=write_reply("#thescore: " + "9" * 400)), "#thescore"),
        (ServerReply(body=write_reply('{"score": ' + "[" * 400 + "]" * 400 + "}")), "a list"),
        (ServerReply(body=write_reply("half \ud83d of a pair")), "half"),
        (ServerReply(body=write_reply('{"score": 9}', usage={"prompt_tokens": float("inf")})), "score 9"),
    ],
)
def test_what_cannot_be_read_is_one_unjudged_answer(tmp_path: Path, reply: ServerReply, words: str) -> None:
    with ChatServer(lambda question: reply if find_number(question.text) == 1 else GOOD) as server:
        found = dict(make_judge(server).judge(make_requests(3)))
    assert [found[at].score for at in range(3)] == [3.0, None, 3.0]
    assert found[1].unjudged in ("unparsable", "out_of_range")
    assert words in found[1].reason
    write_rows(tmp_path / "rows.jsonl", [found[at] for at in range(3)])
    assert read_rows(tmp_path / "rows.jsonl", Judgement, what="a judgement") == [found[at] for at in range(3)]


def test_the_key_is_in_nothing_that_is_kept() -> None:
    echo = ServerReply(body=write_reply(json.dumps({"reason": f"your key is {KEY}", "score": 3})))
    with ChatServer(lambda question: echo) as server:
        ((_, found),) = make_judge(server).judge(make_requests(1))
    assert (found.score, found.reason) == (3.0, "your key is [key]")


def test_a_word_that_is_no_key_stays() -> None:
    assert read_completion(write_reply("1 of 10"), key="1").text == "1 of 10"


@pytest.mark.parametrize(
    "usage", [{"prompt_tokens": -5, "completion_tokens": 1}, {"prompt_tokens": 1e300, "completion_tokens": 1}, [1], "x"]
)
def test_counts_that_cannot_be_are_none(usage: object) -> None:
    assert read_completion(write_reply("a", usage=usage)).tokens is None
