"""The primitives for `asyncio`: the same names and meanings, with `await`. One flow runs under both."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from contextlib import suppress
from sys import _getframe
from types import FrameType
from typing import Any, NoReturn, Self, TypeVar

from . import deadline
from .client import drive, handles
from .client.agents import entered, forget, task_number
from .client.handles.change import Change
from .client.handles.election import Leader
from .client.handles.held import give_up
from .client.handles.topic import Entry, _direct
from .client.handles.variable import ANY
from .client.handles.watch import CLOSED
from .deadline import Timeout
from .errors import Closed, Misuse, TimedOut
from .hosts.embedded import EmbeddedHost
from .primitives import election, queue, rwlock, values
from .primitives.deadlock import Hold
from .primitives.op import BUSY

T = TypeVar("T")

__all__ = [
    "Event", "Lock", "Pub", "Queue", "Sub", "Variable",
    "MultiLock", "RLock", "RWLock", "Semaphore",
    "Counter", "Watch",
    "PriorityQueue",
    "Barrier", "Condition", "Election", "Latch", "RateLimiter",
]  # fmt: skip


class Variable(handles.Variable):
    """As `guildhall.Variable`."""

    async def get(self, timeout: Timeout = None) -> Any:
        host = self._host
        timeout_s = deadline.seconds(timeout)
        until = deadline.after(timeout_s)
        while True:
            try:
                await drive.arun(host, self._get_flow(host, deadline.left(until)))
            except TimedOut:
                raise self._late(timeout_s) from None
            with suppress(TimedOut):  # Deleted meanwhile: wait again, here and not in the loop's thread.
                return super().get(0)

    async def set(self, value: Any, timeout: Timeout = None) -> None:  # type: ignore[override]
        super().set(value, timeout)

    async def delete(self) -> None:  # type: ignore[override]
        super().delete()

    async def update(self, fn: Callable[[Any], Any], timeout: Timeout = None) -> Any:
        """As there; `fn` may also be a coroutine function. Another one keeps the event loop for as long as it runs."""
        host = self._host
        with self._change(host, fn, timeout) as change:
            while True:
                now = await drive.arun(host, change.read_flow(awaits_set=True))
                new = await _awaited(fn(now.value))
                if change.swap(new):
                    return new

    async def compare_and_set(  # type: ignore[override]
        self, expected: Any = ANY, new: Any = ANY, *, expected_version: int | None = None, timeout: Timeout = None
    ) -> bool:
        compare = self._comparison(expected, new, expected_version)
        host = self._host
        with Change(self, host, deadline.seconds(timeout)) as change:
            while compare(await drive.arun(host, change.read_flow(awaits_set=False))):
                if change.swap(new):
                    return True
            return False

    def watch(self, timeout: Timeout = None) -> Watch:
        return Watch(self, timeout)

    async def wait_for(self, predicate: Callable[[Any], Any], timeout: Timeout = None) -> Any:
        """As there; the predicate may also be a coroutine function."""
        timeout_s = self._seconds_for(predicate, timeout)
        until, host = deadline.after(timeout_s), self._host
        watch = Watch(self)
        while True:
            try:
                now = await drive.arun(host, watch._newer_flow(host, deadline.left(until)))
            except TimedOut:
                raise self._unsatisfied(timeout_s) from None
            if await _awaited(predicate(value := watch._given(now))):
                return value


async def _awaited(answer: Any) -> Any:
    """What the user's function answered, or what its coroutine did. A Future is an answer."""
    return await answer if inspect.iscoroutine(answer) else answer


class Watch(handles.Watch):
    """As `guildhall.Watch`; iterate with `async for`."""

    async def get(self, timeout: Timeout = None) -> Any:
        host = self._handle._host
        return self._given(await drive.arun(host, self._newer_flow(host, deadline.seconds(timeout))))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        host = self._handle._host
        now = await drive.arun(host, self._newer_flow(host, self._timeout_s))
        if now is CLOSED:
            raise StopAsyncIteration
        return self._given(now)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()


class Counter(handles.Counter):
    """As `guildhall.Counter`."""

    async def add(self, n: int = 1) -> int:  # type: ignore[override]
        return super().add(n)

    async def get(self) -> int:  # type: ignore[override]
        return super().get()

    async def set(self, value: int) -> None:  # type: ignore[override]
        super().set(value)

    async def delete(self) -> None:  # type: ignore[override]
        super().delete()

    async def reset(self) -> int:  # type: ignore[override]
        return super().reset()


