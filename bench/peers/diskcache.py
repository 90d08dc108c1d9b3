"""diskcache: SQLite, opened by each process."""

from __future__ import annotations

from typing import Any

from lib.peer import Peer, does
from lib.timing import Call

from .files import folder


class DiskCache(Peer):
    name = "diskcache"
    package = "diskcache"
    imports = "diskcache"
    most_processes = 32

    def inherit(self) -> None:
        import diskcache

        self.lib = diskcache
        self.folder = folder()

    def start(self) -> None:
        self.join()
        self.cache.set("n", 0)

    def stop(self) -> None:
        self.cache.close()
        self.folder.cleanup()

    def join(self) -> None:
        self.cache: Any = self.lib.Cache(self.folder.name, timeout=60)

    @does("get")
    def get(self, x: int) -> Call:
        self.cache.set("v", 1)
        return lambda: self.cache.get("v")

    @does("set")
    def set(self, x: int) -> Call:
        return lambda: self.cache.set("v", 1)

    @does("add", "adds")
    def add(self, x: int) -> Call:
        return lambda: self.cache.incr("n")

    @does("lock")
    def lock(self, x: int) -> Call:
        lock = self.lib.Lock(self.cache, "l")
        return lambda: (lock.acquire(), lock.release())

    @does("increments")
    def increment(self, number: int) -> Call:
        lock = self.lib.Lock(self.cache, "n lock")

        def increment() -> None:
            lock.acquire()
            self.cache.set("n", self.cache.get("n") + 1)
            lock.release()

        return increment

    @does("handing")
    def handing(self, number: int) -> Call:
        queue = self.lib.Deque(directory=f"{self.folder.name}/handing")
        return lambda: (queue.append(1), queue.popleft())

    @does("queue", "depth")
    def queue(self, x: int) -> Call:
        directory = folder()
        self.later(directory.cleanup)
        queue = self.lib.Deque(range(x), directory=directory.name)
        return lambda: (queue.append(1), queue.popleft())
