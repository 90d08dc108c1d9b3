"""The handle of Election."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from sys import _getframe
from typing import TYPE_CHECKING, Any, Self

from ... import deadline
from ...deadline import Timeout
from ...engine.local import payload
from ...errors import TimedOut
from ...hosts.embedded import EmbeddedHost
from ...primitives import election, values, waiters
from ...primitives.deadlock import Hold
from ...primitives.op import BUSY
from ...store.transaction import Waiter
from .. import drive
from ..agents import entered
from ..drive import LATE, Flow
from .handle import Handle
from .held import _attempts, attempt_of, give_up
from .lock import _handles

if TYPE_CHECKING:
    from .statistics import ElectionStatistics


@dataclass(frozen=True, slots=True)
class Leader:
    """Who leads: the term, which grows with every leader of the hall, the value it gave, and its session."""

    term: int
    value: Any
    session: int


class Election(Handle):
    """One leader among processes, the longest candidate next, the lead freed when the leader's process dies.

        election = Election("scheduler")
        with election:                                   # waits until it leads, resigns at the end
            while True:
                write(plan(), term=election.term)        # who gets it refuses terms that are older

        for leader in Election("scheduler").watch():     # elsewhere
            print(leader)                                # Leader(term=, value=, session=), or None: nobody leads

    The leader is this object: another one of the same name is another candidate. What a leader gives as `value` (an
    address, say; else it is the number of its process) is what `leader()` tells the others. `term` is a fencing token:
    it grows with every leader.

    If you stop waiting, you are no candidate any more, and a lead that came meanwhile goes to the next. If the leader
    dies, the longest candidate leads from then on. To exclude others for a moment and tell nobody, use a `Lock`.
    """

    _kind = "election"

    def __init__(self, name: Any = None, *, hall: Any = None, client: Any = None) -> None:
        super().__init__(name, hall=hall, client=client)
        self._handle = next(_handles)
        self._lead: election.Leader | None = None

    def campaign(self, value: Any = None, timeout: Timeout = None) -> bool:
        """True when this object leads, False when the time was up. Of one that leads already it changes the value.

        The value is any that pickles, or a Future, whose result it keeps alive. Raises Unpicklable (TypeError).
        """
        timeout_s = deadline.seconds(timeout)
        host = self._host
        stored, spent = self._store(host, os.getpid() if value is None else value)
        try:
            if self._campaign_now(host, stored):
                return True
            return timeout_s != 0 and drive.run(host, self._campaign_flow(host, stored, timeout_s))
        finally:
            if spent:
                host.defer(values.release_for, host.session, spent)

    def _campaign_now(self, host: EmbeddedHost, stored: bytes) -> bool:
        attempt = -next(_attempts)
        try:
            answer = host.transact(election.campaign, self._key, host.session, self._handle, attempt, stored, None)
            if answer is BUSY:
                return False
            self._lead = answer  # type: ignore[assignment]
            return True
        except Exception:
            raise
        except BaseException:  # Ctrl-C may come when it leads already, and nobody would resign.
            host.let_go(election.withdraw, self._key, Waiter(host.session, attempt, 0), stored)
            raise

    def _campaign_flow(self, host: EmbeddedHost, stored: bytes, timeout_s: float | None) -> Flow[bool]:
        key, session, handle = self._key, host.session, self._handle

        def ask(waiter: Waiter | None) -> Any:
            return host.transact(election.campaign, key, session, handle, attempt_of(waiter), stored, waiter)

        def granted(waiter: Waiter) -> Any:
            found = host.read(election.look, key)
            is_ours = found is not None and (found.session, found.grant) == (waiter.session, waiter.number)
            return found if is_ours else BUSY

        answer = yield from drive.waiting(
            host,
            ask,
            granted,
            lambda waiter: host.let_go(election.withdraw, key, waiter, stored),
            timeout_s,
            leave=lambda waiter: host.transact(election.leave, waiter, stored),
            is_owned=True,
        )
        if answer is LATE:
            return False
        self._lead = answer
        return True

    def resign(self) -> None:
        """Give the lead up: the longest candidate leads. Raises NotHeld if this object does not lead."""
        lead, self._lead = self._lead, None
        try:
            host = self._host
            host.transact(election.resign, self._key, host.session, self._handle)
        except Exception:
            raise
        except BaseException:  # Ctrl-C: whether it was given up already or not, it is now.
            self._let_go(lead)
            raise

    def _let_go(self, lead: election.Leader | None) -> None:
        if lead is not None:
            self._host.transact(election.let_go, self._key, lead.term)

    @property
    def is_leader(self) -> bool:
        """Whether this object leads."""
        lead = self._lead
        if lead is None:
            return False
        host = self._host
        found = host.read(election.look, self._key)
        return found is not None and (found.term, found.session) == (lead.term, host.session)

    @property
    def term(self) -> int | None:
        """The number of this object's lead, which grows with every leader in the hall; None when it does not lead."""
        lead = self._lead
        return lead.term if lead is not None and lead.session == self._host.session else None

    def leader(self, timeout: Timeout = 0) -> Any:
        """The leader's value, or its pid. None while nobody leads; with a timeout, waits for a leader (None: for ever).

        Raises TimedOut (a TimeoutError) if it was given time and nobody led.
        """
        timeout_s = deadline.seconds(timeout)
        host = self._host
        found = host.read(election.look, self._key)
        if found is None and timeout_s != 0:
            found = drive.run(host, self._leader_flow(host, timeout_s))
        opened = self._opened(host, found)
        return None if opened is None else opened.value

    def _leader_flow(self, host: EmbeddedHost, timeout_s: float | None) -> Flow[election.Leader]:
        until = deadline.after(timeout_s)
        while True:
            found = yield from self._change_flow(host, 0, deadline.left(until))
            if found is LATE:
                raise TimedOut(f"election {self.name!r:.60}: nobody led within {timeout_s:g} s")
            if found is not None:
                return found  # type: ignore[no-any-return]

    def _change_flow(self, host: EmbeddedHost, seen: int, timeout_s: float | None) -> Flow[Any]:
        def changed(waiter: Waiter | None) -> Any:
            return host.read(election.await_change, self._key, seen, None)

        return (
            yield from drive.waiting(
                host,
                lambda waiter: host.transact(election.await_change, self._key, seen, waiter),
                changed,
                lambda waiter: host.let_go(waiters.withdraw, waiter),
                timeout_s,
            )
        )

    def _opened(self, host: EmbeddedHost, found: election.Leader | None) -> Leader | None:
        if found is not None and values.uses_of(found.value):
            found = host.transact(election.look_held, self._key, host.session)
        if found is None:
            return None
        return Leader(found.term, payload.unpack(host, found.value), found.session)

    def watch(self, timeout: Timeout = None) -> Iterator[Leader | None]:
        """Who leads (None: nobody), now and after each change; of changes that follow each other closely, the last.

        `timeout` limits the wait for each change: raises TimedOut.
        """
        timeout_s = deadline.seconds(timeout)
        host = self._host
        found = host.read(election.look, self._key)
        while True:
            yield self._opened(host, found)
            seen = 0 if found is None else found.changed
            found = drive.run(host, self._change_flow(host, seen, timeout_s))
            if found is LATE:
                raise self._late_change(timeout_s)

    def _late_change(self, timeout_s: float | None) -> TimedOut:
        return TimedOut(f"election {self.name!r:.60}: the leader did not change within {timeout_s:g} s")

    def statistics(self) -> ElectionStatistics:
        """Who leads, and how many would."""
        from .statistics import of_election  # Here: with it come the records of all kinds.

        return self._host.read(of_election, self.name, self._key)

    def holds(self, host: EmbeddedHost) -> Iterable[Hold]:
        """What a `with` block of this object gives back."""
        lead = self._lead
        if lead is None or lead.session != host.session or not self._is_in(host):
            return ()
        return ((election.ELECTIONS + self._key, lead.grant, 1),)

    def __enter__(self) -> Self:
        frame = _getframe(1)
        self.campaign()
        entered[self] = frame
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        lead = self._lead
        try:
            entered.pop(self, None)
            give_up(error, self.resign)
        except Exception:
            raise
        except BaseException:
            entered.pop(self, None)
            self._let_go(lead)
            raise
