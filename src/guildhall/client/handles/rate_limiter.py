"""The handle of RateLimiter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from ... import deadline
from ...deadline import Timeout
from ...errors import Misuse
from ...hosts.doorbell import LOOK_S
from ...hosts.embedded import EmbeddedHost
from ...primitives import limiter
from ...primitives.limiter import Moment
from ...store.transaction import Waiter
from .. import drive
from ..drive import LATE, Flow
from .handle import Handle, no_number, whole

if TYPE_CHECKING:
    from .statistics import RateLimiterStatistics

MAX_RATE = 10**9
NEAR_S = 1.2 * LOOK_S
"""So long before its time a waiter is awake: woken at it, it would be late by about as much (50 us are the kernel's
timer slack), and without a burst to make up for it that is lost."""


class RateLimiter(Handle):
    """So many units in a period, over all processes of the machine, first come, first served.

        limit = RateLimiter("api", 100, per_s=60)        # 100 calls in any minute
        limit.acquire()                                  # waits until its turn
        call()

        with RateLimiter("mail", 5):                     # 5 in any second: the same as acquire() before the body
            send(letter)

    In any period, whenever it begins, no more than `rate` units are let go; they may go all at once. For units that
    are spaced evenly give a `burst`: with 1, one goes every per_s / rate seconds; a larger one lets so many go at once
    after a pause, and makes up for waiters that are late by less than the burst. Then at most burst +
    ceil(w * rate / per_s) - 1 go in any w seconds: it is the generic cell rate algorithm, which gives what a token
    bucket of that size does (ITU-T I.371). Of rates above 1024, without a burst, a unit may wait a thousandth of the
    period longer than it must.

    The first handle that is used gives the terms; others raise Misuse. If you stop waiting, or the process dies, your
    place in line is given back, and those behind you move up. Units that were let go are spent, also by a process that
    died. To limit how many work at a time, use a semaphore.
    """

    _kind = "rate-limiter"

    def __init__(
        self,
        name: Any = None,
        rate: int | None = None,
        per_s: float = 1.0,
        burst: int | None = None,
        *,
        hall: Any = None,
        client: Any = None,
    ) -> None:
        if rate is None:
            no_number(type(self), name, "rate")
        super().__init__(name, hall=hall, client=client)
        units = whole(self, "rate", rate, most=MAX_RATE)
        period_s = deadline.seconds(per_s)
        if not period_s or not 1e-6 <= period_s <= 1e9:
            raise Misuse(f"rate limiter {self.name!r:.60}: per_s {per_s!r:.60}: expected seconds, 1e-6 to 1e9")
        size = 0 if burst is None else whole(self, "burst", burst, most=MAX_RATE)
        self._terms = limiter.Terms(units, round(period_s * 1e9), size)

    def __reduce__(self) -> tuple[Any, ...]:
        rate, per_ns, burst = self._terms
        return type(self), (self.name, rate, per_ns / 1e9, burst or None)

    def _number(self, n: int) -> int:
        rate, _, burst = self._terms
        if n.__class__ is int and 1 <= n <= (burst or rate):
            return n
        hint = f"; give a larger {'burst' if burst else 'rate'}, or acquire in parts"
        return whole(self, "n", n, most=burst or rate, hint=hint)

    def try_acquire(self, n: int = 1) -> bool:
        """Whether so many units may go now; then they do. Never before those who wait."""
        host = self._host
        return host.transact(limiter.acquire, self._key, self._terms, self._number(n), _moment(), None) is True

    def acquire(self, n: int = 1, timeout: Timeout = None) -> bool:
        """True when so many units may go, False when the time was up. `n` is at most the burst, or the rate."""
        number = self._number(n)
        timeout_s = None if timeout is None else deadline.seconds(timeout)
        host = self._host
        if host.transact(limiter.acquire, self._key, self._terms, number, _moment(), None) is True:
            return True
        return timeout_s != 0 and drive.run(host, self._acquire_flow(host, number, timeout_s))

    def _acquire_flow(self, host: EmbeddedHost, number: int, timeout_s: float | None) -> Flow[bool]:
        key, terms = self._key, self._terms

        def due(waiter: Waiter) -> float | None:
            at_ns = host.read(limiter.due, waiter)
            if at_ns is not None and at_ns <= host.ticks_ns():
                at_ns = host.transact(limiter.turn, key, terms, _moment(), waiter, not host.is_far)
            return 0.0 if at_ns is None else max(0.0, (at_ns - host.ticks_ns()) / 1e9)

        answer = yield from drive.waiting(
            host,
            lambda waiter: host.transact(limiter.acquire, key, terms, number, _moment(), waiter),
            lambda waiter: True,
            lambda waiter: host.let_go(limiter.leave, key, number, waiter),
            timeout_s,
            leave=lambda waiter: host.transact(limiter.leave, key, number, waiter),
            due=due,
            near_s=NEAR_S,
        )
        return answer is not LATE

    def delete(self) -> None:
        """Leave nothing of it: the next handle that is used may give other terms, and what went is forgotten.

        Raises Misuse while somebody waits.
        """
        self._host.transact(limiter.delete, self._key)

    def statistics(self) -> RateLimiterStatistics:
        """The terms, how many units went and are waited for, and by whom."""
        from .statistics import of_limiter  # Here: with it come the records of all kinds.

        return self._host.read(of_limiter, self.name, self._key, self._terms)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *exc: object) -> None:
        """What was let go is spent."""


def _moment() -> Moment:
    return Moment(deadline.boot(), deadline.ticks_ns())
