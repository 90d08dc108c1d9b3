"""Who waits at a hall that is far asks it nothing meanwhile, and is there in time for what falls due."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from typing import Any

import pytest
from far import Far
from faults import eventually

import guildhall
from guildhall import Lock, Queue, RateLimiter, TimedOut, aio, deadline
from guildhall.hosts.dask import scheduler
from guildhall.hosts.dask.link import Link

WAITERS = 50


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each op was asked for."""
    found: Counter[str] = Counter()
    ask = Link._ask

    def count(self: Link, slot: Any, op: Any, *rest: Any) -> int:
        found[getattr(op, "__name__", op)] += 1
        return ask(self, slot, op, *rest)

    monkeypatch.setattr(Link, "_ask", count)
    return found


def test_coroutines_that_wait_ask_nothing(far: Far, hall: guildhall.Hall, asked: Counter[str]) -> None:
    lock = Lock("l", hall=hall)
    lock.acquire()

    async def main() -> None:
        waits = [asyncio.ensure_future(aio.Lock("l", hall=hall).acquire()) for _ in range(WAITERS)]
        while asked["declare"] < WAITERS:
            await asyncio.sleep(0.01)
        asked.clear()
        await asyncio.sleep(2.5)  # Two and a half times as long as a near one sleeps before it looks.
        assert not asked
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)

    asyncio.run(asyncio.wait_for(main(), 20))


def test_threads_that_wait_ask_nothing(far: Far, hall: guildhall.Hall, asked: Counter[str]) -> None:
    lock = Lock("l", hall=hall)
    lock.acquire()

    def wait() -> None:
        with Lock("l", hall=hall):
            pass

    threads = [threading.Thread(target=wait) for _ in range(WAITERS)]
    for thread in threads:
        thread.start()
    assert eventually(lambda: asked["declare"] >= WAITERS)
    asked.clear()
    time.sleep(2.5)
    assert not asked
    lock.release()
    for thread in threads:
        thread.join(20)
    assert not lock.locked()


def test_a_lease_that_began_after_the_wait_is_over_in_time(far: Far, hall: guildhall.Hall) -> None:
    """The waiters learned as they parked that the holder stays as long as it likes; the next one has a lease."""
    first, leased = Lock("l", hall=hall), Lock("l", hall=hall, lease_s=0.5)
    first.acquire()
    got: list[float] = []

    def take_and_keep() -> None:
        assert leased.acquire()

    def wait() -> None:
        with Lock("l", hall=hall):
            got.append(time.monotonic())

    keeper = threading.Thread(target=take_and_keep)
    keeper.start()
    assert eventually(lambda: len(first.statistics().waiting) == 1)
    waiters = [threading.Thread(target=wait) for _ in range(3)]
    for thread in waiters:
        thread.start()
    assert eventually(lambda: len(first.statistics().waiting) == 4)
    began = time.monotonic()
    first.release()
    for thread in (keeper, *waiters):
        thread.join(20)
    assert len(got) == 3
    assert 0.4 < got[0] - began < 3


class _OtherMachine:
    """The clocks of a machine that was started earlier, and whose date is wrong."""

    @staticmethod
    def now() -> float:
        return deadline.now() + 5000

    @staticmethod
    def ticks_ns() -> int:
        return deadline.ticks_ns() + 5000 * 10**9

    @staticmethod
    def wall() -> float:
        return deadline.wall() - 5000

    boot = staticmethod(lambda: "another")


def test_times_are_those_of_the_schedulers_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "deadline", _OtherMachine)
    far = Far()
    with guildhall.Hall(far.host()) as hall:
        began = time.monotonic()
        limit = RateLimiter("r", 5, burst=1, hall=hall)
        assert [limit.acquire(timeout=10) for _ in range(3)] == [True] * 3
        assert 0.35 < time.monotonic() - began < 5

        queue = Queue("q", hall=hall)
        queue.put("late", delay=0.4)
        with pytest.raises(TimedOut):
            queue.get(timeout=0.1)
        assert queue.get(timeout=10) == "late"

        leased = Lock("l", hall=hall, lease_s=0.4)
        assert leased.acquire()
        assert not Lock("l", hall=hall).acquire(timeout=0.1)
        assert Lock("l", hall=hall).acquire(timeout=10)
    far.close()
