"""One request to a chat-completions server and its reply, or a fault that says what to do about it."""

from __future__ import annotations

import asyncio
import email.utils
import json
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from safety_lightning.evaluation.judges.protocol import Unjudged

if TYPE_CHECKING:
    import openai

_TRANSIENT_STATUS = {408, 409, 425, 429}
_LONGEST_QUOTE = 300  # characters of a server's words in a reason

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tokens:
    """Tokens sent and received."""

    sent: int = 0
    received: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.sent + other.sent, self.received + other.received)

    def __sub__(self, other: Tokens) -> Tokens:
        return Tokens(self.sent - other.sent, self.received - other.received)


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A whole reply of the server.

    Attributes:
        text: What the model said.
        finish_reason: Why it ended: ``stop``, ``length``, ``content_filter``, ...
        refusal: The model's refusal where the server gives it apart; None where there is none.
        tokens: What it took; None where the server does not say.
    """

    text: str
    finish_reason: str | None
    refusal: str | None
    tokens: Tokens | None


class RequestError(Exception):
    """A request that brought no reply.

    Args:
        reason: What happened, without secrets.
        unjudged: What the answer is called if it stays so.
        again: Whether another try can bring a reply.
        wait_seconds: How long the server asks to wait; None where it does not say.
        stops: Whether the run stops when this request is given up: ``never``, ``unless_replied`` (it stops if no
            request has brought a reply yet), or ``always``.
        status: The reply's HTTP status; None where there is no reply.
        is_free: Whether it is certain that the server did no work that is paid for.
    """

    def __init__(
        self,
        reason: str,
        *,
        unjudged: Unjudged = "failed",
        again: bool = False,
        wait_seconds: float | None = None,
        stops: Literal["never", "unless_replied", "always"] = "never",
        status: int | None = None,
        is_free: bool = True,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.unjudged: Unjudged = unjudged
        self.again = again
        self.wait_seconds = wait_seconds
        self.stops = stops
        self.status = status
        self.is_free = is_free


class SchemaError(RequestError):
    """The server does not know ``response_format``."""


class ChatServer:
    """A server that speaks chat-completions, asked once a call: tries are counted elsewhere.

    Args:
        base_url: Where it listens, up to ``/v1``.
        key: The key; it gets into no message.
        timeout_seconds: Longest wait for a whole reply, connecting and reading included.
    """

    def __init__(self, base_url: str, *, key: str, timeout_seconds: float) -> None:
        import openai

        self.url = hide_secrets(base_url)
        self.timeout_seconds = timeout_seconds
        self.takes_schema = True
        self._key = key
        # the client's own retries would multiply ours, and its time-out begins anew with every piece of a reply
        self._client = openai.AsyncOpenAI(api_key=key, base_url=base_url, max_retries=0, timeout=None)

    async def ask(self, body: Mapping[str, Any]) -> Completion:
        """Sends a request.

        A server that does not know ``response_format`` is asked again without it, and so are all later requests.

        Args:
            body: The fields of the request, ``model`` and ``messages`` among them.

        Raises:
            RequestError: If there is no whole reply.
        """
        schema = body.get("response_format") if self.takes_schema else None
        body = {name: value for name, value in body.items() if name != "response_format"}
        if schema is None:
            return await self._send(body)
        try:
            return await self._send({**body, "response_format": schema})
        except SchemaError:
            logger.warning("%s knows no response_format: replies are read as text", self.url)
            self.takes_schema = False
            return await self._send(body)

    async def check(self) -> None:
        """Asks for the list of models, which needs a connection and a key.

        Raises:
            RequestError: If there is no connection, or the key is not accepted. A server without such a list passes.
        """
        try:
            await self._exchange("/models")
        except RequestError as fault:
            if fault.stops != "never" and fault.status != 404:
                raise

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    async def _send(self, body: Mapping[str, Any]) -> Completion:
        return read_completion(await self._exchange("/chat/completions", body))

    async def _exchange(self, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        """Gets or posts without the client's typed methods, whose checks of each field take a quarter of the time."""
        import httpx2
        import openai

        try:
            async with asyncio.timeout(self.timeout_seconds):
                if body is None:
                    return (await self._client.get(path, cast_to=httpx2.Response)).content
                return (await self._client.post(path, cast_to=httpx2.Response, body=body)).content
        except (TimeoutError, openai.APITimeoutError):
            raise RequestError(
                f"no whole reply within {self.timeout_seconds:g} s from {self.url}{path}",
                unjudged="timed_out",
                again=True,
                stops="unless_replied",
                is_free=False,
            ) from None
        except openai.APIStatusError as error:
            raise read_status(error, self.url + path, self._key) from None
        except openai.APIConnectionError as error:
            raise self._read_connection(error, path) from None

    def _read_connection(self, error: openai.APIConnectionError, path: str) -> RequestError:
        import httpx2

        words = f"{type(error.__cause__).__name__}: {error.__cause__}".replace(self._key, "[key]")
        if isinstance(error.__cause__, httpx2.ConnectError):
            return RequestError(f"no connection to {self.url}{path}: {words}", again=True, stops="unless_replied")
        return RequestError(f"the reply of {self.url}{path} broke off: {words}", again=True, is_free=False)


