"""What hands something on: Variable, Counter, Pub and Sub."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from guildhall.testing.recorder import Call, Commit
from models.base import ANY, INTERRUPTED, LATE, Model


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


class Topic(Model):
    """Messages in one order. A subscription gets each that was published after it, once, in that order. An interrupted
    get may have lost the one that it had in hand."""

    reads = frozenset({"get"})

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.starts: dict[int, int] = {}
        """Where the next message of each subscriber is that a get has not been given."""
        self.lost: dict[int, list[int]] = {}
        """When gets began that were interrupted since the last one that was not."""
        self.subscriptions: dict[int, int] = {}
        super().__init__()

    def state(self) -> Any:
        return len(self.messages)

    def commit(self, call: Call, c: Commit) -> None:
        if c.op == "subscription.leave" and c.wrote:  # Of a subscribe that was interrupted before.
            self.subscriptions[call.session] -= 1
        else:
            super().commit(call, c)

    def on_subscribe(self, call: Call, c: Commit) -> None:
        if c.verb == "subscribe" and c.wrote:
            self.starts[call.session] = len(self.messages)
            self.subscriptions[call.session] = self.subscriptions.get(call.session, 0) + 1

    def on_put(self, call: Call, c: Commit) -> None:
        if c.verb != "publish":
            return
        if c.wrote:  # Else nobody subscribes, and nothing is kept.
            self.messages.append(call.args[0])
        else:
            has_any = any(self.subscriptions.values())
            self.expect(not has_any, f"{call} publishes nothing, though there are subscribers: {c}")

    def on_get(self, call: Call, c: Commit) -> None: ...

    def bury(self, session: int, c: Commit) -> None:
        self.subscriptions.pop(session, None)

    def answer(self, call: Call) -> Any:
        return ANY if call.method == "get" else None

    def interrupted(self, call: Call) -> None:
        if call.method == "get":
            self.lost.setdefault(call.session, []).append(call.begin)

    def before_read(self, call: Call) -> None:
        first, lost = self.starts[call.session], self.lost.get(call.session, [])
        last = first + sum(began < call.begin for began in lost)
        if call.result != LATE and call.result in self.messages[first : last + 1]:
            first = last = self.messages.index(call.result, first)
            self.starts[call.session] = first + 1
            self.lost[call.session] = [began for began in lost if began > call.begin]
        call.value = first, last

    def sees(self, call: Call, state: Any) -> bool:
        first, last = call.value
        if call.result == LATE:
            return bool(state <= last)
        return bool(state > first and call.result == self.messages[first])
