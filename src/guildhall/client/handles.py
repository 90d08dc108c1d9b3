"""What users hold of the primitives. A handle is a name and a hall; it pickles by name.

Each blocking method has its flow (`_flow` in the name), which `guildhall.aio` runs too.
"""

from __future__ import annotations

import itertools
import os
import pickle
import threading
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Literal, Self

from .. import deadline
from ..deadline import Timeout
from ..engine.local import payload
from ..errors import Misuse, TimedOut, WrongType
from ..hosts.embedded import EmbeddedHost
from ..primitives import event, lock, queue, topic, values, variable, waiters
from ..primitives.op import BUSY
from ..store.transaction import Waiter
from . import drive
from .drive import LATE, Flow
from .hall import host_of, packed

_handles = itertools.count(1)
_attempts = itertools.count(1)
"""Attempts to get a lock that bring no waiter have negative numbers, so that none is a wait's."""


class Handle:
    """A name in a hall. Without a name it gets a unique one; without a hall it finds the current one when used."""

    _kind = "handle"

    def __init__(self, name: Any = None, *, hall: Any = None, client: Any = None) -> None:
        self.name = name or f"{self._kind}-{uuid.uuid4().hex}"
        if isinstance(self.name, list):
            self.name = tuple(self.name)
        self._key = packed(self._kind, self.name)
        given = hall if hall is not None else client
        self._given: EmbeddedHost | None = None if given is None else host_of(given)

    @property
    def _host(self) -> EmbeddedHost:
        return self._given or host_of(None)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name,)

    def _store(self, host: EmbeddedHost, value: Any) -> tuple[bytes, tuple[bytes, ...]]:
        if type(value) in payload.PLAIN:
            data = pickle.dumps(value, 5)
            if len(data) <= payload.INLINE_BYTES:
                return data, ()
        return payload.store(host, value, f"{self._kind} {self.name!r:.60}: the value")

    def _late(self, timeout_s: float | None) -> TimedOut:
        return TimedOut(f"{self._kind} {self.name!r:.60}: nothing came within {timeout_s:g} s")


class Variable(Handle):
    """A global variable: one value, set and read by every process of the hall.

    Reading and then setting is not atomic: guard it with a `Lock`.
    """

    _kind = "variable"

    def set(self, value: Any, timeout: Timeout = None) -> None:
        """Set the value, any that pickles or a Future, whose result it keeps alive. Raises Unpicklable (TypeError)."""
        if timeout is not None:
            deadline.seconds(timeout)
        host = self._given or host_of(None)
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
        host = self._given or host_of(None)
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


class Event(Handle):
    """A flag to wait for, as `threading.Event`, across processes."""

    _kind = "event"

    def set(self) -> None:
        """Raise the flag: everybody who waits goes on."""
        self._host.transact(event.put, self._key)

    def clear(self) -> None:
        """Lower the flag."""
        self._host.transact(event.clear, self._key)

    def is_set(self) -> bool:
        return self._host.read(event.is_set, self._key)

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
            lambda waiter: host.transact(waiters.withdraw, waiter),
            timeout_s,
        )
        return answer is not LATE


def _attempt_of(waiter: Waiter | None) -> int:
    return -next(_attempts) if waiter is None else waiter.number


