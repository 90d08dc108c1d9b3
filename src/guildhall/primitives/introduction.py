"""Ops that introduce those who publish on a topic to those who subscribe, where messages go from one to the other.

In a hall that is far, a process that others can dial (a *station*) gives its messages to other stations itself. A
subscription there is a member of the topic's *relay*: a topic of its own, to which those publish whom nobody can dial.
So the relay's cursors say who subscribes, from where, and what is relayed to them; and all that is known of
subscriptions, their beginning, their end and their burial, holds for them.

A publisher asks once for its *route*: whose stations subscribe, and whether the hall has to hear it, too. It may use
that until it is told otherwise, or its time is up.

Invariants, true after every commit:

- Who may still use a route that was found at commit r stands under SENDERS with that r and its time.
- Who changes what routes say announces it: whoever stands there is told, and the change counts as made when each has
  forgotten its routes, was buried, or its time is up. So what is published from then on goes by a newer route.
- Announcements at one place are parked in the order of their commits.

Hence a message is for a subscription exactly if the route that it went by was found behind the subscription's commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..errors import Misuse
from ..store.keys import name_of, pack_id, pack_int
from ..store.records import Form, Record
from ..store.transaction import Txn, Waiter
from . import pattern, subscription, topic, values, waiters
from .op import BUSY, NotNow
from .subscription import Fetched
from .topic import Topic

SENDERS = b"\x73"
SENDING = b"\x74"
STATIONS = b"\x75"
ANNOUNCED = b"\x76"

NEWS = 1 << 33
"""The bell of whoever is to forget its routes; the number is that of the announcement."""
MAIL = 1 << 34
"""The bell of a subscription to which something was relayed."""
ROUTE_S = 2.0
"""So long a route may be used without asking again: who does not answer holds others up for no longer."""
_ALL = b"\xff"
"""In place of a name, which begins otherwise."""
_RELAY = b"\x02relay\x00\x00\x00"


class Sender(Record, tag=1, frozen=True):
    """Who may use a route: found at that commit, until that time on the hall's clock."""

    session: int
    revision: int
    until: float


class Route(NamedTuple):
    """Where the messages of a publisher go: to these stations (session, address), and to the hall if it `is_heard`
    there. Where the topic drops what is old, `bound` says how many a subscription without a bound of its own keeps."""

    revision: int
    stations: Sequence[tuple[int, str]]
    is_heard: bool
    bound: int


SENDER = Form(Sender)


def relay_of(name: bytes) -> bytes:
    """The name of the topic's relay: packed, as (name, "relay")."""
    return b"\x05" + name[:-1] + _RELAY


# -- subscribing ------------------------------------------------------------------------------------------------------


def join(txn: Txn, name: bytes, member: bytes, session: int, address: str, mail: Waiter) -> int | None:
    """The member subscribes, at the session's station. Returns the number of the commit; None if the topic has
    settings, so that its subscriptions belong into the hall.

    `mail` is told when something is relayed. The caller announces it.
    """
    log = topic.look(txn, name)
    if log.keep or log.maxlen:
        return None
    relay = relay_of(name)
    txn.put(STATIONS + pack_id(session), address.encode())
    subscription.subscribe(txn, relay, member, member)
    subscription.fetch(txn, relay, member, member, 1, session, mail)
    return txn.revision


def collect(txn: Txn, found: list[Fetched], name: bytes, member: bytes, limit: int, mail: Waiter) -> bool | None:
    """What was relayed to the member, laid into the list, if anything was; else `mail` is told when there is. None if
    there is no such member."""
    waiters.withdraw(txn, mail)
    return subscription.fetch_into(txn, found, relay_of(name), member, member, limit, mail.session, mail) and bool(
        found
    )


def leave(txn: Txn, member: bytes, mail: Waiter) -> None:
    """The member goes. Publishers hear of it when they ask again."""
    waiters.withdraw(txn, mail)
    subscription.leave(txn, member)


def expect_unused(txn: Txn, name: bytes) -> None:
    """Raises Misuse while any station subscribes."""
    if number := topic.look(txn, relay_of(name)).subscribers:
        raise Misuse(
            f"topic {name_of(name)!r:.60}: it cannot be deleted while it has subscriptions ({number} now); close them"
        )


# -- publishing -------------------------------------------------------------------------------------------------------


