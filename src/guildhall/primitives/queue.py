"""Ops of Queue: what is put, in its order, over all producers and consumers.

Invariants, after every commit:

1. An item is in exactly one place: it stands in ITEMS from `first` on, or in AHEAD; it is in DELAYED, with a putter in
   line, in a getter's grant, in TAKEN, or in a hand whose number its session has not marked as received; or it is done.
   `delivery.py` has the ways back.
2. Items are taken in the order of their positions: lower ranks first; equal ranks in the order they were put. An item
   keeps its position until it is done, so whatever comes back stands where it stood, before all that came later.
3. `size` counts what stands, `ahead` what of it stands in AHEAD; `more.delayed` counts DELAYED, `more.taken` TAKEN;
   `end` less `more.done` is unfinished.
4. AHEAD has what stands before the item of number `first`: lower ranks, and what came back. All of rank 0 that is found
   in ITEMS before `first` is in hands: it was got and is not deleted yet. `first` never goes back.
5. While somebody waits to get, fewer items are there than the first of them wants; while somebody waits to put, the
   queue is full; while anybody waits, the queue `is_awaited`. An item of a waiting putter stands in its place in line.
6. Nobody waits to put in a closed queue; nobody waits to get once nothing can come any more.
7. `more.due` is when the first of DELAYED is due (0: there is none). The next op that is told the time moves it.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Final, Literal

from ..errors import Misuse
from ..store.keys import name_of, pack, pack_int, unpack
from ..store.records import Form, Record
from ..store.transaction import Txn, Waiter
from . import values, waiters
from .op import BUSY, PARKED, NotNow

QUEUES = b"\x34"
ITEMS = b"\x35"
GETTERS = b"\x36"
PUTTERS = b"\x37"
TAKEN = b"\x64"
HANDS = b"\x65"
DELAYED = b"\x66"
JOINERS = b"\x67"
AHEAD = b"\x68"
ENDS = b"\x6a"

RIPEN = 64
"""So many delayed items at most are moved by one op, so that nobody waits long for the store."""


class Shut(Enum):
    CLOSED = "closed"


CLOSED: Final = Shut.CLOSED
"""The answer of a queue that takes nothing, or gives nothing, ever again."""
Closed = Literal[Shut.CLOSED]


class More(Record, tag=1, frozen=False):  # type: ignore[misc]
    """What most queues never need. `done` counts items that are finished, `is_joined`: somebody may wait for that."""

    delayed: int = 0
    due: float = 0.0
    taken: int = 0
    done: int = 0
    max_deliveries: int = 0
    is_closed: bool = False
    is_joined: bool = False


class Queue(Record, tag=2, frozen=False):  # type: ignore[misc]
    """The bound given by the first handle; see the invariants for the rest. An op changes the one it has unpacked:
    to write each change as a new record costs a tenth of a put."""

    maxsize: int
    first: int = 0
    end: int = 0
    size: int = 0
    ahead: int = 0
    is_awaited: bool = False
    more: More | None = None


class Item(Record, tag=1, frozen=True):
    """A value that is more than itself: delivered before, or still to be put at a rank or at a time. Others stand in
    the store as they are."""

    value: bytes
    deliveries: int = 0
    rank: float = 0.0
    due: float = 0.0


class Batch(Record, tag=2, frozen=True):
    """Items on their way to a getter, and where they stood."""

    positions: tuple[bytes, ...]
    items: tuple[bytes, ...]


class Hand(Record, tag=1, frozen=True):
    """What a thread is being handed by its get of that number, until it has marked it as received.

    An item that is None was left where it stood, before the queue's `first`.
    """

    name: bytes
    number: int
    positions: tuple[bytes, ...]
    items: tuple[bytes | None, ...]


Kept = tuple[bytes | None, ...]
"""What a hand has of a batch: None for an item that was left where it stood."""

Light = tuple[bytes, bytes]
"""One item in hand that keeps nothing alive, as most gets are answered: the `spent` of the next get, and the item."""

QUEUE = Form(Queue)
ITEM = Form(Item)
BATCH = Form(Batch)
HAND = Form(Hand)
_pack_queue, _unpack_queue, _pack_hand = QUEUE.pack, QUEUE.unpack, HAND.pack
_ITEM_HEAD = b"\x95"
"""How an Item begins, in msgpack: an array of five. A value begins with 80 (a pickle) or 93 (a Stored)."""
_PLAIN = b"\x80"
_IN_PLACE = (None,)
_ONE = pack_int(1)
_HAND_TAG = 1
"""A Hand that is written as the tuple that it is costs half."""
_SHUT = b""
"""Granted to a waiter in place of what it wanted."""
_DEAD = b"\x02dead letters\x00\x00\x00"


# -- what stands in a queue -------------------------------------------------------------------------------------------


def item(value: bytes, rank: float = 0.0, due: float = 0.0) -> bytes:
    """A value as `put` takes it: to stand at the rank, from the time `due` on (0: at once)."""
    return ITEM.pack(Item(value, 0, rank, due)) if rank or due else value


def value_of(item: bytes) -> bytes:
    """The value that an item is or has."""
    return ITEM.unpack(item).value if item[:1] == _ITEM_HEAD else item


def uses_of(item: bytes) -> tuple[bytes, ...]:
    """The objects that an item keeps alive."""
    return () if item[:1] == _PLAIN else values.uses_of(value_of(item))


def _position(rank: float, number: int) -> bytes:
    """Where the item of that number stands; bytes that sort as (rank, number) do. Most have rank 0: just the number."""
    if not rank:
        return pack_int(number)
    packed = pack((rank,))
    return (b"\x03" + packed[1:] if rank < 0 else packed) + pack_int(number)


def dead_letters(name: bytes) -> bytes:
    """The name of the queue for what could not be delivered: packed, as (name, "dead letters")."""
    return b"\x05" + name[:-1] + _DEAD


def is_dead_letters(name: bytes) -> bool:
    return name[:1] == b"\x05" and name.endswith(_DEAD)


# -- looking ----------------------------------------------------------------------------------------------------------


def look(txn: Txn, name: bytes, maxsize: int = 0) -> Queue:
    data = txn.get(QUEUES + name)
    return _new(txn, name, maxsize) if data is None else _unpack_queue(data)


def _new(txn: Txn, name: bytes, maxsize: int) -> Queue:
    """A queue that nobody used yet, or not since it was deleted: then its numbers may have to go on."""
    data = txn.get(ENDS + name)
    if data is None:
        return Queue(maxsize)
    end = int.from_bytes(data, "big")
    return Queue(maxsize, end, end, more=More(done=end))


def size(txn: Txn, name: bytes) -> int:
    return look(txn, name).size


def due(txn: Txn, name: bytes) -> float:
    """When the first delayed item is due; 0 if there is none."""
    more = look(txn, name).more
    return 0.0 if more is None else more.due


def peek(txn: Txn, name: bytes, limit: int) -> list[bytes]:
    """The first items that can be got now, as users' values are stored. They stay."""
    found = list(txn.scan(AHEAD + name, limit=limit))
    before_first = ITEMS + name + pack_int(look(txn, name).first - 1)
    if len(found) < limit:
        found += txn.scan(ITEMS + name, after=before_first, limit=limit - len(found))
    return [value_of(item) for _, item in found]


