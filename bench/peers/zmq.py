"""pyzmq: sockets between processes, with what a program would write around them; it has no names, locks or tasks."""

from __future__ import annotations

import os
import pickle
import signal
import tempfile
from typing import Any

from lib import functions
from lib.peer import Peer, does
from lib.timing import Call


class ZeroMQ(Peer):
    name = "pyzmq"
    package = "pyzmq"
    imports = "zmq"

    def inherit(self) -> None:
        import zmq

        self.lib = zmq
        self.folder = tempfile.TemporaryDirectory(prefix="bench-")
        self.server = os.fork()
        if not self.server:
            self._serve()

    def _serve(self) -> None:
        """A process that answers each request with what its function returned."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        answers = self.lib.Context().socket(self.lib.REP)
        answers.bind(self._path("tasks"))
        while True:
            function, args = pickle.loads(answers.recv())
            answers.send(pickle.dumps(function(*args)))

    def _path(self, name: str) -> str:
        return f"ipc://{self.folder.name}/{name}"

    def start(self) -> None:
        self.context = self.lib.Context()

    def stop(self) -> None:
        os.kill(self.server, signal.SIGTERM)
        os.waitpid(self.server, 0)
        self.context.destroy(linger=0)
        self.folder.cleanup()

    def join(self) -> None:
        self.start()
        self.later(lambda: self.context.destroy(linger=0))

    def _socket(self, kind: int) -> Any:
        socket = self.context.socket(kind)
        socket.set_hwm(0)
        self.later(lambda: socket.close(linger=0))
        return socket

    @does("queue", "depth")
    def queue(self, x: int) -> Call:
        name = self._path(f"queue {x}")
        puts, gets = self._socket(self.lib.PUSH), self._socket(self.lib.PULL)
        puts.bind(name)
        gets.connect(name)
        for number in range(x):
            puts.send_pyobj(number)
        return lambda: (puts.send_pyobj(1), gets.recv_pyobj())

    @does("fan-out")
    def fan_out(self, number: int) -> Any:
        if number < 0:
            pub = self._socket(self.lib.XPUB)
            pub.setsockopt(self.lib.XPUB_VERBOSE, 1)
            pub.bind(self._path("news"))
            for _ in range(-number):
                pub.recv()  # Each subscription is told.
            return pub.send_pyobj
        sub = self._socket(self.lib.SUB)
        sub.subscribe(b"")
        sub.connect(self._path("news"))
        return lambda timeout: bool(sub.poll(timeout * 1000)) and sub.recv_pyobj() is not None

    @does("round-trip")
    def round_trip(self, x: int) -> Call:
        asks = self._socket(self.lib.REQ)
        asks.connect(self._path("tasks"))

        def ask() -> Any:
            asks.send(pickle.dumps((functions.inc, (1,))))
            return pickle.loads(asks.recv())

        return ask
