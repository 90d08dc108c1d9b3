"""What hands something on: Variable, Counter, Queue, Pub and Sub."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from recorder import Call, Commit

from models.base import ANY, INTERRUPTED, LATE, LEAVING, Model


class Variable(Model):
    """A value, or none. `set` replaces it whatever it is, `update` and `compare_and_set` only what they read; the
    version is the number of the commit that set it. A `set` or `delete` during the turn of an update comes after it."""

    reads = frozenset({"get", "version", "wait_for", "watch"})

    def __init__(self) -> None:
        self.value: Any = None
        self.version = 0
        self.changes: dict[int, tuple[Any, bool]] = {0: (None, False)}
        """By version: the value, and whether the next change was made without a look at it."""
        super().__init__()

    def state(self) -> Any:
        return self.version, self.value

    def _put(self, value: Any, version: int, *, is_blind: bool) -> None:
        self.changes[self.version] = self.changes[self.version][0], is_blind
        self.version, self.value = version, value
        self.changes[version] = value, False

    def on_set(self, call: Call, c: Commit) -> None:
        if c.wrote:
            self._put(call.args[0], c.number, is_blind=True)

    def on_delete(self, call: Call, c: Commit) -> None:
        if c.wrote:
            self.expect(self.version, f"{call} deletes what is not there")
            self._put(None, 0, is_blind=True)

    def _changed(self, call: Call, c: Commit, new: Callable[[int, Any], Any]) -> None:
        """A change from what was read; `new` tells what to, and may refuse."""
        if c.verb not in ("swap", "finish") or c.answer != "yes" or call.state == "has":
            return
        call.state, call.granted = "has", c
        seen = c.facts["seen"]
        if c.verb == "finish" and seen != self.version:
            self.expect(seen in self.changes and self.changes[seen][1], f"{call}: its turn was not kept: {c}")
            call.value = new(seen, self.changes[seen][0])
        else:
            self.expect(seen == self.version, f"{call} replaces version {self.version}, having read {seen}: {c}")
            call.value = new(self.version, self.value)
            value = call.args[-1] if call.method == "compare_and_set" else call.value
            self._put(value, c.number, is_blind=False)

    def on_update(self, call: Call, c: Commit) -> None:
        def add(version: int, value: Any) -> Any:
            self.expect(version, f"{call} updates what is not there")
            return value + call.args[0]

        self._changed(call, c, add)

    def on_compare_and_set(self, call: Call, c: Commit) -> None:
        def compare(version: int, value: Any) -> bool:
            self.expect(self._matches(call, (version, value)), f"{call} sets at version {version} with value {value}")
            return True

        self._changed(call, c, compare)

    def _matches(self, call: Call, state: Any) -> bool:
        expected, version, _ = call.args
        return version in (None, state[0]) and (expected is None or (state[0] > 0 and expected == state[1]))

    def on_get(self, call: Call, c: Commit) -> None: ...

    on_wait_for = on_watch = on_get

    def answer(self, call: Call) -> Any:
        if call.method in ("update", "compare_and_set"):
            is_open = call.result in (LATE, INTERRUPTED)  # Nothing may have been changed, and that needs no read.
            return call.value if call.state == "has" else call.result if is_open else ANY
        return ANY if call.method in self.reads else None

    def sees(self, call: Call, state: Any) -> bool:
        version, value = state
        if call.method == "compare_and_set":
            return not self._matches(call, state)
        if call.method == "version":
            return bool(call.result == version)
        if call.method == "update":
            return False
        if call.result == LATE:
            return call.method != "get" or not version
        return version > 0 and call.result == (list(state) if call.method == "watch" else value)


class Counter(Model):
    """A number, 0 at first; `add` answers what it made it, `reset` what it was."""

    reads = frozenset({"get"})

    def __init__(self) -> None:
        self.value = 0
        super().__init__()

    def state(self) -> Any:
        return self.value

    def on_add(self, call: Call, c: Commit) -> None:
        self.value += call.args[0]
        call.value = self.value

    def on_set(self, call: Call, c: Commit) -> None:
        (self.value,) = call.args

    def on_reset(self, call: Call, c: Commit) -> None:
        call.value, self.value = self.value, 0

    def answer(self, call: Call) -> Any:
        return ANY if call.method == "get" else call.value

    def sees(self, call: Call, state: Any) -> bool:
        return bool(call.result == state)


class Queue(Model):
    """Items, the oldest first, at most `maxsize` (0: any number). Getters stand in one line and are served in it, each
    with all it wants; putters in another, with their items. What a getter was handed and had not fetched when it died,
    or when its process was interrupted, comes back to the head; what it had fetched is its own."""

    reads = frozenset({"qsize"})

    def __init__(self, maxsize: int = 0) -> None:
        self.maxsize = maxsize
        self.items: list[Any] = []
        self.getters: list[Call] = []
        self.putters: list[Call] = []
        self.handed: list[Call] = []
        super().__init__()

    def state(self) -> Any:
        return len(self.items)

    def _want(self, call: Call) -> int:
        return int(call.args[0])

    def _has_room(self) -> bool:
        room = max(self.maxsize, self._want(self.getters[0]) if self.getters else 0)
        return not self.maxsize or len(self.items) < room

    def _serve(self, c: Commit) -> None:
        while True:
            if self.getters and len(self.items) >= self._want(self.getters[0]):
                call = self.getters.pop(0)
                self._give(call, c)
                self.handed.append(call)
            elif self.putters and self._has_room():
                call = self.putters.pop(0)
                call.state, call.granted, call.value = "has", c, None
                self.items.append(call.args[0])
            else:
                return

    def _give(self, call: Call, c: Commit) -> None:
        want = self._want(call) or len(self.items)
        call.state, call.granted, call.value = "has", c, self.items[:want]
        del self.items[:want]

    def on_put(self, call: Call, c: Commit) -> None:
        is_room = self._has_room() and not self.putters
        if call.state == "waits":
            if c.wrote and c.verb.startswith(LEAVING):
                self.putters.remove(call)
                call.state = "left"
        elif call.state != "new" or c.op.startswith("waiters."):
            return
        elif c.answer == "yes":
            self.expect(is_room, f"{call}: the item goes into a full queue: {c}")
            call.state, call.granted = "has", c
            self.items.append(call.args[0])
        elif c.answer in ("busy", "parked"):
            self.expect(not is_room, f"{call} has to wait, though there is room: {c}")
            if c.answer == "parked":
                call.state = "waits"
                self.putters.append(call)
        self._serve(c)

    def on_put_many(self, call: Call, c: Commit) -> None:
        self.items.extend(call.args[0])
        call.state = "has"
        self._serve(c)

    def on_get(self, call: Call, c: Commit) -> None:
        is_enough = not self._want(call) or (not self.getters and len(self.items) >= self._want(call))
        if call in self.handed:
            if c.wrote and c.verb.startswith(LEAVING):
                self._return(call)
            elif c.wrote:
                self.handed.remove(call)
        elif call.state == "waits":
            if c.wrote and c.verb.startswith(LEAVING):
                self.getters.remove(call)
                call.state = "left"
        elif call.state != "new" or c.op.startswith("waiters."):
            return
        elif c.answer == "yes":
            self.expect(is_enough, f"{call} gets items that are not there or another's: {c}")
            self._give(call, c)
        elif c.answer in ("busy", "parked"):
            self.expect(not is_enough, f"{call} has to wait, though there are items: {c}")
            if c.answer == "parked":
                call.state = "waits"
                self.getters.append(call)
        self._serve(c)

    def _return(self, call: Call) -> None:
        self.handed.remove(call)
        self.items[:0] = call.value
        call.state = "left"

    def bury(self, session: int, c: Commit) -> None:
        self.putters = [call for call in self.putters if call.session != session]
        self.getters = [call for call in self.getters if call.session != session]
        for call in [call for call in self.handed if call.session == session]:
            self._return(call)
        self._serve(c)

    def answer(self, call: Call) -> Any:
        if call.method == "qsize":
            return ANY
        if call.state == "has":
            return call.value
        return call.result if call.result in (LATE, INTERRUPTED) else "something else than nothing"

    def sees(self, call: Call, state: Any) -> bool:
        return bool(call.result == state)


class Topic(Model):
    """Messages in one order. A subscription gets each that was published after it, once, in that order."""

    reads = frozenset({"get"})

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.starts: dict[int, int] = {}
        """Where the next message of each subscriber is that a get has not been given."""
        self.subscribers: set[int] = set()
        super().__init__()

    def state(self) -> Any:
        return len(self.messages)

    def on_subscribe(self, call: Call, c: Commit) -> None:
        if c.wrote:
            self.starts[call.session] = len(self.messages)
            self.subscribers.add(call.session)

    def on_put(self, call: Call, c: Commit) -> None:
        if c.wrote:  # Else nobody subscribes, and nothing is kept.
            self.messages.append(call.args[0])
        else:
            self.expect(not self.subscribers, f"{call} publishes nothing, though there are subscribers: {c}")

    def on_get(self, call: Call, c: Commit) -> None: ...

    def bury(self, session: int, c: Commit) -> None:
        self.subscribers.discard(session)

    def answer(self, call: Call) -> Any:
        return ANY if call.method == "get" else None

    def before_read(self, call: Call) -> None:
        call.value = self.starts[call.session]
        if call.result not in (LATE, INTERRUPTED):
            self.starts[call.session] += 1

    def sees(self, call: Call, state: Any) -> bool:
        if call.result in (LATE, INTERRUPTED):
            return bool(state <= call.value)
        return bool(state > call.value and call.result == self.messages[call.value])
