"""Waits between tries, what servers say about them, and budgets that hold however many requests are in flight."""

import asyncio
import email.utils
import random
import time

import pytest

from safety_lightning.evaluation.judges.served.requests import RequestError, Tokens, read_retry_after
from safety_lightning.evaluation.judges.served.scheduling import Budget, Delivery, Spending

DELIVERY = Delivery(max_tries=6, first_wait_seconds=1.0, longest_wait_seconds=10.0)
AGAIN = RequestError("busy", again=True)


def choose_waits(fault: RequestError, num_tries: int, num_in_a_row: int = 100) -> list[float | None]:
    draw = random.Random(0)
    return [DELIVERY.choose_wait(fault, num_tries=num_tries, num_in_a_row=num_in_a_row, draw=draw) for _ in range(500)]


@pytest.mark.parametrize(("num_tries", "full"), [(1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (5, 10.0)])
def test_waits_double_up_to_the_longest_and_jitter(num_tries, full):
    waits = choose_waits(AGAIN, num_tries)
    assert full / 2 <= min(waits) < 0.55 * full
    assert 0.95 * full < max(waits) <= full


def test_a_request_with_bad_luck_waits_no_longer_than_a_server_in_trouble():
    assert max(choose_waits(AGAIN, 5, num_in_a_row=1)) <= 1.0
    assert max(choose_waits(AGAIN, 2, num_in_a_row=1)) <= 1.0
    assert 2.0 <= min(choose_waits(AGAIN, 5, num_in_a_row=3)) < max(choose_waits(AGAIN, 5, num_in_a_row=3)) <= 4.0


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_given_time_whoever_else_it_answers(status):
    assert min(choose_waits(RequestError("busy", again=True, status=status), 5, num_in_a_row=1)) >= 5.0


@pytest.mark.parametrize("asked", [0.5, 3.0, 10.0])
def test_the_servers_wish_is_honoured(asked):
    waits = choose_waits(RequestError("slow down", again=True, wait_seconds=asked), 1)
    assert asked <= min(waits) < max(waits) <= 1.1 * asked


def test_tries_end():
    assert choose_waits(AGAIN, 6)[0] is None
    assert choose_waits(RequestError("no", again=False), 1)[0] is None
    assert choose_waits(RequestError("slow down", again=True, wait_seconds=10.5), 1)[0] is None


def test_a_wish_of_zero_backs_off_all_the_same():
    assert min(choose_waits(RequestError("slow down", again=True, wait_seconds=0.0), 1)) >= 0.5


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "-5"}, 0.0),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "Sun, 99 Nov 2026 00:00:00 GMT"}, None),
        ({"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT"}, 0.0),
    ],
)
def test_retry_after(headers, seconds):
    assert read_retry_after(headers) == seconds


@pytest.mark.parametrize("zone", ["GMT", "-0000"])
def test_retry_after_as_a_date(monkeypatch, zone):
    monkeypatch.setattr(time, "time", lambda: 1_800_000_000.0)
    date = email.utils.formatdate(1_800_000_007, usegmt=True).replace("GMT", zone)
    assert read_retry_after({"retry-after": date}) == 7.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"concurrency": 0}, "concurrency must be at least 1, got 0"),
        ({"max_tries": 0}, "max_tries must be at least 1, got 0"),
        ({"requests_per_minute": 0.0}, "requests_per_minute must be above 0, got 0"),
        ({"timeout_seconds": -1.0}, "timeout_seconds must be above 0, got -1"),
        ({"first_wait_seconds": 0.0}, "first_wait_seconds must be above 0, got 0"),
        ({"longest_wait_seconds": 0.1}, r"longest_wait_seconds must be at least first_wait_seconds \(0.25\), got 0.1"),
    ],
)
def test_bad_delivery(settings, message):
    with pytest.raises(ValueError, match=message):
        Delivery(**settings)


def test_prices():
    budget = Budget(prices=(0.15, 0.60))
    assert budget.price(Tokens(1_000_000, 500_000)) == pytest.approx(0.45)
    assert Budget().price(Tokens(1, 1)) is None
    assert Budget(tokens=10).holds(Tokens(6, 4))
    assert not Budget(tokens=10).holds(Tokens(6, 5))
    assert Budget(usd=0.45, prices=(0.15, 0.60)).holds(Tokens(1_000_000, 500_000))
    assert not Budget(usd=0.44, prices=(0.15, 0.60)).holds(Tokens(1_000_000, 500_000))


@pytest.mark.parametrize("seed", range(5))
def test_the_budget_is_never_exceeded_and_nearly_used(seed):
    draw = random.Random(seed)
    spending = Spending(Budget(tokens=2000))

    async def request() -> bool:
        worst = Tokens(50, 50)
        if not await spending.reserve(worst):
            return False
        await asyncio.sleep(draw.random() * 0.002)
        spending.settle(worst, Tokens(draw.randint(1, 50), draw.randint(1, 50)))
        return True

    async def run() -> list[bool]:
        return await asyncio.gather(*(request() for _ in range(200)))

    sent = asyncio.run(run())
    used = spending.counted.sent + spending.counted.received
    assert 2000 - 100 < used <= 2000  # what is left is less than one more worst case
    assert spending.num_requests == sum(sent) > 20
    assert not all(sent)


def test_after_the_end_nothing_is_sent():
    spending = Spending(Budget(tokens=100))

    async def run() -> list[bool]:
        return [await spending.reserve(Tokens(sent)) for sent in (101, 1)]

    assert asyncio.run(run()) == [False, False]


def test_a_lost_reply_counts_at_its_worst():
    spending = Spending(Budget(tokens=100))

    async def run() -> bool:
        assert await spending.reserve(Tokens(60, 20))
        spending.settle(Tokens(60, 20), None)
        return await spending.reserve(Tokens(30))

    assert not asyncio.run(run())
    assert (spending.counted, spending.num_requests, spending.num_uncounted) == (Tokens(), 1, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokens": -1}, r"budget\.tokens must be at least 0, got -1"),
        ({"usd": -0.5}, r"budget\.usd must be at least 0, got -0.5"),
        ({"prices": (1.0, -1.0)}, r"budget\.prices must be at least 0, got \[1.0, -1.0\]"),
    ],
)
def test_bad_budgets(settings, message):
    with pytest.raises(ValueError, match=message):
        Budget(**settings)
