"""Barrier, Latch, Condition, Election and RateLimiter: microseconds of each uncontended operation, p50 and p99, and how
it grows with names and with waiters; then what they cost between two processes, beside a pipe or a semaphore.

Run it with `python bench/sync.py`. Rows of one kind are measured in turn, so that a machine that changes its speed
changes all of them.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from typing import Any

from lib.timing import forked, head, joined, p50, p99, row, seconds, times

import guildhall
from guildhall import Barrier, Condition, Election, Latch, RateLimiter
from guildhall.primitives import barrier, condition, election, latch, limiter, rlock
from guildhall.store.keys import pack_name
from guildhall.store.transaction import Waiter

COUNT = 2000
ROUNDS = 5


def table(title: str, calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Print p50 and p99 of each call. Returns the medians."""
    taken: dict[str, list[float]] = {what: [] for what in calls}
    for _ in range(ROUNDS):
        for what, call in calls.items():
            taken[what] += times(call, COUNT)
    print()
    head(title, "p50, us", "p99, us")
    for what, some in taken.items():
        row(what, f"{p50(some) * 1e6:.1f}", f"{p99(some) * 1e6:.1f}")
    return {what: p50(some) for what, some in taken.items()}


def uncontended(hall: guildhall.Hall, name: str = "x") -> dict[str, Callable[[], Any]]:
    alone, many = Barrier(name, 1, hall=hall), Latch(name, 1 << 40, hall=hall)
    changed, vote = Condition(name, hall=hall), Election(name, hall=hall)
    limit = RateLimiter(name, 10**9, burst=10**9, hall=hall)
    log, grains = RateLimiter(f"{name} log", 100, 0.0001, hall=hall), RateLimiter(f"{name} grains", 10**9, hall=hall)
    held = Condition(f"{name} held", hall=hall)
    held.acquire()

    def lead() -> None:
        vote.campaign()
        vote.resign()

    def hold() -> None:
        with changed:
            pass

    return {
        "Barrier(1).wait": alone.wait,
        "Barrier.n_waiting": lambda: alone.n_waiting,
        "Latch.count_down": many.count_down,
        "Latch.wait(0), not yet": lambda: many.wait(0),
        "Condition, acquire + release": hold,
        "Condition.notify, nobody waits": held.notify,
        "Election, campaign + resign": lead,
        "Election.leader, nobody": vote.leader,
        "RateLimiter.acquire": grains.acquire,
        "RateLimiter.try_acquire, 100 in 100 us": log.try_acquire,
        "RateLimiter.acquire, with a burst": limit.acquire,
    }


def with_names(hall: guildhall.Hall, number: int) -> None:
    """So many of each, of other names."""

    def make(txn: Any) -> None:
        for place in range(number):
            name = pack_name("bench", f"name {place}")
            barrier.abort(txn, name, 3)
            latch.count_down(txn, name, 3, 1)
            election.campaign(txn, name, 1, 1, -1, b"", None)
            limiter.acquire(txn, name, limiter.Terms(1, 1, 0), 1, limiter.Moment("", 1), None)

    hall.host.transact(make)


def with_waiters(hall: guildhall.Hall, number: int) -> dict[str, Callable[[], Any]]:
    """What is done while so many wait: each call serves or adds one waiter and takes it back."""
    host, name = hall.host, pack_name("bench", f"{number} waiters")
    guard = pack_name("bench", f"guard of {number}")
    terms, moment = limiter.Terms(1, 10**9, 0), limiter.Moment("", 1)
    numbers = iter(range(1_000_000 * number, 1 << 62))
    guarded = condition.Guard(rlock.RLOCKS + guard, 1, 1)

    def waiter() -> Waiter:
        return Waiter(1, next(numbers), 0)

    def sleep(txn: Any, one: Waiter) -> None:
        rlock.acquire(txn, guard, 1, 1, -1, 0.0, None)
        condition.wait(txn, name, guarded, one, 0.0)

    def tell(txn: Any) -> None:
        """Notify one, which gets the lock and returns and waits again."""
        rlock.acquire(txn, guard, 1, 1, -1, 0.0, None)
        condition.notify(txn, name, guarded, 1, 0.0)
        rlock.release(txn, guard, 1, 1, -2, 0.0)
        held: Any = rlock.look(txn, guard)
        condition.collect(txn, guarded, Waiter(1, held.last, 0))
        condition.wait(txn, name, guarded, waiter(), 0.0)

    def come_and_leave() -> None:
        one = waiter()
        host.transact(barrier.wait, name, 1 << 30, one)
        host.transact(barrier.withdraw, name, 1 << 30, one)

    def stand_and_leave() -> None:
        one = waiter()
        host.transact(election.campaign, name, 1, 2, one.number, b"", one)
        host.transact(election.leave, one, b"")

    def queue_and_leave() -> None:
        one = waiter()
        host.transact(limiter.acquire, name, terms, 1, moment, one)
        host.transact(limiter.leave, name, 1, one)

    host.transact(election.campaign, name, 1, 1, -1, b"", None)
    host.transact(limiter.acquire, name, terms, 1, moment, None)
    for _ in range(number):
        host.transact(barrier.wait, name, 1 << 30, waiter())
        host.transact(sleep, waiter())
        one = waiter()
        host.transact(election.campaign, name, 1, 2, one.number, b"", one)
        host.transact(limiter.acquire, name, terms, 1, moment, waiter())
    return {
        "Barrier, come + leave": come_and_leave,
        "Condition, notify + return + wait, one commit": lambda: host.transact(tell),
        "Election, stand + leave": stand_and_leave,
        "RateLimiter, queue + leave": queue_and_leave,
    }


