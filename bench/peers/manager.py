"""multiprocessing.Manager: a server process, asked through a connection for each access."""

from __future__ import annotations

from queue import Empty
from typing import Any

from lib.peer import Peer, does
from lib.timing import Call


class Manager(Peer):
    name = "Manager"
    imports = "multiprocessing.managers"
    before_fresh = "from multiprocessing import Manager"
    fresh = "m = Manager()\nm.Value('q', 1).get()"
    after_fresh = "m.shutdown()"

    def inherit(self) -> None:
        """A proxy connects when it is first used, in each process anew: so none is used here."""
        import multiprocessing

        self.manager = multiprocessing.Manager()
        self.value_, self.lock_, self.queue_ = self.manager.Value("q", 0), self.manager.Lock(), self.manager.Queue()
        self.queues = [self.manager.Queue() for _ in range(self.most_processes)]

    def stop(self) -> None:
        self.manager.shutdown()

    @does("get")
    def get(self, x: int) -> Call:
        return lambda: self.value_.get()

    @does("set")
    def set(self, x: int) -> Call:
        return lambda: self.value_.set(1)

    @does("add", "increments", "adds")
    def increment(self, number: int) -> Call:
        def increment() -> None:
            self.lock_.acquire()
            self.value_.set(self.value_.get() + 1)
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
        queue = self.manager.Queue()
        for number in range(x):
            queue.put(number)
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
