"""The HTTP client of judges: it goes where it is told and nowhere else, and reads no more than a reply can be."""

from __future__ import annotations

from typing import Any

import httpx2
import openai

LONGEST_REPLY = 2**20
"""Bytes of a reply that are read; a judgement is a thousand times shorter."""


class UnreadableReplyError(httpx2.DecodingError):
    """A reply that is not read to its end; the message says why."""


class BoundedClient(openai.DefaultAsyncHttpxClient):
    """Follows no redirect, which would send prompts and answers where nobody meant them to go, and bounds replies."""

    def __init__(self) -> None:
        super().__init__(follow_redirects=False, timeout=None)

    async def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        """Sends a request and reads the reply.

        Raises:
            UnreadableReplyError: If the reply is compressed, unasked, or longer than `LONGEST_REPLY`.
        """
        request.headers["accept-encoding"] = "identity"
        response = await super().send(request, stream=True, **options)
        try:
            encoding = response.headers.get("content-encoding", "identity").strip().lower()
            if encoding not in ("", "identity"):  # a short one may unpack to any length
                raise UnreadableReplyError(f"the reply must not be compressed, got content-encoding {encoding[:40]}")
            content = bytearray()
            async for part in response.aiter_raw():
                content += part
                if len(content) > LONGEST_REPLY:
                    raise UnreadableReplyError(f"the reply must have at most {LONGEST_REPLY} bytes, got more")
        finally:
            await response.aclose()
        unread = ("content-length", "transfer-encoding", "content-encoding")
        headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in unread]
        return httpx2.Response(response.status_code, headers=headers, content=bytes(content), request=request)
