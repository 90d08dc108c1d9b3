"""What each primitive is, in plain Python: no store, no processes, one thing after the other.

A model is told the commits of all calls in their order, and who was buried when. It works out for itself what each call
must come to, and the checker holds that against what the call's caller was told. It knows how the ops are called only
as far as this: a call that asks stands in line from the commit that answered "parked", has what it wants from the
first that answered "yes", was refused by one that answered "busy" (it tried once) or with an error, and leaves the
line, or gives back what it got, by an op whose name says so. All else is the primitive's documentation, as code.

Reads commit nothing: they must have answered what was there at some moment between their begin and their end.
"""

from __future__ import annotations

from collections import deque
from typing import Any, ClassVar

from guildhall.testing.recorder import Call, Commit

LEAVING = ("leave", "withdraw", "give_up", "let_go", "forgo", "abandon", "dismiss")
"""How ops are called by which a wait ends without what it wanted."""
ASKING = ("acquire", "wait", "campaign")
"""How ops are called whose "yes" is that at once."""
INTERRUPTED = "KeyboardInterrupt"
FULL = "StoreFull"
BROKEN_OFF = (INTERRUPTED, FULL)
"""Answers of calls that came to nothing: they may have done what they were to do, or not, but keep nothing."""
LATE = "TimedOut"


class Wrong(AssertionError):
    """What was seen cannot have come about."""


class Model:
    """One thing of one name. `past` is what it was from which commit on, for the reads."""

    reads: ClassVar[frozenset[str]] = frozenset()
    """Methods that only look, or may."""
    also: ClassVar[frozenset[str]] = frozenset()
    """Ops that belong to its calls though they are those of what it is made of."""
    slack_ns = 0
    """How much later than soon something may happen, as processes were stopped."""
    may_die_unseen = False
    """Whether processes may die anywhere, also where a call has returned and nobody wrote that down."""

    def __init__(self) -> None:
        self.trail: deque[tuple[Commit, Call | None]] = deque(maxlen=25)
        self.past: list[tuple[int, Any]] = [(-1, self.state())]

    def state(self) -> Any:
        """What a read can see of it, unchangeable."""
        return None

    def commit(self, call: Call, c: Commit) -> None:
        """A commit that the call made."""
        getattr(self, f"on_{call.method}")(call, c)

    def bury(self, session: int, c: Commit) -> None:
        """The session is dead: what it held is given back."""

    def answer(self, call: Call) -> Any:
        """What the call, which is over, must have answered; ANY if a read decides."""
        return call.value

    def before_read(self, call: Call) -> None:
        """Called for the reads of each session in their order, before `sees`."""

    def sees(self, call: Call, state: Any) -> bool:
        """Whether the call may have answered as it did when the thing was in that state."""
        raise NotImplementedError

    def interrupted(self, call: Call) -> None:
        """The call was interrupted: refuse what it must not have done then."""

    def expect(self, fact: object, what: str) -> None:
        if not fact:
            raise Wrong(f"{what}\n" + "\n".join(f"{c}, in {call}" for c, call in self.trail))


ANY: Any = object()
"""Any answer is right, as far as the commits tell."""


class Lined(Model):
    """Something that calls wait for in a line, the longest waiter first."""

    asks: ClassVar[frozenset[str]] = frozenset({"acquire"})
    """Methods that wait."""
    is_held: ClassVar[bool] = False
    """Whether one that was interrupted must have given back what it got."""

    def __init__(self) -> None:
        self.line: list[Call] = []
        super().__init__()

    def commit(self, call: Call, c: Commit) -> None:
        if call.method in self.asks:
            self.ask(call, c)
        else:
            super().commit(call, c)

    def ask(self, call: Call, c: Commit) -> None:
        is_leaving = c.wrote and c.verb.startswith(LEAVING)
        if call.state == "waits" and is_leaving:
            self.line.remove(call)
            call.state = "left"
            self.gone(call, c)
        elif call.state == "has" and is_leaving:
            call.state = "left"
            self.give_back(call, c)
        elif call.state == "waits" or (call.state == "has" and not self.is_lost(call)):
            self.expect(c.answer != "parked", f"{call} stands in line once more, though it waits or has it: {c}")
            self.meanwhile(call, c)
        elif c.answer == "parked":
            self.expect(not self.fits(call), f"{call} has to wait, though it should get it at once: {c}")
            call.state = "waits"
            self.line.append(call)
            self.parked(call, c)
        elif c.answer == "busy":
            self.expect(not self.fits(call), f"{call} is refused, though it should get it at once: {c}")
            self.refused(call, c)
        elif c.answer == "yes" and c.verb in ASKING:
            self.expect(self.fits(call), f"{call} gets it, though it should wait: {c}")
            self.grant(call, c)
            self.serve(c)

    def grant(self, call: Call, c: Commit) -> None:
        call.state, call.granted = "has", c
        self.take(call, c)

    def serve(self, c: Commit) -> None:
        """Whoever is first and can be served, is."""
        while self.line and self.fits_first(self.line[0]):
            self.grant(self.line.pop(0), c)

    def bury(self, session: int, c: Commit) -> None:
        self.line = [call for call in self.line if call.session != session]
        self.bury_holder(session, c)
        self.serve(c)

    def answer(self, call: Call) -> Any:
        return self.got(call) if call.state == "has" else False

    def interrupted(self, call: Call) -> None:
        if self.is_held and call.method in self.asks:
            self.expect(call.state != "has", f"{call} was interrupted and has it all the same")

    # What a kind says of itself.

    def fits(self, call: Call) -> bool:
        """Whether one that comes now gets it at once."""
        return not self.line and self.fits_first(call)

    def fits_first(self, call: Call) -> bool:
        """Whether the call, first in line, can be served."""
        raise NotImplementedError

    def take(self, call: Call, c: Commit) -> None:
        """It has it now."""

    def got(self, call: Call) -> Any:
        """What one that has it is told."""
        return True

    def is_lost(self, call: Call) -> bool:
        """Whether it was taken away before the call was over, so that it asks anew."""
        return False

    def gone(self, call: Call, c: Commit) -> None:
        """One left the line."""
        self.serve(c)

    def give_back(self, call: Call, c: Commit) -> None:
        """One was interrupted when it had it already."""
        self.expect(False, f"{call} gives back what cannot be given back: {c}")

    def parked(self, call: Call, c: Commit) -> None: ...
    def refused(self, call: Call, c: Commit) -> None: ...
    def meanwhile(self, call: Call, c: Commit) -> None: ...
    def bury_holder(self, session: int, c: Commit) -> None: ...