def route(txn: Txn, name: bytes, session: int, now: float) -> Route:
    """Where the session's messages go, from now on for ROUTE_S, unless it is told before. It asks for one route at a
    time, and uses no older one of that topic."""
    is_again = txn.get(SENDERS + name + pack_id(session)) is not None
    txn.put(SENDERS + name + pack_id(session), SENDER.pack(Sender(session, txn.revision, now + ROUTE_S)))
    txn.put(SENDING + pack_id(session) + name, b"")
    if is_again:
        _serve(txn, [name], now)
    prefix = subscription.CURSORS + relay_of(name)
    sessions = sorted({topic.number_at(key, len(prefix))[0] for key, _ in txn.scan(prefix)})
    stations = tuple((one, (txn.get(STATIONS + pack_id(one)) or b"").decode()) for one in sessions)
    return Route(txn.revision, stations, _is_heard(txn, name), _bound(topic.look(txn, name)))


def _bound(log: Topic) -> int:
    return log.maxlen if log.policy == subscription.DROP else 0


def _is_heard(txn: Txn, name: bytes) -> bool:
    log = topic.look(txn, name)
    if log.subscribers or log.keep:
        return True
    shapes = txn.get(pattern.SHAPES)
    return shapes is not None and any(topic.look(txn, heard).subscribers for heard in pattern.fitting(shapes, name))


def hand_over(txn: Txn, sessions: Sequence[int], oids: Sequence[bytes]) -> None:
    """The objects in a message, held for each of those who get it, before it is sent."""
    for session in sessions:
        values.hold_for(txn, session, oids)


# -- announcing -------------------------------------------------------------------------------------------------------


def announce(txn: Txn, name: bytes, session: int, now: float, waiter: Waiter | None) -> NotNow | None:
    """Tell all who may use an older route of the topic, or of any topic if the name is empty, but for the session
    itself. The waiter is parked until they have forgotten it; None if there is nothing to wait for."""
    older = _older(txn, name, txn.revision, session, now)
    if not older:
        return None
    for one in older:
        txn.wake(Waiter(one, txn.revision, NEWS))
    if waiter is None:
        return BUSY
    return waiters.park(txn, _place(name), waiter, pack_int(txn.revision))


def _place(name: bytes) -> bytes:
    return ANNOUNCED + (name or _ALL)


def forget(txn: Txn, session: int, revision: int, now: float) -> None:
    """The session uses no route any more that is older than that announcement."""
    mine = pack_id(session)
    names = [key[len(SENDING) + len(mine) :] for key, _ in txn.scan(SENDING + mine)]
    for name in names:
        if SENDER.unpack(_sender(txn, name, mine)).revision < revision:
            _remove(txn, name, mine)
    _serve(txn, names, now)


def _sender(txn: Txn, name: bytes, packed: bytes) -> bytes:
    data = txn.get(SENDERS + name + packed)
    assert data is not None, "who is found by its session is there"
    return data


def expire(txn: Txn, name: bytes, now: float) -> float | None:
    """Whoever's time is up counts no more. In how many seconds the next one's is; None if nobody is left."""
    lefts = [SENDER.unpack(data).until - now for _, data in txn.scan(SENDERS + name)]
    _serve(txn, [name], now)
    return min((left_s for left_s in lefts if left_s > 0), default=None)


def bury(txn: Txn, session: int, now: float) -> None:
    """A dead session uses no route."""
    txn.delete(STATIONS + pack_id(session))
    forget(txn, session, topic.NEVER, now)


def _serve(txn: Txn, names: Sequence[bytes], now: float) -> None:
    """Those go on whose announcements nobody need hear any more."""
    for name in dict.fromkeys((*names, b"")) if names else ():
        while (head := waiters.head(txn, _place(name))) is not None:
            waiter, want = head
            if _older(txn, name, topic.number_at(want, 0)[0], waiter.session, now):
                break
            waiters.unpark(txn, _place(name))


def _older(txn: Txn, name: bytes, revision: int, but: int, now: float) -> list[int]:
    """The sessions, each once, that may use a route of an older commit."""
    found: dict[int, None] = {}
    for key, data in txn.scan(SENDERS + name):
        sender = SENDER.unpack(data)
        packed = pack_id(sender.session)
        if sender.until <= now:
            _remove(txn, key[len(SENDERS) : -len(packed)], packed)
        elif sender.revision < revision and sender.session != but:
            found[sender.session] = None
    return list(found)


def _remove(txn: Txn, name: bytes, packed: bytes) -> None:
    txn.delete(SENDERS + name + packed)
    txn.delete(SENDING + packed + name)
