"""The handle of Variable."""

from __future__ import annotations

import pickle
from typing import Any

from ... import deadline
from ...deadline import Timeout
from ...engine.local import payload
from ...hosts import current
from ...hosts.embedded import EmbeddedHost
from ...primitives import values, variable, waiters
from ...primitives.op import BUSY
from .. import drive
from ..drive import LATE, Flow
from ..hall import host_of
from .handle import Handle


class Variable(Handle):
    """A global variable: one value, set and read by every process of the hall.

    Reading and then setting is not atomic: guard it with a `Lock`.
    """

    _kind = "variable"

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

    def get(self, timeout: Timeout = None) -> Any:
        """The value. Waits until it is first set; raises TimedOut (a TimeoutError).

        If you stop waiting, nothing is left behind.
        """
        if timeout is not None:
            timeout = deadline.seconds(timeout)
        host = self._given or current.now or host_of(None)
        data = host.read(variable.get, self._key)
        if data is None:
            drive.run(host, self._get_flow(host, timeout))
            return self.get(timeout)
        return pickle.loads(data) if data[:1] == payload.PICKLE else self._get_held(host, timeout)

    def _get_held(self, host: EmbeddedHost, timeout_s: float | None) -> Any:
        held = host.transact(variable.get_held, self._key, host.session)
        return self.get(timeout_s) if held is None else payload.decode(host, held.data, held.uses)

    def _get_flow(self, host: EmbeddedHost, timeout_s: float | None) -> Flow[None]:
        key = self._key
        answer = yield from drive.waiting(
            host,
            lambda waiter: host.transact(variable.await_set, key, waiter),
            lambda waiter: True if host.read(variable.get, key) is not None else BUSY,
            lambda waiter: host.transact(waiters.withdraw, waiter),
            timeout_s,
        )
        if answer is LATE:
            raise self._late(timeout_s)

    def delete(self) -> None:
        """Unset it; harmless if it was. `get` waits again."""
        self._host.transact(variable.delete, self._key)
