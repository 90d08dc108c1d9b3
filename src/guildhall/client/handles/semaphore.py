"""The handle of Semaphore."""

from __future__ import annotations

from collections.abc import Iterable
from sys import _getframe
from typing import TYPE_CHECKING, Any, Self

from ... import deadline
from ...deadline import Timeout
from ...hosts.embedded import EmbeddedHost
from ...primitives import semaphore
from ...primitives.deadlock import Hold
from ...primitives.op import Answer
from ...store.transaction import Waiter
from ..agents import entered, forget
from ..drive import Flow
from .handle import no_number, whole
from .held import Leasing, give_up, patience_s

if TYPE_CHECKING:
    from .statistics import Statistics


MAX_LEASES = (1 << 62) - 1


class Semaphore(Leasing):
    """At most so many leases at a time in the whole hall, fair, given back when the holder's process dies.

        with Semaphore("database", max_leases=4):
            ...

    `max_leases`, 1 if none is given, is agreed with the first one of the name that was used: another number raises
    ValueError when this one is used. An object may hold several leases, and may be shared by threads; only as many as
    it acquired can be released through it (`NotHeld`), so there are never more than `max_leases` (a bounded semaphore).

    If you stop waiting, you leave the line, and a lease that came meanwhile goes to the next. If a holder dies, its
    leases go to the longest waiters. If all leases are held by those who wait for you, acquire raises DeadlockError.
    For one lease, `Lock` costs less, and tells whether the holder before it died.
    """

    _kind = "semaphore"
    _region = semaphore.SEMAPHORES

    def __init__(
        self, name: Any = None, max_leases: int | None = None, *, hall: Any = None, client: Any = None
    ) -> None:
        if max_leases is None:
            no_number(type(self), name, "max_leases")
        super().__init__(name, hall=hall, client=client)
        hint = "; the name comes first" if isinstance(name, int | float) else ""
        self.max_leases = 1 if max_leases is None else whole(self, "max_leases", max_leases, most=MAX_LEASES, hint=hint)
        self._born = 0
        """Which of the semaphores that the name had is this object's; 0 until it is used."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self.max_leases)

    def acquire(self, blocking: bool = True, timeout: Timeout = None) -> bool:
        """True when a lease more is held, False when the time was up. `blocking=False` tries once.

        Raises Misuse (ValueError) if the name has another `max_leases`, SemaphoreClosed (RuntimeError) after `close`.
        """
        return self._take(1, self._patience_s(blocking, timeout))

    def _patience_s(self, blocking: bool, timeout: Timeout) -> float | None:
        if blocking and timeout is None:
            return None
        return patience_s(f"semaphore {self.name!r:.60}", blocking, timeout)

    def _acquire(self, host: EmbeddedHost, want: int, number: int, waiter: Waiter | None) -> Any:
        answer = host.transact(
            semaphore.acquire, self._key, self.max_leases, self._born, host.session, number, deadline.now(), waiter
        )
        if not self._born and not isinstance(answer, Answer):
            self._born = answer.born
        return answer

    def _take_flow(
        self, host: EmbeddedHost, want: int, timeout_s: float | None, parked: Waiter | None = None
    ) -> Flow[bool]:
        if not self._born:  # So that one who waits is told when it is closed.
            self._born = host.transact(semaphore.register, self._key, self.max_leases).born
        return (yield from super()._take_flow(host, want, timeout_s, parked))

    def release(self) -> bool:
        """Give one lease back. Raises NotHeld (RuntimeError, ValueError) if this object holds none.

        A lease that was out when somebody closed the semaphore is given back without a word.
        """
        return self._release(1)

    def get_value(self) -> int:
        """How many leases are held by all together; 0 when all are free. Raises SemaphoreClosed."""
        return self._host.read(semaphore.held, self._key, self._born)

    def close(self) -> None:
        """The semaphore goes: whoever uses an object of it, or waits, gets SemaphoreClosed (RuntimeError).

        A new object of the name makes another one, with any `max_leases`.
        """
        self._host.transact(semaphore.close, self._key, self._born)

    def statistics(self) -> Statistics:
        """Who holds leases and who waits, now."""
        from .statistics import of_semaphore  # Here: with it come the records of all kinds.

        return self._host.read(of_semaphore, self.name, self._key)

    def holds(self, host: EmbeddedHost) -> Iterable[Hold]:
        """What a `with` block gives back."""
        return self._holds(host, 1)

    def __enter__(self) -> Self:
        frame = _getframe(1)
        note = self, frame
        self._take(1, None)
        entered[note] = frame
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        mine = self._mine[1]
        number = mine[-1] if mine else None
        try:  # Here and not in a function for both: Ctrl-C may come before the first line of that, too.
            forget(self, _getframe(1))
            if error is None:
                self._release(1)
            else:
                give_up(error, lambda: self._release(1))
        except Exception:
            raise
        except BaseException:
            forget(self, _getframe(1))
            if number in mine:  # Ctrl-C came before the release began.
                self._release(1)
            raise