def unfinished(queue: Queue) -> int:
    return queue.end - (0 if queue.more is None else queue.more.done)


def _is_closed(queue: Queue) -> bool:
    return queue.more is not None and queue.more.is_closed


def _is_over(queue: Queue) -> bool:
    """Whether nothing can come any more to what is there: closed, nothing delayed, nothing that may come back."""
    more = queue.more
    return more is not None and more.is_closed and not more.delayed and not more.taken


def _is_full(txn: Txn, name: bytes, queue: Queue) -> bool:
    load = _load(queue)
    if load >= queue.maxsize:
        getter = waiters.head(txn, GETTERS + name)
        return load >= max(queue.maxsize, 0 if getter is None else _wanted(getter[1]))
    return queue.is_awaited and waiters.head(txn, PUTTERS + name) is not None


def _load(queue: Queue) -> int:
    return queue.size + (0 if queue.more is None else queue.more.delayed)


def _wanted(want: bytes) -> int:
    return int.from_bytes(want[1:], "big")


# -- putting ----------------------------------------------------------------------------------------------------------


def register(txn: Txn, name: bytes, maxsize: int, max_deliveries: int = 0) -> int:
    """Make the queue if it is not there. Returns its bound, the first one given."""
    queue = look(txn, name, maxsize)
    is_new = txn.get(QUEUES + name) is None
    if max_deliveries and not (queue.more and queue.more.max_deliveries):
        more_of(queue).max_deliveries = max_deliveries
        is_new = True
    if is_new:
        txn.put(QUEUES + name, _pack_queue(queue))
    return queue.maxsize


