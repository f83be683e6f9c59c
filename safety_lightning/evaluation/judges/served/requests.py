"""One request to a chat-completions server and its reply, or a fault that says what to do about it."""

from __future__ import annotations

import asyncio
import email.utils
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from safety_lightning.evaluation.judges.protocol import Unjudged
from safety_lightning.strict import parse_json

if TYPE_CHECKING:
    import openai

_TRANSIENT_STATUS = {408, 409, 425, 429}
_LONGEST_QUOTE = 300  # characters of a server's words in a reason
_SHORTEST_KEY = 8  # a server that asks for none may be given "x", which every reply holds
_MOST_TOKENS = 10**9

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
        from safety_lightning.evaluation.judges.client import BoundedClient

        # the client's own retries would multiply ours, and its time-out begins anew with every piece of a reply
        self._client = openai.AsyncOpenAI(
            api_key=key, base_url=base_url, max_retries=0, timeout=None, http_client=BoundedClient()
        )

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
        return read_completion(await self._exchange("/chat/completions", body), key=self._key)

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

        from safety_lightning.evaluation.judges.client import UnreadableReplyError

        if isinstance(error.__cause__, UnreadableReplyError):
            reason = f"{error.__cause__} (from {self.url}{path})"
            return RequestError(reason, unjudged="unparsable", is_free=False)
        words = hide_key(f"{type(error.__cause__).__name__}: {error.__cause__}", self._key)
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
    status, words = error.status_code, hide_key(error.message, key)[:_LONGEST_QUOTE]
    reason = f"{status} from {url}: {words}"
    if 300 <= status < 400:
        where = hide_key(hide_secrets(error.response.headers.get("location", "nowhere")), key)[:_LONGEST_QUOTE]
        reason = f"{status} from {url}: it redirects to {where}, which is not followed; give base_url as it is to be"
        return RequestError(reason, stops="unless_replied", status=status)
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


def read_completion(content: bytes, *, key: str = "") -> Completion:
    """Reads the body of a reply.

    Args:
        content: The body.
        key: What must be in nothing that is kept.

    Raises:
        RequestError: If it is no chat completion.
    """
    try:
        body = parse_json(content)
        choice = body["choices"][0]
        message = choice["message"]
        text, refusal, finish_reason = message.get("content"), message.get("refusal"), choice.get("finish_reason")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        quote = hide_key(content.decode("utf-8", "replace"), key)[:_LONGEST_QUOTE]
        raise RequestError(f"the reply is no chat completion: {quote!r}", again=True, is_free=False) from None
    return Completion(
        text=hide_key(text, key) if isinstance(text, str) else "",
        finish_reason=finish_reason if isinstance(finish_reason, str) else None,
        refusal=hide_key(refusal if isinstance(refusal, str) else "refused", key) if refusal else None,
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


def hide_key(text: str, key: str) -> str:
    """Returns a text in which a key is not written out; a word of fewer than 8 characters is no key.

    Example:
        >>> hide_key("no model for sk-12345678", "sk-12345678")
        'no model for [key]'
    """
    return text.replace(key, "[key]") if len(key) >= _SHORTEST_KEY else text


def hide_secrets(url: str) -> str:
    """Returns a URL without user, password, query and fragment.

    Example:
        >>> hide_secrets("https://me:secret@host:8000/v1?token=1")
        'https://host:8000/v1'
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(no URL)"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))


def _read_usage(usage: Any) -> Tokens | None:
    try:
        sent, received = int(usage["prompt_tokens"]), int(usage["completion_tokens"])
    except (TypeError, LookupError, ValueError, OverflowError):
        return None
    return Tokens(sent, received) if 0 <= sent <= _MOST_TOKENS and 0 <= received <= _MOST_TOKENS else None
