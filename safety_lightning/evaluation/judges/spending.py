"""Counts tokens and cost, and holds a budget: a request is sent only if its worst case still fits."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from safety_lightning.errors import UserError

LIST_PRICES = {"gpt-4o-mini": (0.15, 0.60)}  # US dollars a million tokens, in and out; OpenAI's list since 2024-07


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
