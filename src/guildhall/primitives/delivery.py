"""Ops of what a queue has handed out and may get back: items taken until they are acknowledged, and items in hand.

An item taken (`take`) is its session's until `ack` or `nack`; a death gives it back. An item got (`get`) is in the hand
of one thread of its session until that thread has marked it as received, outside the store and without a commit; a
death before that gives it back too. Whatever comes back stands where it stood (queue.py has the invariants).

What could not be delivered goes to the queue's dead letters: an item that comes back from its last delivery allowed,
one that cannot be read, one in whose reading processes keep dying. From the dead letters nothing goes any further: what
would comes to their end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..store.keys import pack_id, unpack
from ..store.records import Form, Record
from ..store.transaction import Txn, Waiter
from . import queue as queues
from . import values, waiters
from .op import NotNow
from .queue import CLOSED, ENDS, GETTERS, HAND, HANDS, ITEM, ITEMS, QUEUES, TAKEN, Batch, Closed, Hand, Item, Queue
from .waiters import Left

DEATHS_IN_HAND = 4
"""So many processes may die with an item in hand: one death there is bad luck, more are the item's doing."""


class Taken(Record, tag=1, frozen=True):
    """An item in the hands of a taker. `deliveries` counts this one, `limit` is how many there may be (0: any)."""

    name_bytes: int
    attempt: int
    deliveries: int
    limit: int
    value: bytes


class Parcel(NamedTuple):
    """What a taker gets: position and deliveries together name this one delivery."""

    position: bytes
    deliveries: int
    value: bytes


_TAKEN = Form(Taken)


# -- taking -----------------------------------------------------------------------------------------------------------


def take(
    txn: Txn, name: bytes, maxsize: int, session: int, attempt: int, limit: int, waiter: Waiter | None, now: float = 0.0
) -> NotNow | Closed | Parcel:
    """The first item, to be acknowledged; while there is none, the waiter is parked among those who get."""
    queue = queues.look(txn, name, maxsize)
    granted = queues.grant(txn, name, queue, 1, waiter, now)
    if not isinstance(granted, tuple):
        return granted
    return _hold(txn, name, queue, session, attempt, limit, granted[0])


def collect(txn: Txn, name: bytes, waiter: Waiter, attempt: int, limit: int) -> Closed | Parcel:
    """The item that was granted to the waiter."""
    batch = queues.collect_batch(txn, waiter)
    if batch is CLOSED:
        return CLOSED
    return _hold(txn, name, queues.look(txn, name), waiter.session, attempt, limit, batch)


def _hold(txn: Txn, name: bytes, queue: Queue, session: int, attempt: int, limit: int, batch: Batch) -> Parcel:
    position, item = batch.positions[0], _item(batch.items[0])
    more = queues.more_of(queue)
    more.taken += 1
    taken = Taken(len(name), attempt, item.deliveries + 1, limit or more.max_deliveries, item.value)
    txn.put(_key(session, name, position), _TAKEN.pack(taken))
    queues.settle(txn, name, queue)
    return Parcel(position, taken.deliveries, item.value)


def _item(data: bytes) -> Item:
    return Item(data) if data[:1] != b"\x95" else ITEM.unpack(data)


def _key(session: int, name: bytes, position: bytes) -> bytes:
    return TAKEN + pack_id(session) + name + position


def _pick_up(txn: Txn, name: bytes, session: int, position: bytes, deliveries: int) -> Taken | None:
    """Take this delivery's record away; None if it is over."""
    key = _key(session, name, position)
    data = txn.get(key)
    if data is None:
        return None
    taken = _TAKEN.unpack(data)
    if taken.deliveries != deliveries:
        return None
    txn.delete(key)
    return taken


def ack(txn: Txn, name: bytes, session: int, position: bytes, deliveries: int) -> bool:
    """The item is done. False if the session does not have this delivery (any more)."""
    taken = _pick_up(txn, name, session, position, deliveries)
    if taken is None:
        return False
    if uses := values.uses_of(taken.value):
        values.release(txn, uses)
    queue = queues.look(txn, name)
    queues.more_of(queue).taken -= 1
    queues.finish(txn, name, queue)
    queues.settle(txn, name, queue)
    return True


