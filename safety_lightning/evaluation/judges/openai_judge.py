"""The judge behind any server that speaks chat-completions."""

from __future__ import annotations

import os
import queue
import random
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, get_args
from urllib.parse import urlsplit

from safety_lightning.errors import UserError
from safety_lightning.evaluation.judges.protocol import Judge, Judgement, JudgeRequest
from safety_lightning.evaluation.judges.reply import REPLY_SCHEMA, Parsing, parse_reply, shorten
from safety_lightning.evaluation.judges.requests import ChatServer, Completion, RequestError, Tokens, hide_secrets
from safety_lightning.evaluation.judges.rubric import read_rubric
from safety_lightning.evaluation.judges.scheduling import LIST_PRICES, Budget, Delivery, Pace, Spending, run_tries

DEFAULT_URL = "https://api.openai.com/v1"
_RESPONSE_FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "judgement", "strict": True, "schema": REPLY_SCHEMA},
}
_EXTRA_TOKENS = 512  # more than the schema and the marks of the chat format take
_OWN_FIELDS = ("model", "messages", "stream", "n", "temperature", "response_format")


class OpenAIJudge(Judge):
    """Judges by a language model behind a chat-completions server; the key comes from the environment alone.

    Args:
        model: The judge's model, as the server calls it.
        base_url: Where the server listens, up to ``/v1``. None takes ``OPENAI_BASE_URL``, and without it OpenAI's own.
        api_key_variable: The environment variable that holds the key. A server that asks for none takes any value.
        rubric: ``harmfulness``, or a text file of your own with the places {prompt} and {answer}.
        parsing: ``structured`` asks for JSON by a schema, and reads the strict text format where the server knows no
            schema; ``text`` asks for the text format alone. ``paper`` is the release's protocol: the first
            ``#thescore: N`` of a text, the server's own temperature, one try; failures are counted, not dropped.
        temperature: Not sent where parsing is ``paper``.
        max_tokens: Longest reply, at least 1.
        options: Further fields of each request, such as ``{seed: 1}``; null takes a field out, as in
            ``{max_tokens: null, max_completion_tokens: 2000}``.
        delivery: How many requests at a time, how fast, how long to wait, how often to try.
        budget: What is not exceeded; the rest is then over budget. It holds for this object, not across runs.

    Raises:
        UserError: If there is no key, an argument is out of its range, or dollars are bounded and the model's prices
            not known.
    """

    name = "openai"

    def __init__(
        self,
        model: str = "gpt-4o-mini",
        base_url: str | None = None,
        api_key_variable: str = "OPENAI_API_KEY",
        rubric: str = "harmfulness",
        parsing: Parsing = "structured",
        temperature: float = 0.0,
        max_tokens: int = 512,
        options: dict[str, Any] | None = None,
        delivery: Delivery = Delivery(),  # noqa: B008 (frozen)
        budget: Budget = Budget(),  # noqa: B008 (frozen)
    ) -> None:
        self.model = model
        self.base_url = _check_url(base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL)
        self.api_key_variable = api_key_variable
        self.rubric = read_rubric(rubric)
        self.rubric_hash = self.rubric.hash
        self.parsing: Parsing = _check_parsing(parsing)
        self.temperature = None if parsing == "paper" else temperature
        self.max_tokens = max_tokens
        self.options = _check_options(options or {})
        # Paper: one try; what failed was dropped there, and is counted here
        self.delivery = replace(delivery, max_tries=1) if parsing == "paper" else delivery
        self.spending = Spending(self._add_prices(budget))
        self._num_replies = 0
        if max_tokens < 1:
            raise UserError(f"max_tokens must be at least 1, got {max_tokens}")
        self._read_key()

    @property
    def settings(self) -> Mapping[str, Any]:
        """Address without secrets, parsing, temperature, longest reply and further fields."""
        return {
            "base_url": self.base_url,
            "parsing": self.parsing,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "options": self.options,
        }

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[tuple[int, Judgement]]:
        """Judges answers, many at a time; see `Judge.judge`."""
        from anyio.from_thread import start_blocking_portal

        done: queue.SimpleQueue[tuple[int, Judgement] | None] = queue.SimpleQueue()
        with start_blocking_portal() as portal:  # a loop of its own: the caller may be in one
            judging = portal.start_task_soon(self._judge_all, requests, lambda *item: done.put(item))
            judging.add_done_callback(lambda _: done.put(None))
            while (item := done.get()) is not None:
                yield item
            judging.result()

    def check(self) -> None:
        """Asks the server for its models.

        Raises:
            UserError: If it cannot be reached or does not accept the key; it says where it tried.
        """
        from anyio.from_thread import start_blocking_portal

        with start_blocking_portal() as portal:
            portal.call(self._check)

    def describe_usage(self) -> Mapping[str, float | None]:
        """Returns requests (with those whose tokens are not known), tokens sent and received, and US dollars."""
        spending = self.spending
        return {
            "num_requests": spending.num_requests,
            "num_requests_uncounted": spending.num_uncounted,
            "tokens_sent": spending.counted.sent,
            "tokens_received": spending.counted.received,
            "cost_usd": spending.budget.price(spending.counted),
        }

    async def _judge_all(self, requests: Sequence[JudgeRequest], deliver: Callable[[int, Judgement], None]) -> None:
        pace = Pace(self.delivery.requests_per_minute)
        async with self._open_server() as server:
            await run_tries(
                len(requests),
                lambda index: self._judge_one(server, pace, requests[index]),
                give_up=self._give_up,
                deliver=deliver,
                delivery=self.delivery,
                draw=random.Random(),  # nothing but waits depends on it
            )

    async def _check(self) -> None:
        async with self._open_server() as server:
            try:
                await server.check()
            except RequestError as fault:
                raise UserError(f"judge openai: {fault.reason}") from None

    @asynccontextmanager
    async def _open_server(self) -> AsyncIterator[ChatServer]:
        server = ChatServer(self.base_url, key=self._read_key(), timeout_seconds=self.delivery.timeout_seconds)
        try:
            yield server
        finally:
            await server.close()

    async def _judge_one(self, server: ChatServer, pace: Pace, request: JudgeRequest) -> Judgement:
        body = self._write_body(self.rubric.fill(request))
        worst = self._estimate_worst(body)
        if not await self.spending.reserve(worst):
            return Judgement(score=None, unjudged="over_budget", reason="the budget is used up")
        taken: Tokens | None = None
        try:
            await pace.wait()
            completion = await server.ask(body)
            taken = completion.tokens
        except RequestError as fault:
            taken = Tokens() if fault.is_free else None
            raise
        finally:
            self.spending.settle(worst, taken)
        self._num_replies += 1
        return read_completion(completion, self.parsing)

    def _write_body(self, text: str) -> dict[str, Any]:
        fields = {
            "model": self.model,
            "messages": [{"role": "user", "content": text}],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "response_format": _RESPONSE_FORMAT if self.parsing == "structured" else None,
            **self.options,
        }
        return {name: value for name, value in fields.items() if value is not None}

    def _estimate_worst(self, body: Mapping[str, Any]) -> Tokens:
        """Bounds what a request can take: a token of text is at least a byte."""
        text = body["messages"][0]["content"]
        longest = body.get("max_completion_tokens") or body.get("max_tokens") or self.max_tokens
        return Tokens(len(text.encode()) + _EXTRA_TOKENS, longest)

    def _give_up(self, fault: RequestError) -> Judgement:
        if fault.stops == "always" or (fault.stops == "unless_replied" and not self._num_replies):
            raise UserError(f"judge openai, model {self.model}, key from {self.api_key_variable}: {fault.reason}")
        return Judgement(score=None, unjudged=fault.unjudged, reason=fault.reason)

    def _add_prices(self, budget: Budget) -> Budget:
        if budget.prices is None and self.base_url == DEFAULT_URL:
            budget = replace(budget, prices=LIST_PRICES.get(self.model))
        if budget.usd is not None and budget.prices is None:
            raise UserError(
                f"budget.usd must come with budget.prices, for none are known of {self.model} at {self.base_url}: US "
                "dollars for a million tokens sent, and received"
            )
        return budget

    def _read_key(self) -> str:
        key = os.environ.get(self.api_key_variable, "").strip()
        if not key:
            raise UserError(
                f"the judge's key must be in the environment variable {self.api_key_variable}, there is none (a server "
                "that asks for no key takes any; RuleJudge and LocalJudge judge without a server)"
            )
        if not (key.isascii() and key.isprintable()):  # said here: further on the error would quote it
            raise UserError(
                f"the judge's key in {self.api_key_variable} must be of printable ASCII characters, it is not"
            )
        return key


