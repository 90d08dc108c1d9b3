"""Ops of subscriptions: who reads a topic, from where, and what happens when it is slow or dies.

A subscription has a cursor at the next message it will be given. One without a name belongs to one member and ends with
it. One with a name is durable: it stays when its members go, and they share it, each message to one of them.

Invariants, true after every commit:

- A cursor has one pin in the log, at the lowest of `at`, the numbers that members hold and those that came back.
- A durable subscription's member holds at most one message: it is done when the member asks for the next one and says
  that it had it, and comes back when the member dies. What came back goes out first, in order.
- Only a subscription with policy BLOCK and with a member limits the log; a durable one without members drops instead,
  so that nobody waits for the dead, and its maxlen bounds what it keeps.
- What is under SUBSCRIBED is there for each member of a subscription that is there, and so is found when its session
  dies. A durable subscription has a policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace

from ..errors import Misuse
from ..store.keys import name_of, pack_id
from ..store.records import Form, Record
from ..store.transaction import Txn, Waiter
from . import pattern, topic, values, waiters
from .op import BUSY, NotNow
from .topic import Topic

CURSORS = b"\x3a"
SUBSCRIBED = b"\x3b"

FREE, DROP, BLOCK = range(3)
"""What happens when a subscription has `maxlen` messages to read: it has no bound; the oldest go; publishers wait."""
OLDEST = "oldest"
AT_ONCE = 16
"""A subscription that blocks is given one in so many of its maxlen at once."""
DURABLE_MAXLEN = 10_000
"""What a durable subscription keeps when it is not told: it may never be read again."""


class Cursor(Record, tag=1, frozen=True):
    """Where a subscription stands. `lagged` are messages passed over of which no member has been told yet. Members are
    named only in a durable one, which may have several. `is_own`: it asked for its bound itself."""

    at: int
    policy: int = FREE
    maxlen: int = 0
    lagged: int = 0
    is_durable: bool = False
    members: tuple[bytes, ...] = ()
    held: tuple[tuple[bytes, int], ...] = ()
    returned: tuple[int, ...] = ()
    is_own: bool = False

    @property
    def needs(self) -> int:
        """The first message that may still be asked for."""
        if not self.is_durable:
            return self.at
        return min((self.at, *self.returned[:1], *(number for _, number in self.held)))

    @property
    def is_attended(self) -> bool:
        return bool(self.members) or not self.is_durable

    @property
    def blocks(self) -> bool:
        return self.policy == BLOCK and self.is_attended

    @property
    def reach(self) -> int:
        """How many of the last messages it can ask for; 0: there is no such bound."""
        return self.maxlen if self.policy == DROP or not self.is_attended else 0


class Membership(Record, tag=1, frozen=True):
    """Of which subscription one is a member."""

    name: bytes
    subscriber: bytes


class Fetched(NamedTuple):
    """Messages numbered from `start` on, where they were published (if that is not the topic), how many before them
    were passed over, and how many of the topic's last ones the reader is to read (0: all)."""

    start: int
    messages: Sequence[bytes]
    sources: Sequence[bytes]
    lagged: int
    bound: int = 0


CURSOR = Form(Cursor)
MEMBERSHIP = Form(Membership)


def configure(txn: Txn, name: bytes, keep: int | None = None, bound: tuple[int, int] | None = None) -> None:
    """Settings of a topic, those that are given: how many messages are kept for who comes late; and the policy and
    maxlen of the subscriptions that ask for none, also of those that are there."""
    log = topic.look(txn, name)
    if keep is not None:
        log = replace(log, keep=keep)
    if bound is not None and bound != (log.policy, log.maxlen):
        log = replace(log, policy=bound[0], maxlen=bound[1])
        for key, data in txn.scan(CURSORS + name):
            before = CURSOR.unpack(data)
            if not before.is_own:
                subscriber = key[len(CURSORS) + len(name) :]
                log = _let_go(txn, name, log, subscriber, before)
                cursor = _caught_up(before, log)
                policy, maxlen = _usual(log, cursor.is_durable)
                log = _take_hold(txn, name, log, subscriber, replace(cursor, policy=policy, maxlen=maxlen))
    topic.write(txn, name, topic.served(txn, name, topic.trimmed(txn, name, log)))


def delete(txn: Txn, name: bytes) -> None:
    """The topic's settings and what it keeps go. Raises Misuse while anybody subscribes to it."""
    if number := topic.look(txn, name).subscribers:
        raise Misuse(
            f"topic {name_of(name)!r:.60}: it cannot be deleted while it has subscriptions ({number} now); close them, "
            "and unsubscribe durable ones"
        )
    configure(txn, name, 0, (0, 0))


