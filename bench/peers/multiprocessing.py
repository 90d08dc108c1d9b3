"""multiprocessing's Lock, Value and Queue: inherited by children, with no names and nobody to ask."""

from __future__ import annotations

from queue import Empty
from typing import Any

from lib.peer import Peer, does
from lib.timing import Call


class Multiprocessing(Peer):
    name = "multiprocessing"
    imports = "multiprocessing.synchronize, multiprocessing.queues"

    def inherit(self) -> None:
        import multiprocessing

        self.lib = multiprocessing
        self.lock_, self.value_ = multiprocessing.Lock(), multiprocessing.Value("q", 0)
        self.plain: Any = multiprocessing.Value("q", 0, lock=False)
        self.queue_: Any = multiprocessing.Queue()
        self.queues: list[Any] = [multiprocessing.Queue() for _ in range(self.most_processes)]

    def stop(self) -> None:
        for queue in (self.queue_, *self.queues):
            queue.cancel_join_thread()  # What nobody took keeps nobody waiting.

    @does("get")
    def get(self, x: int) -> Call:
        return lambda: self.value_.value

    @does("set")
    def set(self, x: int) -> Call:
        def set_() -> None:
            self.value_.value = 1

        return set_

    @does("add", "adds")
    def add(self, x: int) -> Call:
        def add() -> None:
            with self.value_.get_lock():
                self.value_.value += 1

        return add

    @does("increments")
    def increment(self, x: int) -> Call:
        def increment() -> None:
            self.lock_.acquire()
            self.plain.value += 1
            self.lock_.release()

        return increment

    @does("lock")
    def lock(self, x: int) -> Call:
        return lambda: (self.lock_.acquire(), self.lock_.release())

    @does("queue", "handing")
    def queue(self, x: int) -> Call:
        return lambda: (self.queue_.put(1), self.queue_.get())

    @does("depth")
    def depth(self, x: int) -> Call:
        queue: Any = self.lib.Queue()
        for number in range(x):
            queue.put(number)
        self.later(queue.cancel_join_thread)
        self.later(queue.close)
        return lambda: (queue.put(1), queue.get())

    @does("fan-out")
    def fan_out(self, number: int) -> Any:
        """A queue for each subscriber."""
        if number < 0:
            return lambda message: [queue.put(message) for queue in self.queues[:-number]]

        def get(timeout: float) -> bool:
            try:
                self.queues[number].get(timeout=timeout)
            except Empty:
                return False
            return True

        return get
