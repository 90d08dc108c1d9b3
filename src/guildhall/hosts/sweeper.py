"""References that were let go are told to the hall soon, also by a process that does nothing else.

A finalizer may run anywhere, also inside a transaction or a lock: it only notes what went, and writes a byte to a pipe.
"""

from __future__ import annotations

import os
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
        self._read, self._write = os.pipe()
        self._is_closing = False
        self._thread = threading.Thread(target=self._sweep, daemon=True, name="guildhall-sweeper")
        self._thread.start()
        host.nudge = self._nudge

    def _nudge(self) -> None:
        os.write(self._write, b"!")

    def _sweep(self) -> None:
        try:
            while os.read(self._read, 64) and not self._is_closing:
                time.sleep(SOON_S)
                with suppress(Broken, Misuse):  # Full or closed: what is left goes with the next flush or the session.
                    self._host.settle()
        finally:
            os.close(self._read)  # By the thread: it may be busy for longer than `close` waits.

    def close(self) -> None:
        """End the thread."""
        self._host.nudge = None
        self._is_closing = True
        os.close(self._write)
        self._thread.join(1)
