"""The handle of Event."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ... import deadline
from ...deadline import Timeout
from ...hosts.embedded import EmbeddedHost
from ...primitives import event, waiters
from .. import drive
from ..drive import LATE, Flow
from .handle import Handle

if TYPE_CHECKING:
    from .statistics import EventStatistics


class Event(Handle):
    """A flag to wait for, as `threading.Event`, across processes.

        ready = Event("ready")
        ready.wait(timeout=10)       # True when somebody called `Event("ready").set()`, also if it was cleared at once

    It stays up until `clear`, also when the process that raised it has died. If you stop waiting, nothing is left
    behind. For a count of things that must have happened there is `Latch`; for a value to come, `Variable`.
    """

    _kind = "event"

    def set(self) -> None:
        """Raise the flag: everybody who waits goes on."""
        self._host.transact(event.put, self._key)

    def clear(self) -> None:
        """Lower the flag."""
        self._host.transact(event.clear, self._key)

    def delete(self) -> None:
        """Leave nothing of it: as `clear`. Who waits goes on waiting, for the next `set`."""
        self._host.transact(event.clear, self._key)

    def is_set(self) -> bool:
        return self._host.read(event.is_set, self._key)

    def statistics(self) -> EventStatistics:
        """The flag and who waits for it, now."""
        from .statistics import of_event  # Here: with it come the records of all kinds.

        return self._host.read(of_event, self.name, self._key)

    def wait(self, timeout: Timeout = None) -> bool:
        """True when the flag is up, False when the time was."""
        timeout_s = deadline.seconds(timeout)
        host = self._host
        return self.is_set() or drive.run(host, self._wait_flow(host, timeout_s))

    def _wait_flow(self, host: EmbeddedHost, timeout_s: float | None) -> Flow[bool]:
        answer = yield from drive.waiting(
            host,
            lambda waiter: host.transact(event.wait, self._key, waiter),
            lambda waiter: True,
            lambda waiter: host.let_go(waiters.withdraw, waiter),
            timeout_s,
        )
        return answer is not LATE
