"""What can go wrong with a request, what of it is worth another try, and how long to wait before."""

from __future__ import annotations

import email.utils
import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import Literal

from safety_lightning.errors import UserError
from safety_lightning.evaluation.judges.protocol import Unjudged

_BUSY = (429, 503)


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


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """How requests are sent: how many at a time, how fast, how long to wait and how often to try.

    Before try n + 1 it waits ``first_wait_seconds`` · 2^(n - 1), at most ``longest_wait_seconds``, times a random
    number in [0.5, 1], so that requests that failed together do not come back together. Where n is more than the
    failures in a row over all requests, that number takes its place: a server that answers others in between is not
    down, and this request had bad luck; but not where the server says that it is busy (429, 503). Where it says how
    long, it waits that long and up to a tenth more; one that asks for more than ``longest_wait_seconds`` is not tried
    again.

    Attributes:
        concurrency: Requests in flight at a time, at least 1.
        requests_per_minute: Rate that is not exceeded, above 0; None is no bound.
        timeout_seconds: Longest wait for a whole reply, above 0.
        max_tries: Tries of one request, at least 1.
        first_wait_seconds: Wait before the second try, above 0.
        longest_wait_seconds: Longest wait between two tries, at least ``first_wait_seconds``.

    Raises:
        UserError: If an attribute is out of its range.
    """

    concurrency: int = 16
    requests_per_minute: float | None = None
    timeout_seconds: float = 60.0
    max_tries: int = 8
    first_wait_seconds: float = 0.25
    longest_wait_seconds: float = 120.0

    def __post_init__(self) -> None:
        for name in ("concurrency", "max_tries"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("requests_per_minute", "timeout_seconds", "first_wait_seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name} must be above 0, got {value:g}")
        if not self.first_wait_seconds <= self.longest_wait_seconds:
            raise UserError(
                f"longest_wait_seconds must be at least first_wait_seconds ({self.first_wait_seconds:g}), "
                f"got {self.longest_wait_seconds:g}"
            )

    def choose_wait(
        self, fault: RequestError, *, num_tries: int, num_in_a_row: int, draw: random.Random
    ) -> float | None:
        """Returns how many seconds to wait before the next try; None if there is to be none.

        Args:
            fault: What went wrong last.
            num_tries: Tries so far, at least 1.
            num_in_a_row: Failures since any request last succeeded, this one included.
            draw: Where the jitter comes from.
        """
        if not fault.again or num_tries >= self.max_tries:
            return None
        asked = fault.wait_seconds or 0.0
        if asked > self.longest_wait_seconds:
            return None
        if asked > 0:
            return asked * (1 + 0.1 * draw.random())
        num_doubled = num_tries if fault.status in _BUSY else min(num_tries, num_in_a_row)
        doubled = self.first_wait_seconds * 2.0 ** min(num_doubled - 1, 60)
        return min(doubled, self.longest_wait_seconds) * (0.5 + 0.5 * draw.random())


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