class Lock(Handle):
    """A lock with one holder in the whole hall, fair, freed when its holder's process dies.

    The holder is this object: any thread of the process may release it through the object that acquired it, no other
    object may (`NotHeld`). Not reentrant.

        with Lock("accounts"):
            ...

    If you stop waiting, you leave the line, and a grant that came meanwhile goes to the next. If the holder dies, the
    longest waiter holds the lock from then on; `previous_holder_died` tells it.
    """

    _kind = "lock"

    def __init__(self, name: Any = None, *, hall: Any = None, client: Any = None) -> None:
        super().__init__(name, hall=hall, client=client)
        self._handle = next(_handles)
        self._grant: lock.Lock | None = None
        self._was_busy = False  # When last asked for: then the next acquire brings a waiter at once.

    def acquire(self, blocking: bool = True, timeout: Timeout = None) -> bool:
        """True when it is held, False when the time was up. `blocking=False` tries once."""
        timeout_s = None if blocking and timeout is None else self._patience_s(blocking, timeout)
        host = self._given or host_of(None)
        if self._was_busy:
            return drive.run(host, self._acquire_flow(host, timeout_s))
        attempt = -next(_attempts)
        try:
            answer = host.transact(lock.acquire, self._key, host.session, self._handle, attempt, None)
            if answer is BUSY:
                return drive.run(host, self._acquire_flow(host, timeout_s))
            self._grant = answer  # type: ignore[assignment]
            return True
        except Exception:
            raise
        except BaseException:  # Ctrl-C may come when it is ours already, and nobody would release it.
            host.transact(lock.withdraw, self._key, Waiter(host.session, attempt, 0))
            raise

    def _patience_s(self, blocking: bool, timeout: Timeout) -> float | None:
        if blocking:
            return deadline.seconds(timeout)
        if timeout is not None:
            raise Misuse(f"lock {self.name!r:.60}: blocking=False tries once, timeout {timeout!r} is for blocking=True")
        return 0.0

    def _acquire_flow(self, host: EmbeddedHost, timeout_s: float | None) -> Flow[bool]:
        key, session, handle = self._key, host.session, self._handle
        self._was_busy = False

        def granted(waiter: Waiter) -> Any:
            self._was_busy = True
            held = host.read(lock.look, key)
            mine = held is not None and (held.session, held.grant) == (waiter.session, waiter.number)
            return held if mine else BUSY

        answer = yield from drive.waiting(
            host,
            lambda waiter: host.transact(lock.acquire, key, session, handle, _attempt_of(waiter), waiter),
            granted,
            lambda waiter: host.transact(lock.withdraw, key, waiter),
            timeout_s,
        )
        if answer is LATE:
            return False
        self._grant = answer
        return True

    def release(self) -> bool:
        """Give it up. Raises NotHeld (RuntimeError, ValueError) if this object does not hold it."""
        # Before: a thread that waits with this object has its own grant from the commit on.
        grant, self._grant = self._grant, None
        try:
            host = self._given or host_of(None)
            host.transact(lock.release, self._key, host.session, self._handle)
            return True
        except Exception:
            raise
        except BaseException:  # Ctrl-C: whether it is released already or not, it is released now.
            self._let_go(grant)
            raise

    def _let_go(self, grant: lock.Lock | None) -> None:
        if grant is not None:
            self._host.transact(lock.let_go, self._key, grant.token)

    def locked(self) -> bool:
        """Whether anybody holds the lock of this name."""
        return self._host.read(lock.look, self._key) is not None

    @property
    def fencing_token(self) -> int | None:
        """A number that grows with every grant of any lock in the hall; None when this object does not hold it."""
        return None if self._grant is None else self._grant.token

    @property
    def previous_holder_died(self) -> bool:
        """Whether this object got the lock because its holder died."""
        return self._grant is not None and self._grant.is_inherited

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *exc: object) -> None:
        grant = self._grant
        try:
            self.release()
        except Exception:
            raise
        except BaseException:
            self._let_go(grant)
            raise


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
        if self._given is not None or _has_host():
            self._host.insist(queue.register, self._key, maxsize)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self.maxsize)

    def put(self, value: Any, timeout: Timeout = None) -> None:
        """Append the item; waits while the queue is full. Raises TimedOut; then nothing was put."""
        timeout_s = None if timeout is None else deadline.seconds(timeout)
        host = self._given or host_of(None)
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
        host = self._given or host_of(None)
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


def _has_host() -> bool:
    from ..hosts import current

    return current.current() is not None or bool(os.environ.get("GUILDHALL"))


class Pub(Handle):
    """Publishes on a topic: everybody who subscribed before gets the message. Does not wait for anybody."""

    _kind = "topic"

    def put(self, value: Any) -> None:
        """Publish a message, any value that pickles."""
        host = self._given or host_of(None)
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
        host = self._given or host_of(None)
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
                    drive.look(host, left_s, topic.has_news, self._key, self._id)
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

    def __del__(self) -> None:
        if hasattr(self, "_is_open"):
            self.close()


Return = Literal["ALL_COMPLETED", "FIRST_COMPLETED"]