class Event(handles.Event):
    """As `guildhall.Event`."""

    async def wait(self, timeout: Timeout = None) -> bool:  # type: ignore[override]
        host = self._host
        return await drive.arun(host, self._wait_flow(host, deadline.seconds(timeout)))

    async def set(self) -> None:  # type: ignore[override]
        super().set()

    async def delete(self) -> None:  # type: ignore[override]
        super().delete()

    async def clear(self) -> None:  # type: ignore[override]
        super().clear()


class Lock(handles.Lock):
    """As `guildhall.Lock`; the holder is this object, so two coroutines that share it exclude each other."""

    async def acquire(self, blocking: bool = True, timeout: Timeout = None) -> bool:  # type: ignore[override]
        host = self._host
        timeout_s = self._patience_s(blocking, timeout)
        return await drive.arun(host, self._acquire_flow(host, timeout_s))

    async def release(self) -> bool:  # type: ignore[override]
        return super().release()

    async def renew(self) -> None:  # type: ignore[override]
        super().renew()

    async def __aenter__(self) -> Self:
        frame = _getframe(1)
        await self.acquire()
        entered[self] = frame
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        entered.pop(self, None)
        give_up(error, super().release)


class RLock(handles.RLock):
    """As `guildhall.RLock`; the owner is the current task of asyncio: its coroutines, and no other task, take it again.

    A task that ends without releasing leaves it held until its process dies.
    """

    @staticmethod
    def _owner() -> int:
        task = asyncio.current_task()
        if task is None:
            raise Misuse("rlock: its owner is the task of asyncio that runs, and none does; call it in a coroutine")
        return task_number(task)

    async def acquire(self, blocking: bool = True, timeout: Timeout = None) -> bool:  # type: ignore[override]
        host = self._host
        return await drive.arun(host, self._take_flow(host, self._owner(), self._patience_s(blocking, timeout)))

    async def release(self) -> bool:  # type: ignore[override]
        return super().release()

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        give_up(error, super().release)


class RWLock(handles.RWLock):
    """As `guildhall.RWLock`; `async with lock.read():`. The holder is this object, which coroutines may share."""

    def read(self) -> Side:  # type: ignore[override]
        return Side(self, rwlock.READ)

    def write(self) -> Side:  # type: ignore[override]
        return Side(self, rwlock.WRITE)

    async def acquire_read(self, blocking: bool = True, timeout: Timeout = None) -> bool:  # type: ignore[override]
        host = self._host
        return await drive.arun(host, self._take_flow(host, rwlock.READ, self._patience_s(blocking, timeout)))

    async def acquire_write(self, blocking: bool = True, timeout: Timeout = None) -> bool:  # type: ignore[override]
        host = self._host
        return await drive.arun(host, self._take_flow(host, rwlock.WRITE, self._patience_s(blocking, timeout)))

    async def release_read(self) -> bool:  # type: ignore[override]
        return super().release_read()

    async def release_write(self) -> bool:  # type: ignore[override]
        return super().release_write()


class Side:
    """What `read()` and `write()` answer: an asynchronous context that may be entered any number of times."""

    def __init__(self, lock: RWLock, units: int) -> None:
        self._lock = lock
        self._units = units

    def holds(self, host: EmbeddedHost) -> Iterable[Hold]:
        """What an `async with` block gives back."""
        return self._lock._holds(host, self._units)

    async def __aenter__(self) -> None:
        frame = _getframe(1)
        host = self._lock._host
        await drive.arun(host, self._lock._take_flow(host, self._units, None))
        entered[self] = frame

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        entered.pop(self, None)
        give_up(error, lambda: self._lock._release(self._units))


class MultiLock(handles.MultiLock):
    """As `guildhall.MultiLock`; the holder is this object."""

    async def acquire(  # type: ignore[override]
        self, blocking: bool = True, timeout: Timeout = None, num_locks: int | None = None
    ) -> bool:
        host = self._host
        return await drive.arun(host, self._take_flow(host, *self._terms(blocking, timeout, num_locks)))

    async def release(self) -> bool:  # type: ignore[override]
        return super().release()

    async def __aenter__(self) -> Self:
        frame = _getframe(1)
        await self.acquire()
        entered[self] = frame
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        entered.pop(self, None)
        give_up(error, super().release)


