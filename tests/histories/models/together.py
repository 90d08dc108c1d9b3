"""What processes wait for together: Event, Latch, Barrier, Condition; and the RateLimiter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from guildhall.testing.recorder import Call, Commit
from models.base import ANY, INTERRUPTED, Lined
from models.held import RLock


class Event(Lined):
    """A flag. Who waits is let go when it is raised, even if it is lowered at once."""

    asks = frozenset({"wait"})
    reads = frozenset({"is_set", "wait"})

    def __init__(self) -> None:
        self.is_up = False
        super().__init__()

    def state(self) -> Any:
        return self.is_up

    def fits(self, call: Call) -> bool:
        return self.is_up

    fits_first = fits

    def on_set(self, call: Call, c: Commit) -> None:
        self.expect(c.wrote or self.is_up, f"{call} did not raise the flag: {c}")
        self.is_up = True
        self.serve(c)

    def on_clear(self, call: Call, c: Commit) -> None:
        self.is_up = False

    def answer(self, call: Call) -> Any:
        if call.method != "wait":
            return None if call.method != "is_set" else ANY
        return True if call.state == "has" else False if call.state == "left" else ANY

    def sees(self, call: Call, state: Any) -> bool:
        return bool(call.result == state)


class Latch(Lined):
    """A count that goes down, not below zero; at zero everybody goes on, then and ever after."""

    asks = frozenset({"wait"})
    reads = frozenset({"count", "wait"})

    def __init__(self, count: int) -> None:
        self.left = count
        super().__init__()

    def state(self) -> Any:
        return self.left

    def fits(self, call: Call) -> bool:
        return not self.left

    fits_first = fits

    def on_count_down(self, call: Call, c: Commit) -> None:
        self.left = call.value = max(0, self.left - call.args[0])
        self.serve(c)

    def answer(self, call: Call) -> Any:
        if call.method == "count_down":
            return call.value
        return ANY if call.method == "count" or call.state == "new" else call.state == "has"

    def sees(self, call: Call, state: Any) -> bool:
        return bool(call.result == (state if call.method == "count" else state == 0))


class Barrier(Lined):
    """The last of the parties lets all go, each with its number by arrival; then it serves again. It is broken, for
    all, when a party's time is up, when one dies waiting, and by `abort`, until `reset`."""

    asks = frozenset({"wait"})
    reads = frozenset({"broken"})

    def __init__(self, parties: int) -> None:
        self.parties = parties
        self.is_broken = False
        super().__init__()

    def state(self) -> Any:
        return self.is_broken

    def fits(self, call: Call) -> bool:
        return not self.is_broken and len(self.line) + 1 == self.parties

    def fits_first(self, call: Call) -> bool:
        return False

    def ask(self, call: Call, c: Commit) -> None:
        if c.answer == "BrokenBarrier":
            self.expect(self.is_broken or call.state == "has", f"{call} is refused by a whole barrier: {c}")
            call.value = "BrokenBarrier"
        else:
            super().ask(call, c)

    def take(self, call: Call, c: Commit) -> None:
        call.value = len(self.line)
        self._let_go(c, lambda place: place)

    def _let_go(self, c: Commit, told: Callable[[int], Any]) -> None:
        for place, party in enumerate(self.line):
            party.state, party.granted, party.value = "has", c, told(place)
        self.line = []

    def _break(self, c: Commit) -> None:
        self.is_broken = True
        self._let_go(c, lambda place: "BrokenBarrier")

    def parked(self, call: Call, c: Commit) -> None:
        self.expect(not self.is_broken, f"{call} waits at a broken barrier: {c}")

    def refused(self, call: Call, c: Commit) -> None:
        call.value = "BrokenBarrier"
        self._break(c)

    def gone(self, call: Call, c: Commit) -> None:
        if c.verb == "give_up":
            call.value = "BrokenBarrier"
            self._break(c)

    def give_back(self, call: Call, c: Commit) -> None:
        call.state = "has"  # It was let go already; it only fetched that.

    def on_reset(self, call: Call, c: Commit) -> None:
        self._let_go(c, lambda place: "BrokenBarrier")
        self.is_broken = False

    def on_abort(self, call: Call, c: Commit) -> None:
        if c.wrote:
            self._break(c)

    def bury(self, session: int, c: Commit) -> None:
        if any(call.session == session for call in self.line):
            self.line = [call for call in self.line if call.session != session]
            self._break(c)

    def answer(self, call: Call) -> Any:
        if call.method in self.reads:
            return ANY
        return None if call.method != "wait" else call.result if call.result == INTERRUPTED else call.value

    def sees(self, call: Call, state: Any) -> bool:
        return bool(call.result == state)


