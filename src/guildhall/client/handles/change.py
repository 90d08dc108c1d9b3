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
_tickets = itertools.count(1)
_around: ContextVar[tuple[weakref.ref[Change], ...]] = ContextVar("guildhall_change", default=())
"""The changes whose function runs here, outermost first. Weak: one that Ctrl-C tore down must not stay."""


class Change:
    """Entered once, then `read_flow` and `swap` until that is true; leaving it gives a turn up."""

    def __init__(self, handle: Cell, host: EmbeddedHost, timeout_s: float | None) -> None:
        self._handle = handle
        self._host = host
        self._timeout_s = timeout_s
        self._until = deadline.after(timeout_s)
        self._tries = 0
        self._session = 0
        self._ticket = 0  # Not 0 while it is our turn, or may be.
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
        self._is_open = True
        _around.set((*self._before, weakref.ref(self)))
        return self

    def __exit__(self, *exc: object) -> None:
        self._is_open = False
        _around.set(self._before)
        self._give_up_turn()

    def __del__(self) -> None:
        if self._ticket:  # Ctrl-C in `__exit__`.
            self._host.defer(variable.end_turn, self._handle._key, self._session, self._ticket)

    def _give_up_turn(self) -> None:
        if self._ticket:
            self._host.transact(variable.end_turn, self._handle._key, self._session, self._ticket)
            self._ticket = 0

    def read_flow(self, *, awaits_set: bool) -> Flow[Now]:
        """The newest value; if it must not be beaten any more, at our turn. Unset: waits, or answers version 0."""
        if self._tries and deadline.left(self._until) == 0:
            raise self._beaten()
        if self._tries >= FREE_TRIES and not self._ticket:
            yield from self._turn_flow()
        self._tries += 1
        while (now := self._handle._now(self._host)) is None and awaits_set:
            self._give_up_turn()  # Whoever is to set the first value may need it.
            try:
                yield from self._handle._get_flow(self._host, deadline.left(self._until))
            except TimedOut:
                raise self._handle._late(self._timeout_s) from None
        now = now or Now(0, None)
        self._seen = now.version
        return now

    def _turn_flow(self) -> Flow[None]:
        host, key = self._host, self._handle._key
        session = self._session = host.session
        ticket = self._ticket = next(_tickets)

        def has_turn(waiter: Waiter) -> Any:
            return True if host.read(variable.has_turn, key, session, ticket) else BUSY

        answer = yield from drive.waiting(
            host,
            lambda waiter: host.transact(variable.take_turn, key, session, ticket, waiter),
            has_turn,
            lambda waiter: host.transact(variable.withdraw_turn, key, session, ticket, waiter),
            deadline.left(self._until),
        )
        if answer is LATE:
            self._ticket = 0
            raise self._beaten()

    def swap(self, value: Any) -> bool:
        """Set the value in place of the one that was read. False: read again."""
        host, key = self._host, self._handle._key
        stored, spent = self._handle._store(host, value)
        try:
            if self._ticket:
                is_done = host.transact(variable.finish, key, host.session, self._ticket, self._seen, stored)
                self._ticket = 0
                if is_done:
                    return True  # If not, we are in a forked child: the turn is its parent's.
            answer = host.transact(variable.swap, key, self._seen, stored)
        finally:
            if spent:
                host.defer(values.release_for, host.session, spent)
        if answer is BUSY:
            self._tries = max(self._tries, FREE_TRIES)  # Somebody has the turn: stand in line behind.
        return answer is True

    def _beaten(self) -> TimedOut:
        return TimedOut(
            f"variable {self._handle.name!r:.60}: others changed it at each of {self._tries} tries "
            f"within {self._timeout_s:g} s; nothing was changed"
        )