def _usual(log: Topic, is_durable: bool) -> tuple[int, int]:
    """Policy and maxlen of a subscription that asks for none."""
    if log.policy or not is_durable:
        return log.policy, log.maxlen
    return DROP, DURABLE_MAXLEN


def subscribe(
    txn: Txn,
    name: bytes,
    member: bytes,
    subscriber: bytes,
    start: int | float | str | None = None,
    policy: int = FREE,
    maxlen: int = 0,
) -> int:
    """From this commit on the member (an object id of its session) reads as the subscriber: itself, or a durable one.

    A new subscription starts with what is published next, or with the number `start`, or so many before the end
    (negative), or the oldest message kept, or the first one since a time (a float). One that is there goes on where it
    stands; a policy given replaces its own. One without a policy has the topic's, and if there is none and it is
    durable, it drops. Returns the number it will read next;
    raises Misuse for a `start` that was not reached yet.
    """
    log = topic.look(txn, name)
    data = txn.get(CURSORS + name + subscriber)
    if data is None:
        at = _place(txn, name, log, start)
        first, is_durable, is_own = max(at, log.first), subscriber != member, bool(policy)
        if not is_own:
            policy, maxlen = _usual(log, is_durable)
        members = (member,) if is_durable else ()
        cursor = Cursor(first, policy, maxlen, first - at, is_durable, members, is_own=is_own)
        log = replace(log, subscribers=log.subscribers + 1)
        if log.subscribers == 1 and (shape := pattern.shape_of(name)):
            pattern.add(txn, shape)
    else:
        before = _caught_up(CURSOR.unpack(data), log)
        log = _let_go(txn, name, log, subscriber, CURSOR.unpack(data))
        cursor = replace(before, members=(*before.members, member))
        if policy:
            cursor = replace(cursor, policy=policy, maxlen=maxlen, is_own=True)
    log = _take_hold(txn, name, log, subscriber, cursor)
    txn.put(SUBSCRIBED + member, MEMBERSHIP.pack(Membership(name, subscriber)))
    topic.write(txn, name, topic.served(txn, name, topic.trimmed(txn, name, log)))
    return cursor.at


def _place(txn: Txn, name: bytes, log: Topic, start: int | float | str | None) -> int:
    if start is None:
        return log.end
    if start == OLDEST:
        return log.first
    if isinstance(start, float):
        return topic.since(txn, name, log, start)
    assert isinstance(start, int)
    if start > log.end:
        raise Misuse(
            f"topic {name_of(name)!r:.60}: start {start}: only {log.end} messages were published; "
            f"expected 0 to {log.end}, a negative number, a time, or 'oldest'"
        )
    return start if start >= 0 else max(log.first, log.end + start)


def leave(txn: Txn, member: bytes, had: int | None = None, wakes: bool = False) -> None:
    """The member goes. A subscription of its own ends; a durable one stays, and what the member held comes back, unless
    that is the number it `had` and has done with. `wakes`: others of its process may be waiting with it, and have to
    see that."""
    data = txn.get(SUBSCRIBED + member)
    if data is None:
        return
    txn.delete(SUBSCRIBED + member)
    name, subscriber = (found := MEMBERSHIP.unpack(data)).name, found.subscriber
    data = txn.get(CURSORS + name + subscriber)
    assert data is not None, "what has members is there"
    cursor = CURSOR.unpack(data)
    log = _let_go(txn, name, topic.look(txn, name), subscriber, cursor)
    if cursor.is_durable:
        left = _without(cursor, member, had)
        log = _take_hold(txn, name, log, subscriber, left)
        wakes = wakes or left.returned != cursor.returned
    else:
        log = _forget(txn, name, log, subscriber)
    _settle(txn, name, log, wakes)


def _without(cursor: Cursor, member: bytes, had: int | None) -> Cursor:
    back = tuple(number for who, number in cursor.held if who == member and number != had)
    return replace(
        cursor,
        members=tuple(who for who in cursor.members if who != member),
        held=tuple(one for one in cursor.held if one[0] != member),
        returned=tuple(sorted((*cursor.returned, *back))),
    )


def end(txn: Txn, name: bytes, subscriber: bytes) -> bool:
    """End a durable subscription, for all its members. False if there is none."""
    data = txn.get(CURSORS + name + subscriber)
    if data is None:
        return False
    cursor = CURSOR.unpack(data)
    for member in cursor.members:
        txn.delete(SUBSCRIBED + member)
    log = _let_go(txn, name, topic.look(txn, name), subscriber, cursor)
    _settle(txn, name, _forget(txn, name, log, subscriber), wakes=True)
    return True


