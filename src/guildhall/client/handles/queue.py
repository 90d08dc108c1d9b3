"""The handles of queues: Queue, PriorityQueue, and what `take` gives."""

from __future__ import annotations

import itertools
import math
import os
import pickle
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ... import deadline
from ...deadline import Timeout
from ...engine.local import payload
from ...errors import Closed, Misuse, NotHeld, StoreFull, TimedOut, WrongType
from ...hosts import current
from ...hosts.embedded import EmbeddedHost
from ...hosts.marks import Lane
from ...primitives import delivery, queue, values, waiters
from ...primitives.delivery import Parcel
from ...primitives.op import BUSY, Answer
from ...primitives.queue import CLOSED, Batch, Light
from ...store.records import UNREADABLE, damaged
from ...store.transaction import Waiter
from .. import drive
from ..drive import LATE, Flow
from ..hall import host_of
from .handle import Handle

if TYPE_CHECKING:
    from .statistics import QueueStatistics

_wall = deadline.wall
_attempts = itertools.count(1)
"""Takes of this process: Ctrl-C finds by its number what a take had taken already."""


DELETED_AT_ONCE = 256
"""So many items are thrown away in one transaction, so that nobody waits long for the store."""


class Queue(Handle):
    """First in, first out, between any number of producers and consumers.

        queue = Queue("jobs", max_deliveries=3)
        queue.put("https://example.org")
        with queue.take() as url:  # Comes back to the queue if this process dies here, or the body raises.
            fetch(url)

    `maxsize` (0: none) is the bound that the first handle gave; a put into a full queue waits. `max_deliveries` (0: any
    number) is how often an item is handed to a taker before it goes to `dead_letters`; the first handle that gives one
    decides.

    `get` is for items that may go down with whoever got them, `take` for those that must not. For news that everybody
    should hear, use `Pub` and `Sub`.
    """

    _kind = "queue"

    def __init__(
        self, name: Any = None, maxsize: int = 0, max_deliveries: int = 0, *, hall: Any = None, client: Any = None
    ) -> None:
        super().__init__(name, hall=hall, client=client)
        self.maxsize = self._number("maxsize", maxsize, "no bound")
        self.max_deliveries = self._number("max_deliveries", max_deliveries, "any number")
        if self._given is not None or (current.now is not None or os.environ.get("GUILDHALL")):
            self._host.insist(queue.register, self._key, maxsize, max_deliveries)

    def _number(self, what: str, given: Any, zero: str) -> int:
        if isinstance(given, bool) or not isinstance(given, int):
            raise WrongType(f"queue {self.name!r:.60}: {what}: expected a whole number, got {given!r:.60}")
        if not 0 <= given < 1 << 63:
            raise Misuse(f"queue {self.name!r:.60}: {what} {given!r:.30}: expected 0 ({zero}) to 2**63 - 1")
        return given

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self.maxsize, self.max_deliveries)

    # -- putting ------------------------------------------------------------------------------------------------------

    def put(self, value: Any, timeout: Timeout = None, *, delay: Timeout = None, priority: float = 0) -> None:
        """Append the item; waits while the queue is full. Raises TimedOut, and then nothing was put; raises Closed.

        `delay`: nobody gets it for so many seconds from now; then it stands where it would without. It counts for
        `maxsize` meanwhile. The time is the wall clock's, so that it holds when the machine was started anew.
        `priority` is a number, up to the 53 bits that a float holds exactly; the lowest comes first (`PriorityQueue`).

        If you stop waiting, nothing was put. If this process dies waiting, nothing was.
        """
        timeout_s = None if timeout is None else deadline.seconds(timeout)
        due = 0.0 if delay is None else self._due(delay)
        rank = 0.0 if priority == 0 else self._rank(priority)
        host = self._given or current.now or host_of(None)
        stored, spent = self._store(host, value)
        try:
            if rank or due:
                stored = queue.item(stored, rank, due)
            answer: Any = BUSY
            if not host.is_far or not self.maxsize or timeout_s == 0:  # Else it is one round trip, also if it waits.
                answer = host.transact(queue.put, self._key, self.maxsize, stored, None)
            if answer is not True:
                drive.run(host, self._put_flow(host, stored, timeout_s, answer))
        finally:
            if spent:
                host.defer(values.release_for, host.session, spent)

    def _put_flow(self, host: EmbeddedHost, stored: bytes, timeout_s: float | None, answer: Any = None) -> Flow[None]:
        """`answer` is that of an attempt made already."""

        def ask(waiter: Waiter | None) -> Any:
            return host.transact(queue.put, self._key, self.maxsize, stored, waiter)

        def collect(waiter: Waiter) -> Any:
            return host.read(waiters.is_gone, waiter) or host.transact(queue.collect_put, waiter)

        if answer is None:
            answer = BUSY if host.is_far and self.maxsize and timeout_s != 0 else ask(None)
        if answer is BUSY and timeout_s == 0:
            answer = LATE
        elif answer is BUSY:
            answer = yield from drive.waiting(
                host,
                ask,
                collect,
                lambda waiter: host.let_go(queue.leave_put, self._key, waiter, stored),
                timeout_s,
                leave=lambda waiter: host.transact(queue.withdraw_put, self._key, waiter, stored),
            )
        if answer is LATE:
            raise TimedOut(f"queue {self.name!r:.60}: still full after {timeout_s:g} s")
        if answer is CLOSED:
            raise self._closed("nothing can be put")

    def _due(self, delay: Timeout) -> float:
        """When the delay is over; 0 if there is none."""
        try:
            delay_s = deadline.seconds(delay)
        except (ValueError, TypeError) as error:
            kind = WrongType if isinstance(error, TypeError) else Misuse
            raise kind(f"queue {self.name!r:.60}: delay {delay!r:.60}: expected seconds, 0 or more") from None
        if delay_s is None:
            if delay is None:
                return 0.0
            raise Misuse(f"queue {self.name!r:.60}: delay {delay!r:.60}: expected a time that comes")
        return self._host.wall() + delay_s if delay_s else 0.0

    def _rank(self, priority: Any) -> float:
        if isinstance(priority, bool) or not isinstance(priority, int | float):
            raise WrongType(f"queue {self.name!r:.60}: priority: expected a number, got {priority!r:.60}")
        try:
            rank = float(priority)
        except OverflowError:
            rank = math.nan
        if rank != priority:  # Not a number, too.
            raise Misuse(f"queue {self.name!r:.60}: priority {priority!r:.60}: expected a number that a float can hold")
        return rank

    def put_many(self, items: Any) -> None:
        """Append all items in one step, whatever the bound. Raises Closed."""
        host = self._host
        items = list(items)  # Futures that only a generator made hold their results until the queue does.
        kept: list[tuple[bytes, tuple[bytes, ...]]] = []
        try:
            kept.extend(self._store(host, value) for value in items)
            if host.transact(queue.put_many, self._key, [stored for stored, _ in kept]) is CLOSED:
                raise self._closed("nothing can be put")
        finally:
            spent = tuple(oid for _, some in kept for oid in some)
            if spent:
                host.defer(values.release_for, host.session, spent)

    # -- getting ------------------------------------------------------------------------------------------------------

    def get(self, timeout: Timeout = None, batch: bool | int = False) -> Any:
        """The first item; waits for one. `batch=n`: a list of n, `batch=True`: a list of all there are, maybe none.

        Raises TimedOut, and then nothing was taken. Raises Closed once the queue is closed and nothing is left in it,
        delayed, or with a taker who may give it back; the last batch may then be shorter than n.

        If you stop waiting, what was on its way goes back to where it stood, also when Ctrl-C comes while the item is
        read. If this process dies before the call returns, so it does; what the call returned is gone. An item that
        cannot be read raises what its reading raised and goes to `dead_letters`; its batch goes back without it.
        """
        want = 1 if batch is False else self._want(batch)
        timeout_s = None if timeout is None else deadline.seconds(timeout)
        host = self._given or current.now or host_of(None)
        lane = host.lane()
        lane.number = number = lane.number + lane.step
        try:
            if host.is_far and timeout_s != 0:  # One round trip, also if it has to wait.
                taken: Any = BUSY
            else:
                try:
                    taken = host.transact(
                        queue.get, self._key, self.maxsize, want, lane.session, None, _wall(), lane.key, number,
                        lane.spent,
                    )  # fmt: skip
                except StoreFull:
                    taken = self._unguarded(host, lane, queue.get, self.maxsize, want, lane.session, None, _wall())
            if taken.__class__ is not tuple and not isinstance(taken, Batch):
                if not host.is_far:
                    lane.words[lane.index] = lane.number
                taken = drive.run(host, self._get_flow(host, lane, timeout_s, want, taken))
            if taken.__class__ is tuple and batch is False:
                spent, item = taken
                try:
                    value = pickle.loads(item)
                except Exception as error:
                    self._sort_out(host, lane, (item,), [0])
                    if isinstance(error, payload.SPOILED):
                        payload.tell_damage(error)
                    raise
            else:
                value, spent = self._open(host, lane, taken, batch)
            # These lines call nothing, so no Ctrl-C comes between them: to be marked is to be returned.
            lane.words[lane.index] = lane.number
            lane.spent = spent
            return value
        except (TimedOut, Closed):
            raise
        except BaseException:  # Ctrl-C, or what the handler of a signal raises.
            self._take_back(host, lane)
            raise

    def _try_get(self, host: EmbeddedHost, lane: Lane, want: int, waiter: Waiter | None) -> Any:
        return self._handed(host, lane, queue.get, self.maxsize, want, lane.session, waiter, _wall())

    def _handed(self, host: EmbeddedHost, lane: Lane, op: Any, *args: Any) -> Any:
        """What the op hands to this thread, if it does."""
        lane.number = number = lane.number + lane.step
        try:
            answer = host.transact(op, self._key, *args, lane.key, number, lane.spent)
        except StoreFull:
            answer = self._unguarded(host, lane, op, *args)
        if isinstance(answer, Answer) or answer is CLOSED:  # Other calls of this thread may come next: of coroutines.
            lane.words[lane.index] = lane.number
        return answer

    def _unguarded(self, host: EmbeddedHost, lane: Lane, op: Any, *args: Any) -> Any:
        """As `_handed`, in a full store: emptying it comes before keeping the item until it has arrived."""
        answer = host.transact(op, self._key, *args, lane.key, 0, lane.spent)
        lane.words[lane.index] = lane.number
        return answer

    @staticmethod
    def _take_back(host: EmbeddedHost, lane: Lane) -> None:
        """What this thread's last get was handed goes back, unless it arrived."""
        if lane.number > lane.words[lane.index]:
            host.transact(delivery.take_back, lane.key, lane.number)
            lane.words[lane.index] = lane.number

    def _want(self, batch: Any) -> int:
        """How many items a getter waits for; 0 for all there are."""
        if batch is True:
            return 0
        if not isinstance(batch, int) or batch < 0:
            raise Misuse(f"queue {self.name!r:.60}: batch {batch!r:.60}: expected True or a number of items")
        return int(batch) or 1

    def _open(self, host: EmbeddedHost, lane: Lane, taken: Light | Batch, batch: bool | int) -> tuple[Any, bytes]:
        """The items, or the one, and the key that this thread's next get is to delete."""
        spent, items = (b"", taken.items) if isinstance(taken, Batch) else (taken[0], taken[1:])
        read, unreadable, trouble = [], [], None
        for place, item in enumerate(items):
            try:
                read.append(payload.decode(host, _data(item)))
            except Exception as error:
                unreadable.append(place)
                trouble = error
        if trouble is not None:  # One that cannot be read does not take its neighbours along.
            self._sort_out(host, lane, items, unreadable)
            raise trouble
        if lane.number == lane.words[lane.index]:
            self._release(host, items)
        elif not spent:  # What is too much to be in hand until the next get goes soon.
            host.errand(_Arrival(host, lane))
            host.hurry()  # It keeps what it uses.
        return read if batch else read[0], spent

    def _sort_out(self, host: EmbeddedHost, lane: Lane, items: tuple[bytes, ...], unreadable: list[int]) -> None:
        if lane.number == lane.words[lane.index]:
            self._release(host, items)
        else:
            host.transact(delivery.sort_out, lane.key, lane.number, unreadable)
            lane.words[lane.index] = lane.number

    @staticmethod
    def _release(host: EmbeddedHost, items: tuple[bytes, ...]) -> None:
        """What was not in hand, this session held to read it."""
        uses = tuple(use for item in items for use in queue.uses_of(item))
        if uses:
            host.defer(values.release_for, host.session, uses)

    def _get_flow(
        self, host: EmbeddedHost, lane: Lane, timeout_s: float | None, want: int, answer: Any = None
    ) -> Flow[Light | Batch]:
        """`answer` is that of an attempt made already."""
        if answer is None:
            answer = BUSY if host.is_far and timeout_s != 0 else self._try_get(host, lane, want, None)

        def ask(waiter: Waiter | None) -> Any:
            return self._try_get(host, lane, want, waiter)

        def collect(waiter: Waiter) -> Any:
            return self._handed(host, lane, queue.collect, waiter)

        return (yield from self._served(host, answer, ask, collect, timeout_s))  # type: ignore[no-any-return]

    def _served(
        self,
        host: EmbeddedHost,
        answer: Any,
        ask: Callable[[Waiter | None], Any],
        collect: Callable[[Waiter], Any],
        timeout_s: float | None,
    ) -> Flow[Any]:
        """What a getter or taker is given: `answer`, or if that is BUSY what it comes to by waiting in line.

        Raises TimedOut, and Closed when nothing can come any more.
        """
        if answer is BUSY and timeout_s == 0:
            answer = LATE
        elif answer is BUSY:
            answer = yield from drive.waiting(
                host,
                ask,
                collect,
                lambda waiter: host.let_go(queue.withdraw_get, self._key, waiter),
                timeout_s,
                leave=lambda waiter: host.transact(queue.leave_get, self._key, waiter),
                due=lambda waiter: self._ripen(host),
            )
        if answer is LATE:
            raise self._late(timeout_s)
        if answer is CLOSED:
            raise self._closed("nothing is left")
        return answer

    def _ripen(self, host: EmbeddedHost) -> float | None:
        """Let delayed items that are due take their places. In how many seconds the next one is due."""
        due = host.read(queue.due, self._key)
        if not due:
            return None
        left_s = due - host.wall()
        if left_s <= 0:
            host.transact(queue.ripen, self._key, _wall())
        return max(left_s, 0.0)

    def __iter__(self) -> Iterator[Any]:
        """The items, as `get` gives them, until the queue is closed and empty."""
        while True:
            try:
                item = self.get()
            except Closed:
                return
            yield item

    # -- taking -------------------------------------------------------------------------------------------------------

    def take(self, timeout: Timeout = None, max_deliveries: int | None = None) -> Taken:
        """The first item, yours until you acknowledge it; waits for one. Raises TimedOut and Closed, as `get` does.

            with queue.take() as item:  # Acknowledged when the body ends, given back when it raises.
                work(item)

            taken = queue.take()  # Or by hand: taken.value, taken.deliveries, taken.ack(), taken.nack(delay=5).

        An item given back stands where it stood, before all that came later. `max_deliveries`, or the queue's: an item
        given back after that many deliveries goes to `dead_letters`; so does one that cannot be read, at once, and take
        raises what its reading raised.

        If you stop waiting, nothing was taken. If this process dies, or drops the object that this gives without
        either, the item is given back. It may then be worked on twice: make the work such that it can be.
        """
        timeout_s = None if timeout is None else deadline.seconds(timeout)
        limit = self._limit(max_deliveries)
        host = self._given or current.now or host_of(None)
        attempt = self._attempt()
        try:
            parcel = drive.run(host, self._take_flow(host, timeout_s, attempt, limit))
            return Taken(self, host, parcel, self._read(host, parcel))
        except (TimedOut, Closed):
            raise
        except BaseException:  # Ctrl-C may come when it is taken already, and nobody would acknowledge it.
            self._untake(host, attempt)
            raise

    def _limit(self, max_deliveries: int | None) -> int:
        return 0 if max_deliveries is None else self._number("max_deliveries", max_deliveries, "the queue's")

    @staticmethod
    def _attempt() -> int:
        return next(_attempts)

    def _untake(self, host: EmbeddedHost, attempt: int) -> None:
        host.transact(delivery.untake, self._key, host.session, attempt)

    def _take_flow(self, host: EmbeddedHost, timeout_s: float | None, attempt: int, limit: int) -> Flow[Parcel]:
        key, session = self._key, host.session
        limit = limit or self.max_deliveries

        def ask(waiter: Waiter | None) -> Any:
            return host.transact(delivery.take, key, self.maxsize, session, attempt, limit, waiter, _wall())

        answer = BUSY if host.is_far and timeout_s != 0 else ask(None)

        def collect(waiter: Waiter) -> Any:
            return host.transact(delivery.collect, key, waiter, attempt, limit)

        return (yield from self._served(host, answer, ask, collect, timeout_s))  # type: ignore[no-any-return]

    def _read(self, host: EmbeddedHost, parcel: Parcel) -> Any:
        try:
            return payload.decode(host, _data(parcel.value))
        except Exception:
            host.transact(delivery.condemn, self._key, host.session, parcel.position, parcel.deliveries)
            raise

    @property
    def dead_letters(self) -> Queue:
        """The queue of what could not be delivered: named (name, "dead letters")."""
        return Queue((self.name, "dead letters"), hall=self._given and Given(self._given))

    # -- finishing ----------------------------------------------------------------------------------------------------

    def task_done(self) -> None:
        """Say that an item that `get` returned is done. What was taken is done when it is acknowledged.

        Raises Misuse (a ValueError) if everything is done already.
        """
        self._host.transact(queue.task_done, self._key)

    def join(self, timeout: Timeout = None) -> bool:
        """Wait until everything that was put is done: acknowledged, told by `task_done`, or in the dead letters.

        True, or False when the time was up. If a taker dies, its item is not done. If somebody dies between `get` and
        `task_done`, this waits for ever: take such items.
        """
        timeout_s = deadline.seconds(timeout)
        host = self._host
        return drive.run(host, self._join_flow(host, timeout_s))

    def _join_flow(self, host: EmbeddedHost, timeout_s: float | None) -> Flow[bool]:
        answer = yield from drive.waiting(
            host,
            lambda waiter: host.transact(queue.join, self._key, waiter),
            lambda waiter: True,
            lambda waiter: host.let_go(waiters.withdraw, waiter),
            timeout_s,
        )
        return answer is not LATE

    def close(self) -> None:
        """Close the queue for everybody: puts raise Closed at once, gets do when nothing is left. Twice is once.

        Whoever waits wakes. Delayed items are waited for, and so are those with takers, who may give them back. Other
        than in `dask.distributed`, one close closes, whoever else uses the queue; what is in it stays; and the name
        stays closed until `reopen`.
        """
        self._host.insist(queue.close, self._key, self.maxsize)

    def reopen(self) -> None:
        """Let a closed queue be used again."""
        self._host.transact(queue.reopen, self._key)

    def delete(self) -> None:
        """Throw away all that is in it, and leave nothing of it, nor of its dead letters: it is as new, also its bound.

        Raises Misuse while somebody waits or has an item taken. What is put meanwhile may be thrown away, too.
        """
        for key in (self._key, queue.dead_letters(self._key)):
            while not self._host.insist(delivery.delete, key, DELETED_AT_ONCE):
                pass

    def _closed(self, what: str) -> Closed:
        return Closed(f"queue {self.name!r:.60}: it is closed and {what}; reopen() it, or use another name")

    # -- looking ------------------------------------------------------------------------------------------------------

    def qsize(self) -> int:
        """How many items could be got now. Delayed ones and those with takers are in `statistics()`."""
        self._ripen_all()
        return self._host.read(queue.size, self._key)

    def _ripen_all(self) -> None:
        host = self._host
        while self._ripen(host) == 0:
            pass

    def statistics(self) -> QueueStatistics:
        """The queue in numbers."""
        from .statistics import of_queue  # Here: with it come the records of all kinds.

        self._ripen_all()
        return self._host.read(of_queue, self.name, self._key, self.maxsize)


