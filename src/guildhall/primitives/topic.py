"""Ops of Pub and Sub: every subscriber gets every message published after it subscribed, in order.

One log for each topic, one cursor for each subscriber. A message goes when the slowest cursor has passed it; without
subscribers nothing is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..store.keys import pack_id, pack_int
from ..store.records import Form, Record
from ..store.transaction import Txn, Waiter
from . import values, waiters
from .op import BUSY, NotNow

TOPICS = b"\x38"
MESSAGES = b"\x39"
CURSORS = b"\x3a"
SUBSCRIBED = b"\x3b"


class Topic(Record, tag=1, frozen=True):
    """Numbers of the first message kept and of the next one to come, how many subscribe, and whether one of them
    may stand in line."""

    first: int = 0
    end: int = 0
    subscribers: int = 0
    is_awaited: bool = False


TOPIC = Form(Topic)


def look(txn: Txn, name: bytes) -> Topic:
    data = txn.get(TOPICS + name)
    return Topic() if data is None else TOPIC.unpack(data)


def subscribe(txn: Txn, name: bytes, subscriber: bytes, session: int) -> None:
    """From this commit on the subscriber (a unique id) gets what is published."""
    topic = look(txn, name)
    txn.put(CURSORS + name + subscriber, pack_int(topic.end))
    txn.put(SUBSCRIBED + pack_id(session) + name + subscriber, pack_int(len(name)))
    txn.put(TOPICS + name, TOPIC.pack(Topic(topic.first, topic.end, topic.subscribers + 1, topic.is_awaited)))


def unsubscribe(txn: Txn, name: bytes, subscriber: bytes, session: int) -> None:
    """The subscriber goes, and with it the messages that only it had not read."""
    if not txn.delete(CURSORS + name + subscriber):
        return
    txn.delete(SUBSCRIBED + pack_id(session) + name + subscriber)
    topic = look(txn, name)
    if topic.is_awaited:  # Among others by a thread with this very subscription, perhaps.
        waiters.unpark_all(txn, TOPICS + name)
    _trim(txn, name, Topic(topic.first, topic.end, topic.subscribers - 1))


def publish(txn: Txn, name: bytes, messages: Sequence[bytes]) -> int:
    """Append the messages for all who subscribe. Returns how many do."""
    topic = look(txn, name)
    if not topic.subscribers:
        return 0
    end = topic.end
    for message in messages:
        values.hold(txn, values.uses_of(message))
        txn.put(MESSAGES + name + pack_int(end), message)
        end += 1
    txn.put(TOPICS + name, TOPIC.pack(Topic(topic.first, end, topic.subscribers)))
    if topic.is_awaited:
        waiters.unpark_all(txn, TOPICS + name)
    return topic.subscribers


def fetch(
    txn: Txn, name: bytes, subscriber: bytes, limit: int, session: int, waiter: Waiter | None
) -> NotNow | list[bytes]:
    """Up to `limit` messages behind the subscriber's cursor, which moves; if there are none, the waiter is parked."""
    key = CURSORS + name + subscriber
    cursor = txn.get(key)
    if cursor is None:
        return []
    found = list(txn.scan(MESSAGES + name, after=MESSAGES + name + _before(cursor), limit=limit))
    if not found:
        if waiter is None:
            return BUSY
        topic = look(txn, name)
        txn.put(TOPICS + name, TOPIC.pack(Topic(topic.first, topic.end, topic.subscribers, True)))
        return waiters.park(txn, TOPICS + name, waiter)
    messages = [message for _, message in found]
    for message in messages:
        if uses := values.uses_of(message):
            values.hold_for(txn, session, uses)
    at = int.from_bytes(cursor[1:], "big")
    txn.put(key, pack_int(at + len(found)))
    topic = look(txn, name)
    if at == topic.first:
        _trim(txn, name, topic)
    return messages


def has_news(txn: Txn, name: bytes, subscriber: bytes) -> bool:
    """Whether there is a message behind the subscriber's cursor."""
    cursor = txn.get(CURSORS + name + subscriber)
    return cursor is None or txn.get(MESSAGES + name + cursor) is not None


def _before(cursor: bytes) -> bytes:
    return pack_int(int.from_bytes(cursor[1:], "big") - 1)


def _trim(txn: Txn, name: bytes, topic: Topic) -> None:
    cursors = [int.from_bytes(data[1:], "big") for _, data in txn.scan(CURSORS + name)]
    keep = min(cursors, default=topic.end)
    for number in range(topic.first, keep):
        key = MESSAGES + name + pack_int(number)
        data = txn.get(key)
        if data is not None:
            txn.delete(key)
            if uses := values.uses_of(data):
                values.release(txn, uses)
    if topic.subscribers:
        txn.put(TOPICS + name, TOPIC.pack(Topic(keep, topic.end, topic.subscribers, topic.is_awaited)))
    else:
        txn.delete(TOPICS + name)


def bury(txn: Txn, session: int) -> None:
    """All subscriptions of the session go."""
    prefix = SUBSCRIBED + pack_id(session)
    for key, data in txn.scan(prefix):
        rest = key[len(prefix) :]
        size = int.from_bytes(data[1:], "big")
        unsubscribe(txn, rest[:size], rest[size:], session)
