"""A worker's memory limit: it warns, then claims no more, then ends and another takes its place.

What counts is memory of its own (RssAnon): blobs are shared with everybody and count for nobody.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from typing import Protocol

LOOK_S = 0.1
WARN, PAUSE, END = 0.7, 0.8, 0.95
"""Shares of the limit, those of dask.distributed's workers."""
STATUS = 113
"""How a worker exits that ends at its limit."""


class Worker(Protocol):
    """What is done to one."""

    is_paused: bool

    def is_idle(self) -> bool:
        """Whether it runs no task."""

    def retire(self) -> None:
        """End when it runs no task any more."""


class MemoryGuard(threading.Thread):
    """Looks at the memory of this process ten times a second."""

    def __init__(self, worker: Worker, limit_bytes: int, used: Callable[[], int] | None = None) -> None:
        super().__init__(daemon=True, name="guildhall-memory")
        self._worker = worker
        self._limit_bytes = limit_bytes
        self._used = used or own_bytes
        self._has_warned = False

    def run(self) -> None:
        """Until the process ends."""
        wait = threading.Event()
        while not wait.wait(LOOK_S):
            self.look()

    def look(self) -> None:
        """Do what the memory in use asks for."""
        import logging  # Here: every client knows of limits, and few have one.

        log = logging.getLogger(__name__)
        used = self._used()
        share = used / self._limit_bytes
        if share >= END:
            log.error("worker %d: %s of its own; it ends", os.getpid(), self._of(used))
            os._exit(STATUS)
        if share >= WARN and not self._has_warned:
            log.warning(
                "worker %d: %s of its own; above %d %% it claims no more", os.getpid(), self._of(used), 100 * PAUSE
            )
        self._has_warned = share >= WARN
        if share >= PAUSE and self._worker.is_idle():
            gc.collect()
            if self._used() / self._limit_bytes >= PAUSE:  # Nothing runs that could give it back.
                self._worker.retire()
        self._worker.is_paused = share >= PAUSE

    def _of(self, used: int) -> str:
        return f"{used / 2**20:.0f} MiB of {self._limit_bytes / 2**20:.0f}"


def own_bytes() -> int:
    """The resident memory of this process that is its own, in bytes."""
    try:
        with open("/proc/self/status") as status:
            for line in status:
                if line.startswith("RssAnon:"):
                    return int(line.split()[1]) << 10
    except OSError:
        pass
    import psutil

    return int(psutil.Process().memory_info().rss)