def read_status(error: openai.APIStatusError, url: str, key: str) -> RequestError:
    """Makes a fault of a reply with an error status.

    Args:
        error: The client's error.
        url: What was asked, without secrets.
        key: What must not be in the reason.
    """
    status, words = error.status_code, error.message.replace(key, "[key]")[:_LONGEST_QUOTE]
    reason = f"{status} from {url}: {words}"
    if error.code == "content_filter":
        return RequestError(reason, unjudged="refused", status=status)
    if status in (400, 422) and ("response_format" in words or "json_schema" in words):
        return SchemaError(reason, status=status)
    if error.code == "insufficient_quota":
        return RequestError(reason, stops="always", status=status)
    if status in (401, 403, 404):
        return RequestError(reason, stops="unless_replied", status=status)
    if status in _TRANSIENT_STATUS or status >= 500:
        wait_seconds = read_retry_after(error.response.headers)
        return RequestError(reason, again=True, wait_seconds=wait_seconds, status=status)
    return RequestError(reason, status=status)


def read_completion(content: bytes) -> Completion:
    """Reads the body of a reply.

    Raises:
        RequestError: If it is no chat completion.
    """
    try:
        body = json.loads(content)
        choice = body["choices"][0]
        message = choice["message"]
        text, refusal = message.get("content"), message.get("refusal")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        quote = content[:_LONGEST_QUOTE].decode("utf-8", "replace")
        raise RequestError(f"the reply is no chat completion: {quote!r}", again=True, is_free=False) from None
    return Completion(
        text=text if isinstance(text, str) else "",
        finish_reason=choice.get("finish_reason"),
        refusal=str(refusal) if refusal else None,
        tokens=_read_usage(body.get("usage")),
    )


def read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Reads how many seconds a server asks to wait: ``retry-after-ms``, or ``retry-after`` as seconds or as a date.

    Args:
        headers: The reply's headers, with names in lower case or a mapping that does not mind.

    Returns:
        Seconds, not below 0; None if the server does not say, or says it in no known form.
    """
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * scale
        except (KeyError, ValueError):
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    try:
        date = email.utils.parsedate_to_datetime(headers["retry-after"])
    except (KeyError, ValueError):
        return None
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time())


def hide_secrets(url: str) -> str:
    """Returns a URL without user, password, query and fragment.

    Example:
        >>> hide_secrets("https://me:secret@host:8000/v1?token=1")
        'https://host:8000/v1'
    """
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))


def _read_usage(usage: Any) -> Tokens | None:
    try:
        return Tokens(int(usage["prompt_tokens"]), int(usage["completion_tokens"]))
    except (TypeError, KeyError, ValueError):
        return None