def nack(txn: Txn, name: bytes, session: int, position: bytes, deliveries: int, due: float = 0.0) -> bool:
    """The item goes back to where it stood, from the time `due` on (0: at once), or to the dead letters."""
    taken = _pick_up(txn, name, session, position, deliveries)
    if taken is None:
        return False
    queues.settle(txn, name, _with_taken_back(txn, name, position, taken, due))
    return True


def condemn(txn: Txn, name: bytes, session: int, position: bytes, deliveries: int) -> None:
    """The item taken cannot be read: it goes to the dead letters."""
    taken = _pick_up(txn, name, session, position, deliveries)
    if taken is not None:
        queue = queues.look(txn, name)
        queues.more_of(queue).taken -= 1
        _to_dead_letters(txn, name, queue, taken.value)
        queues.settle(txn, name, queue)


def untake(txn: Txn, name: bytes, session: int, attempt: int) -> None:
    """What that attempt took, if anything, goes back as if it had not been taken: its taker never saw it."""
    prefix = TAKEN + pack_id(session) + name
    for key, data in txn.scan(prefix):
        taken = _TAKEN.unpack(data)
        if taken.attempt == attempt:
            txn.delete(key)
            queue = queues.look(txn, name)
            queues.more_of(queue).taken -= 1
            _give_back(txn, name, queue, key[len(prefix) :], taken.value, taken.deliveries - 1)
            queues.settle(txn, name, queue)


def _with_taken_back(txn: Txn, name: bytes, position: bytes, taken: Taken, due: float = 0.0) -> Queue:
    """The queue, when the item is back in it or with its dead letters. The caller settles it."""
    queue = queues.look(txn, name)
    queues.more_of(queue).taken -= 1
    if taken.limit and taken.deliveries >= taken.limit:
        _to_dead_letters(txn, name, queue, taken.value)
    else:
        _give_back(txn, name, queue, position, taken.value, taken.deliveries, due)
    return queue


def _give_back(
    txn: Txn, name: bytes, queue: Queue, position: bytes, value: bytes, deliveries: int, due: float = 0.0
) -> None:
    item = ITEM.pack(Item(value, deliveries)) if deliveries else value
    if due:
        queues.delay(txn, name, queue, position, item, due)
    else:
        queues.place(txn, name, queue, position, item)


def _to_dead_letters(txn: Txn, name: bytes, queue: Queue, value: bytes) -> None:
    """The value leaves the queue for its dead letters, with what it keeps alive. The caller settles the queue."""
    if queues.is_dead_letters(name):
        queues.append(txn, name, queue, value)
    else:
        dead = queues.dead_letters(name)
        grave = queues.look(txn, dead)
        queues.append(txn, dead, grave, value)
        queues.settle(txn, dead, grave)
    queues.finish(txn, name, queue)


# -- in hand ----------------------------------------------------------------------------------------------------------


def _open_hand(txn: Txn, lane: bytes, number: int) -> Hand | None:
    """Take the hand of that get away, if the get committed."""
    for is_light in (True, False):
        key = queues.hand_key(lane, number, is_light)
        data = txn.get(key)
        hand = None if data is None else HAND.unpack(data)
        if hand is not None and hand.number == number:
            txn.delete(key)
            return hand
    return None


def _contents(txn: Txn, hand: Hand) -> list[tuple[bytes, bytes]]:
    """What the hand has, with the positions; from now on it is nowhere else."""
    found = []
    for position, item in zip(hand.positions, hand.items, strict=True):
        if item is None:
            key = ITEMS + hand.name + position
            item = txn.get(key)
            txn.delete(key)
        if item is not None:  # A later get may have deleted what this one received.
            found.append((position, item))
    return found


def received(txn: Txn, lane: bytes, number: int) -> None:
    """What that get handed out has arrived: the hand lets go of it."""
    hand = _open_hand(txn, lane, number)
    if hand is not None:
        _let_go(txn, hand)