class Condition(RLock):
    """An RLock, and a line of those who gave it up to wait for news. To notify moves the longest of them into the line
    of the lock; so does being late, without news. News that a dead or interrupted one had not returned with go to the
    next. The lock comes back as often as it was held."""

    asks = frozenset({"acquire", "wait"})

    def __init__(self) -> None:
        self.sleepers: list[Call] = []
        self.told: list[Call] = []
        self.counts: dict[Call, int] = {}
        self.late: set[Call] = set()
        super().__init__()

    def ask(self, call: Call, c: Commit) -> None:
        if call.method == "acquire":
            super().ask(call, c)
        elif call.state == "new":
            if c.op == "condition.wait" and c.wrote:
                self.expect(self._mine(call), f"{call} waits without the lock: {c}")
                self.counts[call] = self.count
                call.state = "sleeps"
                self.sleepers.append(call)
                self.owner = None
                self.serve(c)
            elif c.answer == "NotHeld":
                self.expect(not self._mine(call), f"{call} is refused, though it holds the lock: {c}")
                call.value = c.answer
        elif c.verb in ("time_up", "turn_back") and call.state == "sleeps" and c.wrote:
            self.late.add(call)
            self._enlist(call, c)
        elif c.verb == "turn_back" and c.wrote:
            self._pass_on(call, c)
        elif c.verb == "collect" and call in self.told:
            self.told.remove(call)

    def _enlist(self, call: Call, c: Commit) -> None:
        self.sleepers.remove(call)
        call.state = "waits"
        self.line.append(call)
        self.serve(c)

    def _pass_on(self, call: Call, c: Commit) -> None:
        if call in self.told:
            self.told.remove(call)
            self._notify_one(c)

    def _notify_one(self, c: Commit) -> None:
        if self.sleepers:
            first = self.sleepers[0]
            self.told.append(first)
            self._enlist(first, c)

    def take(self, call: Call, c: Commit) -> None:
        if call.method == "acquire":
            super().take(call, c)
        else:
            self.owner, self.count = call, self.counts[call]

    def got(self, call: Call) -> Any:
        return call.value if call.method == "acquire" else call not in self.late

    def on_notify(self, call: Call, c: Commit) -> None:
        if c.answer == "NotHeld":
            self.expect(not self._mine(call), f"{call} is refused, though it holds the lock: {c}")
            call.value = c.answer
            return
        self.expect(self._mine(call), f"{call} notifies without the lock: {c}")
        for _ in range(call.args[0] or len(self.sleepers)):
            self._notify_one(c)

    def bury(self, session: int, c: Commit) -> None:
        self.line = [call for call in self.line if call.session != session]
        self.sleepers = [call for call in self.sleepers if call.session != session]
        for call in [call for call in self.told if call.session == session]:
            self._pass_on(call, c)
        super().bury(session, c)

    def answer(self, call: Call) -> Any:
        if call.method == "notify" or (call.method == "wait" and call.value == "NotHeld"):
            return call.value
        return super().answer(call)

    def interrupted(self, call: Call) -> None:
        if call.method == "wait":
            self.expect(call.state in ("has", "new"), f"{call} was interrupted and came back without the lock")
        else:
            super().interrupted(call)


class RateLimiter(Lined):
    """So many units in any period; who comes later waits for who came before. Without a burst, a unit may go one period
    after the one that went `rate` units before it; with one, units are spaced evenly and so many may be saved (GCRA).
    Waiters look by themselves when their time has come, and then all go who may."""

    asks = frozenset({"acquire"})

    def __init__(self, rate: int, per_ns: int, burst: int = 0) -> None:
        self.rate, self.per_ns, self.burst = rate, per_ns, burst
        self.went: list[int] = []
        self.tat = 0
        """The theoretical arrival time of the next unit, in `rate`ths of a nanosecond."""
        self._now = 0
        super().__init__()

    def ask(self, call: Call, c: Commit) -> None:
        if "now" in c.facts:
            read = c.facts["now"].ns
            self._now = read if self.burst or not self.went else max(read, self.went[-1])
        super().ask(call, c)

    def fits_first(self, call: Call) -> bool:
        (number,) = call.args
        if self.burst:
            return self.tat + (number - self.burst) * self.per_ns <= self._now * self.rate
        before = len(self.went) + number - self.rate
        return before <= 0 or self.went[before - 1] + self.per_ns <= self._now

    def take(self, call: Call, c: Commit) -> None:
        (number,) = call.args
        self.went += [self._now] * number
        self.tat = max(self._now * self.rate, self.tat) + number * self.per_ns

    def meanwhile(self, call: Call, c: Commit) -> None:
        if c.verb == "turn":
            self.serve(c)

    def gone(self, call: Call, c: Commit) -> None:
        """Those behind move up; whose time has come sees that by itself."""

    def serve(self, c: Commit) -> None:
        if c.verb == "turn":
            super().serve(c)

    def give_back(self, call: Call, c: Commit) -> None:
        """What was let go is spent."""
