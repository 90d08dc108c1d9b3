"""Processes that work together for one peer.

They are forked from a process that has imported the peer's module and inherited what it made, and has no thread yet:
after a server or a client of the peer has started its own, forking would be a game of chance.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Client, Connection, Listener, Pipe
from typing import Any

from .peer import Peer

LEAD_S = 0.05
"""Between the word to begin and the moment: all must have heard it."""
QUIET_S = 10.0
"""Who subscribes and hears nothing for so long has lost the rest."""


class Members:
    def __init__(self, peer: Peer) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="bench-")
        self._listener = Listener(os.path.join(self._folder.name, "m"), "AF_UNIX", backlog=128)
        self._orders, theirs = Pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                self._orders.close()
                _fork_as_ordered(peer, theirs, str(self._listener.address))
            finally:
                os._exit(0)
        theirs.close()

    @contextmanager
    def together(self, work: str, count: int, at: Any) -> Iterator[list[Connection]]:
        """So many processes that are ready to work; they end with the block."""
        self._orders.send((work, count, at))
        links = [self._listener.accept() for _ in range(count)]
        try:
            for link in links:
                _checked(link)
            yield links
        finally:
            for link in links:
                _end(link)

    def close(self) -> None:
        self._orders.send(None)  # Closing tells nothing: workers that were forked later have this end, too.
        self._orders.close()
        os.waitpid(self.pid, 0)
        self._listener.close()
        self._folder.cleanup()


def work(links: list[Connection], seconds: float) -> tuple[int, list[float]]:
    """All at once for some seconds: calls that were over in time, and seconds of each call (of many, some)."""
    begin = time.perf_counter() + LEAD_S
    for link in links:
        link.send(("work", begin, seconds))
    answers = [_checked(link) for link in links]
    return sum(count for count, _ in answers), [one for _, samples in answers for one in samples]


def receive(links: list[Connection], count: int) -> None:
    """Let all receive so many messages. `received` tells when they had them."""
    for link in links:
        link.send(("receive", count))
    for link in links:
        _checked(link)


def received(links: list[Connection]) -> tuple[int, float]:
    """How many messages came, to all of them, and when the last one had its last."""
    answers = [_checked(link) for link in links]
    return sum(count for count, _ in answers), max(end for _, end in answers)


def _checked(link: Connection) -> Any:
    if not link.poll(60):
        raise TimeoutError("a member of the measurement does not answer")
    is_good, answer = link.recv()
    if not is_good:
        raise RuntimeError(answer)
    return answer


def _end(link: Connection) -> None:
    try:
        link.send(("end",))
        if link.poll(10):
            link.recv()
    except (OSError, EOFError):
        pass  # It ended before.
    link.close()


def _fork_as_ordered(peer: Peer, orders: Connection, address: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            order = orders.recv()
        except EOFError:
            return
        if order is None:
            return
        name, count, at = order
        for number in range(count):
            if not os.fork():
                try:
                    orders.close()
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    _member(peer, name, number, at, address)
                finally:
                    os._exit(0)


def _member(peer: Peer, name: str, number: int, at: Any, address: str) -> None:
    link = Client(address, "AF_UNIX")
    try:
        peer.at = at
        peer.join()
        call = peer.works[name](peer, number)
        link.send((True, None))
        while (order := link.recv())[0] != "end":
            answer = _timed(call, *order[1:]) if order[0] == "work" else _got(call, link, order[1])
            link.send((True, answer))
        peer.tidy()
        link.send((True, None))
    except BaseException:
        link.send((False, traceback.format_exc(limit=-6)))


def _timed(call: Any, begin: float, seconds: float) -> tuple[int, list[float]]:
    clock = time.perf_counter
    until = begin + seconds
    time.sleep(max(begin - clock(), 0))
    taken = []
    now = clock()
    while True:
        began = now
        call()
        now = clock()
        if now > until:
            break
        taken.append(now - began)
    return len(taken), taken[:: len(taken) // 5000 + 1]


def _got(call: Any, link: Connection, count: int) -> tuple[int, float]:
    link.send((True, None))
    got, end = 0, time.perf_counter()
    for _ in range(count):
        if not call(QUIET_S):
            break
        got += 1
        end = time.perf_counter()
    return got, end