def bury(txn: Txn, session: int) -> None:
    """All members of the session go."""
    for key, _ in txn.scan(SUBSCRIBED + pack_id(session)):
        leave(txn, key[len(SUBSCRIBED) :])


def _forget(txn: Txn, name: bytes, log: Topic, subscriber: bytes) -> Topic:
    txn.delete(CURSORS + name + subscriber)
    if log.subscribers == 1 and (shape := pattern.shape_of(name)):
        pattern.remove(txn, shape)
    return replace(log, subscribers=log.subscribers - 1)


def _settle(txn: Txn, name: bytes, log: Topic, wakes: bool) -> None:
    if wakes and log.is_awaited:
        waiters.unpark_all(txn, topic.TOPICS + name)
        log = replace(log, is_awaited=False)
    topic.write(txn, name, topic.served(txn, name, topic.trimmed(txn, name, log)))


# -- fetching ---------------------------------------------------------------------------------------------------------


def fetch(
    txn: Txn,
    name: bytes,
    member: bytes,
    subscriber: bytes,
    limit: int,
    session: int,
    waiter: Waiter | None,
    had: int | None = None,
) -> NotNow | Fetched | None:
    """Up to `limit` messages behind the cursor, which moves, as far as its bound allows; if there are none, the waiter
    is parked.

    A durable subscription gives one, which the member holds; `had` is the number of the last one that the member was
    given and has done with. None if there is no such subscription, or the member
    is none of it.
    """
    data = txn.get(CURSORS + name + subscriber)
    if data is None:
        return None
    before = cursor = CURSOR.unpack(data)
    log = topic.look(txn, name)
    if cursor.is_durable and member not in cursor.members:
        return None  # Of another one of that name, which was ended.
    if cursor.policy:
        cursor = _caught_up(cursor, log)
    elif cursor.at < log.end and not cursor.lagged:
        return _fetch_free(txn, name, log, subscriber, cursor.at, limit, session)
    if cursor.is_durable:
        cursor, start, stop = _next_of(cursor, log, member, had)
    else:
        start, stop = cursor.at, min(cursor.at + min(limit, _most(cursor)), log.end)
        if stop > start:
            cursor = replace(cursor, at=stop)
    if start == stop and not cursor.lagged:
        if cursor != before:
            log = _moved(txn, name, log, subscriber, before, cursor)
        if waiter is None:
            return BUSY
        if not log.is_awaited:
            topic.write(txn, name, replace(log, is_awaited=True))
        return waiters.park(txn, topic.TOPICS + name, waiter)
    messages = topic.read(txn, name, start, stop) if start < stop else []
    sources = topic.sources(txn, name, start, stop) if pattern.shape_of(name) else ()
    for message in messages:
        if uses := values.uses_of(message):
            values.hold_for(txn, session, uses)
    lagged = cursor.lagged
    if lagged:
        cursor = replace(cursor, lagged=0)
        log = replace(log, dropped=log.dropped + lagged)
        topic.write(txn, name, log)
    _moved(txn, name, log, subscriber, before, cursor)
    bound = cursor.maxlen if cursor.policy == DROP and not cursor.is_durable else 0
    return Fetched(start, messages, sources, lagged, bound)


def _fetch_free(txn: Txn, name: bytes, log: Topic, subscriber: bytes, start: int, limit: int, session: int) -> Fetched:
    """What `fetch` does for nearly everybody: a subscription without a bound, and there is something to read."""
    stop = min(start + limit, log.end)
    messages = topic.read(txn, name, start, stop)
    sources = topic.sources(txn, name, start, stop) if pattern.shape_of(name) else ()
    for message in messages:
        if uses := values.uses_of(message):
            values.hold_for(txn, session, uses)
    txn.put(CURSORS + name + subscriber, CURSOR.pack(Cursor(stop)))
    topic.repin(txn, name, start, stop, subscriber)
    if start == log.first:
        topic.write(txn, name, topic.trimmed(txn, name, log, messages, stop if log.subscribers == 1 else None))
    return Fetched(start, messages, sources, 0)