def between(partner: Callable[[int], None], mine: Callable[[int], None], count: int) -> float:
    """Microseconds of one round, with a partner in a forked process: the median of the rounds."""
    rounds = []
    for _ in range(ROUNDS):
        pids = forked(lambda _: partner(count), 1)
        time.sleep(0.05)
        rounds.append(seconds(lambda: mine(count)) / count * 1e6)
        joined(pids)
    return p50(rounds)


def meet(hall: guildhall.Hall) -> Callable[[int], None]:
    def run(times: int) -> None:
        point = Barrier("meet", 2, hall=hall)
        for _ in range(times):
            point.wait()

    return run


def ping_pong(hall: guildhall.Hall, side: int) -> Callable[[int], None]:
    """Each side waits until it is its turn, and tells the other."""

    def run(times: int) -> None:
        turn, changed = guildhall.Variable("turn", hall=hall), Condition("turn", hall=hall)
        for _ in range(times):
            with changed:
                changed.wait_for(lambda: turn.get() == side)
                turn.set(1 - side)
                changed.notify()

    return run


def main() -> None:
    with guildhall.open() as hall:
        alone = table("uncontended", uncontended(hall))
        with_names(hall, 10_000)
        among = table("with 10 000 other names of each", uncontended(hall, "among many"))
        grown = max(among[what] / alone[what] for what in alone)
        print(f"\nworst: {max(alone.values()) * 1e6:.1f} us alone; 10 000 names: at most {grown:.2f} times that")
    with guildhall.open() as hall:
        some, many = table("1 waits", with_waiters(hall, 1)), table("200 wait", with_waiters(hall, 200))
        print(f"\n1 to 200 waiters: at most {max(many[what] / some[what] for what in some):.2f} times")

    there, back = multiprocessing.Semaphore(0), multiprocessing.Semaphore(0)

    def answer(times: int) -> None:
        for _ in range(times):
            there.acquire()
            back.release()

    def ask(times: int) -> None:
        for _ in range(times):
            there.release()
            back.acquire()

    point = multiprocessing.Barrier(2)
    changed, turn = multiprocessing.Condition(), multiprocessing.Value("i", 0, lock=False)

    def their_side(side: int) -> Callable[[int], None]:
        def run(times: int) -> None:
            for _ in range(times):
                with changed:
                    changed.wait_for(lambda: turn.value == side)
                    turn.value = 1 - side
                    changed.notify()

        return run

    def their_meeting(times: int) -> None:
        for _ in range(times):
            point.wait()

    with guildhall.open() as hall:
        guildhall.Variable("turn", hall=hall).set(0)
        print("\n| between two processes | us a round |\n| --- | --- |")
        for what, partner, mine in (
            ("semaphore ping-pong (multiprocessing)", answer, ask),
            ("Barrier(2).wait", meet(hall), meet(hall)),
            ("Barrier(2).wait (multiprocessing)", their_meeting, their_meeting),
            ("Condition ping-pong", ping_pong(hall, 1), ping_pong(hall, 0)),
            ("Condition ping-pong (multiprocessing)", their_side(1), their_side(0)),
        ):
            print(f"| {what} | {between(partner, mine, 1000):.0f} |", flush=True)
        for rate in (100, 1000, 5000):
            print(f"RateLimiter({rate}, burst=1), waited for by 2 processes: {kept(hall, rate):.1%} of the rate")


def kept(hall: guildhall.Hall, rate: int) -> float:
    """How much of the rate two waiting processes get, if each unit is waited for."""

    def run(times: int) -> None:
        limit = RateLimiter(f"rate {rate}", rate, burst=1, hall=hall)
        for _ in range(times):
            limit.acquire()

    each = rate // 4
    return (2 * each - 1) / seconds(lambda: joined(forked(lambda _: run(each), 2))) / rate


if __name__ == "__main__":
    main()
