"""Functions to call when futures end: one thread for all of a hall, started with the first and ended after the last.

An end costs the same however many futures are waited for: the hall keeps a feed of ends for this thread.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Protocol

from .. import deadline
from ..errors import Broken, Misuse, StoreFull
from ..hosts.embedded import EmbeddedHost
from ..primitives import values

LINGER_S = 0.5
"""So long a thread without anything to wait for stays, for the next: starting one takes as long as a short task."""
MAX_TAKEN = 256
FULL_S = 0.02
LEAVE_S = 1.0
"""So long a hall that is closed waits for a callback."""


class Future(Protocol):
    """What this file needs of one."""

    _host: EmbeddedHost
    _oid: bytes

    @property
    def key(self) -> str:
        """The task's name."""


Callback = Callable[[Any], Any]
Call = tuple[Any, Callback]
_gate = threading.Lock()
_callers: dict[EmbeddedHost, Caller] = {}


def _after_fork_in_child() -> None:
    """The threads are the parent's, and one of them may have had the gate."""
    global _gate
    _gate = threading.Lock()
    _callers.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)


def call_when_ended(future: Future, callback: Callback) -> None:
    """Call `callback(future)` from another thread when the future has ended."""
    host = future._host
    with _gate:
        caller = _callers.get(host)
        if caller is None:
            caller = _callers[host] = Caller(host)
    caller.call_when_ended([(future, callback)])


class Caller:
    """Calls functions from a thread of its own. `abandoned` is called with those left over when the hall is closed."""

    def __init__(self, host: EmbeddedHost, abandoned: Callable[[Iterable[Call]], None] = lambda calls: None) -> None:
        self._host = host
        self._abandoned = abandoned
        self._listener: _Listener | None = None

    def call_when_ended(self, calls: Iterable[Call]) -> None:
        """For each (future, function): call `function(future)` when the future has ended."""
        with _gate:
            if self._listener is not None and self._listener.take(calls):
                return
            self._listener = _Listener(self._host, self._abandoned)
            self._listener.take(calls)
            self._listener.start()


class _Listener(threading.Thread):
    """Waits for many futures with one bell and one feed."""

    def __init__(self, host: EmbeddedHost, abandoned: Callable[[Iterable[Call]], None]) -> None:
        super().__init__(daemon=True, name="guildhall-callbacks")
        self._host = host
        self._abandoned = abandoned
        self._session = host.session
        self._bell = host.bell()
        self._feed = values.feed_of(host.waiter(self._bell))
        self._new: deque[Call] = deque()
        self._waited: dict[bytes, list[Call]] = {}
        self._is_asleep = False
        self._is_leaving = False
        self._has_ended = False

    def start(self) -> None:
        self._host.before_leaving.append(self._leave)
        super().start()

    def take(self, calls: Iterable[Call]) -> bool:
        """Some more. False if this thread has ended, or is the parent's in a forked child. The gate is held."""
        if self._has_ended or self._session != self._host.session:
            return False
        self._new.extend(calls)
        self._wake()
        return True

    def _wake(self) -> None:
        if self._is_asleep:
            self._is_asleep = False
            self._host.ring(self._host.waiter(self._bell))

    def _leave(self) -> None:
        """The hall is being closed: nothing ends in it any more."""
        with _gate:
            self._is_leaving = True
            self._wake()
        if threading.current_thread() is not self:
            self.join(LEAVE_S)

    def run(self) -> None:
        try:
            while not self._is_leaving and self._turn():
                pass
        except (Broken, Misuse):  # Closed under a callback that took too long.
            pass
        with _gate:
            self._has_ended = True
        with suppress(ValueError):
            self._host.before_leaving.remove(self._leave)
        if self._is_leaving:
            self._bell.close()
        else:
            self._host.done(self._bell)
        self._abandoned([*self._new, *(call for calls in self._waited.values() for call in calls)])

    def _turn(self) -> bool:
        """Call for what has ended; if that is nothing, sleep. False when there was nothing to wait for for long."""
        with _gate:
            fresh = [self._new.popleft() for _ in range(len(self._new))]
        self._follow(fresh)
        ended = self._host.transact(values.told, self._feed, MAX_TAKEN)
        for oid in ended:
            for future, callback in self._waited.pop(oid, ()):
                _call(callback, future)
        return bool(ended or fresh) or self._sleep()

    def _follow(self, fresh: list[Call]) -> None:
        oids = []
        for future, callback in fresh:
            calls = self._waited.setdefault(future._oid, [])
            calls.append((future, callback))
            if len(calls) == 1:
                oids.append(future._oid)
        for at in range(0, len(oids), MAX_TAKEN):
            portion = oids[at : at + MAX_TAKEN]
            while not self._is_leaving:
                try:
                    self._host.transact(values.follow, self._feed, portion, [self._host.waiter() for _ in portion])
                    break
                except StoreFull:  # Not even room to stand in line: look again, until somebody takes something.
                    time.sleep(FULL_S)

    def _sleep(self) -> bool:
        """Until something may have ended or is new. False if there is nothing to wait for, for long enough."""
        until = None if self._waited else deadline.after(LINGER_S)
        with _gate:
            if self._new:
                return True
            if self._is_leaving:
                return False
            self._is_asleep = True
        while True:
            self._host.sleep(self._bell, deadline.left(until))
            with _gate:
                if self._waited or not self._is_asleep:
                    self._is_asleep = False
                    return True
                if deadline.left(until) == 0:
                    self._has_ended = True
                    return False


def _call(callback: Callback, future: Future) -> None:
    try:
        callback(future)
    except Exception:
        import logging

        logging.getLogger("guildhall").exception("the callback %r of future %s raised", callback, future.key)
