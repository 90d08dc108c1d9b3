"""Pub and Sub with a bound, with replay, and with durable subscriptions."""

from __future__ import annotations

from typing import Any

from guildhall.testing.recorder import Call, Commit
from models.base import ANY, BROKEN_OFF, LATE, Model

LAGGED = "lagged"


class Reader:
    """One subscription of one process."""

    def __init__(self, call: Call, base: int) -> None:
        self.start, self.maxlen, self.policy = call.args
        self.begin = call.begin
        self.is_ghost = call.result in BROKEN_OFF
        """Its maker was interrupted, and knows nothing of it."""
        self.base = self.cursor = base
        """How many messages there were; which one a subscription that blocks is given next."""
        self.next: int | None = base if self.start is None else None
        """Which one a get must come to next, as far as that is known before the first."""
        self.lag = 0
        """What it was told it missed before that was known."""
        self.lost: list[int] = []
        """When gets began that were interrupted since."""

    @property
    def blocks(self) -> bool:
        return bool(self.maxlen) and self.policy == "block"


class BoundedTopic(Model):
    """Messages in one order, of which `keep` last ones stay for who comes late. A subscription gets each from its start
    on, once and in order, but: with maxlen and "drop-oldest", none that is not among the maxlen last ones, and is told
    exactly how many it missed where it did. With "block" it misses none: while as many as its maxlen are unread, who
    publishes stands in line, the first to come first. Those that are gone hold nothing up and keep nothing.
    """

    reads = frozenset({"get"})

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.messages: list[Any] = []
        self.places: dict[Any, int] = {}
        self.line: list[Call] = []
        self.readers: dict[int, list[Reader]] = {}
        """By session, those that are there, the oldest first."""
        self.all: dict[int, list[Reader]] = {}
        super().__init__()

    def state(self) -> Any:
        return len(self.messages)

    def _is_full(self) -> bool:
        end = len(self.messages)
        return any(one.blocks and end - one.cursor >= one.maxlen for some in self.readers.values() for one in some)

    def _append(self, call: Call) -> None:
        if self.keep or any(self.readers.values()):
            self.places[call.args[0]] = len(self.messages)
            self.messages.append(call.args[0])

    def _serve(self, c: Commit) -> None:
        while self.line and not self._is_full():
            call = self.line.pop(0)
            call.state, call.granted = "has", c
            self._append(call)

    def commit(self, call: Call, c: Commit) -> None:
        if c.op == "subscription.leave" and c.wrote:  # The oldest one goes first: others were to go before.
            self.readers[call.session].pop(0)
        else:
            super().commit(call, c)
        self._serve(c)

    def bury(self, session: int, c: Commit) -> None:
        self.readers.pop(session, None)
        self.line = [call for call in self.line if call.session != session]
        self._serve(c)

    def on_subscribe(self, call: Call, c: Commit) -> None:
        if c.verb == "subscribe" and c.wrote:
            reader = Reader(call, len(self.messages))
            self.readers.setdefault(call.session, []).append(reader)
            self.all.setdefault(call.session, []).append(reader)

    def on_put(self, call: Call, c: Commit) -> None:
        if c.verb == "publish" and call.state == "new":
            must_wait = bool(self.line) or self._is_full()
            self.expect((c.answer in ("busy", "parked")) == must_wait, f"{call} waits, or does not: {c}")
            if c.answer == "yes":
                call.state, call.granted = "has", c
                self._append(call)
            elif c.answer == "parked":
                call.state = "waits"
                self.line.append(call)
        elif c.verb == "withdraw" and c.wrote and call.state == "waits":
            self.line.remove(call)
            call.state = "new"

    def on_get(self, call: Call, c: Commit) -> None:
        if c.verb == "fetch_into" and c.answer == "yes":
            self.readers[call.session][-1].cursor += 1

    def on_close(self, call: Call, c: Commit) -> None: ...

    on_delete = on_close

    # -- answers ------------------------------------------------------------------------------------------------------

    def answer(self, call: Call) -> Any:
        if call.method == "get":
            return ANY
        return None if call.method != "put" or call.state == "has" else LATE

    def _reader(self, call: Call) -> Reader:
        return [one for one in self.all[call.session] if one.begin < call.begin and not one.is_ghost][-1]

    def interrupted(self, call: Call) -> None:
        if call.method == "get":
            self._reader(call).lost.append(call.begin)

    def before_read(self, call: Call) -> None:
        reader = self._reader(call)
        lost = sum(began < call.begin for began in reader.lost)
        if call.result == LATE:
            call.value = reader, (None if reader.next is None else reader.next + lost)
            return
        what, number = call.result
        if what == LAGGED:
            self.expect(reader.maxlen and not reader.blocks, f"{call}: it may miss nothing")
            if reader.next is None:
                reader.lag += number
            else:
                reader.next += number
            call.value = reader, None
            return
        self.expect(what in self.places, f"{call}: nobody published that")
        at = self.places[what]
        if reader.next is None:
            self._begins(call, reader, at - reader.lag)
        else:
            is_next = reader.next <= at <= reader.next + lost
            self.expect(is_next, f"{call}: message {at} comes, and {reader.next} is the next")
        reader.next, reader.lost = at + 1, [began for began in reader.lost if began > call.begin]
        call.value = reader, at

    def _begins(self, call: Call, reader: Reader, at: int) -> None:
        """Where it starts: not behind what is kept for who comes late, and exactly there when nobody else is there."""
        kept = min(self.keep, reader.base) if reader.start == "oldest" else min(self.keep, reader.base, -reader.start)
        self.expect(at <= reader.base - kept, f"{call}: it starts at {at} of {reader.base}, though {kept} were kept")
        if reader.start != "oldest":
            self.expect(at >= reader.base + reader.start, f"{call}: it starts at {at} of {reader.base}")
        elif reader.policy == "":
            self.expect(at == reader.base - kept, f"{call}: {reader.base - at} are kept for nobody, not {kept}")

    def sees(self, call: Call, state: Any) -> bool:
        reader, at = call.value
        if call.result == LATE:
            return bool(state <= (reader.base if at is None else at))
        if call.result[0] == LAGGED:
            return True
        is_fresh = not reader.maxlen or reader.blocks or at >= state - reader.maxlen
        return bool(state > at and is_fresh)