def more_of(queue: Queue) -> More:
    if queue.more is None:
        queue.more = More()
    return queue.more


def put(txn: Txn, name: bytes, maxsize: int, item: bytes, waiter: Waiter | None) -> NotNow | Closed | bool:
    """Append the item; in a full queue the waiter is parked with it."""
    data = txn.get(QUEUES + name)
    queue = _new(txn, name, maxsize) if data is None else _unpack_queue(data)
    if queue.more is not None and queue.more.is_closed:
        return CLOSED
    if queue.maxsize and _is_full(txn, name, queue):
        if waiter is None:
            return BUSY
        values.hold(txn, uses_of(item))
        queue.is_awaited = True
        txn.put(QUEUES + name, _pack_queue(queue))
        return waiters.park(txn, PUTTERS + name, waiter, item)
    if item[:1] == _PLAIN:  # As `append` and `_serve` do, for nearly all.
        position = pack_int(queue.end)
        queue.end += 1
        if queue.is_awaited and not queue.size and _pass_over(txn, name, queue, position, item):
            txn.put(QUEUES + name, _pack_queue(queue))
            return True
        txn.put(ITEMS + name + position, item)
        queue.size += 1
    else:
        values.hold(txn, uses_of(item))
        append(txn, name, queue, item)
    if queue.is_awaited:
        _serve(txn, name, queue)
    txn.put(QUEUES + name, _pack_queue(queue))
    return True


def _pass_over(txn: Txn, name: bytes, queue: Queue, position: bytes, item: bytes) -> bool:
    """Whether the longest waiter was granted the item, put last into a queue where nothing stands."""
    batch = BATCH.pack(Batch((position,), (item,)))
    if waiters.unpark(txn, GETTERS + name, batch, only=_ONE) is None:
        return False
    queue.first = queue.end
    _serve(txn, name, queue, is_new_head=True)
    return True


def put_many(txn: Txn, name: bytes, items: Iterable[bytes]) -> Closed | bool:
    """Append items, whatever the bound."""
    queue = look(txn, name)
    if _is_closed(queue):
        return CLOSED
    for some in items:
        values.hold(txn, uses_of(some))
        append(txn, name, queue, some)
    settle(txn, name, queue)
    return True


def collect_put(txn: Txn, waiter: Waiter) -> Closed | bool:
    """Whether the item of a waiter that was let go was put, or the queue closed."""
    return True if waiters.collect(txn, waiter) is None else CLOSED


def withdraw_put(txn: Txn, name: bytes, waiter: Waiter, item: bytes) -> bool:
    """Stop waiting to put. False if the item had been put meanwhile: then it stays."""
    if not waiters.withdraw(txn, waiter):
        return False
    values.release(txn, uses_of(item))
    return True


def leave_put(txn: Txn, name: bytes, waiter: Waiter, item: bytes) -> None:
    """As `withdraw_put`, and nobody will ask what became of it."""
    if not withdraw_put(txn, name, waiter, item):
        waiters.collect(txn, waiter)


def append(txn: Txn, name: bytes, queue: Queue, item: bytes) -> None:
    """The item gets the next number, and stands in its position or is delayed."""
    number = queue.end
    queue.end = number + 1
    if item[:1] != _ITEM_HEAD:
        txn.put(ITEMS + name + pack_int(number), item)
        queue.size += 1
        return
    fresh = ITEM.unpack(item)
    position = _position(fresh.rank, number)
    if fresh.due:
        delay(txn, name, queue, position, fresh.value, fresh.due)
    else:
        place(txn, name, queue, position, fresh.value)


def place(txn: Txn, name: bytes, queue: Queue, position: bytes, item: bytes) -> None:
    """The item stands at its position, wherever that is."""
    queue.size += 1
    if position[0] < 0x14 or (position[0] < 0x20 and _wanted(position) < queue.first):
        queue.ahead += 1
        txn.put(AHEAD + name + position, item)
    else:
        txn.put(ITEMS + name + position, item)


def delay(txn: Txn, name: bytes, queue: Queue, position: bytes, item: bytes, due: float) -> None:
    """The item will stand at its position from the time `due` on."""
    txn.put(DELAYED + name + pack((due,)) + position, item)
    more = more_of(queue)
    more.delayed += 1
    if not more.due or due < more.due:
        more.due = due
        _warn(txn, name, queue)


