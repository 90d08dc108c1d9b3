"""What has a record of its own can be deleted, and then nothing is left of it."""

from __future__ import annotations

import asyncio
import inspect
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from faults import Child, eventually

import guildhall
from guildhall import (
    Barrier,
    Counter,
    Event,
    Hall,
    Latch,
    Misuse,
    PriorityQueue,
    Pub,
    Queue,
    RateLimiter,
    Sub,
    TimedOut,
    Variable,
    aio,
)
from guildhall.hosts import current
from guildhall.primitives.queue import ENDS, HANDS
from guildhall.primitives.values import OBJECTS
from guildhall.primitives.waiters import LINES


@pytest.fixture
def hall(hall: Hall) -> Iterator[Hall]:
    """The current hall of the test."""
    current.add_default(hall.host)
    yield hall
    current.remove_default(hall.host)


def keys(hall: Hall, *regions: bytes) -> list[bytes]:
    return hall.host.read(lambda txn: [key for region in regions or (b"",) for key, _ in txn.scan(region)])


def a_full_queue(name: str) -> Queue:
    queue = Queue(name, maxsize=7, max_deliveries=1)
    queue.put_many(["taken", *range(600)])
    queue.take().nack()
    for _ in range(3):
        queue.put_many([np.zeros(20_000)])
    Queue(name).put_many([])
    return queue


def a_priority_queue(name: str) -> Queue:
    queue = PriorityQueue(name)
    for rank in (3, -2, 0):
        queue.put("item", priority=rank)
        queue.put("later", priority=rank, delay=1000)
    return queue


USED: dict[str, Callable[[str], Any]] = {
    "variable": lambda name: Variable(name).set(np.zeros(20_000)) or Variable(name),  # type: ignore[func-returns-value]
    "counter": lambda name: Counter(name).add(5) and Counter(name),
    "queue": a_full_queue,
    "priority queue": a_priority_queue,
    "closed queue": lambda name: Queue(name).close() or Queue(name),  # type: ignore[func-returns-value]
    "event": lambda name: Event(name).set() or Event(name),  # type: ignore[func-returns-value]
    "latch": lambda name: Latch(name, 3).count_down() and Latch(name, 3),
    "barrier": lambda name: Barrier(name, 3, fixed=True).abort() or Barrier(name, 3),  # type: ignore[func-returns-value]
    "rate limiter": lambda name: RateLimiter(name, 5000).acquire(70) and RateLimiter(name, 5000),
    "rate limiter with a burst": lambda name: RateLimiter(name, 5, burst=2).acquire() and RateLimiter(name, 5, burst=2),
    "topic": lambda name: Pub(name, keep=10).put(1) or Pub(name),  # type: ignore[func-returns-value]
}


@pytest.mark.parametrize("kind", USED)
def test_nothing_is_left_of_what_was_deleted(hall: Hall, kind: str) -> None:
    Counter("other").add()
    before = keys(hall)
    made = USED[kind]("x")
    assert len(keys(hall)) > len(before)
    made.delete()
    hall.host.settle()
    assert keys(hall) == before
    made.delete()
    assert keys(hall) == before


@pytest.mark.parametrize("kind", USED)
def test_coroutines_delete_too(hall: Hall, kind: str) -> None:
    before = keys(hall)
    made = USED[kind]("x")
    asyncio.run(getattr(aio, type(made).__name__)("x", **_terms(made)).delete())
    hall.host.settle()
    assert keys(hall) == before


def _terms(made: Any) -> dict[str, Any]:
    return {Latch: {"count": 3}, RateLimiter: {"rate": 5}, Barrier: {"parties": 3}}.get(type(made), {})


def test_what_was_deleted_may_be_made_anew_on_other_terms(hall: Hall) -> None:
    Latch("l", 3).count_down()
    Latch("l", 3).delete()
    assert Latch("l", 2).count_down() == 1
    RateLimiter("r", 5).acquire(5)
    RateLimiter("r", 5).delete()
    assert RateLimiter("r", 2, per_s=1000).try_acquire(2)
    Queue("q", maxsize=1).put(1)
    Queue("q").delete()
    Queue("q", maxsize=2).put(1, timeout=0)
    Queue("q", maxsize=2).put(2, timeout=0)
    Pub("t", keep=5).put(1)
    Pub("t").delete()
    with Sub("t", start="oldest") as sub, pytest.raises(TimedOut):
        sub.get(timeout=0)


