"""Judging through a slow server that fails: time against the ideal, and every answer accounted for."""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.chat_server import ChatServer, Question, ServerReply, write_error, write_reply
from benchmarks.common import Result, Setup, time_call
from safety_lightning.evaluation.judges import (
    Delivery,
    Judgement,
    JudgementCache,
    JudgeRequest,
    OpenAIJudge,
    judge_answers,
)

NUM_ANSWERS, LATENCY_SECONDS, CONCURRENCY = 520, 0.3, 32
SCORE_LINE = "Because.\n#thescore: {score}"
# of a hundred requests; the first five kinds are tried again, the last three are the judge's last word
FAULTS: Mapping[str, tuple[int, ServerReply]] = {
    "429": (7, ServerReply(status=429, body=write_error("slow down"), headers={"Retry-After-Ms": "500"})),
    "500": (7, ServerReply(status=500, body=write_error("oops"))),
    "cut": (5, ServerReply(body=write_reply(SCORE_LINE.format(score=1)), is_cut=True)),
    "garbage": (5, ServerReply(body=b"\xff garbage")),
    "slow": (2, ServerReply(body=write_reply(SCORE_LINE.format(score=1)), latency_seconds=5.0)),
    "no score": (2, ServerReply(body=write_reply("I have no opinion."))),
    "score 7": (1, ServerReply(body=write_reply(SCORE_LINE.format(score=7)))),
    "refusal": (1, ServerReply(body=write_reply(None, refusal="I cannot rate this."))),
}
UNJUDGED = {"no score": "unparsable", "score 7": "out_of_range", "refusal": "refused"}


def measure_judges(setup: Setup) -> list[Result]:
    """Has 520 answers judged by a server that takes 300 ms and fails three times in ten, and counts them.

    Raises:
        RuntimeError: If an answer is lost, doubled, or has another score than the server gave it.
    """
    importlib.import_module("openai")  # takes longer than judging starts to
    num_answers = setup.choose(NUM_ANSWERS, 40)
    ratios, notes = [], ""
    for turn in range(setup.num_pairs):
        with ChatServer(make_server(turn)) as server, tempfile.TemporaryDirectory() as folder:
            seconds, judgements = time_call(lambda: judge_all(server.url, Path(folder) / "cache.sqlite", num_answers))
            num_late = check_accounts(judgements, server.asked, num_answers)
            num_requests = len(server.asked)
        ideal_seconds = LATENCY_SECONDS * num_requests / CONCURRENCY
        ratios.append(seconds / ideal_seconds)
        unjudged = Counter(judgement.unjudged for judgement in judgements if judgement.unjudged)
        notes = (
            f"the last of them: {num_requests} requests, {seconds:.1f} s against "
            f"{ideal_seconds:.1f} s; {num_answers} of {num_answers} accounted for, {sum(unjudged.values())} unjudged "
            f"({', '.join(f'{number} {reason}' for reason, number in unjudged.items())}), {num_late} asked again after "
            "a reply that came too late"
        )
    name = f"judging {num_answers} answers, 30 % faults, 300 ms, {CONCURRENCY} at a time / requests × latency ÷ places"
    return [Result(name=name, bound="at most 1.5", ratios=ratios, note=notes)]


def judge_all(url: str, cache_file: Path, num_answers: int) -> list[Judgement]:
    """Judges as a user does, with the default waits and a cache."""
    os.environ.setdefault("OPENAI_API_KEY", "none-needed")
    judge = OpenAIJudge(base_url=url, delivery=Delivery(concurrency=CONCURRENCY, timeout_seconds=1.0))
    requests = [JudgeRequest(prompt=f"<{index}>", answer="An answer. " * 60) for index in range(num_answers)]
    with JudgementCache(cache_file) as cache:
        return judge_answers(judge, requests, cache=cache, progress=False)


def make_server(seed: int) -> Callable[[Question], ServerReply]:
    """Makes the function that answers: what comes depends on the seed, the request and its try alone."""
    kinds = [kind for kind, (number, _) in FAULTS.items() for _ in range(number)]

    def answer(question: Question) -> ServerReply:
        drawn = int(hashlib.sha256(f"{seed} {question.number} {question.text}".encode()).hexdigest(), 16) % 100
        if drawn >= len(kinds):
            body = write_reply(SCORE_LINE.format(score=find_number(question.text) % 5 + 1))
            return ServerReply(body=body, latency_seconds=LATENCY_SECONDS, kind="score")
        reply = FAULTS[kinds[drawn]][1]
        latency_seconds = reply.latency_seconds or LATENCY_SECONDS
        return ServerReply(**{**vars(reply), "latency_seconds": latency_seconds, "kind": kinds[drawn]})

    return answer


def find_number(text: str) -> int:
    """Returns the number of the answer that a request is about."""
    match = re.search(r"<(\d+)>", text)
    assert match is not None
    return int(match[1])


def check_accounts(judgements: Sequence[Judgement], asked: Sequence[tuple[str, str]], num_answers: int) -> int:
    """Checks that each answer has the last word that the server had on it.

    Returns:
        How many answers were asked again after such a word: on a busy machine a reply can miss the time-out.
    """
    told: dict[int, list[str]] = {}
    for text, kind in asked:
        told.setdefault(find_number(text), []).append(kind)
    if len(judgements) != num_answers or sorted(told) != list(range(num_answers)):
        raise RuntimeError(f"{num_answers} answers must be judged, {len(judgements)} were, {len(told)} were asked")
    for number, kinds in told.items():
        judgement, last = judgements[number], kinds[-1]
        expected = (number % 5 + 1, None) if last == "score" else (None, UNJUDGED.get(last, judgement.unjudged))
        if (judgement.score, judgement.unjudged) != expected:
            raise RuntimeError(f"answer {number} must be {expected}, got {judgement}")
    return sum(kind in UNJUDGED or kind == "score" for kinds in told.values() for kind in kinds[:-1])
