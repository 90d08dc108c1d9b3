"""The handle of Barrier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ... import deadline
from ...deadline import Timeout
from ...hosts.embedded import EmbeddedHost
from ...primitives import barrier
from .. import drive
from ..drive import LATE, Flow
from .handle import Handle, whole

if TYPE_CHECKING:
    from .statistics import BarrierStatistics


class Barrier(Handle):
    """A point that so many parties must reach before any goes on, as `threading.Barrier`, across processes; reusable.

        index = Barrier("round", 3).wait(timeout=10)     # 0, 1 and 2, in the order of arrival
        if index == 0:
            ...                                          # what one of them is to do

    The first handle that is used gives the parties; another number raises Misuse. `timeout` is that of `wait` when it
    is given none; a party whose time is up breaks the barrier, for all, until `reset`. Who meets a broken one gets
    BrokenBarrier (also `threading.BrokenBarrierError`), which says why.

    If you stop waiting (Ctrl-C, cancellation), you leave as if you had not come, and the others wait on, as in
    `asyncio.Barrier`. If a process dies while it waits, the barrier breaks for all others; one that dies before it
    comes is missed by nobody's clock but yours: give a timeout. To wait for others without being waited for, use a
    `Latch`.
    """

    _kind = "barrier"

    def __init__(
        self,
        name: Any = None,
        parties: int | None = None,
        timeout: Timeout = None,
        *,
        hall: Any = None,
        client: Any = None,
    ) -> None:
        super().__init__(name, hall=hall, client=client)
        self._parties = whole(self, "parties", parties)
        self._timeout_s = deadline.seconds(timeout)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self._parties, self._timeout_s)

    def wait(self, timeout: Timeout = None) -> int:
        """Wait for the others. The number of this party in this round: 0 for the first that came.

        Raises BrokenBarrier if it is broken, also by this very wait's time being up (`timeout=0`: unless it is the
        last).
        """
        timeout_s = self._patience_s(timeout)
        host = self._host
        return drive.run(host, self._wait_flow(host, timeout_s))

    def _patience_s(self, timeout: Timeout) -> float | None:
        return self._timeout_s if timeout is None else deadline.seconds(timeout)

    def _wait_flow(self, host: EmbeddedHost, timeout_s: float | None) -> Flow[int]:
        key, parties = self._key, self._parties

        def collect(waiter: Any) -> int:
            outcome = host.transact(barrier.collect, waiter)
            if outcome.broken:
                raise barrier.refusal(key, outcome.broken)
            return outcome.index

        answer = yield from drive.waiting(
            host,
            lambda waiter: host.transact(barrier.wait, key, parties, waiter),
            collect,
            lambda waiter: host.transact(barrier.withdraw, key, parties, waiter),
            timeout_s,
            leave=lambda waiter: host.transact(barrier.give_up, key, parties, waiter),
        )
        if answer is LATE:
            raise barrier.refusal(key, f"not all {parties} parties came within {timeout_s:g} s")
        return answer  # type: ignore[no-any-return]

    def reset(self) -> None:
        """Make it whole and empty. Who waits gets BrokenBarrier."""
        self._host.transact(barrier.reset, self._key, self._parties)

    def abort(self) -> None:
        """Break it: who waits or comes gets BrokenBarrier, until `reset`."""
        self._host.transact(barrier.abort, self._key, self._parties)

    def _look(self) -> barrier.Barrier:
        return self._host.read(barrier.look, self._key, self._parties)

    @property
    def parties(self) -> int:
        """How many must come."""
        return self._parties

    @property
    def n_waiting(self) -> int:
        """How many wait now."""
        return self._look().waiting

    @property
    def broken(self) -> bool:
        """Whether it is broken."""
        return bool(self._look().broken)

    def statistics(self) -> BarrierStatistics:
        """How many wait, how often all went on, and why it is broken."""
        from .statistics import BarrierStatistics  # Here: with it come the records of all kinds.

        found = self._look()
        return BarrierStatistics(self.name, found.parties, found.waiting, found.trips, found.broken)
