"""What Variable, its changes and its watches share: one value under a name, read and waited for."""

from __future__ import annotations

import pickle
from typing import Any, NamedTuple

from ... import deadline
from ...deadline import Timeout
from ...engine.local import payload
from ...errors import TimedOut
from ...hosts import current
from ...hosts.embedded import EmbeddedHost
from ...primitives import variable, waiters
from ...primitives.op import BUSY
from .. import drive
from ..drive import LATE, Flow
from ..hall import host_of
from .handle import Handle


class Now(NamedTuple):
    """A value, unpickled, and its version."""

    version: int
    value: Any


class Cell(Handle):
    """A value that is read, and whose version tells whether it is still the same."""

    _kind = "variable"

    def get(self, timeout: Timeout = None) -> Any:
        """The value. Waits until it is first set; raises TimedOut (a TimeoutError).

        If you stop waiting, nothing is left behind.
        """
        if timeout is not None:
            timeout = deadline.seconds(timeout)
        host = self._given or current.now or host_of(None)
        data = host.read(variable.get, self._key)
        if data is not None and data[:1] == payload.PICKLE:
            try:
                return pickle.loads(data)
            except payload.SPOILED as error:
                payload.tell_damage(error)
                raise
        return self._await_value(host, timeout)

    def _await_value(self, host: EmbeddedHost, timeout_s: float | None) -> Any:
        """One that was set and deleted before we saw it is none: wait again, for what is left of the time."""
        until = deadline.after(timeout_s)
        while (now := self._now(host)) is None:
            try:
                drive.run(host, self._get_flow(host, deadline.left(until)))
            except TimedOut:
                raise self._late(timeout_s) from None
        return now.value

    def _get_flow(self, host: EmbeddedHost, timeout_s: float | None) -> Flow[None]:
        key = self._key
        answer = yield from drive.waiting(
            host,
            lambda waiter: host.transact(variable.await_set, key, waiter),
            lambda waiter: True if host.read(variable.get, key) is not None else BUSY,
            lambda waiter: host.let_go(waiters.withdraw, waiter),
            timeout_s,
        )
        if answer is LATE:
            raise self._late(timeout_s)

    def _now(self, host: EmbeddedHost, after: int = 0) -> Now | None:
        """The value and its version; None if unset, or not later than the version `after`."""
        seen = host.read(variable.look, self._key, after)
        if seen is not None and seen.data[:1] != payload.PICKLE:
            seen = host.transact(variable.look_held, self._key, host.session)
        return None if seen is None else Now(seen.version, payload.unpack(host, seen.data))

    @property
    def version(self) -> int:
        """A number that grows with every change of the value, not by one; 0 while unset. Used once: what is set again
        after a delete has a later one."""
        return self._host.read(variable.version, self._key)
