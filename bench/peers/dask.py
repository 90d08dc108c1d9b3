"""dask.distributed, its current release: a scheduler process, two workers of one thread each."""

from __future__ import annotations

from typing import Any

from lib import functions
from lib.peer import Peer, does
from lib.timing import Call


class Dask(Peer):
    name = "Dask"
    package = "distributed"
    imports = "distributed"
    before_fresh = "from distributed import Client"
    fresh = (
        "c = Client(n_workers=2, threads_per_worker=1, dashboard_address=None)\n"
        "c.gather([c.submit(abs, i, pure=False) for i in range(4)])"
    )
    after_fresh = "c.close()"
    most_processes = 16  # Each is a client, which takes a second of processor time to start.

    def inherit(self) -> None:
        import distributed

        self.lib = distributed

    def start(self) -> None:
        self.client = self.lib.Client(n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50)

    def stop(self) -> None:
        self.client.close()

    def address(self) -> str:
        return str(self.client.scheduler.address)

    def join(self) -> None:
        self.client = self.lib.Client(self.at)
        self.later(self.client.close)

    @does("get")
    def get(self, x: int) -> Call:
        value = self.lib.Variable("v")
        value.set(1)
        return lambda: value.get()

    @does("set")
    def set(self, x: int) -> Call:
        value = self.lib.Variable("v")
        return lambda: value.set(1)

    @does("add", "increments", "adds")
    def increment(self, number: int) -> Call:
        lock, value = self.lib.Lock("n"), self.lib.Variable("n")
        with lock:
            value.set(0)

        def increment() -> None:
            lock.acquire()
            value.set(value.get() + 1)
            lock.release()

        return increment

    @does("lock")
    def lock(self, x: int) -> Call:
        lock = self.lib.Lock("l")
        return lambda: (lock.acquire(), lock.release())

    @does("queue", "handing")
    def queue(self, x: int) -> Call:
        queue = self.lib.Queue("q")
        return lambda: (queue.put(1), queue.get())

    @does("depth")
    def depth(self, x: int) -> Call:
        queue = self.lib.Queue(f"deep {x}")
        for number in range(x):
            queue.put(number)
        self.later(queue.close)
        return lambda: (queue.put(1), queue.get())

    @does("round-trip")
    def round_trip(self, x: int) -> Call:
        return lambda: self.client.submit(functions.inc, 1, pure=False).result()

    @does("map")
    def map(self, x: int) -> Call:
        return lambda: self.client.gather(self.client.map(functions.inc, range(x), pure=False))

    @does("chain")
    def chain(self, x: int) -> Call:
        def run() -> None:
            future = self.client.submit(functions.inc, 0, pure=False)
            for _ in range(x - 1):
                future = self.client.submit(functions.inc, future, pure=False)
            assert future.result() == x

        return run

    @does("tree")
    def tree(self, x: int) -> Call:
        def run() -> None:
            level = self.client.map(functions.inc, range(x), pure=False)
            while len(level) > 1:
                level = [
                    self.client.submit(functions.add, *level[at : at + 2], pure=False) for at in range(0, len(level), 2)
                ]
            assert level[0].result() == x * (x + 1) // 2

        return run

    @does("scatter")
    def scatter(self, x: int) -> Call:
        array = functions.array(x)

        def run() -> Any:
            placed = self.client.scatter(array, hash=False)
            return self.client.submit(functions.total, placed, pure=False).result()

        return run

    @does("return")
    def give_back(self, x: int) -> Call:
        return lambda: self.client.submit(functions.ones, x, pure=False).result()
