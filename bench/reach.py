"""What the primitives are to reach, in one run and one table: what is asked, what was measured, yes or no.

Run it with `python bench/reach.py`; `--all` also prints p50 and p99 of every operation. Whatever is compared is
measured in turn, so that a machine that changes its speed changes both. It ends with 1 if anything was not reached.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import counter
import locks
import sync
import topics

import guildhall
from guildhall import (
    Barrier,
    Condition,
    Counter,
    Election,
    Event,
    Hall,
    Latch,
    Lock,
    MultiLock,
    PriorityQueue,
    Pub,
    Queue,
    RateLimiter,
    RLock,
    RWLock,
    Semaphore,
    Sub,
    Variable,
)
from guildhall.primitives import queue as ops
from guildhall.store.keys import pack_name
from guildhall.store.transaction import Waiter

ROUNDS, TIMES = 7, 150
US = 1e6


def nothing() -> None:
    pass


class Step(NamedTuple):
    """One call to be timed, and what is done before and after it, untimed."""

    call: Callable[[], Any]
    before: Callable[[], Any] = nothing
    after: Callable[[], Any] = nothing

    def times(self) -> list[float]:
        clock, taken = time.perf_counter, []
        for _ in range(TIMES):
            self.before()
            began = clock()
            self.call()
            taken.append(clock() - began)
            self.after()
        return taken


Steps = dict[str, Step]
Taken = dict[str, list[float]]


def values(hall: Hall) -> Steps:
    variable, number, event, gone = (kind("v", hall=hall) for kind in (Variable, Counter, Event, Latch0))
    variable.set(0)
    after = Variable("watched", hall=hall)
    after.set(0)
    news = after.watch()
    next(news)
    return {
        "Variable.get": Step(variable.get),
        "Variable.set": Step(lambda: variable.set(0)),
        "Variable.version": Step(lambda: variable.version),
        "Variable.compare_and_set": Step(lambda: variable.compare_and_set(0, 0)),
        "Variable.update": Step(lambda: variable.update(lambda n: n)),
        "Variable.wait_for, true already": Step(lambda: variable.wait_for(lambda n: True)),
        "a step of Variable.watch()": Step(lambda: next(news), before=lambda: after.set(0)),
        "Counter.add": Step(number.add),
        "Counter.get": Step(number.get),
        "Counter.set": Step(lambda: number.set(1)),
        "Event.set": Step(event.set, after=event.clear),
        "Event.clear": Step(event.clear, before=event.set),
        "Event.is_set": Step(event.is_set),
        "Latch.wait, over already": Step(gone.wait),
    }


def Latch0(name: str, hall: Hall) -> Latch:
    return Latch(name, 0, hall=hall)


def held(hall: Hall) -> Steps:
    """Of what is held, acquire and release, each alone."""
    lock, leased, again = Lock("l", hall=hall), Lock("le", lease_s=30, hall=hall), RLock("r", hall=hall)
    rw, many, some = RWLock("rw", hall=hall), MultiLock(["a", "b", "c"], hall=hall), Semaphore("s", 4, hall=hall)
    changed, vote = Condition("co", hall=hall), Election("el", hall=hall)
    pairs = {
        "Lock": (lock.acquire, lock.release),
        "Lock(lease_s)": (leased.acquire, leased.release),
        "RLock": (again.acquire, again.release),
        "RWLock, read": (rw.acquire_read, rw.release_read),
        "RWLock, write": (rw.acquire_write, rw.release_write),
        "MultiLock of 3": (many.acquire, many.release),
        "Semaphore": (some.acquire, some.release),
        "Condition": (changed.acquire, changed.release),
        "Election": (vote.campaign, vote.resign),
    }
    steps: Steps = {}
    for what, (acquire, release) in pairs.items():
        steps[f"{what}, acquire"] = Step(acquire, after=release)
        steps[f"{what}, release"] = Step(release, before=acquire)
    return steps | {
        "Lock.locked": Step(lock.locked),
        "Semaphore.get_value": Step(some.get_value),
        "Election.leader": Step(vote.leader),
        "Condition.notify": Step(changed.notify, before=changed.acquire, after=changed.release),
    }


def queues(hall: Hall) -> Steps:
    steps: Steps = {}
    for what, queue in (
        ("Queue", Queue("q", hall=hall)),
        ("Queue(maxsize)", Queue("b", maxsize=10**6, hall=hall)),
        ("PriorityQueue", PriorityQueue("p", hall=hall)),
    ):
        taken: list[Any] = []
        put = partial(queue.put, 1, priority=2) if "Priority" in what else partial(queue.put, 1)
        take = partial(put_aside, taken, queue)
        steps[f"{what}.put"] = Step(put, after=queue.get)
        steps[f"{what}.get"] = Step(queue.get, before=put)
        steps[f"{what}.take"] = Step(take, before=put, after=lambda taken=taken: taken.pop().ack())
        steps[f"{what}, ack"] = Step(lambda taken=taken: taken.pop().ack(), before=lambda p=put, t=take: (p(), t()))
        steps[f"{what}.qsize"] = Step(queue.qsize)
    return steps


def put_aside(taken: list[Any], queue: Queue) -> None:
    taken.append(queue.take())


def together(hall: Hall) -> Steps:
    latch, alone, acting = (
        Latch("la", 1 << 40, hall=hall),
        Barrier("ba", 1, hall=hall),
        Barrier("ac", 1, int, hall=hall),
    )
    limit, spaced = RateLimiter("li", 10**9, hall=hall), RateLimiter("sp", 10**9, burst=10**9, hall=hall)
    return {
        "Latch.count_down": Step(latch.count_down),
        "Latch.wait(0), not yet": Step(lambda: latch.wait(0)),
        "Barrier(1).wait": Step(alone.wait),
        "Barrier(1, action).wait": Step(acting.wait),
        "Barrier.n_waiting": Step(lambda: alone.n_waiting),
        "RateLimiter.acquire": Step(limit.acquire),
        "RateLimiter(burst).acquire": Step(spaced.acquire),
    }


def topics_of(hall: Hall) -> Steps:
    kinds = {
        "": (Pub("to", hall=hall), Sub("to", hall=hall)),
        "(keep)": (Pub("kept", keep=10, hall=hall), Sub("kept", hall=hall)),
        ", durable": (Pub("du", hall=hall), Sub("du", subscription="g", hall=hall)),
        ", of a pattern": (Pub("any.one", hall=hall), Sub("any.*", hall=hall)),
    }
    steps: Steps = {}
    for what, (pub, sub) in kinds.items():
        put = partial(pub.put, 1)
        steps[f"Pub{what}, put"] = Step(put, after=sub.get)
        steps[f"Sub{what}, get"] = Step(sub.get, before=put)
    return steps


def operations(hall: Hall) -> Steps:
    """Every operation of every primitive that finds nobody in its way."""
    return values(hall) | held(hall) | queues(hall) | together(hall) | topics_of(hall)


def in_turn(*sides: Steps) -> list[Taken]:
    """Seconds of each call of each side; the sides in turn."""
    taken: list[Taken] = [{what: [] for what in side} for side in sides]
    for _ in range(ROUNDS):
        for what in sides[0]:
            for side, mine in zip(sides, taken):
                mine[what] += side[what].times()
    return taken


class Table:
    """Rows of what is asked; and whether all was reached."""

    def __init__(self) -> None:
        self.is_reached = True
        print("| asked | measured | reached |\n| --- | --- | --- |")

    def row(self, asked: str, measured: str, is_reached: bool) -> None:
        self.is_reached &= is_reached
        print(f"| {asked} | {measured} | {'yes' if is_reached else 'NO'} |", flush=True)

    def most(self, asked: str, taken: Taken, most_us: float) -> None:
        """The slowest of all calls."""
        by_median = sorted(taken, key=lambda what: median(taken[what]))
        worst = by_median[-1]
        rest = ", ".join(f"{what} {median(taken[what]) * US:.1f}" for what in by_median[-4:-1][::-1])
        text = f"{len(taken)} operations, the slowest: {worst} {median(taken[worst]) * US:.1f} us; {rest}"
        self.row(asked, text, median(taken[worst]) * US <= most_us)

    def flat(self, asked: str, few: Taken, many: Taken) -> None:
        """The call that grew the most."""
        ratio = {what: median(many[what]) / median(few[what]) for what in few}
        worst = max(ratio, key=lambda what: ratio[what])
        text = f"{median(few[worst]) * US:.1f} -> {median(many[worst]) * US:.1f} us, {worst}"
        self.row(asked, f"at most {ratio[worst]:.2f} times: {text}", ratio[worst] <= 2)


# -- in which circumstances -------------------------------------------------------------------------------------------


def fill_names(hall: Hall, count: int) -> None:
    """So many other names of each kind, held where that can be."""
    locks.hold_names(hall, count)
    sync.with_names(hall, count)
    for number in range(count):
        Variable(("other", number), hall=hall).set(number)
        Counter(("other", number), hall=hall).add()
        Queue(("other", number), hall=hall).put(number)
        Event(("other", number), hall=hall).set()
        Pub(f"other {number}", keep=1, hall=hall).put(number)


def fill_items(hall: Hall, count: int) -> Steps:
    """Queues with so many items."""
    plain, ranked, bounded = Queue("q", hall=hall), PriorityQueue("p", hall=hall), Queue("b", maxsize=10**6, hall=hall)
    for queue in (plain, ranked, bounded):
        for _ in range(0, count, 1000):
            queue.put_many(range(min(count, 1000)))
    return queues(hall) | {
        "Queue.put + take + nack + get": Step(
            lambda: plain.take().nack(), before=lambda: plain.put(1), after=plain.get
        ),
        "Queue.put, delayed": Step(lambda: plain.put(1, delay=0.0), after=plain.get),
    }


@contextmanager
def sleepers(hall: Hall, count: int) -> Iterator[None]:
    """So many threads of other processes wait, for other things than are measured."""
    pids = []
    for place in range(min(count, 4)):
        pid = os.fork()
        if not pid:
            share = range(place, count, 4)
            for number in share:
                wait = Event("never", hall=hall).wait if number % 2 else Queue("never", hall=hall).get
                threading.Thread(target=wait, daemon=True).start()
            Queue("asleep", hall=hall).put_many(share)
            time.sleep(3600)
        pids.append(pid)
    Queue("asleep", hall=hall).get(batch=count)
    time.sleep(0.2)
    yield
    for pid in pids:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def served_among(hall: Hall, count: int) -> Steps:
    """What is done at a thing that so many others wait at: one is served, and one stands in line behind them."""
    calls = sync.with_waiters(hall, count) | {
        "Queue, put to a getter, which gets and waits": among_getters(hall, count)
    }
    return {what: Step(call) for what, call in calls.items()}


def among_getters(hall: Hall, count: int) -> Callable[[], Any]:
    host, name, numbers = hall.host, pack_name("bench", f"getters {count}"), itertools.count(count << 40)
    line = [Waiter(host.session, next(numbers), 0) for _ in range(count)]
    for one in line:
        host.transact(ops.get, name, 0, 1, host.session, one)

    def step() -> None:
        host.transact(ops.put, name, 0, b"\x80", None)
        host.transact(ops.collect, name, line.pop(0))
        line.append(Waiter(host.session, next(numbers), 0))
        host.transact(ops.get, name, 0, 1, host.session, line[-1])

    return step


def main() -> None:
    table = Table()
    with guildhall.open() as hall:
        (alone,) = in_turn(operations(hall))
    table.most("every uncontended operation: at most 25 us, p50", alone, 25)

    with ExitStack() as open_:
        few, many = (open_.enter_context(guildhall.open()) for _ in range(2))
        fill_names(few, 10)
        fill_names(many, 10_000)
        table.flat("10 to 10 000 names: at most 2 times", *in_turn(operations(few), operations(many)))
    with ExitStack() as open_:
        few, many = (open_.enter_context(guildhall.open()) for _ in range(2))
        sides = in_turn(fill_items(few, 10), fill_items(many, 100_000))
        table.flat("10 to 100 000 queued items: at most 2 times", *sides)
    with ExitStack() as open_:
        few, many = (open_.enter_context(guildhall.open()) for _ in range(2))
        table.flat("1 to 200 waiters at it: at most 2 times", *in_turn(served_among(few, 1), served_among(many, 200)))
        table.flat("1 to 200 waiters at a lock: at most 2 times", *passing(few, many))
        open_.enter_context(sleepers(few, 1))
        open_.enter_context(sleepers(many, 200))
        sides = in_turn(operations(few), operations(many))
        table.flat("1 to 200 waiters elsewhere, asleep: at most 2 times", *sides)
    with ExitStack() as open_:
        few, many = (open_.enter_context(guildhall.open()) for _ in range(2))
        open_.enter_context(locks.idle_sessions(few, 1))
        open_.enter_context(locks.idle_sessions(many, 64))
        table.flat("1 to 64 sessions: at most 2 times", *in_turn(operations(few), operations(many)))
    rates(table)
    if "--all" in sys.argv:
        print("\n| operation | p50, us | p99, us |\n| --- | --- | --- |")
        for what, some in alone.items():
            print(f"| {what} | {median(some) * US:.1f} | {sorted(some)[len(some) * 99 // 100] * US:.1f} |")
    sys.exit(not table.is_reached)


def passing(few: Hall, many: Hall) -> tuple[Taken, Taken]:
    """The op that releases and the one that stands in line again, of each kind of lock."""
    sides: tuple[Taken, Taken] = ({}, {})
    for _ in range(3):
        for side, hall, waiting in ((sides[0], few, 1), (sides[1], many, 200)):
            for kind, took_us in locks.passing_on(hall, waiting).items():
                side.setdefault(kind, []).append(took_us / US)
    return sides


def rates(table: Table) -> None:
    """What several processes do together."""
    with guildhall.open() as hall:
        turns = [(locks.hand_over(hall, lambda: Lock("turn", hall=hall)), locks.ping_pong()) for _ in range(5)]
        ours, theirs = (median(side) for side in zip(*turns))
        text = f"{ours:.1f} us, ping-pong {theirs:.1f} us: {ours / theirs:.2f} times"
        table.row("hand-over of a contended lock: at most 2 times a semaphore ping-pong", text, ours <= 2 * theirs)
        adds = max(counter.together(hall, 2, 100_000, Counter("adds", hall=hall).add) for _ in range(3))
        table.row("Counter.add from 2 processes: at least 100 000/s", f"{adds:.0f}/s", adds >= 100_000)
        rate = max(topics.deliveries(hall, 8, 5000) for _ in range(3))
        table.row("1 publisher to 8 subscribers: at least 100 000 deliveries/s", f"{rate:.0f}/s", rate >= 100_000)


if __name__ == "__main__":
    main()
