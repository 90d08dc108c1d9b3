"""Ops of a topic: one log of messages for all who subscribe, each kept as long as somebody may still ask for it.

Invariants, true after every commit:

- Messages are numbered in the order of their commits, from 0, without gaps. Those from `first` to before `end` are
  there, and no others.
- Each subscriber has one pin, at the first message it may still ask for; or it floats, because it may be dropped and
  lags by more than its maxlen: then it asks for the last maxlen messages, wherever the end is by then. `depth` is the
  largest maxlen of those who float.
- `first` never goes back, and is otherwise the lowest of: the first pin (and no pin lags so far that it should float
  while it is the first), `end` less `depth`, `end` less `keep`. So memory is what pins, depth and keep demand.
- The first `end` at which publishing has to look for messages to remove is `due`: below it a publish does not look.
- `policy` and `maxlen` are for subscriptions that ask for no bound of their own (subscription.py).
- A subscriber that blocks has a limit: the end that the log may have at most. While publishers are in line
  (`has_line`), the first of them does not fit below some limit; whoever moves or removes a limit serves the line in
  the same commit.
- Subscribers stand in line only when there was nothing for them, and then the topic `is_awaited`.
- Time enters with the messages, and only grows along the log. It is written down while history is kept.

Cursors, members and policies are the business of subscription.py: here they are pins, limits and numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace

from ..store.keys import pack, pack_int
from ..store.records import Form, Record
from ..store.transaction import Txn, Waiter
from . import pattern, values, waiters
from .op import BUSY, NotNow

TOPICS = b"\x38"
MESSAGES = b"\x39"
PINS = b"\x6d"
FLOATS = b"\x6e"
LIMITS = b"\x6f"
TIMES = b"\x70"
SOURCES = b"\x71"
PUBLISHERS = b"\x72"

NEVER = 1 << 62
NO_REACH = pack_int(0)
NO_TIME = -1.0


class Topic(Record, tag=2, frozen=True):
    """One log. `dropped` counts what subscribers were told they missed; `newest` is the time of the newest message that
    was published while history was kept."""

    first: int = 0
    end: int = 0
    subscribers: int = 0
    is_awaited: bool = False
    due: int = NEVER
    depth: int = 0
    keep: int = 0
    blockers: int = 0
    has_line: bool = False
    dropped: int = 0
    newest: float = NO_TIME
    policy: int = 0
    maxlen: int = 0


class Plain(Record, tag=1, frozen=True):
    """How a topic is written of which nothing else is to be said, as of nearly all."""

    first: int
    end: int
    subscribers: int
    is_awaited: bool


class Batch(Record, tag=1, frozen=True):
    """Messages of a publisher in line, when it came, and the topic that they are appended to besides."""

    at: float
    messages: tuple[bytes, ...]
    relay: bytes = b""


TOPIC = Form(Topic)
PLAIN = Form(Plain)
_pack_plain, _unpack_plain = PLAIN.pack, PLAIN.unpack
_PLAIN_TAG = b"\x01"
"""What a plain topic has as its second byte, behind the head of the array."""
BATCH = Form(Batch)


def look(txn: Txn, name: bytes) -> Topic:
    data = txn.get(TOPICS + name)
    return Topic() if data is None else _unpack(data)


def write(txn: Txn, name: bytes, topic: Topic) -> None:
    """A topic that nobody subscribes to leaves nothing, unless it has settings; its numbers begin anew."""
    if topic.subscribers or topic.keep or topic.maxlen:
        txn.put(TOPICS + name, _pack(topic))
    else:
        txn.delete(TOPICS + name)


def _unpack(data: bytes) -> Topic:
    if data[1:2] != _PLAIN_TAG:
        return TOPIC.unpack(data)
    plain = _unpack_plain(data)
    return Topic(plain.first, plain.end, plain.subscribers, plain.is_awaited)


def _pack(topic: Topic) -> bytes:
    if topic != Topic(topic.first, topic.end, topic.subscribers, topic.is_awaited):
        return TOPIC.pack(topic)
    return _pack_plain(Plain(topic.first, topic.end, topic.subscribers, topic.is_awaited))


# -- publishing -------------------------------------------------------------------------------------------------------


def publish(
    txn: Txn,
    name: bytes,
    messages: Sequence[bytes],
    at: float = 0.0,
    waiter: Waiter | None = None,
    relay: bytes = b"",
) -> NotNow | int:
    """Append the messages for all who subscribe, to the topic or to a pattern that fits. Returns how many do.

    While a subscriber that blocks is full, the waiter is parked with the messages. `at` is the time, in seconds on a
    clock that all publishers share. With a `relay` they are appended to that, too (introduction.py).
    """
    key = TOPICS + name
    data = txn.get(key)
    if data is not None and data[1:2] == _PLAIN_TAG:
        plain = _unpack_plain(data)
        count, end = plain.subscribers, _lay(txn, name, plain.end, messages)
        if plain.is_awaited:
            waiters.unpark_all(txn, key)
        txn.put(key, _pack_plain(Plain(plain.first, end, count, False)))
    else:
        topic = Topic() if data is None else _unpack(data)
        if topic.blockers and (topic.has_line or _is_full(txn, name, topic, len(messages))):
            return (
                BUSY if waiter is None else _stand_in_line(txn, name, topic, Batch(at, tuple(messages), relay), waiter)
            )
        count = topic.subscribers
        if count or topic.keep:
            _append(txn, name, topic, messages, at)
    if (shapes := txn.get(pattern.SHAPES)) is not None:
        for heard in pattern.fitting(shapes, name):
            count += _overhear(txn, heard, messages, name)
    if relay:
        count += _pass_on(txn, relay, messages)
    return count


def _stand_in_line(txn: Txn, name: bytes, topic: Topic, batch: Batch, waiter: Waiter) -> NotNow:
    for message in batch.messages:
        values.hold(txn, values.uses_of(message))
    write(txn, name, replace(topic, has_line=True))
    return waiters.park(txn, PUBLISHERS + name, waiter, BATCH.pack(batch))


def withdraw(txn: Txn, name: bytes, waiter: Waiter, messages: Sequence[bytes]) -> bool:
    """Stop waiting to publish. False if the messages had been published meanwhile: then they stay."""
    if not waiters.withdraw(txn, waiter):
        return False
    _drop_batch(txn, name, messages)
    return True


def bury(txn: Txn, left: waiters.Left) -> None:
    """A publisher that died in line: its messages go, those behind it may fit."""
    if left.place.startswith(PUBLISHERS) and left.want:
        _drop_batch(txn, left.place[len(PUBLISHERS) :], BATCH.unpack(left.want).messages)


def _drop_batch(txn: Txn, name: bytes, messages: Sequence[bytes]) -> None:
    for message in messages:
        values.release(txn, values.uses_of(message))
    write(txn, name, served(txn, name, look(txn, name)))


def _is_full(txn: Txn, name: bytes, topic: Topic, count: int) -> bool:
    """Whether so many messages more pass a limit. A batch larger than a subscriber's maxlen waits until that one has
    read everything."""
    if count == 1:
        found = txn.first(LIMITS + name)
        return found is not None and topic.end >= number_at(found[0], len(LIMITS) + len(name))[0]
    for key, maxlen in txn.scan(LIMITS + name):
        limit, _ = number_at(key, len(LIMITS) + len(name))
        if limit >= topic.end + count:
            return False
        if topic.end + min(count, number_at(maxlen, 0)[0]) > limit:
            return True
    return False


def served(txn: Txn, name: bytes, topic: Topic) -> Topic:
    """Publishers in line, the longest first, while there is room. The caller writes the topic."""
    while topic.has_line:
        found = waiters.head(txn, PUBLISHERS + name)
        if found is None:
            return replace(topic, has_line=False)
        at, messages = (batch := BATCH.unpack(found[1])).at, batch.messages
        if _is_full(txn, name, topic, len(messages)):
            break
        waiters.unpark(txn, PUBLISHERS + name)
        if topic.subscribers or topic.keep:
            topic = _append(txn, name, topic, messages, at)
        if (shapes := txn.get(pattern.SHAPES)) is not None:
            for heard in pattern.fitting(shapes, name):
                _overhear(txn, heard, messages, name)
        if batch.relay:
            _pass_on(txn, batch.relay, messages)
        for message in messages:
            values.release(txn, values.uses_of(message))  # What the line held, the log holds.
    return topic


def _append(txn: Txn, name: bytes, topic: Topic, messages: Sequence[bytes], at: float) -> Topic:
    end = _lay(txn, name, topic.end, messages)
    newest = topic.newest
    if topic.keep:
        newest = max(newest, at)  # Clocks may be set back: along a log, time only grows.
        txn.put(TIMES + name + pack((newest, topic.end)), pack_int(end))
    if topic.is_awaited:
        waiters.unpark_all(txn, TOPICS + name)
    topic = Topic(
        topic.first, end, topic.subscribers, False, topic.due, topic.depth, topic.keep, topic.blockers, topic.has_line,
        topic.dropped, newest, topic.policy, topic.maxlen,
    )  # fmt: skip
    if end >= topic.due:
        topic = trimmed(txn, name, topic)
    txn.put(TOPICS + name, _pack(topic))
    return topic


def _lay(txn: Txn, name: bytes, end: int, messages: Sequence[bytes]) -> int:
    """Write the messages, numbered from `end` on. Returns the number behind them."""
    prefix = MESSAGES + name
    for message in messages:
        if message[:1] == values.STORED_HEAD:
            values.hold(txn, values.uses_of(message))
        txn.put(prefix + pack_int(end), message)
        end += 1
    return end


def _overhear(txn: Txn, heard: bytes, messages: Sequence[bytes], source: bytes) -> int:
    """Append the messages of another topic to a pattern, if anybody subscribes to that. Returns how many do."""
    topic = look(txn, heard)
    if topic.subscribers:
        for number in range(topic.end, topic.end + len(messages)):
            txn.put(SOURCES + heard + pack_int(number), source)
        _append(txn, heard, topic, messages, 0.0)
    return topic.subscribers


def _pass_on(txn: Txn, relay: bytes, messages: Sequence[bytes]) -> int:
    """Append the messages to the relay, if anybody subscribes to it. Returns how many do."""
    topic = look(txn, relay)
    if topic.subscribers:
        _append(txn, relay, topic, messages, 0.0)
    return topic.subscribers


# -- reading and removing ---------------------------------------------------------------------------------------------


def read(txn: Txn, name: bytes, start: int, stop: int) -> list[bytes]:
    """The messages with these numbers, which are there."""
    prefix = MESSAGES + name
    if stop - start == 1:
        message = txn.get(prefix + pack_int(start))
        assert message is not None, "messages are numbered without gaps"
        return [message]
    found = [message for _, message in txn.scan(prefix, after=prefix + pack_int(start - 1), limit=stop - start)]
    assert len(found) == stop - start, "messages are numbered without gaps"
    return found


def sources(txn: Txn, name: bytes, start: int, stop: int) -> list[bytes]:
    """Where the messages of a pattern were published."""
    found = (txn.get(SOURCES + name + pack_int(number)) for number in range(start, stop))
    return [source for source in found if source is not None]


def since(txn: Txn, name: bytes, topic: Topic, at: float) -> int:
    """The number of the first message published at that time or later, as far as history is kept."""
    found = next(txn.scan(TIMES + name, after=TIMES + name + pack((at,)), limit=1), None)
    if found is None:
        return topic.end
    return max(topic.first, number_at(found[0], len(TIMES) + len(name) + 9)[0])


def trimmed(txn: Txn, name: bytes, topic: Topic, known: Sequence[bytes] = (), only_pin: int | None = None) -> Topic:
    """Remove what nobody may ask for any more. Costs as much as there is to remove. The caller writes the topic.

    What the caller knows need not be looked up: the first messages, and the pin if there is only one, without a reach.
    """
    pin, due, depth = only_pin, NEVER, topic.depth
    while pin is None:
        found = txn.first(PINS + name)
        if found is None:
            break
        number, subscriber = number_at(found[0], len(PINS) + len(name))
        reach = number_at(found[1], 0)[0]
        if not reach or topic.end - number <= reach:
            pin, due = number, (number + reach + 1 if reach else NEVER)
        else:
            txn.delete(found[0])
            txn.put(FLOATS + name + pack_int(-reach) + subscriber, b"")
            depth = max(depth, reach)
    floor = topic.end if pin is None else pin
    demanded = depth if depth > topic.keep else topic.keep
    if topic.end - demanded < floor:
        floor = max(topic.first, topic.end - demanded)
        due = min(due, floor + demanded + 1)
    if topic.first < floor:
        _remove(txn, name, topic, floor, known)
    return Topic(
        floor, topic.end, topic.subscribers, topic.is_awaited, due, depth, topic.keep, topic.blockers, topic.has_line,
        topic.dropped, topic.newest, topic.policy, topic.maxlen,
    )  # fmt: skip


def _remove(txn: Txn, name: bytes, topic: Topic, floor: int, known: Sequence[bytes]) -> None:
    prefix, is_pattern = MESSAGES + name, bool(pattern.shape_of(name))
    for number in range(topic.first, floor):
        packed = pack_int(number)
        place = number - topic.first
        message = known[place] if place < len(known) else txn.get(prefix + packed)
        assert message is not None, "messages are numbered without gaps"
        txn.delete(prefix + packed)
        if uses := values.uses_of(message):
            values.release(txn, uses)
        if is_pattern:
            txn.delete(SOURCES + name + packed)
    while topic.newest >= 0 and (found := txn.first(TIMES + name)) is not None and number_at(found[1], 0)[0] <= floor:
        txn.delete(found[0])


def pin(txn: Txn, name: bytes, number: int, subscriber: bytes, reach: int) -> None:
    """The subscriber may ask for this message and those behind it; with a reach, only as long as it is one of so many
    last ones."""
    txn.put(PINS + name + pack_int(number) + subscriber, pack_int(reach))


def repin(txn: Txn, name: bytes, before: int, number: int, subscriber: bytes) -> None:
    """Move the pin of a subscriber that has no reach. The caller trims."""
    txn.delete(PINS + name + pack_int(before) + subscriber)
    txn.put(PINS + name + pack_int(number) + subscriber, NO_REACH)


def unpin(txn: Txn, name: bytes, topic: Topic, number: int, subscriber: bytes, reach: int) -> Topic:
    """Undo `pin`, whatever became of it. The caller trims."""
    if txn.delete(PINS + name + pack_int(number) + subscriber):
        return topic
    txn.delete(FLOATS + name + pack_int(-reach) + subscriber)
    found = txn.first(FLOATS + name)
    return replace(topic, depth=0 if found is None else -number_at(found[0], len(FLOATS) + len(name))[0])


def limit(txn: Txn, name: bytes, end: int, subscriber: bytes, maxlen: int) -> None:
    """The log's end may not pass this number."""
    txn.put(LIMITS + name + pack_int(end) + subscriber, pack_int(maxlen))


def unlimit(txn: Txn, name: bytes, end: int, subscriber: bytes) -> None:
    """Undo `limit`. The caller serves the line."""
    txn.delete(LIMITS + name + pack_int(end) + subscriber)


def number_at(data: bytes, place: int) -> tuple[int, bytes]:
    """The integer packed at that place, and what is behind it."""
    size = data[place] - 0x14
    end = place + 1 + abs(size)
    number = int.from_bytes(data[place + 1 : end], "big")
    return (number if size >= 0 else number - (1 << -8 * size) + 1), data[end:]


# -- looking on -------------------------------------------------------------------------------------------------------


class Figures(NamedTuple):
    """What is known about a topic. `lag` is that of its slowest subscriber."""

    topic: Topic
    lag: int


def figures(txn: Txn, name: bytes) -> Figures:
    topic = look(txn, name)
    found = txn.first(PINS + name)
    pinned = topic.end if found is None else number_at(found[0], len(PINS) + len(name))[0]
    return Figures(topic, max(topic.end - pinned, topic.depth))


def end_of(txn: Txn, name: bytes) -> int:
    """The number of the next message to come."""
    return look(txn, name).end
