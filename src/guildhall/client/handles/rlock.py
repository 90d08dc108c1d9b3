"""The handle of RLock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from ... import deadline
from ...deadline import Timeout
from ...hosts import current
from ...hosts.embedded import EmbeddedHost
from ...primitives import rlock, waiters
from ...primitives.condition import Guard
from ...primitives.op import BUSY
from ...store.transaction import Waiter
from ..agents import thread_number
from ..hall import host_of
from .held import Held, attempt_of, give_up, patience_s

if TYPE_CHECKING:
    from .statistics import Statistics


class RLock(Held):
    """A lock that its owner may take again, fair, freed when the owner's process dies.

    The owner is the thread: in it, any object of the name takes the lock again, and each `acquire` needs a `release`.
    A thread that ends without releasing leaves it held until its process dies, as with `threading.RLock`. In
    `guildhall.aio` the owner is the current task of asyncio. In a task of a client it is the thread that runs it.

        def deposit(n):
            with RLock("account"):
                ...

        with RLock("account"):
            deposit(1)

    If you stop waiting, you leave the line, and a grant that came meanwhile goes to the next. If the owner dies, the
    longest waiter owns it once; `previous_holder_died` tells. When nobody takes it twice, `Lock` is enough, and may be
    released by another thread.
    """

    _kind = "rlock"

    _owner = staticmethod(thread_number)

    def acquire(self, blocking: bool = True, timeout: Timeout = None) -> bool:
        """True when it is held (once more), False when the time was up. `blocking=False` tries once."""
        return self._take(self._owner(), self._patience_s(blocking, timeout))

    def _patience_s(self, blocking: bool, timeout: Timeout) -> float | None:
        if blocking and timeout is None:
            return None
        return patience_s(f"rlock {self.name!r:.60}", blocking, timeout)

    def _ask(self, host: EmbeddedHost, want: int, number: int, waiter: Waiter | None) -> Any:
        return host.transact(rlock.acquire, self._key, host.session, want, number, deadline.now(), waiter)

    def _granted(self, host: EmbeddedHost, want: int, waiter: Waiter) -> Any:
        held = host.read(rlock.look, self._key)
        mine = held is not None and (held.session, held.last) == (waiter.session, waiter.number)
        return True if mine else BUSY

    def _undo(self, host: EmbeddedHost, want: int, waiter: Waiter) -> None:
        host.let_go(rlock.withdraw, self._key, waiter, deadline.now())

    def _leave(self, host: EmbeddedHost, want: int, waiter: Waiter) -> bool:
        return host.transact(waiters.withdraw, waiter)

    def release(self) -> bool:
        """Give it up once. Raises NotHeld (RuntimeError, ValueError) if the thread or asyncio task does not own it."""
        return self._release(attempt_of(None))

    def _release(self, number: int) -> bool:
        host = self._given or current.now or host_of(None)
        try:
            host.transact(rlock.release, self._key, host.session, self._owner(), number, deadline.now())
            return True
        except Exception:
            raise
        except BaseException:  # Ctrl-C: whether it is released already or not, it is released now.
            self._finish_release(number)
            raise

    def _hold(self) -> int:
        """What `_end` is to give up: the number of that step."""
        return attempt_of(None)

    def _end(self, hold: int) -> None:
        self._release(hold)

    def _let_go(self, hold: int) -> None:
        """What was to be given up is, if that was interrupted."""
        self._finish_release(hold)

    def _guard(self, host: EmbeddedHost) -> Guard:
        """This lock and the caller as its owner, as a condition needs them."""
        return Guard(rlock.RLOCKS + self._key, host.session, self._owner())

    def _keep(self, held: rlock.RLock | None) -> None:
        """Nothing is kept here: who owns it is written in the hall."""

    def _due(self, host: EmbeddedHost, waiter: Waiter) -> float | None:
        """It has no lease."""
        return None

    def _finish_release(self, number: int) -> None:
        host = self._host
        host.transact(rlock.finish_release, self._key, host.session, self._owner(), number, deadline.now())

    def _held(self) -> rlock.RLock | None:
        """What is written about the lock, if this thread (or asyncio task) owns it."""
        host = self._host
        held = host.read(rlock.look, self._key)
        return held if held is not None and (held.session, held.owner) == (host.session, self._owner()) else None

    def locked(self) -> bool:
        """Whether anybody holds the lock of this name."""
        return self._host.read(rlock.look, self._key) is not None

    @property
    def count(self) -> int:
        """How often this thread (or asyncio task) holds it."""
        held = self._held()
        return 0 if held is None else held.count

    @property
    def fencing_token(self) -> int | None:
        """A number that grows with every grant in the hall; None when the caller does not own the lock."""
        held = self._held()
        return None if held is None else held.token

    @property
    def previous_holder_died(self) -> bool:
        """Whether the caller got the lock because its owner died."""
        held = self._held()
        return held is not None and held.is_inherited

    def statistics(self) -> Statistics:
        """Who holds it and who waits, now."""
        from .statistics import of_rlock  # Here: with it come the records of all kinds.

        return self._host.read(of_rlock, self.name, self._key)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        number = 0
        try:
            number = attempt_of(None)
            give_up(error, lambda: self._release(number))
        except Exception:
            raise
        except BaseException:
            self._finish_release(number or attempt_of(None))
            raise