def _warn(txn: Txn, name: bytes, queue: Queue) -> None:
    """Whoever waits at the head is the one who looks when a delayed item is due: that may be sooner than it knows."""
    getter = waiters.head(txn, GETTERS + name) if queue.is_awaited else None
    if getter is not None and getter[0].bell:
        txn.wake(getter[0])


def ripen(txn: Txn, name: bytes, now: float) -> None:
    """Delayed items whose time has come take their positions, and those who wait for them are served."""
    queue = look(txn, name)
    if queue.more is not None and 0 < queue.more.due <= now:
        _ripen(txn, name, queue, now, RIPEN)
        settle(txn, name, queue)


def _ripen(txn: Txn, name: bytes, queue: Queue, now: float, limit: int) -> None:
    more = more_of(queue)
    prefix = DELAYED + name
    while (found := txn.first(prefix)) is not None:
        key, item = found
        at = len(prefix) + 9
        more.due = unpack(key[len(prefix) : at])[0]
        if more.due > now or not limit:
            return
        limit -= 1
        txn.delete(key)
        more.delayed -= 1
        place(txn, name, queue, key[at:], item)
    more.due = 0.0


# -- getting ----------------------------------------------------------------------------------------------------------


def get(
    txn: Txn,
    name: bytes,
    maxsize: int,
    want: int,
    session: int,
    waiter: Waiter | None,
    now: float = 0.0,
    lane: bytes = b"",
    number: int = 0,
    spent: bytes = b"",
) -> NotNow | Closed | Light | Batch:
    """The first `want` items (0: all there are, maybe none); while there are fewer, the waiter is parked.

    With a number, what is handed out stays in the hand of that lane of the session: until its next get, which brings
    its key as `spent`, if it is Light; else until `received`. Of a closed queue, the last batch may be shorter.
    """
    data = txn.get(QUEUES + name)
    queue = Queue(maxsize) if data is None else _unpack_queue(data)
    if want == 1 and queue.size and queue.more is None and not queue.ahead and not queue.is_awaited:
        position = pack_int(queue.first)  # As below, for nearly all.
        key = ITEMS + name + position
        item = txn.get(key)
        if item is not None and number and item[:1] == _PLAIN:
            queue.first += 1
            queue.size -= 1
            if spent:
                txn.delete(spent)
            txn.put(HANDS + lane, _pack_hand((_HAND_TAG, name, number, (position,), _IN_PLACE)))
            txn.put(QUEUES + name, _pack_queue(queue))
            return key, item
    granted = grant(txn, name, queue, want, waiter, now, is_left=number > 0)
    if not isinstance(granted, tuple):
        return granted
    settle(txn, name, queue)
    return _hand_over(txn, name, session, *granted, lane, number, spent)


def grant(
    txn: Txn, name: bytes, queue: Queue, want: int, waiter: Waiter | None, now: float, *, is_left: bool = False
) -> NotNow | Closed | tuple[Batch, Kept]:
    """Items that may be taken now. The caller settles the queue, unless nothing was granted.

    Those that can be are left where they are, if that is asked for; Kept has the others.
    """
    more = queue.more
    is_ripe = more is not None and 0 < more.due <= now
    if is_ripe:
        _ripen(txn, name, queue, now, RIPEN if want else queue.end)
        if queue.is_awaited:
            _serve(txn, name, queue)
    if _is_over(queue):
        want = min(want, queue.size)
        if not queue.size:
            if is_ripe:
                txn.put(QUEUES + name, _pack_queue(queue))
            return CLOSED
    if want == 0 or (queue.size >= want and not (queue.is_awaited and waiters.head(txn, GETTERS + name))):
        return _take(txn, name, queue, want or queue.size, is_left)
    if waiter is not None:
        waiters.park(txn, GETTERS + name, waiter, pack_int(want))
        queue.is_awaited = True
        if queue.maxsize:
            _serve(txn, name, queue)  # A batch larger than the bound lets blocked puts in.
        write(txn, name, queue)
        return PARKED
    if is_ripe:
        txn.put(QUEUES + name, _pack_queue(queue))
    return BUSY


def _take(txn: Txn, name: bytes, queue: Queue, count: int, is_left: bool = False) -> tuple[Batch, Kept]:
    taken = [_pop(txn, name, queue, is_left) for _ in range(count)]
    kept = tuple(None if left else item for _, item, left in taken)
    return Batch(tuple(position for position, _, _ in taken), tuple(item for _, item, _ in taken)), kept


