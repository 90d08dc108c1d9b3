"""One read-change-write of a variable, for `update` and `compare_and_set`, synchronous or not.

Optimistic first: read, let the user's function run outside any transaction, and swap if the version is the same. After
a few tries that others beat it takes its turn in line, and then it cannot be beaten (see `primitives.variable`).
"""

from __future__ import annotations

import itertools
import weakref
from contextvars import ContextVar
from typing import Any, Self

from ... import deadline
from ...errors import Misuse, TimedOut
from ...hosts.embedded import EmbeddedHost
from ...primitives import values, variable
from ...primitives.op import BUSY
from ...store.transaction import Waiter
from .. import drive
from ..drive import LATE, Flow
from .cell import Cell, Now

FREE_TRIES = 4
"""So often a change is tried without a turn: enough for functions as fast as a commit, few enough for slow ones."""
NO_TURN = "its turn to be changed did not come"
_tickets = itertools.count(1)
_around: ContextVar[tuple[weakref.ref[Change], ...]] = ContextVar("guildhall_change", default=())
"""The changes whose function runs here, outermost first. Weak: one that Ctrl-C tore down must not stay."""


class Turn:
    """The turn of one change, from the moment it is asked for until `end`. One that is dropped is given up."""

    def __init__(self, host: EmbeddedHost, key: bytes) -> None:
        self._host = host
        self.whose = key, host.session, next(_tickets)
        # For Ctrl-C just before `end`. Not by `__del__`, which runs every time, and where Ctrl-C itself would be lost.
        self._if_dropped = weakref.finalize(self, _give_up, host, *self.whose)
        self._if_dropped.atexit = False

    def take_flow(self, timeout_s: float | None) -> Flow[bool]:
        """True once it is ours, False if that took too long."""
        host, whose = self._host, self.whose

        def is_ours(waiter: Waiter) -> Any:
            return True if host.read(variable.has_turn, *whose) else BUSY

        answer = yield from drive.waiting(
            host,
            lambda waiter: host.transact(variable.take_turn, *whose, waiter),
            is_ours,
            lambda waiter: host.let_go(variable.withdraw_turn, *whose, waiter),
            timeout_s,
        )
        return answer is not LATE

    def finish(self, seen: int, stored: bytes) -> bool:
        """Change the value in the turn and end it. False in a child that was forked in it: it is its parent's."""
        is_finished = self._host.session == self.whose[1] and self._host.transact(
            variable.finish, *self.whose, seen, stored
        )
        self._if_dropped.detach()
        return is_finished

    def end(self) -> None:
        """Give it up, if it is ours still; the next in line has it."""
        if self._if_dropped.alive and self._host.session == self.whose[1]:
            try:
                self._host.transact(variable.end_turn, *self.whose)
            except Exception:
                raise
            except BaseException:  # Ctrl-C: whether it is ended already or not, it is ended now.
                self._host.transact(variable.end_turn, *self.whose)
                raise
        self._if_dropped.detach()


def _give_up(host: EmbeddedHost, key: bytes, session: int, ticket: int) -> None:
    """What is left to do for a turn that was dropped. In a forked child it is its parent's."""
    if host._session == session:
        host.defer(variable.end_turn, key, session, ticket)


class Change:
    """Entered once, then `read_flow` and `swap` until that is true; leaving it gives a turn up."""

    def __init__(self, handle: Cell, host: EmbeddedHost, timeout_s: float | None) -> None:
        self._handle = handle
        self._host = host
        self._timeout_s = timeout_s
        self._until = deadline.after(timeout_s)
        self._tries = 0
        self._is_held_back = False  # By somebody who has the turn: then we stand in line behind.
        self._turn: Turn | None = None
        self._seen = 0
        self._is_open = False

    def __enter__(self) -> Self:
        self._before = _around.get()
        for outer in filter(None, (weak() for weak in self._before)):
            if outer._is_open and outer._handle._key == self._handle._key and outer._host is self._host:
                raise Misuse(
                    f"variable {self._handle.name!r:.60}: changed by a function that runs inside another change of it, "
                    "which would wait for itself; return the new value instead"
                )
        _around.set((*self._before, weakref.ref(self)))
        self._is_open = True  # Last: after Ctrl-C before it, nobody leaves this change, and it must not look entered.
        return self

    def __exit__(self, *exc: object) -> None:
        self._is_open = False
        _around.set(self._before)
        self._end_turn()

    def _end_turn(self) -> None:
        if self._turn is not None:
            self._turn.end()
            self._turn = None

    def read_flow(self, *, awaits_set: bool) -> Flow[Now]:
        """The newest value; if it must not be beaten any more, at our turn. Unset: waits, or answers version 0."""
        if self._tries and deadline.left(self._until) == 0:
            why = f"others changed it at each of {self._tries} tries"
            raise self._late(NO_TURN if self._is_held_back else why)
        if self._turn is None and (self._is_held_back or self._tries >= FREE_TRIES):
            self._turn = Turn(self._host, self._handle._key)
            if not (yield from self._turn.take_flow(deadline.left(self._until))):
                raise self._late(NO_TURN)
        self._tries += 1
        while (now := self._handle._now(self._host)) is None and awaits_set:
            self._end_turn()  # Whoever is to set the first value may need it.
            try:
                yield from self._handle._get_flow(self._host, deadline.left(self._until))
            except TimedOut:
                raise self._handle._late(self._timeout_s) from None
        now = now or Now(0, None)
        self._seen = now.version
        return now

    def swap(self, value: Any) -> bool:
        """Set the value in place of the one that was read. False: read again."""
        host = self._host
        stored, spent = self._handle._store(host, value)
        try:
            if self._turn is not None:
                if self._turn.finish(self._seen, stored):
                    return True
                self._turn = None
            answer = host.transact(variable.swap, self._handle._key, self._seen, stored)
        finally:
            if spent:
                host.defer(values.release_for, host.session, spent)
        self._is_held_back = answer is BUSY
        return answer is True

    def _late(self, what: str) -> TimedOut:
        return TimedOut(f"variable {self._handle.name!r:.60}: {what} within {self._timeout_s:g} s; nothing was changed")
