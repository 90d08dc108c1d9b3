"""The fork server: a process that imports what workers need once, and forks them.

What must live here: everything that happens in that process, and the messages between it and its client. The client's
side is `pool.py`; what a worker does is `worker.py`.

The server has one thread, no hall open and no file of one, so that a worker begins with nothing of others. It is the
parent of the workers: it learns of every end at once, and when the client is gone it kills them, whatever they are
stuck in. It sleeps until something happens and never wakes up by itself.

Messages are text, each ended by a NUL. To the server: `worker OPTIONS HALL` (start one, told that), `remove HALL` (when
the client is gone), `bye` (the client closes, and sees to its hall itself). To the client: `started PID`, `joined PID`,
`ended PID STATUS` (as `os.waitpid` gives it), `refused WHY` (a worker could not be forked) and `failed WHY`, which
explains an end that comes next.
"""

from __future__ import annotations

import ctypes
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
MAX_WHY = 4000
_PR_SET_PDEATHSIG = 1


class Line:
    """Messages over one end of a socket pair: a verb, and what it is about."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self._rest = b""

    def send(self, verb: str, about: str | int = "") -> None:
        self.socket.sendall(f"{verb} {about}\0".encode(errors="surrogateescape"))

    def receive(self) -> list[tuple[str, str]]:
        """The messages that have come, at least one; none when the other side is gone. Raises TimeoutError."""
        messages: list[bytes] = []
        while not messages:
            try:
                data = self.socket.recv(1 << 16)
            except ConnectionError:  # It went without reading all that we sent.
                data = b""
            if not data:
                return []
            *messages, self._rest = (self._rest + data).split(b"\0")
        texts = (message.decode(errors="surrogateescape") for message in messages)
        return [(verb, about) for verb, _, about in (text.partition(" ") for text in texts)]

    def close(self) -> None:
        self.socket.close()


class Server:
    """Forks workers as the client asks, and tells it what becomes of them.

    `work(told, joined)` is called in each worker, which calls `joined()` when it is in the hall.
    """

    def __init__(self, line: Line, client: int, work: Callable[[str, Callable[[], None]], None]) -> None:
        self._line = line
        self._client = client
        self._work = work
        self._pid = os.getpid()
        self._workers: set[int] = set()
        self._to_remove: list[str] = []
        self._from_workers, self._to_server = map(Line, socket.socketpair())
        self._from_workers.socket.setblocking(False)
        self._ends, self._end = socket.socketpair()
        self._end.setblocking(False)
        signal.set_wakeup_fd(self._end.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # Only a signal with a handler is written to `_end`.
        self._client_fd = -1
        # When the client dies beside a stopped worker, the kernel hangs up on our group: and there is a hall to remove.
        self._hangup = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with suppress(AttributeError, OSError):  # Not Linux, or gone: the end of the line tells.
            self._client_fd = os.pidfd_open(client)

    def serve(self) -> None:
        """Until the client is gone, or says that it goes.

        Its own end is watched besides the end of the line, which a process that it forked may keep open. What it
        asked for before is read first: there may be a hall to remove.
        """
        poll = select.poll()
        for end in (self._line.socket, self._from_workers.socket, self._ends):
            poll.register(end, select.POLLIN)
        if self._client_fd >= 0:
            poll.register(self._client_fd, select.POLLIN)
        while ready := {fd for fd, _ in poll.poll(None if self._has_client() else 0)} - {self._client_fd}:
            if self._from_workers.socket.fileno() in ready:
                self._pass_on()
            if self._ends.fileno() in ready:
                self._ends.recv(4096)
                self._reap()
            if self._line.socket.fileno() in ready and not self._obey():
                return

    def _has_client(self) -> bool:
        return os.getppid() == self._client

    def _obey(self) -> bool:
        """Do what the client asks. False: it is gone or goes."""
        messages = self._line.receive()
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
        with suppress(OSError):  # The client is gone: the poll says so, too.
            self._line.send(verb, about)

    def _pass_on(self) -> None:
        """Tell what workers said."""
        with suppress(BlockingIOError):
            while True:
                for verb, about in self._from_workers.receive():
                    self._tell(verb, about)

    def _reap(self) -> None:
        """Tell which workers ended, each after what it said."""
        while self._workers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            self._workers.discard(pid)
            self._pass_on()
            self._tell("ended", f"{pid} {status}")

    # -- forking ------------------------------------------------------------------------------------------------------

    def _start(self, told: str) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            self._tell("refused", f"a worker cannot be forked: {error}")
            return
        if not pid:
            self._be_worker(told)
        self._workers.add(pid)
        self._tell("started", pid)

    def _be_worker(self, told: str) -> NoReturn:
        """In the child: let go of what is the server's, work, and never return to what the server was doing."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGHUP, self._hangup)
            for end in (self._line, self._from_workers, self._ends, self._end):
                end.close()
            if self._client_fd >= 0:
                os.close(self._client_fd)
            end_with(self._pid)
            gc.enable()
            self._work(told, self._joined)
            sys.stdout.flush()
            status = 0
        except BaseException as error:
            with suppress(OSError):
                self._to_server.send("failed", f"worker {os.getpid()}: {described(error)}")
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)

    def _joined(self) -> None:
        self._to_server.send("joined", os.getpid())
        self._to_server.close()

    # -- ending -------------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Kill the workers; remove the hall and what was spilled from it, unless the client said that it will."""
        for pid in self._workers:
            os.kill(pid, signal.SIGKILL)
        for pid in self._workers:
            os.waitpid(pid, 0)
        if self._to_remove:
            from ...hosts.embedded import remove_unused

            until = time.monotonic() + DYING_S
            while self._has_client() and time.monotonic() < until:
                time.sleep(0.005)
            for hall in self._to_remove:
                remove_unused(hall)


def end_with(parent: int) -> None:
    """Die when the parent does: at once and by the kernel's hand on Linux, elsewhere by looking twice a second."""
    try:
        is_promised = ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) == 0
    except (OSError, AttributeError):
        is_promised = False
    if not is_promised:
        threading.Thread(target=_watch, args=(parent,), daemon=True, name="guildhall-parent").start()
    elif os.getppid() != parent:  # It died before the promise was given.
        os._exit(1)


def _watch(parent: int) -> NoReturn:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:MAX_WHY]


def main(control: int, client: int) -> NoReturn:
    """Serve the client that has the other end of the socket `control`, and is our parent."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is the client's to handle; it has blocked it for us till here.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    line = Line(socket.socket(fileno=control))
    line.socket.set_inheritable(False)
    try:
        from . import worker
    except BaseException as error:
        line.send("failed", f"the fork server cannot import what workers need: {described(error)}")
        raise
    gc.freeze()  # Collecting in a worker leaves what was loaded here alone, and shared.
    server = Server(line, client, worker.main)
    server.serve()
    server.end()
    os._exit(0)
