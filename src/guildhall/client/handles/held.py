"""What is under the handles of things that are held: acquiring by one way, giving up by one way.

A kind says how to ask, how to see what was granted, and how to take it back; each with `want`, a number that means
what the kind likes (units, how many names, the owner). Ctrl-C at any moment leaves nothing held and nobody in line.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

from ... import deadline
from ...deadline import Timeout
from ...errors import GuildhallError, Misuse, NotHeld
from ...hosts import current
from ...hosts.embedded import EmbeddedHost
from ...primitives import pool
from ...primitives.deadlock import Hold
from ...primitives.op import BUSY, Answer
from ...store.transaction import Waiter
from .. import drive
from ..drive import LATE, Flow
from ..hall import host_of
from .handle import Handle

_attempts = itertools.count(1)
"""Attempts to get something that bring no waiter have negative numbers, so that none is a wait's."""


def attempt_of(waiter: Waiter | None) -> int:
    """The number of an attempt that brings this waiter, or none."""
    return -next(_attempts) if waiter is None else waiter.number


def first_waiter(host: EmbeddedHost, timeout_s: float | None) -> Waiter | None:
    """What a first attempt brings: nothing, as it is cheap and mostly enough; but to a far hall, a waiter, as it may
    have to wait, and that is to be one round trip, too."""
    return host.waiter() if host.is_far and timeout_s != 0 else None


def patience_s(what: str, blocking: bool, timeout: Timeout) -> float | None:
    """How long to wait, from the two arguments of an acquire. Raises Misuse if they contradict each other."""
    if blocking:
        return deadline.seconds(timeout)
    if timeout is not None:
        raise Misuse(f"{what}: blocking=False tries once, timeout {timeout!r} is for blocking=True")
    return 0.0


def give_up(error: BaseException | None, release: Callable[[], Any]) -> None:
    """Release at the end of a `with` body. What the body raised is not masked by a release that fails: that is added
    to it as a note."""
    try:
        release()
    except GuildhallError as failed:
        if error is None:
            raise
        error.add_note(f"and then {type(failed).__name__}: {failed}")


class Held(Handle):
    """A handle of something that is held for a while."""

    def _ask(self, host: EmbeddedHost, want: int, number: int, waiter: Waiter | None) -> Any:
        """Try to get it, as the attempt of that number; keeps what it got. Or an Answer."""
        raise NotImplementedError

    def _granted(self, host: EmbeddedHost, want: int, waiter: Waiter) -> Any:
        """Keep what was granted to the waiter; BUSY if nothing was."""
        raise NotImplementedError

    def _undo(self, host: EmbeddedHost, want: int, waiter: Waiter) -> None:
        """Whatever the attempt of the waiter's number got is given back; the line is left."""
        raise NotImplementedError

    def _leave(self, host: EmbeddedHost, want: int, waiter: Waiter) -> bool:
        """Leave the line. False if it had been granted meanwhile."""
        raise NotImplementedError

    def _take(self, want: int, timeout_s: float | None) -> bool:
        host = self._given or current.now or host_of(None)
        waiter = first_waiter(host, timeout_s)
        number = attempt_of(waiter)
        try:
            if not isinstance(self._ask(host, want, number, waiter), Answer):
                return True
            return timeout_s != 0 and drive.run(host, self._take_flow(host, want, timeout_s, waiter))
        except Exception:
            raise
        except BaseException:  # Ctrl-C may come when it is ours already, and nobody would release it.
            self._undo(host, want, waiter or Waiter(host.session, number, 0))
            raise

    def _take_flow(
        self, host: EmbeddedHost, want: int, timeout_s: float | None, parked: Waiter | None = None
    ) -> Flow[bool]:
        answer = yield from drive.waiting(
            host,
            lambda waiter: self._ask(host, want, attempt_of(waiter), waiter),
            lambda waiter: self._granted(host, want, waiter),
            lambda waiter: self._undo(host, want, waiter),
            timeout_s,
            leave=lambda waiter: self._leave(host, want, waiter),
            is_owned=True,
            parked=parked,
        )
        return answer is not LATE


class Leasing(Held):
    """A handle of a pool. It may hold several leases; `want` is the units of one."""

    _region: bytes
    _units: tuple[int, ...] = (1,)

    def __init__(self, name: Any = None, *, hall: Any = None, client: Any = None) -> None:
        super().__init__(name, hall=hall, client=client)
        self._place = self._region + self._key
        self._mine: dict[int, list[int]] = {units: [] for units in self._units}
        """The numbers of the leases that this object holds, the newest last."""

    def _acquire(self, host: EmbeddedHost, want: int, number: int, waiter: Waiter | None) -> Any:
        raise NotImplementedError

    def _ask(self, host: EmbeddedHost, want: int, number: int, waiter: Waiter | None) -> Any:
        answer = self._acquire(host, want, number, waiter)
        if not isinstance(answer, Answer):
            self._mine[want].append(number)
        return answer

    def _granted(self, host: EmbeddedHost, want: int, waiter: Waiter) -> Any:
        if host.read(pool.lease, self._place, waiter) is None:
            return BUSY
        self._mine[want].append(waiter.number)
        return True

    def _undo(self, host: EmbeddedHost, want: int, waiter: Waiter) -> None:
        if waiter.number in self._mine[want]:
            self._mine[want].remove(waiter.number)
        host.let_go(pool.withdraw, self._place, waiter, deadline.now())

    def _leave(self, host: EmbeddedHost, want: int, waiter: Waiter) -> bool:
        return host.transact(pool.leave, self._place, waiter, deadline.now())

    def _pop(self, want: int) -> int:
        """The number of the newest lease, which is no longer this object's."""
        mine = self._mine[want]
        if not mine:
            raise self._not_held("this object holds none")
        number = mine[-1]  # No `pop()`: after a call, Ctrl-C may come before the number is known.
        del mine[-1]
        return number

    def _release(self, want: int) -> bool:
        host = self._given or current.now or host_of(None)
        number = None
        try:
            number = self._pop(want)
            if not host.transact(pool.release, self._place, host.session, number, deadline.now()):
                raise self._not_held("it is another process's")
            return True
        except NotHeld:
            raise
        except Exception:
            if number is not None:
                self._mine[want].append(number)
            raise
        except BaseException:  # Ctrl-C: whether it is released already or not, it is released now.
            if number is not None:
                host.transact(pool.release, self._place, host.session, number, deadline.now())
            raise

    def _holds(self, host: EmbeddedHost, want: int) -> Iterable[Hold]:
        """What a `with` block of one lease gives back."""
        return ((self._place, 0, want),) if self._mine[want] and self._is_in(host) else ()

    def _not_held(self, why: str) -> NotHeld:
        return NotHeld(
            f"{self._kind} {self.name!r:.60}: released too often, or by another than its holder: {why}; "
            "release it through the object that acquired it, as often as it did"
        )
