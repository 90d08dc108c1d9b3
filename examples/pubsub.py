"""Publish and subscribe: bounds, replay, durable subscriptions and patterns, each step checked.

Run it with `python examples/pubsub.py`. It needs no cluster: any process that opens the hall takes part.
"""

import os
import sys

import guildhall
from guildhall import Lagged, Pub, Sub, TimedOut


def show(what: str, got: object, expected: object) -> None:
    print(f"{what}: {got}")
    if got != expected:
        sys.exit(f"expected {what}: {expected}")


with guildhall.open() as hall:
    # Everybody who subscribed hears everything, in one order.
    pub = Pub("prices", keep=3, hall=hall)
    first, second = Sub("prices", hall=hall), Sub("prices", hall=hall)
    for price in (10, 11, 12, 13):
        pub.put(price)
    show("first", [first.get(timeout=5) for _ in range(4)], [10, 11, 12, 13])
    show("second", [second.get(timeout=5) for _ in range(4)], [10, 11, 12, 13])

    # The topic keeps its last three messages for those who come late.
    late = Sub("prices", start="oldest", hall=hall)
    show("late", [late.get(timeout=5) for _ in range(3)], [11, 12, 13])
    again = Sub("prices", start=late.seq, hall=hall)
    show("from a number on", again.get(timeout=5), 13)
    recent = Sub("prices", start="1h", hall=hall)
    show("of the last hour", recent.get(timeout=5), 11)

    # A slow reader that wants only the newest is told what it missed.
    ticker = Sub("ticks", maxlen=2, hall=hall)
    Pub("ticks", hall=hall).put_many(range(100))
    try:
        ticker.get(timeout=5)
    except Lagged as lag:
        show("missed", lag.n, 98)
    show("newest", [ticker.get(timeout=5) for _ in range(2)], [98, 99])

    # A reader that must not miss anything makes publishers wait.
    careful, rows = Sub("rows", maxlen=2, policy="block", hall=hall), Pub("rows", hall=hall)
    rows.put_many([1, 2])
    try:
        rows.put(3, timeout=0.01)
        sys.exit("expected the publisher to wait")
    except TimedOut as error:
        print(f"publisher: {error}")
    show("row", careful.get(timeout=5), 1)
    rows.put(3, timeout=5)

    # Whoever publishes may bound the topic, for all readers that ask for no bound of their own.
    meter, reader = Pub("meter", maxlen=2, hall=hall), Sub("meter", hall=hall)
    meter.put_many(range(5))
    try:
        reader.get(timeout=5)
    except Lagged as lag:
        show("missed", lag.n, 3)
    show("its newest", [reader.get(timeout=5) for _ in range(2)], [3, 4])

    # A durable subscription goes on in another process where this one left it.
    with Sub("orders", subscription="billing", hall=hall) as orders:
        Pub("orders", hall=hall).put_many(["a", "b", "c"])
        show("order", orders.get(timeout=5), "a")
    pid = os.fork()
    if not pid:
        with Sub("orders", subscription="billing", hall=hall) as orders:
            os._exit(0 if orders.get(timeout=5) == "b" else 1)
    show("the other process ended with", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)
    with Sub("orders", subscription="billing", hall=hall) as orders:
        hall.host.bury_dead()
        show("order", orders.get(timeout=5), "b")  # It ended without closing: the message in its hand comes again.
        show("order", orders.get(timeout=5), "c")
        orders.unsubscribe()

    # A pattern hears every topic that fits, also one that comes later.
    jobs = Sub("jobs.*", hall=hall)
    for name in ("jobs.build", "jobs.test"):
        Pub(name, hall=hall).put("done")
    show("jobs", [(jobs.get(timeout=5), jobs.topic) for _ in range(2)], [("done", "jobs.build"), ("done", "jobs.test")])
    print(jobs.statistics())
