"""The handles of topics: Pub and Sub."""

from __future__ import annotations

import threading
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from ... import deadline
from ...deadline import Timeout
from ...engine.local import payload
from ...errors import Misuse
from ...hosts import current
from ...hosts.embedded import EmbeddedHost
from ...primitives import topic, values, waiters
from ...store.transaction import Waiter
from .. import drive
from ..drive import LATE, Flow
from ..hall import host_of
from .handle import Handle


class Pub(Handle):
    """Publishes on a topic: everybody who subscribed before gets the message. Does not wait for anybody."""

    _kind = "topic"

    def put(self, value: Any) -> None:
        """Publish a message, any value that pickles."""
        host = self._given or current.now or host_of(None)
        stored, spent = self._store(host, value)
        try:
            host.transact(topic.publish, self._key, (stored,))
        finally:
            if spent:
                host.defer(values.release_for, host.session, spent)


class Sub(Handle):
    """Subscribes to a topic: gets every message published from its making on, in order. Its own endless iterator."""

    _kind = "topic"
    _FETCH = 512

    def __init__(self, name: Any = None, *, hall: Any = None, client: Any = None) -> None:
        super().__init__(name, hall=hall, client=client)
        host = self._given = self._host
        self._subscribe(host)

    def _subscribe(self, host: EmbeddedHost) -> None:
        self._session = host.session
        self._id = uuid.uuid4().bytes
        self._turn = threading.Lock()
        self._fetched: deque[bytes] = deque()
        self._is_open = True
        host.transact(topic.subscribe, self._key, self._id, self._session)

    def _opened(self) -> EmbeddedHost:
        """The hall, sure that the subscription is ours: a forked child gets one of its own, from now on."""
        host = self._given or current.now or host_of(None)
        if not self._is_open:
            raise Misuse(f"subscription to {self.name!r:.60}: it is closed; make another Sub")
        if self._session != host.session:
            self._subscribe(host)
        return host

    def get(self, timeout: Timeout = None) -> Any:
        """The next message; waits for one. Raises TimedOut.

        Threads that share the subscription get each message once: one of them fetches, the others wait behind it.
        """
        timeout_s = None if timeout is None else deadline.seconds(timeout)
        host = self._opened()
        try:
            return payload.unpack(host, self._fetched.popleft())
        except IndexError:
            return payload.unpack(host, self._await_message(host, timeout_s))

    def _await_message(self, host: EmbeddedHost, timeout_s: float | None) -> bytes:
        until = deadline.after(timeout_s)
        while True:
            left_s = deadline.left(until)
            if not self._turn.acquire(timeout=-1 if left_s is None else min(left_s, threading.TIMEOUT_MAX)):
                raise self._late(timeout_s)
            try:
                if not self._fetched:
                    # Nobody is ahead of us here: to look before standing in line is fair, and costs no commit.
                    host.look(left_s, topic.has_news, self._key, self._id)
                    if not drive.run(host, self._fetch_flow(host, deadline.left(until))):
                        raise self._late(timeout_s)
            finally:
                self._turn.release()
            with suppress(IndexError):
                return self._fetched.popleft()

    def _fetch_flow(self, host: EmbeddedHost, timeout_s: float | None) -> Flow[bool]:
        """Fetch what there is. False if nothing came in time."""

        def fetch(waiter: Waiter | None) -> Any:
            return host.transact(topic.fetch, self._key, self._id, self._FETCH, host.session, waiter)

        answer = yield from drive.waiting(
            host,
            fetch,
            lambda waiter: fetch(None),
            lambda waiter: host.transact(waiters.withdraw, waiter),
            timeout_s,
        )
        if answer is LATE:
            return False
        if not answer:
            raise Misuse(f"subscription to {self.name!r:.60}: it is closed; make another Sub")
        self._fetched.extend(answer)
        return True

    def next(self, timeout: Timeout = None) -> Any:
        """The next message, as `get`."""
        return self.get(timeout)

    __next__ = next

    def __iter__(self) -> Iterator[Any]:
        return self

    def close(self) -> None:
        """Unsubscribe."""
        if self._is_open:
            self._is_open = False
            host = self._given
            if host is not None and self._session == host._session:  # In a forked child it is the parent's.
                host.defer(topic.unsubscribe, self._key, self._id, self._session)
                if unread := tuple(use for message in self._fetched for use in values.uses_of(message)):
                    host.defer(values.release_for, self._session, unread)
                self._fetched.clear()

    def __del__(self) -> None:
        if hasattr(self, "_is_open"):
            self.close()
