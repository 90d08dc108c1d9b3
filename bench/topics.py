"""Publish/subscribe: what one message costs in one process, and how many go from one publisher to 1 to 64 subscribers.

Run it with `python bench/topics.py`. A delivery is one message that one subscriber's `get` returned.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from lib.timing import forked, head, joined, p50, row, seconds

import guildhall
from guildhall import Event, Pub, Queue, Sub

ROUNDS = 3


def kinds(hall: guildhall.Hall) -> None:
    """One message, put and got in one process, for each kind of subscription."""
    asked: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("plain", {}, {}),
        ("drop-oldest, maxlen=100", {}, {"maxlen": 100}),
        ("block, maxlen=100", {}, {"maxlen": 100, "policy": "block"}),
        ("durable", {}, {"subscription": "g"}),
        ("of a topic with keep=100", {"keep": 100}, {}),
        ("pattern", {}, {}),
    ]
    head("kind", "put, us", "get, us")
    for kind, pub_options, sub_options in asked:
        pub = Pub(f"kinds.{kind}", hall=hall, **pub_options)
        sub = Sub("kinds.*" if kind == "pattern" else pub.name, hall=hall, **sub_options)
        puts, gets = [], []
        for _ in range(3000):
            began = time.perf_counter()
            pub.put(1)
            published = time.perf_counter()
            sub.get()
            puts.append(published - began)
            gets.append(time.perf_counter() - published)
        sub.unsubscribe()
        row(kind, f"{p50(puts) * 1e6:.1f}", f"{p50(gets) * 1e6:.1f}")


def one_process(hall: guildhall.Hall, subscribers: int) -> tuple[float, float]:
    """Microseconds for a put, and for a get by one subscriber, when all read each message as it comes."""
    pub = Pub(f"here {subscribers}", hall=hall)
    subs = [Sub(pub.name, hall=hall) for _ in range(subscribers)]
    puts, gets = [], []
    for _ in range(3000 // subscribers + 100):
        began = time.perf_counter()
        pub.put(1)
        published = time.perf_counter()
        for sub in subs:
            sub.get()
        done = time.perf_counter()
        puts.append(published - began)
        gets.append((done - published) / subscribers)
    return p50(puts) * 1e6, p50(gets) * 1e6


def subscribe(hall: guildhall.Hall, name: str, count: int) -> None:
    sub = Sub(name, hall=hall)
    Queue(f"{name} ready", hall=hall).put(1)
    for _ in range(count):
        sub.get()
    Queue(f"{name} done", hall=hall).put(time.perf_counter())


def deliveries(hall: guildhall.Hall, subscribers: int, count: int) -> float:
    """Deliveries a second, from the first put to the last get, each subscriber in a process of its own."""
    name = f"away {subscribers} {time.time_ns()}"
    children = forked(lambda _: subscribe(hall, name, count), subscribers)
    Queue(f"{name} ready", hall=hall).get(batch=subscribers)
    pub = Pub(name, hall=hall)
    began = time.perf_counter()
    for number in range(count):
        pub.put(number)
    ends = Queue(f"{name} done", hall=hall).get(batch=subscribers)
    joined(children)
    return subscribers * count / (max(ends) - began)


def sleeping(hall: guildhall.Hall, subscribers: int) -> float:
    """Microseconds for a put that wakes so many sleeping subscribers."""
    name = f"asleep {subscribers}"
    stop = Event(f"{name} stop", hall=hall)

    def listen(sub: Sub) -> None:
        while sub.get() is not None:
            pass

    def child(_: int) -> None:
        threads = [threading.Thread(target=listen, args=(Sub(name, hall=hall),)) for _ in range(subscribers)]
        for thread in threads:
            thread.start()
        stop.set()
        for thread in threads:
            thread.join()

    pids = forked(child, 1)
    stop.wait()
    pub = Pub(name, hall=hall)
    taken = []
    for _ in range(30):
        time.sleep(0.02 + 0.002 * subscribers)
        taken.append(seconds(lambda: pub.put(1)))
    pub.put(None)
    joined(pids)
    return p50(taken) * 1e6


def main() -> None:
    counts = [int(n) for n in sys.argv[1:]] or [1, 2, 8, 64]
    with guildhall.open() as hall:
        kinds(hall)
        print()
        head("subscribers", "put, us", "get, us", "deliveries/s between processes", "a put that wakes all, us")
        for count in counts:
            here = [one_process(hall, count) for _ in range(ROUNDS)]
            put, get = map(p50, zip(*here))
            rate = max(deliveries(hall, count, max(2000, 40_000 // count)) for _ in range(ROUNDS))
            row(count, f"{put:.1f}", f"{get:.1f}", f"{rate:.0f}", f"{sleeping(hall, count):.0f}")


if __name__ == "__main__":
    main()
