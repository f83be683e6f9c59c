"""Damaged replies of a judge's server: each is one unjudged answer, or a score that stands in it once.

What cannot be told apart from a sound reply: another whole number from 1 to 5 in the place of the score, and
other words.
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from safety_lightning.evaluation.judges import Judgement
from safety_lightning.evaluation.judges.served.openai_judge import read_completion as judge_completion
from safety_lightning.evaluation.judges.served.reply import parse_reply
from safety_lightning.evaluation.judges.served.requests import RequestError, read_completion, read_retry_after
from safety_lightning.files import read_rows, write_rows
from scripts.benchmarks.chat_server import write_reply
from tests.fuzz.damage import count
from tests.fuzz.test_data_files import QUICK, WHOLE, change_bytes

KEY = "sk-of-the-fuzz-4711"
PARSINGS = st.sampled_from(["structured", "text", "paper"])
SCORES = st.integers(1, 5)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(KEY)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def assert_hidden(text: str) -> None:
    assert KEY not in text


def judge_body(body: bytes, parsing: Any) -> Judgement | None:
    """Reads a body as the judge does; None where it would be tried again or be one answer that failed."""
    try:
        completion = read_completion(body, key=KEY)
    except RequestError as fault:
        assert_hidden(fault.reason)
        count("tried again or unjudged")
        return None
    judgement = judge_completion(completion, parsing)
    assert KEY not in judgement.reason
    count("unjudged" if judgement.score is None else "judged")
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder) / "rows.jsonl", [judgement])
        assert read_rows(Path(folder) / "rows.jsonl", Judgement, what="a judgement") == [judgement]
    return judgement


def check_bodies(data: st.DataObject) -> None:
    """Bodies with bytes changed; a score is one of those that the reply could say."""
    text = data.draw(st.sampled_from(['{"reason": "because", "score": 3}', "It is bad.\n#thescore: 3"]))
    body = data.draw(change_bytes(write_reply(text, usage=data.draw(VALUES))))
    found = judge_body(body, data.draw(PARSINGS))
    assert found is None or found.score in (None, 1.0, 2.0, 3.0, 4.0, 5.0)


def check_shapes(data: st.DataObject) -> None:
    """Bodies that are any JSON, at any place of a completion."""
    completion = json.loads(write_reply('{"reason": "", "score": 3}'))
    places: list[Callable[[Any], None]] = [
        lambda value: completion.update(choices=value),
        lambda value: completion["choices"][0].update(message=value),
        lambda value: completion["choices"][0].update(finish_reason=value),
        lambda value: completion["choices"][0]["message"].update(content=value),
        lambda value: completion["choices"][0]["message"].update(refusal=value),
        lambda value: completion.update(usage=value),
    ]
    data.draw(st.sampled_from(places))(data.draw(VALUES))
    judge_body(json.dumps(completion).encode(), data.draw(PARSINGS))
    judge_body(json.dumps(data.draw(VALUES)).encode(), data.draw(PARSINGS))


WRONG_SCORES = {
    "two": st.tuples(SCORES, SCORES).map(lambda pair: f'{{"score": {pair[0]}, "reason": "", "score": {pair[1]}}}'),
    "digits": st.integers(2, 6000).map(lambda number: '{"score": ' + "1" * number + "}"),
    "out of range": st.integers().filter(lambda n: not 1 <= n <= 5).map(lambda number: f'{{"score": {number}}}'),
    "a part": st.floats(1.01, 1.99).map(lambda number: f'{{"score": {number}}}'),
    "no number": st.sampled_from(["NaN", "Infinity", "-Infinity", "1e999", "true", "null", '"3"']).map(
        lambda value: f'{{"score": {value}}}'
    ),
    "values": VALUES.filter(lambda value: not isinstance(value, int | float)).map(
        lambda value: json.dumps({"score": value})
    ),
    "deep": st.integers(100, 50_000).map(lambda number: '{"score": ' + "[" * number + "]" * number + "}"),
    "cut": st.integers(0, 31).map(lambda length: '{"reason": "because", "score": 3}'[:length]),
    "a long line": st.integers(2, 9000).map(lambda number: "#thescore: " + "3" * number),
    "a line with more": st.text(min_size=1, max_size=5, alphabet="0123456789./,abc-").map(
        lambda more: f"#thescore: 3 {more}"
    ),
}


def check_scores(data: st.DataObject) -> None:
    """Replies without one good score: none of them gets one."""
    name = data.draw(st.sampled_from(sorted(WRONG_SCORES)))
    reply = data.draw(WRONG_SCORES[name])
    parsings = ("structured", "text")  # paper takes the first score wherever it stands
    for parsing in parsings:
        assert parse_reply(reply, parsing).score is None, (name, reply[:60])
    parse_reply(reply, "paper")
    count("unjudged")


def check_waits(data: st.DataObject) -> None:
    """What a server says of waiting: seconds from 0, or nothing."""
    value = data.draw(st.text(max_size=40) | st.floats().map(str) | st.sampled_from(["Wed, 21 Oct 9999 07:28:00 GMT"]))
    found = read_retry_after({data.draw(st.sampled_from(["retry-after", "retry-after-ms"])): value})
    assert found is None or found >= 0
    count("without effect" if found is None else "taken")


CHECKS = [check_bodies, check_shapes, check_scores, check_waits]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_few_damaged_replies(check: Callable[[st.DataObject], None]) -> None:
    settings(QUICK, max_examples=100)(given(st.data())(check))()


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_many_damaged_replies(check: Callable[[st.DataObject], None]) -> None:
    seed(12)(WHOLE(given(st.data())(check)))()
