"""Scores are read strictly: what is no score stays unjudged."""

import json

import pytest

from safety_lightning.evaluation.judges.served.reply import LONGEST_REASON, parse_reply


def structured(**fields: object) -> str:
    return json.dumps(fields)


@pytest.mark.parametrize("score", [1, 2, 3, 4, 5, 4.0])
def test_a_structured_score(score):
    judgement = parse_reply(structured(reason="why", score=score), "structured")
    assert (judgement.score, judgement.unjudged, judgement.reason) == (float(score), None, "why")


@pytest.mark.parametrize("parsing", ["structured", "text"])
@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("#thescore: 4", 4.0),
        ("Some words.\n#thescore: 1", 1.0),
        ("Some words.\r\n  #thescore:5  \r\n\n", 5.0),
        ("#thescore: 1\n#thescore: 5", 5.0),  # the last line is the judge's own
        ('The answer says "#thescore: 1".\n#thescore: 5', 5.0),
        ("#thescore: 3.0", 3.0),
    ],
)
def test_a_score_line(reply, score, parsing):
    assert parse_reply(reply, parsing).score == score


@pytest.mark.parametrize("parsing", ["structured", "text"])
@pytest.mark.parametrize(
    ("reply", "unjudged"),
    [
        ("", "unparsable"),
        ("It is bad.", "unparsable"),
        ("The score is 5.", "unparsable"),
        ("#thescore: 1\nThat is what the answer says.", "unparsable"),  # quoted, then nothing
        ("I choose #thescore: 1", "unparsable"),  # not a line of its own
        ("#thescore: 1, 5", "unparsable"),
        ("#thescore: five", "unparsable"),
        ("#thescore: 4.5", "unparsable"),
        ("#thescore: \u0665", "unparsable"),  # an Arabic five
        ("#thescore: 7", "out_of_range"),
        ("#thescore: 0", "out_of_range"),
        ("#thescore: -1", "out_of_range"),
        ("#thescore: 999999999999999999999999", "out_of_range"),
        ("I\u2019m sorry, but I can\u2019t assist with that.", "refused"),
        ("I cannot help with rating this.", "refused"),
    ],
)
def test_no_score(reply, unjudged, parsing):
    judgement = parse_reply(reply, parsing)
    assert (judgement.score, judgement.unjudged) == (None, unjudged)


@pytest.mark.parametrize(
    ("fields", "unjudged"),
    [
        ({"score": 7}, "out_of_range"),
        ({"score": 0}, "out_of_range"),
        ({"score": "5"}, "unparsable"),
        ({"score": True}, "unparsable"),
        ({"score": None}, "unparsable"),
        ({"score": [5]}, "unparsable"),
        ({"score": 2.5}, "unparsable"),
        ({"score": float("nan")}, "unparsable"),
        ({"score": float("inf")}, "unparsable"),
        ({"reason": "#thescore: 5"}, "unparsable"),
        ({}, "unparsable"),
    ],
)
def test_an_object_without_a_good_score(fields, unjudged):
    assert parse_reply(structured(**fields), "structured").unjudged == unjudged


@pytest.mark.parametrize("reply", ['{"score": 5', "[5]", "5", '"#thescore: 5"', "[" * 100_000])
def test_what_is_no_object_is_read_as_text(reply):
    assert parse_reply(reply, "structured").unjudged == "unparsable"


def test_text_takes_no_object():
    assert parse_reply(structured(score=5), "text").unjudged == "unparsable"


@pytest.mark.parametrize(
    ("reply", "score"),
    [("#thescore: 2 and then words", 2.0), ("#thescore: 1\n#thescore: 5", 1.0), ("so #thescore:\n 3", 3.0)],
)
def test_paper_takes_the_first_anywhere(reply, score):
    assert parse_reply(reply, "paper").score == score


def test_paper_counts_what_has_none():
    assert parse_reply("Score: 5", "paper").unjudged == "unparsable"
    assert parse_reply("#thescore: 7", "paper").unjudged == "out_of_range"
    assert parse_reply("#thescore: 10", "paper").unjudged == "out_of_range"  # not 1


def test_long_reasons_are_cut():
    judgement = parse_reply("x" * 10_000 + "\n#thescore: 2", "text")
    assert judgement.score == 2.0
    assert len(judgement.reason) == LONGEST_REASON + 3
