"""What users hold of the primitives. A handle is a name and a hall; it pickles by name.

Each blocking method has its flow (`_flow` in the name), which `guildhall.aio` runs too.
"""

from __future__ import annotations

import itertools
import os
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
from ..primitives.op import BUSY, Answer
from ..primitives.values import STORED, Stored
from ..store.transaction import Waiter
from . import drive
from .drive import LATE, Flow
from .hall import host_of, packed

_handles = itertools.count(1)


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

    def _store(self, value: Any) -> tuple[Stored, tuple[bytes, ...]]:
        return payload.store(self._host, value, f"{self._kind} {self.name!r:.60}: the value")

    def _late(self, timeout_s: float | None) -> TimedOut:
        return TimedOut(f"{self._kind} {self.name!r:.60}: nothing came within {timeout_s:g} s")


class Variable(Handle):
    """A global variable: one value, set and read by every process of the hall.

    Reading and then setting is not atomic: guard it with a `Lock`.
    """

    _kind = "variable"

    def set(self, value: Any, timeout: Timeout = None) -> None:
        """Set the value, any that pickles or a Future, whose result it keeps alive. Raises Unpicklable (TypeError)."""
        deadline.seconds(timeout)
        host = self._host
        stored, spent = self._store(value)
        try:
            host.transact(variable.put, self._key, stored)
        finally:
            if spent:
                host.defer(values.release_for, host.session, spent)

    def get(self, timeout: Timeout = None) -> Any:
        """The value. Waits until it is first set; raises TimedOut (a TimeoutError).

        If you stop waiting, nothing is left behind.
        """
        host = self._given or host_of(None)
        if timeout is not None:
            deadline.seconds(timeout)
        data = host.read(variable.get, self._key)
        if data is None:
            drive.run(host, self._get_flow(host, deadline.seconds(timeout)))
            return self.get(timeout)
        stored = STORED.unpack(data)
        if stored.uses:
            return self._get_held(host, timeout)
        return payload.decode(host, stored.data)

    def _get_held(self, host: EmbeddedHost, timeout: Timeout) -> Any:
        held = host.transact(variable.get_held, self._key, host.session)
        return self.get(timeout) if held is None else payload.decode(host, held.data, held.uses)

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
        host = self._host
        return drive.run(host, self._wait_flow(host, deadline.seconds(timeout)))

    def _wait_flow(self, host: EmbeddedHost, timeout_s: float | None) -> Flow[bool]:
        answer = yield from drive.waiting(
            host,
            lambda waiter: host.transact(event.wait, self._key, waiter),
            lambda waiter: True,
            lambda waiter: host.transact(waiters.withdraw, waiter),
            timeout_s,
        )
        return answer is not LATE


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

    def _me(self, host: EmbeddedHost) -> lock.Holder:
        return lock.Holder(host.session, self._handle, host.wait_number())

    def acquire(self, blocking: bool = True, timeout: Timeout = None) -> bool:
        """True when it is held, False when the time was up. `blocking=False` tries once."""
        timeout_s = self._patience_s(blocking, timeout)
        host = self._host
        me = self._me(host)
        try:
            answer = host.transact(lock.acquire, self._key, me, None)
            if not isinstance(answer, Answer):
                self._grant = answer
                return True
            return drive.run(host, self._acquire_flow(host, me, timeout_s))
        except Exception:
            raise
        except BaseException:  # Ctrl-C may come when it is ours already, and nobody would release it.
            self._abandon(host, me)
            raise

    def _abandon(self, host: EmbeddedHost, me: lock.Holder) -> None:
        host.transact(lock.withdraw, self._key, Waiter(me.session, me.attempt, 0))

    def _patience_s(self, blocking: bool, timeout: Timeout) -> float | None:
        if blocking:
            return deadline.seconds(timeout)
        if timeout is not None:
            raise Misuse(f"lock {self.name!r:.60}: blocking=False tries once, timeout {timeout!r} is for blocking=True")
        return 0.0

    def _acquire_flow(self, host: EmbeddedHost, me: lock.Holder, timeout_s: float | None) -> Flow[bool]:
        key = self._key

        def granted(waiter: Waiter) -> Any:
            held = host.read(lock.look, key)
            mine = held is not None and (held.session, held.grant) == (waiter.session, waiter.number)
            return held if mine else BUSY

        answer = yield from drive.waiting(
            host,
            lambda waiter: host.transact(lock.acquire, key, me, waiter),
            granted,
            lambda waiter: host.transact(lock.withdraw, key, waiter),
            timeout_s,
            number=me.attempt,
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
            host = self._host
            host.transact(lock.release, self._key, lock.Holder(host.session, self._handle))
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
            self._host.transact(queue.register, self._key, maxsize)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self.maxsize)

    def put(self, value: Any, timeout: Timeout = None) -> None:
        """Append the item; waits while the queue is full. Raises TimedOut; then nothing was put."""
        host = self._host
        drive.run(host, self._put_flow(host, value, deadline.seconds(timeout)))

    def _put_flow(self, host: EmbeddedHost, value: Any, timeout_s: float | None) -> Flow[None]:
        stored, spent = self._store(value)
        try:
            answer = yield from drive.waiting(
                host,
                lambda waiter: host.transact(queue.put, self._key, self.maxsize, stored, waiter),
                lambda waiter: True,
                lambda waiter: host.transact(queue.withdraw_put, self._key, waiter, stored),
                timeout_s,
                leave=lambda waiter: host.transact(queue.withdraw_put, self._key, waiter, stored),
            )
        finally:
            if spent:
                host.defer(values.release_for, host.session, spent)
        if answer is LATE:
            raise TimedOut(f"queue {self.name!r:.60}: still full after {timeout_s:g} s")

    def put_many(self, items: Any) -> None:
        """Append all items in one step, whatever the bound."""
        host = self._host
        items = list(items)  # Futures that only a generator made hold their results until the queue does.
        kept: list[tuple[Stored, tuple[bytes, ...]]] = []
        try:
            kept.extend(map(self._store, items))
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
        self._check_batch(batch)
        host = self._host
        return drive.run(host, self._get_flow(host, deadline.seconds(timeout), batch))

    def _check_batch(self, batch: Any) -> None:
        if batch is not True and (not isinstance(batch, int) or batch < 0):
            raise Misuse(f"queue {self.name!r:.60}: batch {batch!r:.60}: expected True or a number of items")

    def _get_flow(self, host: EmbeddedHost, timeout_s: float | None, batch: bool | int) -> Flow[Any]:
        want = 0 if batch is True else int(batch) or 1
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
        if not batch:
            return payload.decode(host, answer[0].data, answer[0].uses)
        try:
            items = [payload.decode(host, item.data) for item in answer]
        except BaseException:  # One that cannot be read does not take its neighbours along.
            host.transact(queue.put_back, key, session, answer)
            raise
        uses = tuple(use for item in answer for use in item.uses)
        if uses:
            host.defer(values.release_for, session, uses)
        return items

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
        host = self._host
        stored, spent = self._store(value)
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
        self._pid = os.getpid()
        self._id = uuid.uuid4().bytes
        self._turn = threading.Lock()
        self._fetched: deque[Stored] = deque()
        self._is_open = True
        host.transact(topic.subscribe, self._key, self._id, host.session)

    def _opened(self) -> EmbeddedHost:
        """The hall, sure that the subscription is ours: a forked child gets one of its own, from now on."""
        host = self._host
        if not self._is_open:
            raise Misuse(f"subscription to {self.name!r:.60}: it is closed; make another Sub")
        if self._pid != os.getpid():
            self._subscribe(host)
        return host

    def get(self, timeout: Timeout = None) -> Any:
        """The next message; waits for one. Raises TimedOut.

        Threads that share the subscription get each message once: one of them fetches, the others wait behind it.
        """
        timeout_s = deadline.seconds(timeout)
        host = self._opened()
        until = deadline.after(timeout_s)
        while True:
            with suppress(IndexError):
                message = self._fetched.popleft()
                return payload.decode(host, message.data, message.uses)
            left_s = deadline.left(until)
            if not self._turn.acquire(timeout=-1 if left_s is None else min(left_s, threading.TIMEOUT_MAX)):
                raise self._late(timeout_s)
            try:
                if not self._fetched and not drive.run(self._opened(), self._fetch_flow(host, deadline.left(until))):
                    raise self._late(timeout_s)
            finally:
                self._turn.release()

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
            if host is not None and self._pid == os.getpid():  # In a forked child it is the parent's.
                host.defer(topic.unsubscribe, self._key, self._id, host.session)

    def __del__(self) -> None:
        if hasattr(self, "_is_open"):
            self.close()


Return = Literal["ALL_COMPLETED", "FIRST_COMPLETED"]
