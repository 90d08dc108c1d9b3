"""Ray: values and counters live in actors, its queue too; two workers."""

from __future__ import annotations

import os
from typing import Any

from lib import functions
from lib.peer import Peer, does
from lib.timing import Call

QUIET = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error", "namespace": "bench"}


class Holder:
    """The process in which a value lives."""

    def __init__(self) -> None:
        self.value = 0

    def get(self) -> int:
        return self.value

    def set(self, value: int) -> None:
        self.value = value

    def add(self) -> int:
        self.value += 1
        return self.value


class Ray(Peer):
    name = "Ray"
    package = "ray"
    imports = "ray"
    before_fresh = "import os\nos.environ['RAY_USAGE_STATS_ENABLED'] = '0'\nimport ray"
    fresh = (
        "ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level='error')\n"
        "f = ray.remote(lambda x: x)\nray.get([f.remote(i) for i in range(4)])"
    )
    after_fresh = "ray.shutdown()"
    most_processes = 4  # Each is a driver, which takes seconds of processor time to start.

    def inherit(self) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ["RAY_AUTH_MODE"] = "disabled"  # Other drivers than the first would need its token.
        import ray

        self.lib = ray

    def start(self) -> None:
        self.lib.init(num_cpus=2, **QUIET)
        self.holder = self.lib.remote(Holder).options(name="holder", num_cpus=0).remote()
        self.inc, self.sum = self.lib.remote(functions.inc), self.lib.remote(functions.add)
        self.total, self.ones = self.lib.remote(functions.total), self.lib.remote(functions.ones)

    def stop(self) -> None:
        self.lib.shutdown()

    def address(self) -> str:
        return str(self.lib.get_runtime_context().gcs_address)

    def join(self) -> None:
        self.lib.init(address=self.at, **{key: value for key, value in QUIET.items() if key != "include_dashboard"})
        self.holder = self.lib.get_actor("holder")
        self.later(self.lib.shutdown)

    @does("get")
    def get(self, x: int) -> Call:
        return lambda: self.lib.get(self.holder.get.remote())

    @does("set")
    def set(self, x: int) -> Call:
        return lambda: self.lib.get(self.holder.set.remote(1))

    @does("add", "adds")
    def add(self, x: int) -> Call:
        return lambda: self.lib.get(self.holder.add.remote())

    def _queue(self, x: int) -> Any:
        from ray.util.queue import Queue

        queue = Queue(actor_options={"num_cpus": 0})
        self.later(queue.shutdown)
        for at in range(0, x, 1000):
            queue.put_nowait_batch(list(range(min(1000, x - at))))
        return queue

    @does("queue", "depth")
    def queue(self, x: int) -> Call:
        queue = self._queue(x)
        return lambda: (queue.put(1), queue.get())

    @does("round-trip")
    def round_trip(self, x: int) -> Call:
        return lambda: self.lib.get(self.inc.remote(1))

    @does("map")
    def map(self, x: int) -> Call:
        return lambda: self.lib.get([self.inc.remote(number) for number in range(x)])

    @does("chain")
    def chain(self, x: int) -> Call:
        def run() -> None:
            future = self.inc.remote(0)
            for _ in range(x - 1):
                future = self.inc.remote(future)
            assert self.lib.get(future) == x

        return run

    @does("tree")
    def tree(self, x: int) -> Call:
        def run() -> None:
            level = [self.inc.remote(number) for number in range(x)]
            while len(level) > 1:
                level = [self.sum.remote(*level[at : at + 2]) for at in range(0, len(level), 2)]
            assert self.lib.get(level[0]) == x * (x + 1) // 2

        return run

    @does("scatter")
    def scatter(self, x: int) -> Call:
        array = functions.array(x)
        return lambda: self.lib.get(self.total.remote(self.lib.put(array)))

    @does("return")
    def give_back(self, x: int) -> Call:
        return lambda: self.lib.get(self.ones.remote(x))
