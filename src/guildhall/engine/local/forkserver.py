"""The fork server: a process that imports what workers need once, and forks them.

What must live here: everything that happens in that process, and the messages between it and its client. The client's
side is `pool.py`; what a worker does is `worker.py`.

The server has one thread, no hall open and no file of one, so that a worker begins with nothing of others. It is the
parent of the workers: it learns of every end at once, and when the client is gone it kills them, whatever they are
stuck in. It sleeps until something happens and never wakes up by itself.

Messages are text, ended by a NUL. To the server: `worker HALL` (start one in that hall), `remove HALL` (when the client
is gone), `bye` (the client closes, and removes its hall itself). To the client: `started PID`, `joined PID`,
`ended PID STATUS` (as `os.waitpid` gives it), `failed REASON`.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

DYING_S = 1.0
"""A client that hung up may still be on its way out: so long its hall is left to it."""
_PR_SET_PDEATHSIG = 1


class Line:
    """Messages over one end of a socket pair: a verb, and what it is about."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self._rest = b""

    def send(self, verb: str, about: str | int = "") -> None:
        self.socket.sendall(os.fsencode(f"{verb} {about}\0"))

    def receive(self) -> list[tuple[str, str]]:
        """The messages that have come, at least one; none when the other side is gone. Raises TimeoutError."""
        messages: list[bytes] = []
        while not messages:
            try:
                data = self.socket.recv(1 << 16)
            except ConnectionError:
                data = b""
            if not data:
                return []
            *messages, self._rest = (self._rest + data).split(b"\0")
        return [(verb, about) for verb, _, about in (os.fsdecode(message).partition(" ") for message in messages)]

    def close(self) -> None:
        self.socket.close()


class Server:
    """Forks workers as the client asks, and tells it what becomes of them. `work` is called in each worker."""

    def __init__(self, line: Line, client: int, work: Callable[[str, Callable[[], None]], object]) -> None:
        self.line = line
        self._client = client
        self._work = work
        self._pid = os.getpid()
        self._workers: set[int] = set()
        self._to_remove: list[str] = []
        self._ends, self._end = socket.socketpair()
        self._joins, self._join = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._end.setblocking(False)
        signal.set_wakeup_fd(self._end.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # With a handler it is written to `_end`.
        self._client_fd = -1
        with suppress(AttributeError, OSError):  # Not Linux: the end of the line tells.
            self._client_fd = os.pidfd_open(client)

    def serve(self) -> None:
        """Until the client is gone, or says that it goes."""
        poll = select.poll()
        for fd in (self.line.socket, self._ends, self._joins):
            poll.register(fd, select.POLLIN)
        if self._client_fd >= 0:  # A process that the client forked may keep the line open after the client's end.
            poll.register(self._client_fd, select.POLLIN)
        while os.getppid() == self._client:
            ready = {fd for fd, _ in poll.poll()}
            if self._client_fd in ready:
                return
            if self._joins.fileno() in ready:
                self._tell("joined", self._joins.recv(16).decode())
            if self._ends.fileno() in ready:
                self._ends.recv(4096)
                self._reap()
            if self.line.socket.fileno() in ready and not self._obey():
                return

    def _obey(self) -> bool:
        messages = self.line.receive()
        for verb, about in messages:
            if verb == "worker":
                self._start(about)
            elif verb == "remove":
                self._to_remove.append(about)
            else:
                self._to_remove.clear()
                return False
        return bool(messages)

    def _tell(self, verb: str, about: str | int) -> None:
        with suppress(OSError):  # The client is gone; the poll says so, too.
            self.line.send(verb, about)

    def _start(self, directory: str) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            self._tell("failed", f"a worker cannot be forked: {error}")
            return
        if not pid:
            self._be_worker(directory)
        self._workers.add(pid)
        self._tell("started", pid)

    def _be_worker(self, directory: str) -> NoReturn:
        """In the child: forget the server, work, and end without what the server would do at its exit."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for end in (self.line, self._ends, self._end, self._joins):
                end.close()
            if self._client_fd >= 0:
                os.close(self._client_fd)
            gc.enable()
            self._work(directory, self._joined)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)

    def _joined(self) -> None:
        """In the worker, once it is in the hall."""
        self._join.send(b"%d" % os.getpid())
        self._join.close()
        end_with(self._pid)

    def _reap(self) -> None:
        while self._workers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            self._workers.discard(pid)
            self._tell("ended", f"{pid} {status}")

    def end(self) -> None:
        """Kill the workers; if the client did not say that it will, remove the hall and what was spilled from it."""
        for pid in self._workers:
            os.kill(pid, signal.SIGKILL)
        for pid in self._workers:
            os.waitpid(pid, 0)
        if self._to_remove:
            from ...hosts.embedded import remove_unused
            from . import blobs

            until = time.monotonic() + DYING_S
            while os.getppid() == self._client and time.monotonic() < until:
                time.sleep(0.005)
            for directory in self._to_remove:
                if remove_unused(directory):
                    blobs.remove_spilled(directory)


def end_with(parent: int) -> None:
    """Die when the parent does: at once and by the kernel's hand on Linux, elsewhere by looking twice a second."""
    try:
        import ctypes

        is_promised = ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) == 0
    except (ImportError, OSError, AttributeError):
        is_promised = False
    if not is_promised:
        threading.Thread(target=_watch, args=(parent,), daemon=True, name="guildhall-parent").start()
    elif os.getppid() != parent:  # It died before the promise was given.
        os._exit(1)


def _watch(parent: int) -> NoReturn:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def main(control: int, client: int) -> NoReturn:
    """Serve the client whose end of the line is the other one of `control`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the client's to handle. It started us with SIGINT blocked.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    line = Line(socket.socket(fileno=control))
    line.socket.set_inheritable(False)
    try:
        from . import worker
    except BaseException as error:
        line.send("failed", f"it cannot import what workers need: {type(error).__name__}: {error}")
        raise
    gc.freeze()  # Collecting in a worker leaves what was loaded here alone, and shared.
    server = Server(line, client, worker.main)
    server.serve()
    server.end()
    os._exit(0)
