"""What is held for a while: Lock (also with a lease), RLock, Semaphore and RWLock, MultiLock, Election."""

from __future__ import annotations

from typing import Any

from guildhall.testing.recorder import Call, Commit
from models.base import ANY, LATE, Lined, Model

DEADLOCK = "DeadlockError"


class Lock(Lined):
    """One holder, the longest waiter next; of a dead one too, and then the heir can tell. With a lease: from its end
    on anybody may take over, the longest waiter first, and the old holder is told when it releases."""

    is_held = True
    reads = frozenset({"locked"})

    def __init__(self, lease_s: float | None = None) -> None:
        self.lease_s = lease_s
        self.holder: Call | None = None
        self.until = 0.0
        self._is_heir_of_dead = self._is_taking_over = False
        self._now = 0.0
        super().__init__()

    def state(self) -> Any:
        return self.holder is not None

    def _hear(self, c: Commit) -> None:
        self._now = c.facts.get("now") or self._now

    def _lapse(self, c: Commit) -> None:
        """If the lease is over, the holder holds no more; for the time of this commit."""
        if self.lease_s is not None and self.holder is not None and self.until <= self._now:
            self.holder, self._is_taking_over = None, True
            self.serve(c)

    def ask(self, call: Call, c: Commit) -> None:
        self._hear(c)
        if c.verb == "acquire":
            self._lapse(c)
        super().ask(call, c)
        self._is_taking_over = False

    def meanwhile(self, call: Call, c: Commit) -> None:
        if c.verb == "lapse" and c.wrote:
            self.expect(self.until <= self._now, f"{call} takes over before the lease is over: {c}")
            self._lapse(c)

    def fits_first(self, call: Call) -> bool:
        return self.holder is None

    def take(self, call: Call, c: Commit) -> None:
        self.holder = call
        call.value = [True, c.number, self._is_heir_of_dead, self._is_taking_over]
        self.until = self._now + (self.lease_s or 0)
        self._is_taking_over = False

    def got(self, call: Call) -> Any:
        return call.value

    def is_lost(self, call: Call) -> bool:
        return self.lease_s is not None and self.holder is not call

    def give_back(self, call: Call, c: Commit) -> None:
        if self.holder is call:
            self._free(c)

    def _free(self, c: Commit) -> None:
        self.holder = None
        self.serve(c)

    def _mine(self, call: Call) -> bool:
        return self.holder is not None and self.holder.session == call.session

    def on_release(self, call: Call, c: Commit) -> None:
        self._hear(c)
        if c.wrote:
            self.expect(self._mine(call), f"{call} frees what another holds: {c}")
            call.value = True
            self._free(c)
        elif call.value is None:
            self.expect(not self._mine(call), f"{call} is refused by its own lock: {c}")
            call.value = c.answer

    def on_renew(self, call: Call, c: Commit) -> None:
        self._hear(c)
        self.expect(self._mine(call) == c.wrote, f"{call}: {c}")
        call.value = None if c.wrote else c.answer
        self.until = self._now + (self.lease_s or 0) if c.wrote else self.until

    def bury(self, session: int, c: Commit) -> None:
        self._hear(c)
        super().bury(session, c)

    def bury_holder(self, session: int, c: Commit) -> None:
        if self.holder is not None and self.holder.session == session:
            self.holder, self._is_heir_of_dead = None, True
            self.serve(c)
            self._is_heir_of_dead = False

    def answer(self, call: Call) -> Any:
        if call.method in self.reads:
            return ANY
        return super().answer(call) if call.method in self.asks else call.value

    def sees(self, call: Call, state: Any) -> bool:
        return self.lease_s is not None or call.result == state

    def interrupted(self, call: Call) -> None:
        if self.lease_s is None:  # Else it may have lost it since, and had nothing to give back.
            super().interrupted(call)