def _pop(txn: Txn, name: bytes, queue: Queue, is_left: bool) -> tuple[bytes, bytes, bool]:
    """Where the first item stood, the item, and whether it is still there."""
    queue.size -= 1
    if queue.ahead:
        queue.ahead -= 1
        found = txn.first(AHEAD + name)
        assert found is not None, "as many stand ahead as the queue has counted"
        txn.delete(found[0])
        return found[0][len(AHEAD) + len(name) :], found[1], False
    position = pack_int(queue.first)
    item = txn.get(ITEMS + name + position)
    if item is None:  # Delayed, perhaps, and came or comes back ahead; or only higher ranks are there.
        key, item = next(txn.scan(ITEMS + name, after=ITEMS + name + position, limit=1))
        position = key[len(ITEMS) + len(name) :]
    if position[0] < 0x20:
        queue.first = _wanted(position) + 1
    else:
        queue.first = queue.end
        is_left = False
    if not is_left:
        txn.delete(ITEMS + name + position)
    return position, item, is_left


def collect(
    txn: Txn, name: bytes, waiter: Waiter, lane: bytes = b"", number: int = 0, spent: bytes = b""
) -> Closed | Light | Batch:
    """The items that were granted to the waiter, as `get` answers."""
    batch = collect_batch(txn, waiter)
    if batch is CLOSED:
        return CLOSED
    return _hand_over(txn, name, waiter.session, batch, batch.items, lane, number, spent)


def collect_batch(txn: Txn, waiter: Waiter) -> Closed | Batch:
    """As `collect`, for a caller that keeps the items in a place of its own."""
    granted = waiters.collect(txn, waiter)
    assert granted is not None, "a getter is granted its items"
    return CLOSED if granted == _SHUT else BATCH.unpack(granted)


def leave_get(txn: Txn, name: bytes, waiter: Waiter) -> bool:
    """Stop waiting, and let those behind be served who want less. False if items were granted meanwhile."""
    if not waiters.withdraw(txn, waiter):
        return False
    queue = look(txn, name)
    settle(txn, name, queue)
    if queue.more is not None and queue.more.due:
        _warn(txn, name, queue)
    return True


def withdraw_get(txn: Txn, name: bytes, waiter: Waiter) -> None:
    """Stop waiting; what was granted meanwhile goes back to the head."""
    if not leave_get(txn, name, waiter) and (granted := waiters.collect(txn, waiter)):
        settle(txn, name, _with_back(txn, name, granted))


def _with_back(txn: Txn, name: bytes, granted: bytes) -> Queue:
    """The queue, when what was granted and never collected stands where it stood again. The caller settles it."""
    queue = look(txn, name)
    batch = BATCH.unpack(granted)
    for position, item in zip(batch.positions, batch.items, strict=True):
        place(txn, name, queue, position, item)
    return queue


def _hand_over(
    txn: Txn, name: bytes, session: int, batch: Batch, kept: Kept, lane: bytes, number: int, spent: bytes
) -> Light | Batch:
    """What the queue held to keep the items readable, the hand holds, or the session if there is none."""
    if spent:
        txn.delete(spent)
    if number and batch.items:
        is_light = len(batch.items) == 1 and batch.items[0][:1] == _PLAIN
        txn.put(hand_key(lane, number, is_light), _pack_hand(Hand(name, number, batch.positions, kept)))
        return (ITEMS + name + batch.positions[0], batch.items[0]) if is_light else batch
    for item in batch.items:
        if uses := uses_of(item):
            values.hold_for(txn, session, uses)
            values.release(txn, uses)
    return batch


def hand_key(lane: bytes, number: int, is_light: bool) -> bytes:
    """A light one stays until the next get of the lane: one item that keeps nothing alive."""
    return HANDS + lane if is_light else HANDS + lane + pack_int(number)


# -- serving ----------------------------------------------------------------------------------------------------------


def write(txn: Txn, name: bytes, queue: Queue) -> None:
    """Write the queue, with nobody served: for one who has more to do to it in this transaction."""
    txn.put(QUEUES + name, _pack_queue(queue))


def settle(txn: Txn, name: bytes, queue: Queue, *, is_new_head: bool = False) -> None:
    """Serve whoever can be served now; then write the queue."""
    if queue.is_awaited:
        _serve(txn, name, queue, is_new_head)
    txn.put(QUEUES + name, _pack_queue(queue))


