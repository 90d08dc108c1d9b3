"""Watching a variable: its newest value, again and again."""

from __future__ import annotations

from typing import Any, Final, Self

from ... import deadline
from ...deadline import Timeout
from ...errors import Misuse
from ...hosts.embedded import EmbeddedHost
from ...primitives import variable, waiters
from ...primitives.op import BUSY, PARKED, Answer
from ...store.transaction import Waiter
from .. import drive
from ..drive import LATE, Flow
from .cell import Cell, Now

CLOSED: Final = Now(-1, None)


class Watch:
    """An iterator over a variable's values, newest wins. Made by `Variable.watch`; close it from any thread.

        with Variable("settings").watch() as watch:
            for settings in watch:
                ...

    It keeps no list: between two steps it only remembers the version that it gave last, so it costs the hall nothing
    while its user is busy, and a step gives the value of that moment. It is for one consumer; several threads take a
    watch each. Nothing is left behind by a watch that is dropped.
    """

    def __init__(self, handle: Cell, timeout: Timeout = None) -> None:
        self._handle = handle
        self._timeout_s = deadline.seconds(timeout)
        self._is_open = True
        self._waits: set[Waiter] = set()
        self.version = 0
        """The version of the value given last; 0 before the first."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._handle, self._timeout_s)

    def __repr__(self) -> str:
        state = f"given up to version {self.version}" if self._is_open else "closed"
        return f"<Watch of variable {self._handle.name!r:.60}: {state}>"

    def get(self, timeout: Timeout = None) -> Any:
        """The newest value, once it is another than the last one given. Raises TimedOut, and Misuse once closed.

        If you stop waiting, nothing was taken, and the next call gives what came meanwhile.
        """
        timeout_s = deadline.seconds(timeout)
        host = self._handle._host
        return self._given(drive.run(host, self._newer_flow(host, timeout_s)))

    def _given(self, now: Now) -> Any:
        if now is CLOSED:
            raise Misuse(f"watch of variable {self._handle.name!r:.60}: it is closed; make another one")
        self.version = now.version
        return now.value

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        host = self._handle._host
        now = drive.run(host, self._newer_flow(host, self._timeout_s))
        if now is CLOSED:
            raise StopIteration
        return self._given(now)

    def _newer_flow(self, host: EmbeddedHost, timeout_s: float | None) -> Flow[Now]:
        """The newest value behind the last one given, or CLOSED."""
        until = deadline.after(timeout_s)
        while self._is_open:
            now = self._handle._now(host, self.version)
            if now is not None:
                return now
            answer = yield from self._await_flow(host, deadline.left(until))
            if answer is LATE:
                raise self._handle._late(timeout_s)
        return CLOSED

    def _await_flow(self, host: EmbeddedHost, timeout_s: float | None) -> Flow[Any]:
        key, seen = self._handle._key, self.version
        mine: list[Waiter] = []

        def ask(waiter: Waiter | None) -> Any:
            if waiter is not None:
                mine.append(waiter)
                self._waits.add(waiter)  # Before we park: `close` first says that it is closed and then looks here.
            answer: Answer | bool = host.transact(variable.await_newer, key, seen, waiter)
            if answer is PARKED and waiter is not None and not self._is_open:
                host.transact(waiters.withdraw, waiter)
                return True
            return answer

        def is_there(waiter: Waiter) -> Any:
            return True if not self._is_open or host.read(variable.version, key) > seen else BUSY

        try:
            return (
                yield from drive.waiting(
                    host, ask, is_there, lambda waiter: host.let_go(waiters.withdraw, waiter), timeout_s
                )
            )
        finally:
            self._waits.difference_update(mine)

    def close(self) -> None:
        """End it: iteration stops, also one that waits in another thread or coroutine. Harmless when done twice."""
        if self._is_open:
            self._is_open = False
            if self._waits:
                host = self._handle._host
                for waiter in tuple(self._waits):
                    if waiter.session == host.session:  # In a forked child they are its parent's.
                        host.transact(waiters.dismiss, waiter)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