class Circles(Model):
    """Several locks, that one process may hold while it waits for another. A wait without a timeout that can never end,
    because all in a circle wait so for one another, is told: DeadlockError, only if there was such a circle. That it
    comes if there is one, no model needs to say: else nobody comes to an end."""

    asks = frozenset({"acquire"})

    def __init__(self, names: str) -> None:
        self.locks = {name: Lock() for name in names}
        self.in_circles: set[Call] = set()
        """Calls that were in a circle at some time."""
        super().__init__()
        for lock in self.locks.values():
            lock.trail = self.trail

    def commit(self, call: Call, c: Commit) -> None:
        self.locks[call.args[0]].commit(call, c)
        self._look_for_circles()

    def bury(self, session: int, c: Commit) -> None:
        for lock in self.locks.values():
            lock.bury(session, c)

    def _look_for_circles(self) -> None:
        waits = {
            call.session: (call, lock.holder.session)
            for lock in self.locks.values()
            for call in lock.line
            if call.args[1] and lock.holder is not None
        }
        for session in waits:
            around, at = [], session
            while at in waits and len(around) <= len(waits):
                call, at = waits[at]
                around.append(call)
                if at == session:
                    self.in_circles.update(around)
                    break

    def answer(self, call: Call) -> Any:
        if call.result == DEADLOCK:
            self.expect(call in self.in_circles, f"{call} is told of a circle that there never was")
            self.expect(call.state == "left", f"{call} is told of a circle and has it all the same")
            return DEADLOCK
        return self.locks[call.args[0]].answer(call)

    def interrupted(self, call: Call) -> None:
        self.locks[call.args[0]].interrupted(call)


class RLock(Lined):
    """One owner, who may take it again and must release it as often; the longest waiter next."""

    is_held = True

    def __init__(self) -> None:
        self.owner: Call | None = None
        self.count = 0
        super().__init__()

    def _mine(self, call: Call) -> bool:
        return self.owner is not None and self.owner.session == call.session

    def fits(self, call: Call) -> bool:
        return self._mine(call) or super().fits(call)

    def fits_first(self, call: Call) -> bool:
        return self.owner is None

    def take(self, call: Call, c: Commit) -> None:
        if not self._mine(call):
            self.owner, self.count = call, 0
        assert self.owner is not None
        self.count += 1
        call.value = self.count

    def got(self, call: Call) -> Any:
        return call.value

    def give_back(self, call: Call, c: Commit) -> None:
        self._down(c)

    def _down(self, c: Commit) -> None:
        self.count -= 1
        if not self.count:
            self.owner = None
            self.serve(c)

    def on_release(self, call: Call, c: Commit) -> None:
        if c.wrote:
            self.expect(self._mine(call) and call.value is None, f"{call} frees what it does not hold: {c}")
            call.value = True
            self._down(c)
        elif call.value is None:
            self.expect(not self._mine(call), f"{call} is refused by its own lock: {c}")
            call.value = c.answer

    def bury_holder(self, session: int, c: Commit) -> None:
        if self.owner is not None and self.owner.session == session:
            self.owner = None

    def answer(self, call: Call) -> Any:
        return super().answer(call) if call.method in self.asks else call.value