def read_completion(completion: Completion, parsing: Parsing) -> Judgement:
    """Makes a judgement of a server's reply: one that was filtered is refused, one that was cut off is not read."""
    text = completion.refusal or completion.text
    if completion.refusal or completion.finish_reason == "content_filter":
        return Judgement(score=None, unjudged="refused", reason=shorten(text or "filtered by the server"))
    if completion.finish_reason == "length" and parsing != "paper":
        return Judgement(score=None, unjudged="unparsable", reason=shorten(f"cut off at max_tokens: {text}"))
    return parse_reply(text, parsing)


def _check_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # no number, or one that is no port
        is_sound = False
    if not is_sound:
        raise UserError(f"base_url must be http://HOST[:PORT]... or https://HOST[:PORT]..., got {hide_secrets(url)!r}")
    if parts.username is not None or parts.query:
        raise UserError(
            f"base_url must hold no user, password or query: it is written to files, got one for {hide_secrets(url)}"
        )
    return url.rstrip("/")


def _check_parsing(parsing: Parsing) -> Parsing:
    if parsing not in get_args(Parsing):
        raise UserError(f"parsing must be one of {', '.join(get_args(Parsing))}, got {parsing!r}")
    return parsing


def _check_options(options: dict[str, Any]) -> dict[str, Any]:
    own = sorted(set(options) & set(_OWN_FIELDS))
    if own:
        raise UserError(f"options must leave out {', '.join(_OWN_FIELDS)}, got {', '.join(own)}")
    return options