@pytest.mark.parametrize(
    ("made", "wait", "end"),
    [
        (lambda: Latch("x", 1), lambda x: x.wait(10), lambda x: x.count_down()),
        (lambda: RateLimiter("x", 1, 0.3), lambda x: x.acquire(timeout=10), lambda x: None),
        (lambda: Queue("x"), lambda x: x.get(timeout=10), lambda x: x.put(1)),
    ],
)
def test_nothing_is_deleted_under_who_waits(
    hall: Hall, made: Callable[[], Any], wait: Callable[[Any], Any], end: Callable[[Any], Any]
) -> None:
    thing = made()
    if isinstance(thing, RateLimiter):
        thing.acquire()
    thread = threading.Thread(target=wait, args=(thing,))
    thread.start()
    assert eventually(lambda: keys(hall, LINES) != [])
    with pytest.raises(Misuse, match=r"'x': it cannot be deleted while somebody waits \(1 now\)"):
        thing.delete()
    end(thing)
    thread.join(10)
    assert eventually(lambda: keys(hall, LINES) == [])
    thing.delete()
    assert not hall.snapshot().things


def test_a_queue_is_not_deleted_under_a_taker_nor_a_topic_under_a_subscriber(hall: Hall) -> None:
    Queue("q").put(1)
    with Queue("q").take(), pytest.raises(Misuse, match=r"while items are with takers \(1 now\)"):
        Queue("q").delete()
    with Sub("t"), pytest.raises(Misuse, match=r"while it has subscriptions \(1 now\)"):
        Pub("t").delete()
    Queue("q").delete()
    Pub("t").delete()


def test_what_a_thread_got_before_a_queue_was_deleted_takes_nothing_out_of_the_next_one(hall: Hall) -> None:
    """A thread deletes what it got last with its next get; the numbers of the new queue must not be the old ones."""
    queue = Queue("q")
    queue.put_many(range(5))
    assert queue.get() == 0
    queue.delete()
    queue.put_many("abcdef")
    assert queue.statistics().unfinished == 6
    assert [queue.get(timeout=0) for _ in range(6)] == list("abcdef")
    assert queue.qsize() == 0
    queue.delete()
    Queue("other").put(1)
    assert Queue("other").get() == 1, "the hand has let go of the first one"
    queue.delete()
    assert keys(hall, ENDS) == []


def test_what_a_dead_getter_had_in_hand_does_not_come_back_into_a_deleted_queue(hall: Hall) -> None:
    queue = Queue("q")
    queue.put("lost")

    def get_and_stop() -> None:
        queue._open = lambda *args: time.sleep(60)  # type: ignore[assignment,method-assign]
        queue.get()

    child = Child(get_and_stop)
    assert eventually(lambda: queue.qsize() == 0 and keys(hall, HANDS) != [])
    queue.delete()
    child.kill()
    hall.host.bury_dead()
    assert queue.qsize() == 0
    queue.delete()
    assert not hall.snapshot().things


def test_large_items_are_freed(hall: Hall) -> None:
    queue = Queue("q")
    queue.put_many([np.zeros(20_000) for _ in range(5)])
    assert hall.snapshot().blobs.count == 5
    queue.delete()
    hall.host.settle()
    assert eventually(lambda: hall.snapshot().blobs.count == 0)
    assert keys(hall, OBJECTS) == []


def test_deleting_among_putters_and_getters_loses_nothing_but_what_it_throws_away(hall: Hall) -> None:
    """Whoever got an item got one that was put, once, and in order; and the queue works afterwards."""
    dice = random.Random(seed := random.randrange(1 << 30))
    stop = time.monotonic() + 1
    got: list[list[int]] = [[] for _ in range(2)]

    def get_all(mine: list[int]) -> None:
        while time.monotonic() < stop:
            try:
                mine.append(Queue("q").get(timeout=0))
            except TimedOut:
                time.sleep(0.0001)

    threads = [threading.Thread(target=get_all, args=(mine,)) for mine in got]
    for thread in threads:
        thread.start()
    number = 0
    while time.monotonic() < stop:
        for _ in range(dice.randrange(6)):
            Queue("q").put(number)
            number += 1
        if dice.random() < 0.3:
            Queue("q").delete()
    for thread in threads:
        thread.join()
    assert all(mine == sorted(set(mine)) for mine in got), f"seed {seed}"
    assert not set(got[0]) & set(got[1]), f"seed {seed}"
    Queue("q").delete()
    Queue("q").put("works")
    assert Queue("q").get(timeout=0) == "works"


# All that a handle does, its twin of asyncio awaits

AT_ONCE = {
    "locked", "is_set", "qsize", "statistics", "full", "empty", "ensure_held", "get_value", "holds", "closed", "held",
    "dead_letters", "read", "write", "take", "watch", "close", "unsubscribe",
}  # fmt: skip
"""Looks, what gives something to await or to enter, and the ends of watches and subscriptions."""


@pytest.mark.parametrize("name", [name for name in aio.__all__ if isinstance(getattr(guildhall, name, None), type)])
def test_what_a_handle_does_its_twin_awaits(name: str) -> None:
    for what in dir(getattr(guildhall, name)):
        if what.startswith("_") or what in AT_ONCE:
            continue
        twin = inspect.getattr_static(getattr(aio, name), what)
        if callable(twin):
            assert inspect.iscoroutinefunction(twin), f"aio.{name}.{what}"
