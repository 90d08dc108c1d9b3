"""Nobody waits behind a slow task: what was claimed with it is given to other workers.

A worker claims many tasks at a time once they have proved short. If one of them turns out to be long, this thread tells
the ends before it and returns the tasks behind it. It sleeps as long as no claim of several tasks is worked off.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Protocol

from ...errors import GuildhallError

SLOW_S = 0.005
"""A task that was running at two looks that far apart is slow."""
_LOOKS_BEFORE_SLEEP = 20


class Run(Protocol):
    """A claim being worked off; `begun` counts its tasks begun."""

    begun: int

    def yield_rest(self) -> None:
        """Tell what is done and give the tasks not begun to others."""


class Monitor:
    """Watches one claim at a time. The thread starts with the first."""

    def __init__(self) -> None:
        self._run: Run | None = None
        self._is_needed = threading.Event()
        self._thread: threading.Thread | None = None

    def follow(self, run: Run | None) -> None:
        """Watch this claim from now on; None: there is nothing to watch."""
        self._run = run
        if run is not None and not self._is_needed.is_set():
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, daemon=True, name="guildhall-monitor")
                self._thread.start()
            self._is_needed.set()

    def _watch(self) -> None:
        while True:
            self._is_needed.wait()
            self._watch_until_idle()
            self._is_needed.clear()
            if self._run is not None:  # Came just now, and found us awake.
                self._is_needed.set()

    def _watch_until_idle(self) -> None:
        seen: tuple[Run | None, int] = None, 0
        looks = 0
        while looks < _LOOKS_BEFORE_SLEEP:
            time.sleep(SLOW_S)
            run = self._run
            looks = looks + 1 if run is None else 0
            if run is None:
                continue
            if seen == (run, run.begun):
                with suppress(GuildhallError):  # A full or closed hall: the worker itself will meet it.
                    run.yield_rest()
            seen = run, run.begun