class Semaphore(handles.Semaphore):
    """As `guildhall.Semaphore`; leases belong to this object, which coroutines may share."""

    async def acquire(self, blocking: bool = True, timeout: Timeout = None) -> bool:  # type: ignore[override]
        host = self._host
        return await drive.arun(host, self._take_flow(host, 1, self._patience_s(blocking, timeout)))

    async def release(self) -> bool:  # type: ignore[override]
        return super().release()

    async def close(self) -> None:  # type: ignore[override]
        super().close()

    async def __aenter__(self) -> Self:
        frame = _getframe(1)
        await self.acquire()
        entered[self, frame] = frame
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        forget(self, _getframe(1))
        give_up(error, super().release)


class Queue(handles.Queue):
    """As `guildhall.Queue`; iterate with `async for`, take with `async with queue.take() as item`."""

    async def put(  # type: ignore[override]
        self, value: Any, timeout: Timeout = None, *, delay: Timeout = None, priority: float = 0
    ) -> None:
        timeout_s, due, rank = deadline.seconds(timeout), self._due(delay), self._rank(priority)
        host = self._host
        stored, spent = self._store(host, value)
        try:
            await drive.arun(host, self._put_flow(host, queue.item(stored, rank, due), timeout_s))
        finally:
            if spent:
                host.defer(values.release_for, host.session, spent)

    async def put_many(self, items: Any) -> None:  # type: ignore[override]
        super().put_many(items)

    async def get(self, timeout: Timeout = None, batch: bool | int = False) -> Any:
        want = self._want(batch)
        timeout_s = deadline.seconds(timeout)
        host = self._host
        lane = host.lane()
        try:
            taken = await drive.arun(host, self._get_flow(host, lane, timeout_s, want))
            value, spent = self._open(host, lane, taken, batch)
            lane.words[lane.index] = lane.number
            lane.spent = spent
            return value
        except (TimedOut, Closed):
            raise
        except BaseException:
            self._take_back(host, lane)
            raise

    def take(self, timeout: Timeout = None, max_deliveries: int | None = None) -> Taking:  # type: ignore[override]
        """As `guildhall.Queue.take`: `async with queue.take() as item`, or `taken = await queue.take()`."""
        return Taking(self, deadline.seconds(timeout), self._limit(max_deliveries))

    async def _take(self, timeout_s: float | None, limit: int) -> Taken:
        host = self._host
        attempt = self._attempt()
        try:
            parcel = await drive.arun(host, self._take_flow(host, timeout_s, attempt, limit))
            return Taken(self, host, parcel, self._read(host, parcel))
        except (TimedOut, Closed):
            raise
        except BaseException:
            self._untake(host, attempt)
            raise

    @property
    def dead_letters(self) -> Queue:
        return Queue((self.name, "dead letters"), hall=self._given and handles.queue.Given(self._given))

    async def join(self, timeout: Timeout = None) -> bool:  # type: ignore[override]
        host = self._host
        return await drive.arun(host, self._join_flow(host, deadline.seconds(timeout)))

    async def task_done(self) -> None:  # type: ignore[override]
        super().task_done()

    async def close(self) -> None:  # type: ignore[override]
        super().close()

    async def delete(self) -> None:  # type: ignore[override]
        super().delete()

    async def reopen(self) -> None:  # type: ignore[override]
        super().reopen()

    def __iter__(self) -> NoReturn:
        raise TypeError(f"queue {self.name!r:.60}: this is guildhall.aio's; iterate with `async for`")

    async def __aiter__(self) -> AsyncIterator[Any]:
        while True:
            try:
                item = await self.get()
            except Closed:
                return
            yield item


class PriorityQueue(handles.PriorityQueue, Queue):
    """As `guildhall.PriorityQueue`."""


class Taken(handles.Taken):
    """As what `guildhall.Queue.take` gives."""

    async def ack(self) -> None:  # type: ignore[override]
        super().ack()

    async def nack(self, delay: Timeout = None) -> None:  # type: ignore[override]
        super().nack(delay)

    async def __aenter__(self) -> Any:
        return self.value

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._leave(error)


class Taking:
    """A take that has not begun: await it, or enter it with `async with`."""

    def __init__(self, queue: Queue, timeout_s: float | None, limit: int) -> None:
        self._queue = queue
        self._timeout_s = timeout_s
        self._limit = limit
        self._taken: Taken | None = None

    def __await__(self) -> Generator[Any, Any, Taken]:
        return self._queue._take(self._timeout_s, self._limit).__await__()

    async def __aenter__(self) -> Any:
        self._taken = await self
        return self._taken.value

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        assert self._taken is not None, "left without having been entered"
        self._taken._leave(error)


