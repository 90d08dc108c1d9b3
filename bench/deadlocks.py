"""Circles of waits: what they cost who is in none, and how soon who closes one learns of it.

Run it with `python bench/deadlocks.py`. Microseconds, p50 and p99. `acquire + release` notes nothing, `with` notes its
frame: the difference is what the finding of circles costs where nobody waits, besides what `with` itself costs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from lib.timing import forked, joined, p50, p99, times

import guildhall
from guildhall import DeadlockError, Lock
from guildhall.client import agents
from guildhall.engine.local import tasks
from guildhall.primitives import deadlock, lock, waiters
from guildhall.store.keys import pack_name
from guildhall.store.transaction import Waiter

TIMES = 200


def spread(taken: list[float]) -> str:
    return f"{p50(taken) * 1e6:8.1f} {p99(taken) * 1e6:8.1f}"


def timed(call: Callable[[], Any], batch: int = 20) -> list[float]:
    """Seconds of one call, in batches."""
    return times(call, TIMES, batch=batch)


def cycles(hall: guildhall.Hall) -> None:
    held = Lock("x", hall=hall)

    def plain() -> None:
        held.acquire()
        held.release()

    def scoped() -> None:
        with held:
            pass

    print("lock, acquire + release          ", spread(timed(plain)))
    print("lock, with                       ", spread(timed(scoped)))


def falling_asleep(hall: guildhall.Hall, others: int) -> None:
    """The op that hangs the bell, and what is found out before it, with so many others asleep at the same lock."""
    host, key = hall.host, pack_name("lock", f"crowded {others}")
    numbers = iter(range(10**6 * (others + 1), 10**9))
    host.transact(lock.acquire, key, host.session, 1, -1, None)
    said = deadlock.Statement("thread x", ((lock.LOCKS + pack_name("lock", "mine"), 7, 1),))

    def stand(statement: deadlock.Statement | None, is_endless: bool = True) -> tuple[Waiter, float]:
        waiter = Waiter(host.session, next(numbers), 0)
        host.transact(lock.acquire, key, host.session, waiter.number, waiter.number, waiter)
        began = time.perf_counter()
        if is_endless:
            host.transact(deadlock.declare, waiter, 1, statement, tasks.awaits)
        else:
            host.transact(waiters.arm, waiter, 1)
        return waiter, time.perf_counter() - began

    asleep = [stand(None)[0] for _ in range(others)]
    for what, statement, is_endless in (
        ("with a timeout", None, False), ("holding nothing", None, True), ("holding a lock", said, True),
    ):  # fmt: skip
        taken = []
        for _ in range(TIMES):
            waiter, took = stand(statement, is_endless)
            host.transact(lock.withdraw, key, waiter)
            taken.append(took)
        print(f"falling asleep, {what:15}, {others:3} ", spread(taken))
    print(f"  what is found out before, {others:3}   ", spread(timed(lambda: agents.of_thread(host, 1), 1)))
    for waiter in asleep:
        host.transact(lock.withdraw, key, waiter)


def until_the_error(hall: guildhall.Hall) -> None:
    """From the call that closes a circle of two to the error: of the thread's own, of two threads, of two processes."""

    def again() -> float:
        with Lock("own", hall=hall):
            return closing("own")

    def closing(name: str) -> float:
        began = time.perf_counter()
        try:
            Lock(name, hall=hall).acquire()
        except DeadlockError:
            return time.perf_counter() - began
        raise AssertionError("it was free")

    def other(number: int) -> None:
        with Lock(f"theirs {number}", hall=hall), Lock(f"ours {number}", hall=hall):
            pass

    def crossing(number: int) -> float:
        with Lock(f"ours {number}", hall=hall) as ours:
            while not any(waiter.bell for waiter, _ in hall.host.read(waiters.line, lock.LOCKS + ours._key)):
                time.sleep(0.0002)
            return closing(f"theirs {number}")

    print("until the error, alone           ", spread([again() for _ in range(TIMES)]))
    taken = []
    for number in range(TIMES):
        thread = threading.Thread(target=_when_held, args=(hall, number, other))
        thread.start()
        taken.append(crossing(number))
        thread.join()
    print("until the error, two threads     ", spread(taken))
    pids = forked(lambda _: [_when_held(hall, number, other) for number in range(TIMES, 2 * TIMES)], 1)
    print("until the error, two processes   ", spread([crossing(n) for n in range(TIMES, 2 * TIMES)]))
    joined(pids)


def _when_held(hall: guildhall.Hall, number: int, then: Callable[[int], None]) -> None:
    while not Lock(f"ours {number}", hall=hall).locked():
        time.sleep(0.0002)
    then(number)


if __name__ == "__main__":
    with guildhall.open() as hall:
        print(" " * 33, "     p50      p99")
        cycles(hall)
        for others in (0, 20, 200):
            falling_asleep(hall, others)
        until_the_error(hall)
