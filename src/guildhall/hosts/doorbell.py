"""Waking a process: a datagram socket for each waiting thread, and connected sockets to ring others.

A ring says nothing but "look again". A full bell has rings waiting, so failing to add one is success; a bell that is
gone belongs to somebody who stopped waiting or died.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from contextlib import suppress

from ..store.transaction import Waiter

MAX_CACHED = 256
LOOK_S = 0.0001 if len(getattr(os, "sched_getaffinity", lambda pid: range(2))(0)) > 1 else 0.0
"""How long a thread looks for what it waits for before it sleeps: as long as falling asleep and being woken takes, so
that waiting costs at most twice what the better of the two would have (docs/decisions/0002-waiting.md)."""

FINE_S = 0.02
"""Shorter waits are by `select`, which takes microseconds (but no descriptor above 1023): `poll` counts
milliseconds."""


class Bell:
    """One thread's bell. `poll` also wakes for the watch's descriptor."""

    def __init__(self, directory_fd: int, session: int, number: int, watch_fd: int) -> None:
        self.number = number
        self._path = bell_path(directory_fd, session, number)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self.socket.bind(self._path)
        self._watch_fd = watch_fd
        self._poll = select.poll()
        self._poll.register(self.socket, select.POLLIN)
        self._poll.register(watch_fd, select.POLLIN)

    def wait(self, timeout_s: float) -> bool:
        """Sleep until rung, at most that long. True if the watch woke us: somebody died."""
        died = False
        for fd in self._rung(timeout_s):
            if fd == self.socket.fileno():
                self.hush()
            else:
                died = True
        return died

    def _rung(self, timeout_s: float) -> list[int]:
        fds = self.socket.fileno(), self._watch_fd
        if timeout_s < FINE_S and max(fds) < 1024:
            return select.select(fds, (), (), timeout_s)[0]
        return [fd for fd, _ in self._poll.poll(timeout_s * 1000 + 0.999)]

    def hush(self) -> None:
        """Take all rings out."""
        with suppress(BlockingIOError):
            while self.socket.recv(16):
                pass

    def close(self) -> None:
        self.socket.close()
        with suppress(OSError):
            os.unlink(self._path)


class Ringer:
    """Rings other sessions' bells, over sockets that stay connected."""

    def __init__(self, directory_fd: int) -> None:
        self._directory_fd = directory_fd
        self._lines: dict[tuple[int, int], socket.socket] = {}
        self._gate = threading.Lock()

    def ring(self, waiter: Waiter) -> None:
        line = self._lines.get((waiter.session, waiter.bell)) or self._connect(waiter)
        if line is not None:
            try:
                line.send(b"!")
            except BlockingIOError:
                pass
            except OSError:
                with self._gate:
                    self._lines.pop((waiter.session, waiter.bell), None)

    def _connect(self, waiter: Waiter) -> socket.socket | None:
        line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            line.connect(bell_path(self._directory_fd, waiter.session, waiter.bell))
        except OSError:
            line.close()
            return None
        with self._gate:
            if len(self._lines) >= MAX_CACHED:
                self._lines.pop(next(iter(self._lines))).close()
            self._lines[waiter.session, waiter.bell] = line
        return line

    def close(self) -> None:
        with self._gate:
            for line in self._lines.values():
                line.close()
            self._lines.clear()


def bell_path(directory_fd: int, session: int, number: int) -> str:
    """Through the descriptor: a socket's path holds 107 bytes, a hall's directory may be longer than that."""
    return f"/proc/self/fd/{directory_fd}/{session}.{number}"