class Pub(handles.Pub):
    """As `guildhall.Pub`."""

    async def delete(self) -> None:  # type: ignore[override]
        super().delete()

    async def put(self, value: Any, timeout: Timeout = None) -> None:  # type: ignore[override]
        await self.put_many((value,), timeout)

    async def put_many(self, items: Iterable[Any], timeout: Timeout = None) -> None:  # type: ignore[override]
        timeout_s = deadline.seconds(timeout)
        host = self._host
        items = list(items)
        if host.is_far:
            await self._aput_far(host, items, timeout_s)
        else:
            await self._aput_in_hall(host, items, timeout_s)

    async def _aput_far(self, host: EmbeddedHost, items: list[Any], timeout_s: float | None) -> None:
        desk = _direct().desk_of(host)
        if not items or desk is None:
            await self._aput_in_hall(host, items, timeout_s)
            return
        if self._settings is not None:
            self._set_up(host)
        way, messages = _direct().prepare(self, host, desk, items)
        if way.is_heard:
            await self._aput_in_hall(host, items, timeout_s)
        if desk.office.full(way.channels):
            await asyncio.to_thread(desk.office.await_room, way.channels)
        _direct().send(self, desk, way, messages)

    async def _aput_in_hall(self, host: EmbeddedHost, items: list[Any], timeout_s: float | None) -> None:
        kept: list[tuple[bytes, tuple[bytes, ...]]] = []
        try:
            kept.extend(self._store(host, value) for value in items)
            messages = [stored for stored, _ in kept]
            if messages and self._publish(host, messages, None) is BUSY:
                await drive.arun(host, self._put_flow(host, messages, timeout_s))
        finally:
            self._let_go(host, kept)


class Sub(handles.Sub):
    """As `guildhall.Sub`; iterate with `async for`."""

    _line: tuple[asyncio.AbstractEventLoop, asyncio.Lock] | None = None

    async def get(self, timeout: Timeout = None) -> Any:
        timeout_s = deadline.seconds(timeout)
        host = self._opened()
        if self._fetched.bound and self._fetched:
            self._drop_stale(host)
        try:
            entry = self._fetched.popleft()
        except IndexError:
            entry = await self._wait_for_entry(host, timeout_s)
        return self._given_out(host, entry)

    async def _wait_for_entry(self, host: EmbeddedHost, timeout_s: float | None) -> Entry:
        if self._box is not None:
            entry: Entry = await _direct().anext_entry(self, host, self._box, timeout_s)
            return entry
        until = deadline.after(timeout_s)
        while True:
            line = self._in_line()
            try:
                async with asyncio.timeout(deadline.left(until) if line.locked() else None):
                    await line.acquire()
            except TimeoutError:
                raise self._late(timeout_s) from None
            try:
                if not self._fetched and not await drive.arun(host, self._fetch_flow(host, deadline.left(until))):
                    raise self._late(timeout_s)
            finally:
                line.release()
            with suppress(IndexError):
                return self._fetched.popleft()

    def _in_line(self) -> asyncio.Lock:
        """Where coroutines of this loop that share the subscription wait while one of them fetches."""
        loop = asyncio.get_running_loop()
        if self._line is None or self._line[0] is not loop:
            self._line = loop, asyncio.Lock()
        return self._line[1]

    async def next(self, timeout: Timeout = None) -> Any:
        return await self.get(timeout)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self.get()
        except Misuse:
            if self._is_open:
                raise
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, *rest: object) -> None:
        self._leave(is_done=kind is None)


class Latch(handles.Latch):
    """As `guildhall.Latch`."""

    async def delete(self) -> None:  # type: ignore[override]
        super().delete()

    async def count_down(self, n: int = 1) -> int:  # type: ignore[override]
        return super().count_down(n)

    async def wait(self, timeout: Timeout = None) -> bool:  # type: ignore[override]
        timeout_s = deadline.seconds(timeout)
        host = self._host
        return await drive.arun(host, self._wait_flow(host, timeout_s))