def _serve(txn: Txn, name: bytes, queue: Queue, is_new_head: bool = False) -> None:
    """Getters and putters in turn, until nobody can go on."""
    while True:
        getter = waiters.head(txn, GETTERS + name)
        want = 0 if getter is None else _wanted(getter[1])
        if getter is not None and (queue.size >= want or _is_over(queue)):
            batch, _ = _take(txn, name, queue, min(want, queue.size))
            waiters.unpark(txn, GETTERS + name, BATCH.pack(batch) if batch.items else _SHUT)
            is_new_head = True
            continue
        putter = waiters.head(txn, PUTTERS + name) if queue.maxsize else None
        if putter is not None and _is_closed(queue):
            values.release(txn, uses_of(putter[1]))
            waiters.unpark(txn, PUTTERS + name, _SHUT)
            continue
        if putter is not None and _load(queue) < max(queue.maxsize, want):
            append(txn, name, queue, putter[1])
            waiters.unpark(txn, PUTTERS + name)
            continue
        queue.is_awaited = getter is not None or putter is not None
        if is_new_head and queue.more is not None and queue.more.due:
            _warn(txn, name, queue)
        return


# -- finishing --------------------------------------------------------------------------------------------------------


def close(txn: Txn, name: bytes, maxsize: int) -> None:
    """Nothing is put any more; what is there can be got. Whoever waits in vain learns of it."""
    queue = look(txn, name, maxsize)
    more_of(queue).is_closed = True
    settle(txn, name, queue)


def reopen(txn: Txn, name: bytes) -> None:
    queue = look(txn, name)
    if _is_closed(queue):
        more_of(queue).is_closed = False
        txn.put(QUEUES + name, _pack_queue(queue))


def clear(txn: Txn, name: bytes, limit: int) -> bool:
    """Throw away so many of the items that stand here or are delayed. Whether none is left.

    Raises Misuse while somebody waits or has items taken.
    """
    for place in (GETTERS, PUTTERS, JOINERS):
        waiters.refuse_waited(txn, place + name, "queue")
    queue = look(txn, name)
    more = more_of(queue)
    if more.taken:
        raise Misuse(
            f"queue {name_of(name)!r:.60}: it cannot be deleted while items are with takers ({more.taken} now); "
            "ack or nack them"
        )
    batch, _ = _take(txn, name, queue, min(limit, queue.size))
    late = list(txn.scan(DELAYED + name, limit=limit - len(batch.items))) if len(batch.items) < limit else []
    for key, _ in late:
        txn.delete(key)
    more.delayed -= len(late)
    _ripen(txn, name, queue, 0.0, 0)
    for item in (*batch.items, *(item for _, item in late)):
        values.release(txn, uses_of(item))
    finish(txn, name, queue, len(batch.items) + len(late))
    txn.put(QUEUES + name, _pack_queue(queue))
    is_empty = not queue.size and not more.delayed
    assert is_empty or batch.items or late, "as many stand here and are delayed as the queue has counted"
    return is_empty


def finish(txn: Txn, name: bytes, queue: Queue, count: int = 1) -> None:
    """So many items more are done. The caller settles the queue.

    Never more than there were: `task_done` may have been called for one that now is acknowledged.
    """
    more = more_of(queue)
    more.done = min(more.done + count, queue.end)
    if more.is_joined and more.done == queue.end:
        more.is_joined = False
        waiters.unpark_all(txn, JOINERS + name)


def task_done(txn: Txn, name: bytes) -> None:
    queue = look(txn, name)
    if not unfinished(queue):
        raise Misuse(
            f"queue {name_of(name)!r:.60}: task_done() called too often: every item is done already; "
            "call it once for each item that get() returned, and not for one that take() gave"
        )
    finish(txn, name, queue)
    txn.put(QUEUES + name, _pack_queue(queue))


def join(txn: Txn, name: bytes, waiter: Waiter | None) -> NotNow | bool:
    """True if all that was put is done; else the waiter is parked until it is."""
    queue = look(txn, name)
    if not unfinished(queue):
        return True
    if waiter is None:
        return BUSY
    more_of(queue).is_joined = True
    txn.put(QUEUES + name, _pack_queue(queue))
    return waiters.park(txn, JOINERS + name, waiter)


def bury(txn: Txn, left: waiters.Left) -> None:
    """A wait of a dead session: items granted to it go back, an item that it wanted to put goes.

    Others are served when all that the session had is back, by `delivery.bury`.
    """
    if left.place.startswith(GETTERS) and left.granted:
        name = left.place[len(GETTERS) :]
        write(txn, name, _with_back(txn, name, left.granted))
    elif left.place.startswith(PUTTERS) and left.granted is None:
        values.release(txn, uses_of(left.want))
