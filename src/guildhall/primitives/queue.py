"""Ops of Queue: first in, first out, over all producers and consumers.

Invariants: while somebody waits to get, fewer items are there than the first of them wants; while somebody waits to
put, the queue is full; while anybody waits, the queue `is_awaited`. An item put by a waiter stands in its place in line
until there is room.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..store.keys import pack_int
from ..store.records import Form, Record
from ..store.transaction import Txn, Waiter
from . import values, waiters
from .op import BUSY, PARKED, NotNow

QUEUES = b"\x34"
ITEMS = b"\x35"
GETTERS = b"\x36"
PUTTERS = b"\x37"


class Queue(Record, tag=1, frozen=True):
    """The bound given by the first handle, numbers of the first item and of the one after the last, and whether
    somebody may stand in line."""

    maxsize: int
    first: int = 0
    end: int = 0
    is_awaited: bool = False


class Batch(Record, tag=1, frozen=True):
    """Items on their way to one getter."""

    items: tuple[bytes, ...]


QUEUE = Form(Queue)
BATCH = Form(Batch)


def look(txn: Txn, name: bytes, maxsize: int = 0) -> Queue:
    data = txn.get(QUEUES + name)
    return Queue(maxsize) if data is None else QUEUE.unpack(data)


def register(txn: Txn, name: bytes, maxsize: int) -> int:
    """Make the queue if it is not there. Returns its bound, the first one given."""
    found = look(txn, name, maxsize)
    if txn.get(QUEUES + name) is None:
        txn.put(QUEUES + name, QUEUE.pack(found))
    return found.maxsize


def put(txn: Txn, name: bytes, maxsize: int, value: bytes, waiter: Waiter | None) -> NotNow | bool:
    """Append the item; in a full queue the waiter is parked with it."""
    data = txn.get(QUEUES + name)
    queue = Queue(maxsize) if data is None else QUEUE.unpack(data)
    if queue.maxsize and _is_full(txn, name, queue):
        if waiter is None:
            return BUSY
        values.hold(txn, values.uses_of(value))
        txn.put(QUEUES + name, QUEUE.pack(Queue(queue.maxsize, queue.first, queue.end, True)))
        return waiters.park(txn, PUTTERS + name, waiter, value)
    if uses := values.uses_of(value):
        values.hold(txn, uses)
    queue = _append(txn, name, queue, value)
    if queue.is_awaited:
        queue = _serve(txn, name, queue)
    txn.put(QUEUES + name, QUEUE.pack(queue))
    return True


def put_many(txn: Txn, name: bytes, items: Iterable[bytes]) -> None:
    """Append items, whatever the bound."""
    queue = look(txn, name)
    for value in items:
        values.hold(txn, values.uses_of(value))
        queue = _append(txn, name, queue, value)
    _settle(txn, name, queue)


def get(
    txn: Txn, name: bytes, maxsize: int, want: int, session: int, waiter: Waiter | None
) -> NotNow | tuple[bytes, ...]:
    """The first `want` items (0: all there are, maybe none); while there are fewer, the waiter is parked."""
    data = txn.get(QUEUES + name)
    queue = Queue(maxsize) if data is None else QUEUE.unpack(data)
    count = queue.end - queue.first
    if want == 0 or (count >= want and not (queue.is_awaited and waiters.head(txn, GETTERS + name))):
        items, queue = _take(txn, name, queue, want or count)
        _hand_over(txn, session, items)
        _settle(txn, name, queue)
        return items
    if waiter is None:
        return BUSY
    waiters.park(txn, GETTERS + name, waiter, pack_int(want))
    queue = Queue(queue.maxsize, queue.first, queue.end, True)
    _settle(txn, name, queue)  # A batch larger than the bound lets blocked puts in.
    return PARKED


def collect(txn: Txn, name: bytes, waiter: Waiter) -> tuple[bytes, ...]:
    """The items that were granted to the waiter."""
    granted = waiters.collect(txn, waiter)
    assert granted is not None, "a getter is granted its items"
    items = BATCH.unpack(granted).items
    _hand_over(txn, waiter.session, items)
    return items


def leave_get(txn: Txn, name: bytes, waiter: Waiter) -> bool:
    """Stop waiting, and let those behind be served who want less. False if items were granted meanwhile."""
    if not waiters.withdraw(txn, waiter):
        return False
    _settle(txn, name, look(txn, name))
    return True


def withdraw_get(txn: Txn, name: bytes, waiter: Waiter) -> None:
    """Stop waiting; what was granted meanwhile goes back to the head."""
    if not leave_get(txn, name, waiter):
        granted = waiters.collect(txn, waiter)
        if granted is not None:
            give_back(txn, name, granted)


def withdraw_put(txn: Txn, name: bytes, waiter: Waiter, value: bytes) -> bool:
    """Stop waiting to put. False if the item had been put meanwhile: then it stays."""
    if not waiters.withdraw(txn, waiter):
        return False
    values.release(txn, values.uses_of(value))
    return True


def put_back(txn: Txn, name: bytes, session: int, items: tuple[bytes, ...]) -> None:
    """Items that the session got and cannot use go back to the head, in their order."""
    for item in items:
        uses = values.uses_of(item)
        values.hold(txn, uses)
        values.release_for(txn, session, uses)
    _return(txn, name, items)


def give_back(txn: Txn, name: bytes, granted: bytes) -> None:
    """Granted and never collected items go back to the head, in their order."""
    _return(txn, name, BATCH.unpack(granted).items)


def _return(txn: Txn, name: bytes, items: tuple[bytes, ...]) -> None:
    queue = look(txn, name)
    for item in reversed(items):
        queue = Queue(queue.maxsize, queue.first - 1, queue.end, queue.is_awaited)
        txn.put(ITEMS + name + pack_int(queue.first), item)
    _settle(txn, name, queue)


def size(txn: Txn, name: bytes) -> int:
    queue = look(txn, name)
    return queue.end - queue.first


def peek(txn: Txn, name: bytes, limit: int) -> list[bytes]:
    """The first items, as they are stored. They stay."""
    return [item for _, item in txn.scan(ITEMS + name, limit=limit)]


def _hand_over(txn: Txn, session: int, items: tuple[bytes, ...]) -> None:
    """What the queue held for its items, the session that took them holds."""
    for item in items:
        if uses := values.uses_of(item):
            values.hold_for(txn, session, uses)
            values.release(txn, uses)


def _is_full(txn: Txn, name: bytes, queue: Queue) -> bool:
    if queue.end - queue.first >= queue.maxsize:
        getter = waiters.head(txn, GETTERS + name)
        want = 0 if getter is None else int.from_bytes(getter[1][1:], "big")
        return queue.end - queue.first >= max(queue.maxsize, want)
    return waiters.head(txn, PUTTERS + name) is not None


def _append(txn: Txn, name: bytes, queue: Queue, value: bytes) -> Queue:
    txn.put(ITEMS + name + pack_int(queue.end), value)
    return Queue(queue.maxsize, queue.first, queue.end + 1, queue.is_awaited)


def _take(txn: Txn, name: bytes, queue: Queue, count: int) -> tuple[tuple[bytes, ...], Queue]:
    items = []
    for number in range(queue.first, queue.first + count):
        key = ITEMS + name + pack_int(number)
        data = txn.get(key)
        assert data is not None, "items are numbered without gaps"
        items.append(data)
        txn.delete(key)
    return tuple(items), Queue(queue.maxsize, queue.first + count, queue.end, queue.is_awaited)


def _settle(txn: Txn, name: bytes, queue: Queue) -> None:
    """Serve whoever can be served now; then write the queue."""
    if queue.is_awaited:
        queue = _serve(txn, name, queue)
    txn.put(QUEUES + name, QUEUE.pack(queue))


def _serve(txn: Txn, name: bytes, queue: Queue) -> Queue:
    """Getters and putters in turn, until nobody can go on."""
    moved = True
    while moved:
        moved = False
        getter = waiters.head(txn, GETTERS + name)
        if getter is not None:
            want = int.from_bytes(getter[1][1:], "big")
            if queue.end - queue.first >= want:
                items, queue = _take(txn, name, queue, want)
                waiters.unpark(txn, GETTERS + name, BATCH.pack(Batch(items)))
                moved = True
                continue
        putter = waiters.head(txn, PUTTERS + name) if queue.maxsize else None
        if putter is not None:
            want = 0 if getter is None else int.from_bytes(getter[1][1:], "big")
            if queue.end - queue.first < max(queue.maxsize, want):
                queue = _append(txn, name, queue, putter[1])
                waiters.unpark(txn, PUTTERS + name)
                moved = True
        if getter is None and putter is None:
            queue = Queue(queue.maxsize, queue.first, queue.end)
    return queue


def bury(txn: Txn, left: waiters.Left) -> None:
    """A wait of a dead session: items granted to it go back, an item it wanted to put goes, others are served."""
    if left.place.startswith(GETTERS):
        name = left.place[len(GETTERS) :]
        if left.granted is not None:
            give_back(txn, name, left.granted)
        else:
            _settle(txn, name, look(txn, name))
    elif left.place.startswith(PUTTERS):
        values.release(txn, values.uses_of(left.want))