class DurableTopic(Model):
    """A durable subscription that several share: each message goes to one of them, in order. It is done when that one
    asks for the next or leaves with it; of one who dies it comes again, before all others. It stays, and what is
    published meanwhile with it, when nobody has it open.
    """

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.is_there = False
        self.at = 0
        self.held: dict[int, int] = {}
        """By session: which message it works on."""
        self.returned: list[int] = []
        self.left: dict[int, Any] = {}
        """By session: what an interrupted get had fetched."""
        super().__init__()

    def commit(self, call: Call, c: Commit) -> None:
        if c.op == "subscription.leave" and c.wrote:
            self._give_back(call.session, c.facts.get("had"))
        else:
            super().commit(call, c)

    def bury(self, session: int, c: Commit) -> None:
        self._give_back(session, None)

    def _give_back(self, session: int, had: int | None) -> None:
        number = self.held.pop(session, None)
        if number is not None and number != had:
            self.returned = sorted([*self.returned, number])

    def on_subscribe(self, call: Call, c: Commit) -> None:
        self.is_there |= c.verb == "subscribe" and c.wrote

    def on_put(self, call: Call, c: Commit) -> None:
        if c.verb == "publish":
            self.expect(c.wrote == self.is_there, f"{call} is kept for the subscription, or not: {c}")
            if c.wrote:
                self.messages.append(call.args[0])

    def on_get(self, call: Call, c: Commit) -> None:
        if c.verb != "fetch_into":
            return
        had, number = c.facts.get("had"), self.held.get(call.session)
        if number is None or number == had:
            self.held.pop(call.session, None)
            if self.returned:
                number = self.returned.pop(0)
            elif self.at < len(self.messages):
                number, self.at = self.at, self.at + 1
            else:
                self.expect(c.answer != "yes", f"{call} gets what is not there: {c}")
                return
        self.expect(c.answer == "yes", f"{call} has to wait, though message {number} is there: {c}")
        self.held[call.session] = number
        call.value = [self.messages[number], number]

    def on_close(self, call: Call, c: Commit) -> None: ...

    def on_unsubscribe(self, call: Call, c: Commit) -> None:
        if c.verb == "end" and c.wrote:
            self.is_there = False

    def answer(self, call: Call) -> Any:
        if call.method != "get":
            return None
        if call.value is None and call.result != LATE:
            return self.left.pop(call.session, "something that it had fetched")
        return LATE if call.value is None else call.value

    def interrupted(self, call: Call) -> None:
        if call.method == "get" and call.value is not None:
            self.left[call.session] = call.value
