"""What is measured here."""

from __future__ import annotations

from typing import Any

from lib import functions
from lib.peer import Peer, does
from lib.timing import Call


class Guildhall(Peer):
    name = "guildhall"
    package = "guildhall"
    imports = "guildhall"
    before_fresh = "from guildhall import Client"
    fresh = "c = Client(n_workers=2)\nc.gather([c.submit(abs, i) for i in range(4)])"
    after_fresh = "c.close()"

    def inherit(self) -> None:
        import guildhall

        self.lib = guildhall

    def start(self) -> None:
        self.client = self.lib.Client(n_workers=2)
        self.hall: Any = None

    def stop(self) -> None:
        self.client.close()

    def address(self) -> str:
        return self.client.host.directory

    def join(self) -> None:
        self.hall = self.lib.open(self.at)

    @does("get")
    def get(self, x: int) -> Call:
        value = self.lib.Variable("v")
        value.set(1)
        return value.get

    @does("set")
    def set(self, x: int) -> Call:
        value = self.lib.Variable("v")
        return lambda: value.set(1)

    @does("add", "adds")
    def add(self, x: int) -> Call:
        return self.lib.Counter("n", hall=self.hall).add

    @does("lock")
    def lock(self, x: int) -> Call:
        lock = self.lib.Lock("l")
        return lambda: (lock.acquire(), lock.release())

    @does("queue", "handing")
    def queue(self, x: int) -> Call:
        queue = self.lib.Queue("q", hall=self.hall)
        return lambda: (queue.put(1), queue.get())

    @does("depth")
    def depth(self, x: int) -> Call:
        queue = self.lib.Queue(("deep", x))
        for at in range(0, x, 1000):
            queue.put_many(range(min(1000, x - at)))
        self.later(lambda: queue.get(batch=True))
        return lambda: (queue.put(1), queue.get())

    @does("increments")
    def increment(self, number: int) -> Call:
        lock, value = self.lib.Lock("contended", hall=self.hall), self.lib.Variable("contended", hall=self.hall)
        if not number:
            value.set(0)

        def increment() -> None:
            lock.acquire()
            value.set(value.get() + 1)
            lock.release()

        return increment

    @does("fan-out")
    def fan_out(self, number: int) -> Any:
        if number < 0:
            return self.lib.Pub("news").put
        sub = self.lib.Sub("news", hall=self.hall)
        return lambda timeout: sub.get(timeout=timeout) is not None

    @does("round-trip")
    def round_trip(self, x: int) -> Call:
        return lambda: self.client.submit(functions.inc, 1).result()

    @does("map")
    def map(self, x: int) -> Call:
        return lambda: self.client.gather(self.client.map(functions.inc, range(x)))

    @does("chain")
    def chain(self, x: int) -> Call:
        def run() -> None:
            future = self.client.submit(functions.inc, 0)
            for _ in range(x - 1):
                future = self.client.submit(functions.inc, future)
            assert future.result() == x

        return run

    @does("tree")
    def tree(self, x: int) -> Call:
        def run() -> None:
            level = self.client.map(functions.inc, range(x))
            while len(level) > 1:
                level = [self.client.submit(functions.add, *level[at : at + 2]) for at in range(0, len(level), 2)]
            assert level[0].result() == x * (x + 1) // 2

        return run

    @does("scatter")
    def scatter(self, x: int) -> Call:
        array = functions.array(x)
        return lambda: self.client.submit(functions.total, self.client.scatter(array)).result()

    @does("return")
    def give_back(self, x: int) -> Call:
        return lambda: self.client.submit(functions.ones, x).result()
