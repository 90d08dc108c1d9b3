"""What executors of two processes have in common: calls, and nothing that depends on another call."""

from __future__ import annotations

from typing import Any

from lib import functions
from lib.peer import Peer, does
from lib.timing import Call


class ExecutorPeer(Peer):
    executor: Any

    def stop(self) -> None:
        self.executor.shutdown()

    @does("round-trip")
    def round_trip(self, x: int) -> Call:
        return lambda: self.executor.submit(functions.inc, 1).result()

    @does("map")
    def map(self, x: int) -> Call:
        return lambda: list(self.executor.map(functions.inc, range(x)))

    @does("chain")
    def chain(self, x: int) -> Call:
        def run() -> None:
            value = 0
            for _ in range(x):
                value = self.executor.submit(functions.inc, value).result()
            assert value == x

        return run

    @does("tree")
    def tree(self, x: int) -> Call:
        def level_of(function: Any, calls: list[tuple[int, ...]]) -> list[int]:
            return [future.result() for future in [self.executor.submit(function, *args) for args in calls]]

        return lambda: functions.tree_of_levels(x, level_of)

    @does("scatter")
    def scatter(self, x: int) -> Call:
        array = functions.array(x)
        return lambda: self.executor.submit(functions.total, array).result()

    @does("return")
    def give_back(self, x: int) -> Call:
        return lambda: self.executor.submit(functions.ones, x).result()