def _let_go(txn: Txn, hand: Hand) -> None:
    for _, item in _contents(txn, hand):
        if uses := queues.uses_of(item):
            values.release(txn, uses)


def take_back(txn: Txn, lane: bytes, number: int) -> None:
    """What that get handed out, if anything, did not arrive: it goes back as if it had not been got."""
    hand = _open_hand(txn, lane, number)
    if hand is not None:
        queues.settle(txn, hand.name, _with_hand_back(txn, hand, deaths=0))


def sort_out(txn: Txn, lane: bytes, number: int, unreadable: Sequence[int]) -> None:
    """Of what that get handed out, some cannot be read: these go to the dead letters, the others back.

    From the dead letters themselves such an item is gone: whoever got it there was told.
    """
    hand = _open_hand(txn, lane, number)
    if hand is None:
        return
    queue = queues.look(txn, hand.name)
    for place, (position, data) in enumerate(_contents(txn, hand)):
        if place not in unreadable:
            queues.place(txn, hand.name, queue, position, data)
        elif queues.is_dead_letters(hand.name):
            values.release(txn, queues.uses_of(data))
            queues.finish(txn, hand.name, queue)
        else:
            _to_dead_letters(txn, hand.name, queue, queues.value_of(data))
    queues.settle(txn, hand.name, queue)


def _with_hand_back(txn: Txn, hand: Hand, deaths: int) -> Queue:
    """The queue, when what was in the hand is back in it. The caller settles it."""
    queue = queues.look(txn, hand.name)
    for position, data in _contents(txn, hand):
        item = _item(data)
        deliveries = item.deliveries + deaths
        if deaths and deliveries >= DEATHS_IN_HAND:
            _to_dead_letters(txn, hand.name, queue, item.value)
        else:
            _give_back(txn, hand.name, queue, position, item.value, deliveries)
    return queue


def bury(txn: Txn, session: int, marks: Sequence[int], left: Iterable[Left]) -> None:
    """What the dead session had taken goes back, and what was in its hands and not marked as received.

    `marks` has, for each lane, the number of the last get that arrived. Nobody is served before all is back, what its
    waits left included: else one could get an item, and then the one before it comes back.
    """
    touched = {wait.place[len(GETTERS) :] for wait in left if wait.place.startswith(GETTERS)}
    prefix = TAKEN + pack_id(session)
    for key, data in txn.scan(prefix):
        txn.delete(key)
        taken = _TAKEN.unpack(data)
        rest = key[len(prefix) :]
        name = rest[: taken.name_bytes]
        touched.add(name)
        queues.write(txn, name, _with_taken_back(txn, name, rest[taken.name_bytes :], taken))
    for key, data in txn.scan(HANDS + pack_id(session)):
        txn.delete(key)
        hand = HAND.unpack(data)
        lane = unpack(key[len(HANDS) :])[1]
        if lane < len(marks) and marks[lane] >= hand.number:
            _let_go(txn, hand)
        else:
            touched.add(hand.name)
            queues.write(txn, hand.name, _with_hand_back(txn, hand, deaths=1))
    for name in sorted(touched):
        queues.settle(txn, name, queues.look(txn, name), is_new_head=True)


def delete(txn: Txn, name: bytes, limit: int) -> bool:
    """Throw away so many items of the queue; when none is left, also what is in hands, and it. Whether that is done.

    Its numbers go on as long as a hand or a grant may name one of them: a thread deletes what it got last with its next
    get, and that must not be an item of another queue of this name.
    """
    if not queues.clear(txn, name, limit):
        return False
    is_named = waiters.is_granted_at(txn, GETTERS + name)
    for key, data in txn.scan(HANDS):
        hand = HAND.unpack(data)
        if hand.name == name:
            is_named = True
            _let_go(txn, hand)
            txn.put(key, HAND.pack(Hand(name, hand.number, (), ())))
    end = queues.look(txn, name).end
    if is_named and end:
        txn.put(ENDS + name, end.to_bytes(8, "big"))
    else:
        txn.delete(ENDS + name)
    txn.delete(QUEUES + name)
    return True