def _most(cursor: Cursor) -> int:
    """How many messages may go out at once: those of one that blocks no longer count as unread, though they are."""
    if cursor.policy == BLOCK:
        return max(1, cursor.maxlen // AT_ONCE)
    return cursor.maxlen or topic.NEVER


def fetch_into(txn: Txn, found: list[Fetched], *args: Any) -> NotNow | bool | None:
    """As `fetch`, with the messages laid into the list: for a caller that may be interrupted behind the commit."""
    answer = fetch(txn, *args)
    if isinstance(answer, Fetched):
        found[:] = [answer]
        return True
    found.clear()
    return answer


def _next_of(cursor: Cursor, log: Topic, member: bytes, had: int | None) -> tuple[Cursor, int, int]:
    """The message for the member, or none. What it holds and did not get, as Ctrl-C came between, it gets again."""
    held = tuple(one for one in cursor.held if one[0] != member)
    again = [number for who, number in cursor.held if who == member and number != had and number >= log.first]
    if again:
        return cursor, again[0], again[0] + 1
    if cursor.returned:
        number = cursor.returned[0]
        return replace(cursor, held=(*held, (member, number)), returned=cursor.returned[1:]), number, number + 1
    if cursor.at == log.end:
        return (replace(cursor, held=held) if held != cursor.held else cursor), cursor.at, cursor.at
    number = cursor.at
    return replace(cursor, at=number + 1, held=(*held, (member, number))), number, number + 1


def _caught_up(cursor: Cursor, log: Topic) -> Cursor:
    """The cursor without what it may not ask for any more."""
    floor = log.end - cursor.reach if cursor.reach else 0
    if cursor.needs >= floor:
        return cursor
    returned = tuple(number for number in cursor.returned if number >= floor)
    held = tuple(one for one in cursor.held if one[1] >= floor)  # The others were given out, and cannot be again.
    at = max(cursor.at, floor)
    lagged = cursor.lagged + at - cursor.at + len(cursor.returned) - len(returned)
    return replace(cursor, at=at, held=held, returned=returned, lagged=lagged)


def has_news(txn: Txn, name: bytes, subscriber: bytes) -> bool:
    """Whether a fetch need not wait."""
    data = txn.get(CURSORS + name + subscriber)
    if data is None:
        return True
    cursor = CURSOR.unpack(data)
    return bool(cursor.at < topic.end_of(txn, name) or cursor.returned or cursor.lagged)


def unread(txn: Txn, name: bytes, subscriber: bytes) -> int:
    """How many messages the subscription has before it, dropped ones included."""
    data = txn.get(CURSORS + name + subscriber)
    if data is None:
        return 0
    cursor = CURSOR.unpack(data)
    return topic.end_of(txn, name) - cursor.at + len(cursor.returned)


def has_given(txn: Txn, name: bytes, member: bytes, subscriber: bytes, found: Fetched) -> bool:
    """Whether the newest fetch of the member was committed; this is what it found."""
    data = txn.get(CURSORS + name + subscriber)
    if data is None:
        return False
    cursor = CURSOR.unpack(data)
    if cursor.is_durable and found.messages:
        return (member, found.start) in cursor.held
    return cursor.at == found.start + len(found.messages) and not cursor.lagged


def _moved(txn: Txn, name: bytes, log: Topic, subscriber: bytes, before: Cursor, cursor: Cursor) -> Topic:
    """Write the cursor, move its pin and its limit, and whatever follows from that."""
    needs, was_first = before.needs, before.needs <= log.first
    if cursor.needs == needs and not before.blocks:
        txn.put(CURSORS + name + subscriber, CURSOR.pack(cursor))
        return log
    floated = log.depth
    log = _let_go(txn, name, log, subscriber, before)
    log = _take_hold(txn, name, log, subscriber, cursor)
    if was_first or floated:
        log = topic.trimmed(txn, name, log)
    elif not log.has_line:
        return log
    log = topic.served(txn, name, log)
    topic.write(txn, name, log)
    return log


def _take_hold(txn: Txn, name: bytes, log: Topic, subscriber: bytes, cursor: Cursor) -> Topic:
    """Write the cursor, with its pin and its limit."""
    txn.put(CURSORS + name + subscriber, CURSOR.pack(cursor))
    topic.pin(txn, name, cursor.needs, subscriber, cursor.reach)
    if not cursor.blocks:
        return log
    topic.limit(txn, name, cursor.at + cursor.maxlen, subscriber, cursor.maxlen)
    return replace(log, blockers=log.blockers + 1)


def _let_go(txn: Txn, name: bytes, log: Topic, subscriber: bytes, cursor: Cursor) -> Topic:
    """Undo `_take_hold`, except for the cursor."""
    log = topic.unpin(txn, name, log, cursor.needs, subscriber, cursor.reach)
    if not cursor.blocks:
        return log
    topic.unlimit(txn, name, cursor.at + cursor.maxlen, subscriber)
    return replace(log, blockers=log.blockers - 1)
