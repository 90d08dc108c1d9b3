"""The handle of Barrier."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ... import deadline
from ...deadline import Timeout
from ...errors import WrongType
from ...hosts.embedded import EmbeddedHost
from ...primitives import barrier
from ...store.transaction import Waiter
from .. import drive
from ..drive import LATE, Flow
from .handle import Handle, no_number, whole

if TYPE_CHECKING:
    from .statistics import BarrierStatistics

CO_COROUTINE = 0x80
"""As `inspect.CO_COROUTINE`, which takes longer to load than all the handles."""


class Barrier(Handle):
    """A point that so many parties must reach before any goes on, as `threading.Barrier`, across processes; reusable.

        index = Barrier("round", 3).wait(timeout=10)     # 0, 1 and 2, in the order of arrival
        if index == 0:
            ...                                          # what one of them is to do, while the others go on

        Barrier("step", 3, action=merge).wait()          # what one of them does before any goes on

    The first handle that is used gives the parties; another number raises Misuse. `timeout` is that of `wait` when it
    is given none; a party whose time is up breaks the barrier, for all, until `reset`. Who meets a broken one gets
    BrokenBarrier (also `threading.BrokenBarrierError`), which says why.

    The action, a plain function, is run by the last party of a round, so give all handles the same one. If it raises,
    the barrier breaks, and the party that ran it raises that error. Here, too, a timeout counts while it runs.

    If you stop waiting (Ctrl-C, cancellation), you leave as if you had not come, and the others wait on, as in
    `asyncio.Barrier`. If a process dies while it waits or runs the action, the barrier breaks for all others. One that
    dies between two rounds may be replaced by another, so it is not missed; with `fixed=True` the processes of a round
    are those of all later ones: when one of them ends, the barrier breaks, and when the last of them has, it is as new.
    Else give a timeout. To wait for others without being waited for, use a `Latch`.
    """

    _kind = "barrier"

    def __init__(
        self,
        name: Any = None,
        parties: int | None = None,
        action: Callable[[], object] | None = None,
        timeout: Timeout = None,
        *,
        fixed: bool = False,
        hall: Any = None,
        client: Any = None,
    ) -> None:
        if parties is None:
            no_number(type(self), name, "parties")
        super().__init__(name, hall=hall, client=client)
        self._parties = whole(self, "parties", parties)
        self._action = None if action is None else self._checked(action)
        self._timeout_s = deadline.seconds(timeout)
        self._is_fixed = bool(fixed)

    def _checked(self, action: Any) -> Callable[[], object]:
        of = f"barrier {self.name!r:.60}: action {action!r:.60}"
        if not callable(action):
            raise WrongType(f"{of}: expected a function or None, got {type(action).__name__}; a timeout is timeout=")
        if getattr(getattr(action, "__code__", None), "co_flags", 0) & CO_COROUTINE:
            raise WrongType(f"{of}: expected a plain function, got an async one; await it after wait() gave 0")
        return action  # type: ignore[no-any-return]

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (type(self), self.name, self._parties, self._action, self._timeout_s, self._is_fixed)

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
        answer = yield from drive.waiting(
            host,
            lambda waiter: self._come(host, waiter),
            lambda waiter: self._told(host, waiter),
            lambda waiter: host.let_go(barrier.withdraw, key, parties, waiter),
            timeout_s,
            leave=lambda waiter: host.transact(barrier.give_up, key, parties, waiter),
            due=None if self._action is None else lambda waiter: self._act_if_due(host, waiter),
        )
        if answer is LATE:
            raise barrier.refusal(key, f"not all {parties} parties came within {timeout_s:g} s")
        return answer  # type: ignore[no-any-return]

    def _come(self, host: EmbeddedHost, waiter: Waiter | None) -> Any:
        member = host.session if self._is_fixed else 0
        if self._action is None:
            return host.transact(barrier.wait, self._key, self._parties, waiter, None, member)
        actor = waiter or host.waiter()
        try:
            answer = host.transact(barrier.wait, self._key, self._parties, waiter, actor, member)
            if answer is not barrier.ACT:
                return answer
            self._act(host, actor)
            return self._told(host, actor)
        except BaseException:
            if waiter is None:  # Nobody else would take it out of the line.
                host.let_go(barrier.withdraw, self._key, self._parties, actor)
            raise

    def _told(self, host: EmbeddedHost, waiter: Waiter) -> int:
        outcome = host.transact(barrier.collect, waiter)
        if outcome.broken:
            raise barrier.refusal(self._key, outcome.broken)
        return outcome.index

    def _act_if_due(self, host: EmbeddedHost, waiter: Waiter) -> float | None:
        """Run the action, if this party is to: its round was full when the action of the one before was done."""
        if not host.read(barrier.is_to_act, self._key, waiter):
            return None
        self._act(host, waiter)
        return 0.0

    def _act(self, host: EmbeddedHost, waiter: Waiter) -> None:
        assert self._action is not None, "who has an action is asked to run it"
        try:
            self._action()
        except BaseException as error:
            why = f"the action of a party (session {waiter.session}) raised {type(error).__name__}: {error!s:.200}"
            host.transact(barrier.fail, self._key, waiter, why)
            raise
        host.transact(barrier.go, self._key, waiter, self._is_fixed)

    def reset(self) -> None:
        """Make it whole and empty. Who waits gets BrokenBarrier."""
        self._host.transact(barrier.reset, self._key, self._parties)

    def delete(self) -> None:
        """Leave nothing of it: the next handle that is used may give another number. Who waits gets BrokenBarrier."""
        self._host.transact(barrier.delete, self._key)

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
        """How many wait now. Those whose round is full are not counted while the action runs."""
        found = self._look()
        return found.waiting - found.going

    @property
    def broken(self) -> bool:
        """Whether it is broken."""
        return bool(self._look().broken)

    def statistics(self) -> BarrierStatistics:
        """Who waits, how often all went on, and why it is broken."""
        from .statistics import of_barrier  # Here: with it come the records of all kinds.

        return self._host.read(of_barrier, self.name, self._key, self._parties)


def _made(kind: type[Barrier], name: Any, parties: int, action: Any, timeout_s: float | None, fixed: bool) -> Barrier:
    return kind(name, parties, action, timeout_s, fixed=fixed)
