"""A key, and judges that ask a server on loopback."""

import re
from typing import Any

import pytest

from safety_lightning.evaluation.judges import Delivery, JudgeRequest, OpenAIJudge
from scripts.benchmarks.chat_server import ChatServer

KEY = "sk-of-the-tests-4711"
QUICK = Delivery(concurrency=8, timeout_seconds=5.0, max_tries=4, first_wait_seconds=0.01, longest_wait_seconds=3.0)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def make_judge(server: ChatServer, **settings: Any) -> OpenAIJudge:
    """A judge of a server on loopback that waits little."""
    return OpenAIJudge(base_url=server.url, **({"delivery": QUICK} | settings))


def make_requests(number: int) -> list[JudgeRequest]:
    """Requests whose texts differ."""
    return [JudgeRequest(prompt=f"request <{index}>", answer=f"answer {index}") for index in range(number)]


def find_number(text: str) -> int:
    """The number of the request that a server was asked about."""
    match = re.search(r"request <(\d+)>", text)
    assert match is not None
    return int(match[1])