@dataclass(frozen=True, slots=True)
class Given:
    """A host where a handle expects a hall or a client."""

    host: EmbeddedHost


class PriorityQueue(Queue):
    """A Queue by a name that says what it is for: the lowest priority comes first, as in `queue.PriorityQueue`.

        queue.put("now", priority=-1)
        queue.put("some time")  # Priority 0; those of equal priority come in the order they were put.

    It is the Queue of the same name, in the same order. Other than in `queue.PriorityQueue`, items are never compared,
    so any will do. Task priorities, where the highest comes first, are something else.
    """


class _Arrival:
    """An errand of the host: ends the hand of a get once that has arrived; until then it is put off."""

    __slots__ = ("_host", "_lane", "_number")

    def __init__(self, host: EmbeddedHost, lane: Lane) -> None:
        self._host = host
        self._lane = lane
        self._number = lane.number

    def __iter__(self) -> Iterator[Any]:
        if self._lane.words[self._lane.index] < self._number:
            self._host.errand(self)
            return iter((_nothing,))
        return iter((delivery.received, self._lane.key, self._number))


class _Dropped(weakref.ref["Taken"]):
    """An errand of the host: gives back what was taken and dropped without either. In a forked child it does nothing.

    Not a `__del__`: that would be lines of Python, in which a Ctrl-C is swallowed, and the item with it.
    """

    __slots__ = ("_errand", "_pid")

    def __new__(cls, taken: Taken, host: EmbeddedHost, errand: tuple[Any, ...]) -> _Dropped:
        return super().__new__(cls, taken, host.errand)

    def __init__(self, taken: Taken, host: EmbeddedHost, errand: tuple[Any, ...]) -> None:
        op, key, *where = errand
        self._errand = op, key, host.session, *where
        self._pid = os.getpid()
        _held.add(self)

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    def __iter__(self) -> Iterator[Any]:
        _held.discard(self)
        return iter(self._errand if os.getpid() == self._pid else (_nothing,))


