"""The handle of RWLock."""

from __future__ import annotations

from collections.abc import Iterable
from sys import _getframe
from typing import TYPE_CHECKING, Any

from ... import deadline
from ...deadline import Timeout
from ...hosts.embedded import EmbeddedHost
from ...primitives import pool, rwlock
from ...primitives.deadlock import Hold
from ...primitives.rwlock import READ, WRITE
from ...store.transaction import Waiter
from ..agents import entered
from .held import Leasing, give_up, patience_s

if TYPE_CHECKING:
    from .statistics import Statistics


class RWLock(Leasing):
    """Many readers, or one writer. Fair by the order of asking: readers that follow each other enter together, and no
    reader enters before a writer who came first. So neither can keep the other out for ever.

        prices = RWLock("prices")
        with prices.read():
            ...
        with prices.write():
            ...

    The holder is this object, which may hold several times and be shared by threads. Not re-entrant: who reads and asks
    again may wait behind a writer that waits for it, and who reads and asks to write waits for itself: without a
    timeout that is DeadlockError. Release first.

    If you stop waiting, you leave the line, and those behind you enter if they can. If a holder dies, its part is free
    at once; `previous_holder_died` tells the writer who got in by that. When reading is quick, `Lock` costs less.
    """

    _kind = "rwlock"
    _region = rwlock.RWLOCKS
    _units = (READ, WRITE)

    def read(self) -> Side:
        """As a context: one of the readers."""
        return Side(self, READ)

    def write(self) -> Side:
        """As a context: the only one."""
        return Side(self, WRITE)

    def acquire_read(self, blocking: bool = True, timeout: Timeout = None) -> bool:
        """True when in as a reader, False when the time was up. `blocking=False` tries once."""
        return self._take(READ, self._patience_s(blocking, timeout))

    def acquire_write(self, blocking: bool = True, timeout: Timeout = None) -> bool:
        """True when in as the writer, False when the time was up. `blocking=False` tries once."""
        return self._take(WRITE, self._patience_s(blocking, timeout))

    def _patience_s(self, blocking: bool, timeout: Timeout) -> float | None:
        if blocking and timeout is None:
            return None
        return patience_s(f"rwlock {self.name!r:.60}", blocking, timeout)

    def _acquire(self, host: EmbeddedHost, want: int, number: int, waiter: Waiter | None) -> Any:
        return host.transact(rwlock.acquire, self._key, want, host.session, number, deadline.now(), waiter)

    def release_read(self) -> bool:
        """One reader less. Raises NotHeld (RuntimeError, ValueError) if this object does not read."""
        return self._release(READ)

    def release_write(self) -> bool:
        """The writer goes. Raises NotHeld (RuntimeError, ValueError) if this object does not write."""
        return self._release(WRITE)

    def locked(self) -> bool:
        """Whether anybody reads or writes."""
        return self._host.read(pool.is_used, self._place)

    def _writing(self) -> pool.Lease | None:
        host, mine = self._host, self._mine[WRITE]
        return host.read(pool.lease, self._place, Waiter(host.session, mine[-1], 0)) if mine else None

    @property
    def fencing_token(self) -> int | None:
        """A number that grows with every grant in the hall; None when this object does not write."""
        lease = self._writing()
        return None if lease is None else lease.token

    @property
    def previous_holder_died(self) -> bool:
        """Whether this object writes because the death of a holder made room."""
        lease = self._writing()
        return lease is not None and lease.is_inherited

    def statistics(self) -> Statistics:
        """Who reads or writes and who waits, now."""
        from .statistics import of_rwlock  # Here: with it come the records of all kinds.

        return self._host.read(of_rwlock, self.name, self._key)


class Side:
    """What `read()` and `write()` answer: a context that may be entered any number of times."""

    def __init__(self, lock: RWLock, units: int) -> None:
        self._lock = lock
        self._units = units

    def holds(self, host: EmbeddedHost) -> Iterable[Hold]:
        """What a `with` block gives back."""
        return self._lock._holds(host, self._units)

    def __enter__(self) -> None:
        frame = _getframe(1)
        self._lock._take(self._units, None)
        entered[self] = frame

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        mine = self._lock._mine[self._units]
        number = mine[-1] if mine else None
        try:  # Here and not in a function for both: Ctrl-C may come before the first line of that, too.
            entered.pop(self, None)
            if error is None:
                self._lock._release(self._units)
            else:
                give_up(error, lambda: self._lock._release(self._units))
        except Exception:
            raise
        except BaseException:
            entered.pop(self, None)
            if number in mine:  # Ctrl-C came before the release began.
                self._lock._release(self._units)
            raise
