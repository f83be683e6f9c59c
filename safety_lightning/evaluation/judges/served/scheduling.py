"""Sends many requests: how many at a time, how fast, how often each is tried, and within what budget."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from safety_lightning.errors import UserError
from safety_lightning.evaluation.judges.protocol import Judgement
from safety_lightning.evaluation.judges.served.requests import RequestError, Tokens

LIST_PRICES = {"gpt-4o-mini": (0.15, 0.60)}  # US dollars a million tokens, in and out; OpenAI's list since 2024-07
_BUSY = (429, 503)


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


async def run_tries(
    num_items: int,
    attempt: Callable[[int], Awaitable[Judgement]],
    *,
    give_up: Callable[[RequestError], Judgement],
    deliver: Callable[[int, Judgement], None],
    delivery: Delivery,
    draw: random.Random,
) -> None:
    """Tries each item until it is judged or given up, and delivers it exactly once.

    Items that failed come before fresh ones when their wait is over, so that none of them is left alone at the end.

    Args:
        num_items: Items, by index from 0.
        attempt: One try; raises `RequestError` where it fails.
        give_up: Makes a judgement of the last fault; what it raises stops everything.
        deliver: Takes an index and its judgement.
        delivery: How many at a time, how often to try and how long to wait between.
        draw: Where the jitter comes from.
    """
    waiting: asyncio.PriorityQueue[tuple[int, int]] = asyncio.PriorityQueue()  # (minus the tries so far, index)
    for index in range(num_items):
        waiting.put_nowait((0, index))

    def put_back(item: tuple[int, int]) -> None:
        waiting.put_nowait(item)
        waiting.task_done()  # of the try before; in this order, or `join` would see nothing left to do

    num_in_a_row = 0

    async def work() -> None:
        nonlocal num_in_a_row
        while True:
            minus_tries, index = await waiting.get()
            try:
                judgement = await attempt(index)
                num_in_a_row = 0
            except RequestError as fault:
                num_in_a_row += 1
                wait = delivery.choose_wait(fault, num_tries=1 - minus_tries, num_in_a_row=num_in_a_row, draw=draw)
                if wait is not None:
                    asyncio.get_running_loop().call_later(wait, put_back, (minus_tries - 1, index))
                    continue
                judgement = give_up(fault)
            deliver(index, judgement)
            waiting.task_done()

    try:
        async with asyncio.TaskGroup() as group:
            workers = [group.create_task(work()) for _ in range(min(delivery.concurrency, num_items))]
            await waiting.join()
            for worker in workers:
                worker.cancel()
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None  # several workers stop for the same reason


class Pace:
    """Lets requests through one after another, no faster than a rate, from the first on.

    Args:
        requests_per_minute: Above 0; None is no bound.
    """

    def __init__(self, requests_per_minute: float | None) -> None:
        self._interval_seconds = 60 / requests_per_minute if requests_per_minute else 0.0
        self._next_time = 0.0

    async def wait(self) -> None:
        """Waits for this request's turn."""
        now = asyncio.get_running_loop().time()
        turn = max(now, self._next_time)
        self._next_time = turn + self._interval_seconds
        if turn > now:
            await asyncio.sleep(turn - now)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a run may take, and what tokens cost.

    Attributes:
        tokens: Most tokens, sent and received together; None is no bound.
        usd: Most US dollars; None is no bound.
        prices: US dollars for a million tokens sent and for a million received; None takes what is known of OpenAI's.

    Raises:
        UserError: If a bound or a price is negative.
    """

    tokens: int | None = None
    usd: float | None = None
    prices: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name, value in (("budget.tokens", self.tokens), ("budget.usd", self.usd)):
            if value is not None and value < 0:
                raise UserError(f"{name} must be at least 0, got {value}")
        if self.prices is not None and min(self.prices) < 0:
            raise UserError(f"budget.prices must be at least 0, got {list(self.prices)}")

    def holds(self, tokens: Tokens) -> bool:
        """Says whether tokens are within the budget."""
        if self.tokens is not None and tokens.sent + tokens.received > self.tokens:
            return False
        cost = self.price(tokens)
        return self.usd is None or cost is None or cost <= self.usd

    def price(self, tokens: Tokens) -> float | None:
        """Returns the cost of tokens in US dollars, None where prices are not known."""
        if self.prices is None:
            return None
        return (tokens.sent * self.prices[0] + tokens.received * self.prices[1]) / 1e6


class Spending:
    """What requests took so far. One event loop at a time.

    Before a request its worst case is reserved, afterwards what it took is settled, so that the budget is not exceeded
    however many requests are in flight. A request whose reply was lost is settled at its worst case.

    Args:
        budget: What may be taken.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.num_requests = 0
        self.num_uncounted = 0
        self.counted = Tokens()
        self._uncounted = Tokens()  # worst cases of replies that did not come, or came without a count
        self._reserved: list[Tokens] = []
        self._is_exhausted = False
        self._settled: asyncio.Event | None = None

    async def reserve(self, worst: Tokens) -> bool:
        """Waits until a request's worst case fits beside those in flight.

        Returns:
            False if it does not fit when none is in flight, and ever after.
        """
        while not self._is_exhausted:
            in_flight = sum(self._reserved, Tokens())
            if self.budget.holds(self.counted + self._uncounted + in_flight + worst):
                self._reserved.append(worst)
                return True
            if not self._reserved:
                self._is_exhausted = True
                break
            self._settled = self._settled or asyncio.Event()
            await self._settled.wait()
        return False

    def settle(self, worst: Tokens, taken: Tokens | None) -> None:
        """Ends a reservation.

        Args:
            worst: What was reserved.
            taken: What the request took; None if that is not known.
        """
        self._reserved.remove(worst)
        self.num_requests += 1
        if taken is None:
            self.num_uncounted += 1
            self._uncounted += worst
        else:
            self.counted += taken
        self._wake()

    def _wake(self) -> None:
        if self._settled is not None:
            self._settled.set()
            self._settled = None
