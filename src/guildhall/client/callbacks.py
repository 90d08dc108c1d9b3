"""Functions to call when futures end: one thread for all of a hall, started with the first and ended with the last."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from ..errors import Broken, Misuse
from ..hosts.embedded import EmbeddedHost
from ..primitives import values
from ..store.transaction import Waiter


class Future(Protocol):
    """What this file needs of one."""

    _host: EmbeddedHost
    _oid: bytes

    @property
    def key(self) -> str:
        """The task's name."""


Callback = Callable[[Any], Any]
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
        if caller is None or not caller.take(future, callback):
            caller = _callers[host] = Caller(host)
            caller.take(future, callback)
            caller.start()


class Caller(threading.Thread):
    """Waits for many futures with one bell."""

    def __init__(self, host: EmbeddedHost) -> None:
        super().__init__(daemon=True, name="guildhall-callbacks")
        self._host = host
        self._session = host.session
        self._bell = host.bell()
        self._new: deque[tuple[Future, Callback]] = deque()
        self._waited: dict[Future, tuple[Waiter, list[Callback]]] = {}
        self._has_ended = False

    def take(self, future: Future, callback: Callback) -> bool:
        """One more. False if this thread has ended, or is the parent's in a forked child. The gate is held."""
        if self._has_ended or self._session != self._host.session:
            return False
        self._new.append((future, callback))
        if self.is_alive():
            self._host.ring(self._host.waiter(self._bell))
        return True

    def run(self) -> None:
        try:
            while self._stand_in_line():
                ended = self._ended()
                for future in ended:
                    _, callbacks = self._waited.pop(future)
                    for callback in callbacks:
                        _call(callback, future)
                if not ended and self._waited and not self._new:
                    self._host.sleep(self._bell, None)
            self._host.done(self._bell)
        except (Broken, Misuse):  # The hall is closed: nothing ends in it any more.
            with _gate:
                self._end()

    def _end(self) -> None:
        self._has_ended = True
        if _callers.get(self._host) is self:
            del _callers[self._host]

    def _stand_in_line(self) -> bool:
        """For those that are new. False if there is nobody to wait for; then the thread ends."""
        with _gate:
            fresh = [self._new.popleft() for _ in range(len(self._new))]
            if not fresh and not self._waited:
                self._end()
                return False
        parked = []
        for future, callback in fresh:
            if future in self._waited:
                self._waited[future][1].append(callback)
            else:
                parked.append(future)
                self._waited[future] = self._host.waiter(self._bell), [callback]
        if parked:
            oids = [future._oid for future in parked]
            self._host.transact(values.watch_all, oids, [self._waited[future][0] for future in parked])
        return True

    def _ended(self) -> list[Future]:
        futures = list(self._waited)
        return [futures[place] for place in self._host.read(values.which_settled, [f._oid for f in futures])]


def _call(callback: Callback, future: Future) -> None:
    try:
        callback(future)
    except Exception:
        import logging

        logging.getLogger("guildhall").exception("the callback %r of future %s raised", callback, future.key)
