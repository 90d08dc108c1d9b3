"""Queues: the cost of each operation, from 10 to 100 000 items in the queue, and with others in line.

`python bench/queues.py` prints p50 and p99 in microseconds; peers of multiprocessing in the same run.
"""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from lib.timing import head, row, times, us

import guildhall
from guildhall.primitives import queue

DEPTHS = (0, 10, 1000, 100_000)
TIMES = 2000
ROUNDS = 10


class Bench:
    """Each operation at queues of one depth, in a hall of their own, and what comes before it to keep the depth."""

    def __init__(self, depth: int) -> None:
        self.hall = guildhall.open()
        self.plain, self.worked, self.empty = (guildhall.Queue(n, hall=self.hall) for n in ("plain", "worked", "empty"))
        self.ranked = guildhall.PriorityQueue("ranked", hall=self.hall)
        for one in (self.plain, self.ranked, self.worked):
            for at in range(0, depth, 1000):
                one.put_many(range(min(1000, depth - at)))
        self.taken: Any = None

    def operations(self) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
        """By name: what comes before it, and the operation."""
        plain, ranked, worked = self.plain, self.ranked, self.worked
        some = b"x" * 1024
        return {
            "put + get": (nothing, lambda: (plain.put(1), plain.get())),
            "put + get of 1 KB": (nothing, lambda: (plain.put(some), plain.get())),
            "put": (self.shorten, lambda: plain.put(1)),
            "get": (lambda: plain.put(1), plain.get),
            "get that finds nothing": (nothing, self.find_nothing),
            "take": (self.end, self.take),
            "ack": (self.begin, lambda: self.taken.ack()),
            "nack": (self.take, lambda: self.taken.nack()),
            "put, delayed": (worked.get, lambda: worked.put(1, delay=1e-6)),
            "get, delayed": (lambda: worked.put(1, delay=1e-6), worked.get),
            "put with a priority": (ranked.get, lambda: ranked.put(1, priority=-1)),
            "get by priority": (lambda: ranked.put(1, priority=-1), ranked.get),
            "qsize": (nothing, plain.qsize),
            "task_done": (nothing, worked.task_done),
        }

    def prepare(self) -> None:
        """Each of the queues has one more, and one is taken."""
        for one in (self.plain, self.ranked, self.worked, self.worked):
            one.put(1)
        self.taken = self.worked.take()

    def shorten(self) -> None:
        self.plain.get(timeout=0)

    def find_nothing(self) -> None:
        with suppress(guildhall.TimedOut):
            self.empty.get(timeout=0)

    def take(self) -> None:
        self.taken = self.worked.take()

    def end(self) -> None:
        with suppress(guildhall.NotHeld):
            self.taken.ack()
        self.worked.put(1)

    def begin(self) -> None:
        self.worked.put(1)
        self.take()


def nothing() -> None:
    pass


def main() -> None:
    benches = [Bench(depth) for depth in DEPTHS]
    head("us, p50 / p99", *(f"{depth} deep" for depth in DEPTHS))
    for bench in benches:
        bench.prepare()
    for what in benches[0].operations():
        taken: list[list[float]] = [[] for _ in DEPTHS]
        for _ in range(ROUNDS):  # In turn, so that a machine that changes its speed changes all.
            for bench, found in zip(benches, taken, strict=True):
                before, call = bench.operations()[what]
                found += times(call, TIMES // ROUNDS, before)
        row(what, *map(us, taken))
    with_others(benches[0].hall)
    for bench in benches:
        bench.hall.close()
    peers()


def with_others(hall: guildhall.Hall) -> None:
    plain, large = guildhall.Queue("large", hall=hall), b"x" * 60_000
    print(f"| put + get of 60 KB | {us(times(lambda: (plain.put(large), plain.get()), TIMES))} | | | |")
    print("| with others in line | 1 | 200 | | |")
    for what, others in (("put, others get", put_to_waiters), ("get, others put", get_from_waiters)):
        print(f"| {what} | {us(others(hall, 1))} | {us(others(hall, 200))} | | |")


def put_to_waiters(hall: guildhall.Hall, count: int) -> list[float]:
    """A put while so many wait to get: it serves the first of them; before it, another one takes the last place."""
    waiting, host = guildhall.Queue(f"getters{count}", hall=hall), hall.host

    def wait() -> None:
        host.transact(queue.get, waiting._key, 0, 1, host.session, host.waiter())

    for _ in range(count):
        wait()
    return times(lambda: waiting.put(1), TIMES, wait)


def get_from_waiters(hall: guildhall.Hall, count: int) -> list[float]:
    """A get while so many wait to put: it lets the first of them in; before it, another one takes the last place."""
    full, host = guildhall.Queue(f"putters{count}", 10, hall=hall), hall.host
    full.put_many(range(10))

    def wait() -> None:
        host.transact(queue.put, full._key, 10, pickle.dumps(1), host.waiter())

    for _ in range(count):
        wait()
    return times(full.get, TIMES, wait)


def peers() -> None:
    with multiprocessing.Manager() as manager:
        managed = manager.Queue()
        piped: Any = multiprocessing.Queue()
        for what, queue in (("Manager().Queue", managed), ("multiprocessing.Queue", piped)):
            print(f"| {what}: put + get | {us(times(lambda queue=queue: (queue.put(1), queue.get()), 500))} | | | |")


if __name__ == "__main__":
    main()
