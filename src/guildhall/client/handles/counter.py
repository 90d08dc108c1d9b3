"""The handle of Counter."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from ...errors import WrongType
from ...hosts import current
from ...primitives import counter
from ..hall import host_of
from .handle import Handle

if TYPE_CHECKING:
    from .statistics import CounterStatistics


class Counter(Handle):
    """A whole number that every process of the hall adds to; 0 until changed. Any size, also negative.

        done = Counter("done")
        if done.add() == 100:
            ...  # Only one caller ever sees the hundredth.

    Each call is one commit: `add` reads, adds and writes in one step and never tries twice, so every add counts and
    every caller gets a number of its own. It never waits. What a process added stays when it dies. For other numbers
    or other steps than adding, use `Variable.update`.
    """

    _kind = "counter"

    def add(self, n: int = 1) -> int:
        """Add n (negative: subtract). Returns the new value. Raises WrongType (TypeError) for anything but a whole
        number; then nothing was added."""
        if type(n) is not int:
            n = self._whole(n)
        host = self._given or current.now or host_of(None)
        return host.transact(counter.add, self._key, n)

    def get(self) -> int:
        """The value."""
        return (self._given or current.now or host_of(None)).read(counter.get, self._key)

    def set(self, value: int) -> None:
        """Set the value, whatever it was."""
        self._host.transact(counter.put, self._key, self._whole(value))

    def reset(self) -> int:
        """Back to 0, as if it had never been used. Returns the value it had, so that nothing is missed in between."""
        return self._host.transact(counter.reset, self._key)

    def delete(self) -> None:
        """Leave nothing of it: as `reset`, which also tells the value."""
        self._host.transact(counter.reset, self._key)

    def _whole(self, n: Any) -> int:
        if isinstance(n, bool) or not hasattr(type(n), "__index__"):
            raise WrongType(
                f"counter {self.name!r:.60}: expected a whole number, got {type(n).__name__} {n!r:.60}; "
                "round it, or keep it in a Variable"
            )
        return operator.index(n)

    def statistics(self) -> CounterStatistics:
        """What it is like now."""
        from .statistics import of_counter  # Here: with it come the records of all kinds.

        return self._host.read(of_counter, self.name, self._key)
