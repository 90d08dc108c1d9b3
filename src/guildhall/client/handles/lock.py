"""The handle of Lock."""

from __future__ import annotations

import itertools
from typing import Any, Self

from ... import deadline
from ...deadline import Timeout
from ...errors import Misuse
from ...hosts import current
from ...hosts.embedded import EmbeddedHost
from ...primitives import lock
from ...primitives.op import BUSY
from ...store.transaction import Waiter
from .. import drive
from ..drive import LATE, Flow
from ..hall import host_of
from .handle import Handle

_handles = itertools.count(1)
_attempts = itertools.count(1)
"""Attempts to get a lock that bring no waiter have negative numbers, so that none is a wait's."""


def _attempt_of(waiter: Waiter | None) -> int:
    return -next(_attempts) if waiter is None else waiter.number


class Lock(Handle):
    """A lock with one holder in the whole hall, fair, freed when its holder's process dies.

    The holder is this object: any thread of the process may release it through the object that acquired it, no other
    object may (`NotHeld`). Not reentrant.

        with Lock("accounts"):
            ...

    If you stop waiting, you leave the line, and a grant that came meanwhile goes to the next. If the holder dies, the
    longest waiter holds the lock from then on; `previous_holder_died` tells it.
    """

    _kind = "lock"

    def __init__(self, name: Any = None, *, hall: Any = None, client: Any = None) -> None:
        super().__init__(name, hall=hall, client=client)
        self._handle = next(_handles)
        self._grant: lock.Lock | None = None
        self._was_busy = False  # When last asked for: then the next acquire brings a waiter at once.

    def acquire(self, blocking: bool = True, timeout: Timeout = None) -> bool:
        """True when it is held, False when the time was up. `blocking=False` tries once."""
        timeout_s = None if blocking and timeout is None else self._patience_s(blocking, timeout)
        host = self._given or current.now or host_of(None)
        if self._was_busy:
            return drive.run(host, self._acquire_flow(host, timeout_s))
        attempt = -next(_attempts)
        try:
            answer = host.transact(lock.acquire, self._key, host.session, self._handle, attempt, None)
            if answer is BUSY:
                return drive.run(host, self._acquire_flow(host, timeout_s))
            self._grant = answer  # type: ignore[assignment]
            return True
        except Exception:
            raise
        except BaseException:  # Ctrl-C may come when it is ours already, and nobody would release it.
            host.transact(lock.withdraw, self._key, Waiter(host.session, attempt, 0))
            raise

    def _patience_s(self, blocking: bool, timeout: Timeout) -> float | None:
        if blocking:
            return deadline.seconds(timeout)
        if timeout is not None:
            raise Misuse(f"lock {self.name!r:.60}: blocking=False tries once, timeout {timeout!r} is for blocking=True")
        return 0.0

    def _acquire_flow(self, host: EmbeddedHost, timeout_s: float | None) -> Flow[bool]:
        key, session, handle = self._key, host.session, self._handle
        self._was_busy = False

        def granted(waiter: Waiter) -> Any:
            self._was_busy = True
            held = host.read(lock.look, key)
            mine = held is not None and (held.session, held.grant) == (waiter.session, waiter.number)
            return held if mine else BUSY

        answer = yield from drive.waiting(
            host,
            lambda waiter: host.transact(lock.acquire, key, session, handle, _attempt_of(waiter), waiter),
            granted,
            lambda waiter: host.transact(lock.withdraw, key, waiter),
            timeout_s,
        )
        if answer is LATE:
            return False
        self._grant = answer
        return True

    def release(self) -> bool:
        """Give it up. Raises NotHeld (RuntimeError, ValueError) if this object does not hold it."""
        # Before: a thread that waits with this object has its own grant from the commit on.
        grant, self._grant = self._grant, None
        try:
            host = self._given or current.now or host_of(None)
            host.transact(lock.release, self._key, host.session, self._handle)
            return True
        except Exception:
            raise
        except BaseException:  # Ctrl-C: whether it is released already or not, it is released now.
            self._let_go(grant)
            raise

    def _let_go(self, grant: lock.Lock | None) -> None:
        if grant is not None:
            self._host.transact(lock.let_go, self._key, grant.token)

    def locked(self) -> bool:
        """Whether anybody holds the lock of this name."""
        return self._host.read(lock.look, self._key) is not None

    @property
    def fencing_token(self) -> int | None:
        """A number that grows with every grant of any lock in the hall; None when this object does not hold it."""
        return None if self._grant is None else self._grant.token

    @property
    def previous_holder_died(self) -> bool:
        """Whether this object got the lock because its holder died."""
        return self._grant is not None and self._grant.is_inherited

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *exc: object) -> None:
        grant = self._grant
        try:
            self.release()
        except Exception:
            raise
        except BaseException:
            self._let_go(grant)
            raise