class Pool(Lined):
    """So many units. A call takes some when they are free and nobody is before it; the first in line does not fit.

    A Semaphore has `max_leases` units, of which each takes one. An RWLock has as many as there can be readers: a reader
    takes one, a writer all."""

    is_held = True
    reads = frozenset({"get_value", "locked"})

    def __init__(self, capacity: int, units: dict[str, int] | None = None) -> None:
        self.capacity = capacity
        self.units = units or {"acquire": 1}
        self.holders: list[Call] = []
        super().__init__()

    @property
    def asks(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset(self.units)

    def state(self) -> Any:
        return self._used()

    def _used(self) -> int:
        return sum(self.units[call.method] for call in self.holders)

    def fits_first(self, call: Call) -> bool:
        return self._used() + self.units[call.method] <= self.capacity

    def take(self, call: Call, c: Commit) -> None:
        self.holders.append(call)

    def give_back(self, call: Call, c: Commit) -> None:
        self.holders.remove(call)
        self.serve(c)

    def _release(self, call: Call, c: Commit, method: str) -> None:
        mine = [one for one in self.holders if (one.session, one.method) == (call.session, method)]
        if c.wrote:
            self.expect(mine and call.value is None, f"{call} gives back what it does not hold: {c}")
            call.value = True
            self.holders.remove(mine[-1])
            self.serve(c)
        elif c.verb == "release" and call.value is None:
            self.expect(not mine, f"{call} is refused what it holds: {c}")
            call.value = "NotHeld"

    def on_release(self, call: Call, c: Commit) -> None:
        self._release(call, c, "acquire")

    def on_release_read(self, call: Call, c: Commit) -> None:
        self._release(call, c, "acquire_read")

    def on_release_write(self, call: Call, c: Commit) -> None:
        self._release(call, c, "acquire_write")

    def bury_holder(self, session: int, c: Commit) -> None:
        self.holders = [call for call in self.holders if call.session != session]

    def answer(self, call: Call) -> Any:
        if call.method in self.reads:
            return ANY
        return super().answer(call) if call.method in self.asks else call.value or "NotHeld"

    def sees(self, call: Call, state: Any) -> bool:
        return bool(call.result == (state if call.method == "get_value" else state > 0))


class MultiLock(Lined):
    """Names, each with one holder. A call wants so many of some names at once: it gets the first that are free and
    that no earlier call waits for, when they are enough; else none."""

    is_held = True

    def __init__(self) -> None:
        self.holder: dict[str, Call] = {}
        super().__init__()

    def _free(self, call: Call, before: list[Call]) -> list[str]:
        wanted = {name for other in before for name in other.args[0]}
        return [name for name in call.args[0] if name not in self.holder and name not in wanted]

    def fits(self, call: Call) -> bool:
        return len(self._free(call, self.line)) >= call.args[1]

    def take(self, call: Call, c: Commit) -> None:
        before = self.line[: self.line.index(call)] if call in self.line else self.line
        call.value = self._free(call, before)[: call.args[1]]
        self.holder.update(dict.fromkeys(call.value, call))

    def serve(self, c: Commit) -> None:
        for call in list(self.line):
            before = self.line[: self.line.index(call)]
            if len(self._free(call, before)) >= call.args[1]:
                self.grant(call, c)
                self.line.remove(call)

    def got(self, call: Call) -> Any:
        return call.value

    def _drop(self, session: int) -> None:
        self.holder = {name: call for name, call in self.holder.items() if call.session != session}

    def give_back(self, call: Call, c: Commit) -> None:
        self._drop(call.session)
        self.serve(c)

    def on_release(self, call: Call, c: Commit) -> None:
        if c.wrote:
            mine = any(one.session == call.session for one in self.holder.values())
            self.expect(mine, f"{call} frees what it does not hold: {c}")
            call.value = True
            self.give_back(call, c)

    def bury_holder(self, session: int, c: Commit) -> None:
        self._drop(session)

    def answer(self, call: Call) -> Any:
        return super().answer(call) if call.method in self.asks else call.value or "NotHeld"


class Election(Lined):
    """One leader with a value, the longest candidate next. The term is the number of the commit in which it took
    over; one that leads and campaigns again changes its value only."""

    is_held = True
    asks = frozenset({"campaign"})
    reads = frozenset({"leader"})

    def __init__(self) -> None:
        self.lead: Call | None = None
        self.value: Any = None
        self.term = 0
        super().__init__()

    def state(self) -> Any:
        return None if self.lead is None else self.value

    def _mine(self, call: Call) -> bool:
        return self.lead is not None and self.lead.session == call.session

    def fits(self, call: Call) -> bool:
        return self._mine(call) or super().fits(call)

    def fits_first(self, call: Call) -> bool:
        return self.lead is None

    def take(self, call: Call, c: Commit) -> None:
        if not self._mine(call):
            self.lead, self.term = call, c.number
        self.value = call.args[0]
        call.value = [True, self.term]

    def got(self, call: Call) -> Any:
        return call.value

    def give_back(self, call: Call, c: Commit) -> None:
        if self.lead is call:
            self._end(c)

    def _end(self, c: Commit) -> None:
        self.lead = None
        self.serve(c)

    def on_resign(self, call: Call, c: Commit) -> None:
        self.expect(self._mine(call) or not c.wrote, f"{call} ends another's lead: {c}")
        if c.wrote:
            call.state = "has"
            self._end(c)
        elif call.state != "has":
            self.expect(not self._mine(call), f"{call} is refused, though it leads: {c}")
            call.value = c.answer

    def on_leader(self, call: Call, c: Commit) -> None: ...

    def bury_holder(self, session: int, c: Commit) -> None:
        if self.lead is not None and self.lead.session == session:
            self.lead = None

    def answer(self, call: Call) -> Any:
        if call.method in self.reads:
            return ANY
        return super().answer(call) if call.method in self.asks else call.value

    def sees(self, call: Call, state: Any) -> bool:
        return bool(state is None if call.result == LATE else call.result == state)

    def interrupted(self, call: Call) -> None:
        if call.granted is None or call.value[1] == call.granted.number:  # Else it led before, and does still.
            super().interrupted(call)