_held: set[_Dropped] = set()
"""What this process has taken: a reference calls back only while it lives itself."""


def _data(item: bytes) -> bytes:
    try:
        return values.unpack(queue.value_of(item)).data
    except UNREADABLE as error:
        raise damaged(error) from error


def _nothing(txn: Any) -> None:
    """What is left to do of an errand that is another process's."""


class Taken:
    """An item in your hands: acknowledge it or give it back. A context manager that does; in it, the item itself.

    `value` is the item; `deliveries` says how often it was handed out, this time included: 1 the first time.
    """

    def __init__(self, queue: Queue, host: EmbeddedHost, parcel: Parcel, value: Any) -> None:
        self.value = value
        self.deliveries = parcel.deliveries
        self._queue = queue
        self._host = host
        self._where = parcel.position
        self._is_held = True
        self._if_dropped = _Dropped(self, host, (delivery.nack, queue._key, parcel.position, parcel.deliveries))

    def ack(self) -> None:
        """It is done, and will not be delivered again. Raises NotHeld if it was acknowledged or given back already."""
        self._end(delivery.ack)

    def nack(self, delay: Timeout = None) -> None:
        """Give it back to where it stood, at once or after `delay` seconds. After the last delivery allowed it goes to
        the dead letters instead. Raises NotHeld if it was acknowledged or given back already."""
        self._end(delivery.nack, self._queue._due(delay))

    def _end(self, op: Any, *args: Any) -> None:
        key, host = self._queue._key, self._host
        try:
            had = host.transact(op, key, host.session, self._where, self.deliveries, *args)
        except Exception:
            raise
        except BaseException:  # Ctrl-C: whether it is done already or not, it is done now.
            host.transact(op, key, host.session, self._where, self.deliveries, *args)
            self._let_go()
            raise
        self._let_go()
        if not had:
            raise NotHeld(
                f"queue {self._queue.name!r:.60}: the item is not held here: it was acknowledged or given back "
                "already, or taken by another process; do one of them, once, where it was taken"
            )

    def _let_go(self) -> None:
        self._is_held = False
        _held.discard(self._if_dropped)

    def __enter__(self) -> Any:
        return self.value

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._leave(error)

    def _leave(self, error: BaseException | None) -> None:
        if not self._is_held:
            return
        if error is None:
            self._end(delivery.ack)
            return
        try:
            self._end(delivery.nack, 0.0)
        except Exception as trouble:  # What the body raised is not to be hidden by it.
            error.add_note(f"The item was not given back either: {trouble}")

    def __repr__(self) -> str:
        state = "held" if self._is_held else "let go"
        return f"<Taken from {self._queue.name!r:.60} delivery {self.deliveries} {state}: {self.value!r:.60}>"
