"""The handle of Latch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ... import deadline
from ...deadline import Timeout
from ...hosts.embedded import EmbeddedHost
from ...primitives import latch, waiters
from .. import drive
from ..drive import LATE, Flow
from .handle import Handle, no_number, whole

if TYPE_CHECKING:
    from .statistics import LatchStatistics


class Latch(Handle):
    """A count that goes down once: who waits goes on when it reaches zero, and so does everybody after that.

        done = Latch("loaded", 3)
        done.count_down()            # in each of three processes
        done.wait(timeout=10)        # True when all three did

    The first handle that is used gives the count; another count raises Misuse. If you stop waiting, nothing is left
    behind. If a process dies, what it counted stays counted, and what it did not is missing: use a `Barrier` where a
    death must be noticed, an `Event` where there is one to wait for, and a `Barrier` or a new latch for the next round.
    """

    _kind = "latch"

    def __init__(self, name: Any = None, count: int | None = None, *, hall: Any = None, client: Any = None) -> None:
        if count is None:
            no_number(type(self), name, "count")
        super().__init__(name, hall=hall, client=client)
        self._count = whole(self, "count", count, least=0)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self._count)

    def count_down(self, n: int = 1) -> int:
        """So many less, not below zero; at zero everybody who waits goes on. Returns what is left.

        Ctrl-C in it leaves it counted or not, as a task that is killed there does.
        """
        return self._host.transact(latch.count_down, self._key, self._count, whole(self, "n", n))

    @property
    def count(self) -> int:
        """What is left to count down."""
        return self._host.read(latch.look, self._key, self._count).left

    def delete(self) -> None:
        """Leave nothing of it: the next handle may give another count. Raises Misuse while somebody waits."""
        self._host.transact(latch.delete, self._key)

    def wait(self, timeout: Timeout = None) -> bool:
        """True when the count is zero, False when the time was up."""
        timeout_s = deadline.seconds(timeout)
        host = self._host
        return self.count == 0 or drive.run(host, self._wait_flow(host, timeout_s))

    def _wait_flow(self, host: EmbeddedHost, timeout_s: float | None) -> Flow[bool]:
        answer = yield from drive.waiting(
            host,
            lambda waiter: host.transact(latch.wait, self._key, self._count, waiter),
            lambda waiter: True,
            lambda waiter: host.let_go(waiters.withdraw, waiter),
            timeout_s,
        )
        return answer is not LATE

    def statistics(self) -> LatchStatistics:
        """What is left, and who waits."""
        from .statistics import of_latch  # Here: with it come the records of all kinds.

        return self._host.read(of_latch, self.name, self._key, self._count)
