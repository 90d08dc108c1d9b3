"""redis-py, with a redis-server of its own on this machine, by a Unix socket, which writes nothing to disk."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from typing import Any

from lib.peer import Peer, does
from lib.timing import Call

SERVER = ["redis-server", "--port", "0", "--save", "", "--appendonly", "no", "--loglevel", "warning"]
NO_BOUND = ["--client-output-buffer-limit", "pubsub 0 0 0"]
"""Otherwise a subscriber that is slow is disconnected."""


class Redis(Peer):
    name = "redis-py"
    package = "redis"
    imports = "redis"
    before_fresh = "import subprocess, tempfile, time, redis"
    fresh = (
        "d = tempfile.TemporaryDirectory()\n"
        f"p = subprocess.Popen({SERVER!r} + ['--unixsocket', d.name + '/s', '--dir', d.name])\n"
        "r = redis.Redis(unix_socket_path=d.name + '/s')\n"
        "while True:\n"
        "    try:\n        r.ping()\n        break\n"
        "    except redis.ConnectionError:\n        time.sleep(0.001)"
    )
    after_fresh = "p.terminate(); p.wait(); d.cleanup()"

    def inherit(self) -> None:
        import redis

        self.lib = redis
        if not shutil.which("redis-server"):
            raise FileNotFoundError("redis-server is not installed (Debian: apt-get install redis-server)")
        self.folder = tempfile.TemporaryDirectory(prefix="bench-")
        where = ["--unixsocket", f"{self.folder.name}/s", "--dir", self.folder.name]
        self.server = subprocess.Popen([*SERVER, *NO_BOUND, *where])
        self.join()
        while True:
            try:
                self.redis.ping()
                break
            except redis.ConnectionError:
                time.sleep(0.01)
        self.redis.close()

    def start(self) -> None:
        self.join()

    def stop(self) -> None:
        self.server.terminate()
        self.server.wait()
        self.folder.cleanup()

    def join(self) -> None:
        self.redis: Any = self.lib.Redis(unix_socket_path=f"{self.folder.name}/s")

    @does("get")
    def get(self, x: int) -> Call:
        self.redis.set("v", 1)
        return lambda: int(self.redis.get("v"))

    @does("set")
    def set(self, x: int) -> Call:
        return lambda: self.redis.set("v", 1)

    @does("add", "adds")
    def add(self, x: int) -> Call:
        return lambda: self.redis.incr("n")

    @does("lock")
    def lock(self, x: int) -> Call:
        lock = self.redis.lock("l", timeout=60)
        return lambda: (lock.acquire(), lock.release())

    @does("increments")
    def increment(self, number: int) -> Call:
        lock = self.redis.lock("contended lock", timeout=60, sleep=0.001)
        if not number:
            self.redis.set("contended", 0)

        def increment() -> None:
            lock.acquire()
            self.redis.set("contended", int(self.redis.get("contended") or 0) + 1)
            lock.release()

        return increment

    @does("queue", "handing")
    def queue(self, x: int) -> Call:
        return lambda: (self.redis.rpush("q", 1), self.redis.blpop("q"))

    @does("depth")
    def depth(self, x: int) -> Call:
        name = f"deep {x}"
        for at in range(0, x, 1000):
            self.redis.rpush(name, *range(min(1000, x - at)))
        self.later(lambda: self.redis.delete(name))
        return lambda: (self.redis.rpush(name, 1), self.redis.blpop(name))

    @does("fan-out")
    def fan_out(self, number: int) -> Any:
        if number < 0:
            return lambda message: self.redis.publish("news", message)
        sub = self.redis.pubsub(ignore_subscribe_messages=False)
        sub.subscribe("news")
        assert sub.get_message(timeout=10)["type"] == "subscribe"
        return lambda timeout: sub.get_message(timeout=timeout) is not None
