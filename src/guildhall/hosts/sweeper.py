"""References that were let go are told to the hall soon, also by a process that does nothing else.

A finalizer may run anywhere, also inside a transaction or a lock, or while another thread closes the hall: it only
notes what went, and sends a byte over a socket, which is nobody else's when it is closed.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress

from ..errors import Broken, Misuse
from .embedded import EmbeddedHost

SOON_S = 0.05
"""What is let go within this time is told at once."""


class Sweeper:
    """A thread that flushes the host's drops. Does nothing in a forked child."""

    def __init__(self, host: EmbeddedHost) -> None:
        self._host = host
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)
        self._is_closing = False
        self._thread = threading.Thread(target=self._sweep, daemon=True, name="guildhall-sweeper")
        self._thread.start()
        host.nudge = self._nudge

    def _nudge(self) -> None:
        with suppress(OSError):  # Full, then it is on its way; or closed meanwhile.
            self._write.send(b"!")

    def _sweep(self) -> None:
        try:
            while self._read.recv(64) and not self._is_closing:
                time.sleep(SOON_S)
                with suppress(Broken, Misuse):  # Full or closed: what is left goes with the next flush or the session.
                    self._host.settle()
        finally:
            self._read.close()  # By the thread: it may be busy for longer than `close` waits.

    def close(self) -> None:
        """End the thread."""
        self._host.nudge = None
        self._is_closing = True
        self._write.close()
        self._thread.join(1)
