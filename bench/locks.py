"""What can be held: microseconds of one cycle (acquire and release), alone, among many, and handed over.

Run it with `python bench/locks.py`. The peers in the same run are those of `multiprocessing`, which know no names, no
death of a holder and no order.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lib.timing import forked, head, joined, p50, p99, row, seconds, times

import guildhall
from guildhall import Lock, MultiLock, RLock, RWLock, Semaphore
from guildhall.primitives import lock, multilock, pool, rlock, rwlock, semaphore, sessions
from guildhall.store.transaction import Waiter

TIMES = 4000
BATCH = 20
Cycle = Callable[[], Any]


def cycles(hall: guildhall.Hall) -> dict[str, Cycle]:
    """One acquire and release of each kind, uncontended."""
    plain, leased = Lock("x", hall=hall), Lock("x", lease_s=30, hall=hall)
    again, rw, semaphore = RLock("x", hall=hall), RWLock("x", hall=hall), Semaphore("x", 4, hall=hall)
    outer, one, three = RLock("outer", hall=hall), MultiLock(["x"], hall=hall), MultiLock(["x", "y", "z"], hall=hall)
    outer.acquire()
    return {
        "Lock": lambda: (plain.acquire(), plain.release()),
        "Lock(lease_s=30)": lambda: (leased.acquire(), leased.release()),
        "RLock": lambda: (again.acquire(), again.release()),
        "RLock, again": lambda: (outer.acquire(), outer.release()),
        "RWLock, read": lambda: (rw.acquire_read(), rw.release_read()),
        "RWLock, write": lambda: (rw.acquire_write(), rw.release_write()),
        "Semaphore": lambda: (semaphore.acquire(), semaphore.release()),
        "MultiLock of 1": lambda: (one.acquire(), one.release()),
        "MultiLock of 3": lambda: (three.acquire(), three.release()),
    }


def measured(cycle: Cycle) -> tuple[float, float]:
    """Median and 99th of a hundred, in microseconds."""
    taken = times(cycle, TIMES // BATCH, batch=BATCH)
    return p50(taken) * 1e6, p99(taken) * 1e6


def hold_names(hall: guildhall.Hall, count: int) -> None:
    """So many other names of each kind are held."""
    host = hall.host

    def fill(txn: Any, numbers: range) -> None:
        for number in numbers:
            name = b"\x02%d\x00\x00" % number
            lock.acquire(txn, name, host.session, 1, -number, None, 1.0)
            rlock.acquire(txn, name, host.session, 1, -number, 1.0, None)
            rwlock.acquire(txn, name, rwlock.READ, host.session, -number, 1.0, None)
            semaphore.acquire(txn, name, 1, 0, host.session, -number, 1.0, None)
            multilock.acquire(txn, (name,), 1, host.session, -number, 1.0, None)

    for first in range(10**6, 10**6 + count, 1000):
        host.transact(fill, range(first, min(first + 1000, 10**6 + count)))


@contextmanager
def idle_sessions(hall: guildhall.Hall, count: int) -> Iterator[None]:
    """So many other processes are in the hall."""
    read, write = os.pipe()

    def stay(_: int) -> None:
        os.close(write)
        assert hall.host.session
        os.read(read, 1)

    pids = forked(stay, count)
    while len(hall.host.read(sessions.everybody)) < count + 1:
        time.sleep(0.01)
    yield
    os.close(write)
    os.close(read)
    joined(pids)


def passing_on(hall: guildhall.Hall, waiting: int) -> dict[str, float]:
    """The op that releases with so many in line and the one that stands in line again: microseconds of the two."""
    host, session = hall.host, hall.host.session
    name, names = b"\x02w\x00\x00", (b"\x02w\x00\x00", b"\x02v\x00\x00")
    place, many = rwlock.RWLOCKS + name, semaphore.SEMAPHORES + name
    asks: dict[str, Callable[[int], Any]] = {
        "Lock": lambda n: host.transact(lock.acquire, name, session, n, n, Waiter(session, n, 0), 1.0),
        "RLock": lambda n: host.transact(rlock.acquire, name, session, n, n, 1.0, Waiter(session, n, 0)),
        "RWLock, write": lambda n: host.transact(
            rwlock.acquire, name, rwlock.WRITE, session, n, 1.0, Waiter(session, n, 0)
        ),
        "Semaphore": lambda n: host.transact(semaphore.acquire, name, 1, 0, session, n, 1.0, Waiter(session, n, 0)),
        "MultiLock of 2": lambda n: host.transact(multilock.acquire, names, 2, session, n, 1.0, Waiter(session, n, 0)),
    }
    gives: dict[str, Callable[[int], Any]] = {
        "Lock": lambda n: host.transact(lock.release, name, session, n, 1.0),
        "RLock": lambda n: host.transact(rlock.release, name, session, n, -n, 1.0),
        "RWLock, write": lambda n: host.transact(pool.release, place, session, n, 1.0),
        "Semaphore": lambda n: host.transact(pool.release, many, session, n, 1.0),
        "MultiLock of 2": lambda n: host.transact(multilock.release, names, session, n, 1.0),
    }
    took = {}
    for base, (kind, ask) in enumerate(asks.items(), 1):
        first = base * 10_000_000 + waiting * 10_000
        numbers = iter(range(first, first + 10_000))
        line = [next(numbers) for _ in range(waiting + 1)]
        for number in line:
            ask(number)

        def step(kind: str = kind, ask: Callable[[int], Any] = ask, line: list[int] = line, n: Any = numbers) -> None:
            gives[kind](line.pop(0))
            line.append(next(n))
            ask(line[-1])

        took[kind] = measured(step)[0]
        while line:
            gives[kind](line.pop(0))
    return took


def in_turns(work: Callable[[int], None]) -> float:
    """Microseconds of one turn when two processes take `TIMES` turns each."""
    return seconds(lambda: joined(forked(work, 2))) / (2 * TIMES) * 1e6


def hand_over(hall: guildhall.Hall, make: Callable[[], Any]) -> float:
    def work(number: int) -> None:
        mine = make()
        for _ in range(TIMES):
            with mine:
                pass

    return in_turns(work)


def ping_pong() -> float:
    """Two semaphores of multiprocessing, by which two processes wake each other in turn."""
    turns = [multiprocessing.Semaphore(1), multiprocessing.Semaphore(0)]

    def work(number: int) -> None:
        for _ in range(TIMES):
            turns[number].acquire()
            turns[1 - number].release()

    return in_turns(work)


def main() -> None:
    peer = multiprocessing.Lock()
    head("a cycle, us", "p50", "p99", "10 000 names held, p50", "64 sessions, p50")
    with guildhall.open() as hall:
        alone = {kind: measured(cycle) for kind, cycle in cycles(hall).items()}
    with guildhall.open() as hall:
        hold_names(hall, 10_000)
        named = {kind: measured(cycle) for kind, cycle in cycles(hall).items()}
    with guildhall.open() as hall, idle_sessions(hall, 64):
        crowded = {kind: measured(cycle) for kind, cycle in cycles(hall).items()}
    for kind, found in alone.items():
        row(kind, *(f"{us:.1f}" for us in (*found, named[kind][0], crowded[kind][0])))
    row("multiprocessing.Lock", *(f"{us:.1f}" for us in measured(lambda: (peer.acquire(), peer.release()))), "", "")

    print()
    head("passing on and standing in line again, us", "1 waits", "200 wait")
    with guildhall.open() as hall:
        few, many = passing_on(hall, 1), passing_on(hall, 200)
    for kind in few:
        print(f"| {kind} | {few[kind]:.1f} | {many[kind]:.1f} |")

    print()
    head("a turn of two processes, us |")
    with guildhall.open() as hall:
        kinds: dict[str, Callable[[], Any]] = {
            "Lock": lambda: Lock("t", hall=hall),
            "Lock(lease_s=30)": lambda: Lock("t", lease_s=30, hall=hall),
            "RLock": lambda: RLock("t", hall=hall),
            "RWLock, write": lambda: RWLock("t", hall=hall).write(),
            "Semaphore(1)": lambda: Semaphore("t", hall=hall),
            "MultiLock of 2": lambda: MultiLock(["t", "u"], hall=hall),
        }
        for kind, make in kinds.items():
            print(f"| {kind} | {statistics.median(hand_over(hall, make) for _ in range(3)):.1f} |")
    print(f"| two multiprocessing.Semaphores, ping-pong | {statistics.median(ping_pong() for _ in range(3)):.1f} |")


if __name__ == "__main__":
    main()