class Barrier(handles.Barrier):
    """As `guildhall.Barrier`. A wait that is cancelled leaves, and the others wait on. The action holds the loop up."""

    async def wait(self, timeout: Timeout = None) -> int:  # type: ignore[override]
        timeout_s = self._patience_s(timeout)
        host = self._host
        return await drive.arun(host, self._wait_flow(host, timeout_s))

    async def reset(self) -> None:  # type: ignore[override]
        super().reset()

    async def abort(self) -> None:  # type: ignore[override]
        super().abort()

    async def delete(self) -> None:  # type: ignore[override]
        super().delete()


class Condition(handles.Condition):
    """As `guildhall.Condition`; its lock is a `guildhall.aio.RLock` (or Lock), and its predicates are plain functions.

    Cancelled once more while it gets the lock back, a wait ends without it.
    """

    _locks = RLock, Lock
    _owner = staticmethod(RLock._owner)
    lock: Lock | RLock

    async def acquire(self, blocking: bool = True, timeout: Timeout = None) -> bool:  # type: ignore[override]
        self._arrive()
        return await self.lock.acquire(blocking, timeout)

    async def release(self) -> bool:  # type: ignore[override]
        return await self.lock.release()

    async def wait(self, timeout: Timeout = None) -> bool:  # type: ignore[override]
        timeout_s = deadline.seconds(timeout)
        host = self._host
        return await drive.arun(host, self._wait_flow(host, timeout_s))

    async def wait_for(self, predicate: Callable[[], T], timeout: Timeout = None) -> T:  # type: ignore[override]
        until = deadline.after(deadline.seconds(timeout))
        answer = predicate()
        while not answer and (left_s := deadline.left(until)) != 0:
            await self.wait(left_s)
            answer = predicate()
        return answer

    async def notify(self, n: int = 1) -> None:  # type: ignore[override]
        super().notify(n)

    async def notify_all(self) -> None:  # type: ignore[override]
        super().notify_all()

    def __enter__(self) -> Self:
        raise Misuse(f"condition {self.name!r:.60}: use `async with`")

    async def __aenter__(self) -> Self:
        frame = _getframe(1)
        await self.acquire()
        entered[self, frame] = frame
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        forget(self, _getframe(1))
        super().__exit__(kind, error, trace)

    def _forget(self, frame: FrameType) -> None:
        """Done already, when it was known whose block it is."""


class Election(handles.Election):
    """As `guildhall.Election`; watch with `async for`."""

    async def campaign(self, value: Any = None, timeout: Timeout = None) -> bool:  # type: ignore[override]
        timeout_s = deadline.seconds(timeout)
        host = self._host
        stored, spent = self._store(host, os.getpid() if value is None else value)
        try:
            return await drive.arun(host, self._campaign_flow(host, stored, timeout_s))
        finally:
            if spent:
                host.defer(values.release_for, host.session, spent)

    async def resign(self) -> None:  # type: ignore[override]
        super().resign()

    async def leader(self, timeout: Timeout = 0) -> Any:
        timeout_s = deadline.seconds(timeout)
        host = self._host
        found = host.read(election.look, self._key)
        if found is None and timeout_s != 0:
            found = await drive.arun(host, self._leader_flow(host, timeout_s))
        opened = self._opened(host, found)
        return None if opened is None else opened.value

    async def watch(self, timeout: Timeout = None) -> AsyncIterator[Leader | None]:  # type: ignore[override]
        timeout_s = deadline.seconds(timeout)
        host = self._host
        found = host.read(election.look, self._key)
        while True:
            yield self._opened(host, found)
            seen = 0 if found is None else found.changed
            change: Any = await drive.arun(host, self._change_flow(host, seen, timeout_s))
            if change is drive.LATE:
                raise self._late_change(timeout_s)
            found = change

    async def __aenter__(self) -> Self:
        frame = _getframe(1)
        await self.campaign()
        entered[self] = frame
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        entered.pop(self, None)
        give_up(error, super().resign)


class RateLimiter(handles.RateLimiter):
    """As `guildhall.RateLimiter`. Its loop counts milliseconds: who is late by one needs a burst to make up for it."""

    async def acquire(self, n: int = 1, timeout: Timeout = None) -> bool:  # type: ignore[override]
        number = self._number(n)
        timeout_s = deadline.seconds(timeout)
        host = self._host
        return await drive.arun(host, self._acquire_flow(host, number, timeout_s))

    async def delete(self) -> None:  # type: ignore[override]
        super().delete()

    async def try_acquire(self, n: int = 1) -> bool:  # type: ignore[override]
        return super().try_acquire(n)

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """What was let go is spent."""
