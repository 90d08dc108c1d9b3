"""The handle of Variable."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ... import deadline
from ...deadline import Timeout
from ...errors import Misuse, TimedOut, WrongType
from ...hosts import current
from ...hosts.embedded import EmbeddedHost
from ...primitives import values, variable
from .. import drive
from ..hall import host_of
from .cell import Cell, Now
from .change import Change
from .watch import Watch

if TYPE_CHECKING:
    from .statistics import VariableStatistics

ANY: Any = object()
"""Not given: no value equals it."""


class Variable(Cell):
    """A global variable: one value, set and read by every process of the hall.

        total = Variable("total")
        total.set(0)
        total.update(lambda n: n + 1)

    `get` and then `set` is not atomic: use `update`, or a `Lock` around more than one variable. To count, `Counter` is
    faster. For each of the values rather than the newest, use `Pub` and `Sub`, or a `Queue`.
    """

    def set(self, value: Any, timeout: Timeout = None) -> None:
        """Set the value, any that pickles or a Future, whose result it keeps alive. Raises Unpicklable (TypeError)."""
        if timeout is not None:
            deadline.seconds(timeout)
        host = self._given or current.now or host_of(None)
        stored, spent = self._store(host, value)
        try:
            host.transact(variable.put, self._key, stored)
        finally:
            if spent:
                host.defer(values.release_for, host.session, spent)

    def delete(self) -> None:
        """Unset it; harmless if it was. `get` waits again."""
        self._host.transact(variable.delete, self._key)

    # -- changing what is there ---------------------------------------------------------------------------------------

    def update(self, fn: Callable[[Any], Any], timeout: Timeout = None) -> Any:
        """Replace the value by `fn(value)`, as one step. Returns the new value. Waits for the first one, as `get`.

            stock.update(lambda left: left - 1)

        `fn` runs here, outside any transaction, on a copy of its own; if another process changed the value meanwhile it
        runs again on the new one, so it should have no effects but its result. After four such tries it takes its turn
        in a fair line, and others' updates wait for it: however slow `fn` is, it is done at the fifth. `set` and
        `delete` never wait: one that comes while `fn` runs at its turn counts as coming right after the update.

        Raises TimedOut if it had to wait, or was beaten, longer than `timeout` seconds (0: one try); what `fn` raises;
        Misuse if `fn` changes this very variable by `update` or `compare_and_set`. Then nothing was changed.

        If you stop waiting, nothing is changed and the turn is given up. If the process dies at its turn, the next in
        line has it.
        """
        host = self._host
        with self._change(host, fn, timeout) as change:
            while True:
                new = fn(drive.run(host, change.read_flow(awaits_set=True)).value)
                if change.swap(new):
                    return new

    def _change(self, host: EmbeddedHost, fn: Any, timeout: Timeout) -> Change:
        return Change(self, host, self._seconds_for(fn, timeout))

    def _seconds_for(self, fn: Any, timeout: Timeout) -> float | None:
        if not callable(fn):
            raise WrongType(
                f"variable {self.name!r:.60}: expected a function of the value, got {type(fn).__name__} {fn!r:.60}"
            )
        return deadline.seconds(timeout)

    def compare_and_set(
        self, expected: Any = ANY, new: Any = ANY, *, expected_version: int | None = None, timeout: Timeout = None
    ) -> bool:
        """Set `new` if the value equals `expected` and, if given, the version is `expected_version`. Whether it did.

            if state.compare_and_set("ready", "running"): ...
            state.compare_and_set(new="ready", expected_version=0)  # Only if unset.

        Values are compared by `==` with the unpickled value, outside any transaction, and `new` is set at that very
        version. An unset variable equals nothing, not even None: its version is 0. Give the version alone for what
        `==` cannot compare, such as arrays or futures.

        Does not wait for a first value. It waits only while an `update` that was beaten has its turn, or to take its
        own turn when equal values are set again and again; TimedOut if that lasts longer than `timeout` seconds.
        """
        compare = self._comparison(expected, new, expected_version)
        host = self._host
        with Change(self, host, deadline.seconds(timeout)) as change:
            while compare(drive.run(host, change.read_flow(awaits_set=False))):
                if change.swap(new):
                    return True
            return False

    def _comparison(self, expected: Any, new: Any, expected_version: int | None) -> Callable[[Now], bool]:
        what = f"variable {self.name!r:.60}: compare_and_set"
        if new is ANY or (expected is ANY and expected_version is None):
            raise Misuse(f"{what}: expected a new value, and the value to replace or expected_version= (0: unset)")
        if expected_version is not None and type(expected_version) is not int:
            raise WrongType(f"{what}: expected_version: expected what `version` gave, got {expected_version!r:.60}")

        def compare(now: Now) -> bool:
            if expected_version is not None and now.version != expected_version:
                return False
            return expected is ANY or (now.version > 0 and bool(now.value == expected))

        return compare

    # -- waiting for changes ------------------------------------------------------------------------------------------

    def watch(self, timeout: Timeout = None) -> Watch:
        """An iterator over the value and its changes: first the value that is there, if one is, then each newer one.

            for settings in Variable("settings").watch():
                ...

        Newest wins: who is slow skips what was set meanwhile and gets the latest; nobody who sets waits for it, and
        nothing piles up. The same value set again is a change; a delete is none, and what is set after it comes next.
        Each step waits as long as it takes, or raises TimedOut after `timeout` seconds (and may be tried again).
        `close` ends the iteration.
        """
        return Watch(self, timeout)

    def wait_for(self, predicate: Callable[[Any], Any], timeout: Timeout = None) -> Any:
        """The first value seen that satisfies the predicate. Raises TimedOut, and what the predicate raises.

            progress.wait_for(lambda done: done >= 100)

        The predicate is asked about the value that is there and each newest one (as `watch`: one that is overwritten
        at once may be missed), here and outside any transaction. `timeout=0` asks once. If you stop waiting, nothing
        is left behind.
        """
        timeout_s = self._seconds_for(predicate, timeout)
        until, host = deadline.after(timeout_s), self._host
        watch = Watch(self)
        while True:
            try:
                now = drive.run(host, watch._newer_flow(host, deadline.left(until)))
            except TimedOut:
                raise self._unsatisfied(timeout_s) from None
            if predicate(value := watch._given(now)):
                return value

    def _unsatisfied(self, timeout_s: float | None) -> TimedOut:
        return TimedOut(f"variable {self.name!r:.60}: no value satisfied the predicate within {timeout_s:g} s")

    def statistics(self) -> VariableStatistics:
        """What it is like now, without waiting."""
        from .statistics import of_variable  # Here: with it come the records of all kinds.

        return self._host.read(of_variable, self.name, self._key)
