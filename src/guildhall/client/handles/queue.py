"""The handle of Queue."""

from __future__ import annotations

import os
from typing import Any

from ... import deadline
from ...deadline import Timeout
from ...engine.local import payload
from ...errors import Misuse, TimedOut, WrongType
from ...hosts import current
from ...hosts.embedded import EmbeddedHost
from ...primitives import queue, values
from ...primitives.op import BUSY
from .. import drive
from ..drive import LATE, Flow
from ..hall import host_of
from .handle import Handle


class Queue(Handle):
    """First in, first out, between any number of producers and consumers.

    `maxsize` (0: none) is the bound that the first handle gave; a put into a full queue waits.
    """

    _kind = "queue"

    def __init__(self, name: Any = None, maxsize: int = 0, *, hall: Any = None, client: Any = None) -> None:
        super().__init__(name, hall=hall, client=client)
        if isinstance(maxsize, bool) or not isinstance(maxsize, int):
            raise WrongType(f"queue {self.name!r}: maxsize: expected a whole number, got {maxsize!r}")
        if not 0 <= maxsize < 1 << 63:
            raise Misuse(f"queue {self.name!r:.60}: maxsize {maxsize!r:.30}: expected 0 (no bound) to 2**63 - 1")
        self.maxsize = maxsize
        if self._given is not None or (current.now is not None or os.environ.get("GUILDHALL")):
            self._host.insist(queue.register, self._key, maxsize)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self.maxsize)

    def put(self, value: Any, timeout: Timeout = None) -> None:
        """Append the item; waits while the queue is full. Raises TimedOut; then nothing was put."""
        timeout_s = None if timeout is None else deadline.seconds(timeout)
        host = self._given or current.now or host_of(None)
        stored, spent = self._store(host, value)
        try:
            if host.transact(queue.put, self._key, self.maxsize, stored, None) is BUSY:
                drive.run(host, self._put_flow(host, stored, timeout_s))
        finally:
            if spent:
                host.defer(values.release_for, host.session, spent)

    def _put_flow(self, host: EmbeddedHost, stored: bytes, timeout_s: float | None) -> Flow[None]:
        answer = yield from drive.waiting(
            host,
            lambda waiter: host.transact(queue.put, self._key, self.maxsize, stored, waiter),
            lambda waiter: True,
            lambda waiter: host.transact(queue.withdraw_put, self._key, waiter, stored),
            timeout_s,
            leave=lambda waiter: host.transact(queue.withdraw_put, self._key, waiter, stored),
        )
        if answer is LATE:
            raise TimedOut(f"queue {self.name!r:.60}: still full after {timeout_s:g} s")

    def put_many(self, items: Any) -> None:
        """Append all items in one step, whatever the bound."""
        host = self._host
        items = list(items)  # Futures that only a generator made hold their results until the queue does.
        kept: list[tuple[bytes, tuple[bytes, ...]]] = []
        try:
            kept.extend(self._store(host, value) for value in items)
            host.transact(queue.put_many, self._key, [stored for stored, _ in kept])
        finally:
            spent = tuple(oid for _, some in kept for oid in some)
            if spent:
                host.defer(values.release_for, host.session, spent)

    def get(self, timeout: Timeout = None, batch: bool | int = False) -> Any:
        """The first item; waits for one. `batch=n`: a list of n, `batch=True`: a list of all there are, maybe none.

        Raises TimedOut; then nothing was taken. If you stop waiting, what was on its way goes back to the head; so does
        a batch with an item that cannot be read, while such an item alone is taken and raises what its reading raised.
        """
        want = 1 if batch is False else self._want(batch)
        timeout_s = None if timeout is None else deadline.seconds(timeout)
        host = self._given or current.now or host_of(None)
        taken = host.transact(queue.get, self._key, self.maxsize, want, host.session, None)
        if taken is BUSY:
            taken = drive.run(host, self._get_flow(host, timeout_s, want))
        return payload.unpack(host, taken[0]) if not batch else self._unpacked(host, taken)  # type: ignore[index]

    def _want(self, batch: Any) -> int:
        """How many items a getter waits for; 0 for all there are."""
        if batch is True:
            return 0
        if not isinstance(batch, int) or batch < 0:
            raise Misuse(f"queue {self.name!r:.60}: batch {batch!r:.60}: expected True or a number of items")
        return int(batch) or 1

    def _unpacked(self, host: EmbeddedHost, taken: Any) -> list[Any]:
        try:
            items = [payload.decode(host, values.unpack(item).data) for item in taken]
        except BaseException:  # One that cannot be read does not take its neighbours along.
            host.transact(queue.put_back, self._key, host.session, taken)
            raise
        uses = tuple(use for item in taken for use in values.uses_of(item))
        if uses:
            host.defer(values.release_for, host.session, uses)
        return items

    def _get_flow(self, host: EmbeddedHost, timeout_s: float | None, want: int) -> Flow[tuple[bytes, ...]]:
        key, session = self._key, host.session
        answer = yield from drive.waiting(
            host,
            lambda waiter: host.transact(queue.get, key, self.maxsize, want, session, waiter),
            lambda waiter: host.transact(queue.collect, key, waiter),
            lambda waiter: host.transact(queue.withdraw_get, key, waiter),
            timeout_s,
            leave=lambda waiter: host.transact(queue.leave_get, key, waiter),
        )
        if answer is LATE:
            raise self._late(timeout_s)
        return answer  # type: ignore[no-any-return]

    def qsize(self) -> int:
        """How many items there are."""
        return self._host.read(queue.size, self._key)
