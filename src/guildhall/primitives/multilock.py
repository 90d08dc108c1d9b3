"""Ops of MultiLock: several names at once, all of them or any k, granted in one transaction.

Every request stands in the line of each of its names. It is granted when enough of its names are free and it is first
in their lines: then it takes them all in that commit, and leaves the other lines. So a request waits only for who holds
one of its names, and for earlier requests for one of its names; none is overtaken by a later one that shares a name
with it, and the earliest of all waits for holders only. Nobody holds some names while waiting for others, so crossing
orders cannot block each other.

Invariant: no request that waits could be granted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from ..store.keys import pack_id, pack_int
from ..store.records import Form, Record
from ..store.transaction import Txn, Waiter
from . import waiters
from .op import BUSY, PARKED, NotNow

MULTILOCKS = b"\x56"
REQUESTED = b"\x57"
REQUESTS = b"\x58"


class Held(Record, tag=1, frozen=True):
    """Who holds one name: the session, the number of the attempt that got it, the fencing token and time of the grant
    (the same for all names of it), and whether it came because a holder died."""

    session: int
    grant: int
    token: int
    since: float
    is_inherited: bool = False


class Request(Record, tag=1, frozen=True):
    """What a waiter wants: `count` of the names. The ticket is its place in their lines."""

    names: tuple[bytes, ...]
    count: int
    ticket: bytes


class Grant(NamedTuple):
    """What a request got: the names, and what is written at each of them."""

    names: tuple[bytes, ...]
    held: Held


HELD = Form(Held)
REQUEST = Form(Request)


def acquire(
    txn: Txn, names: Sequence[bytes], count: int, session: int, number: int, now: float, waiter: Waiter | None
) -> NotNow | Grant:
    """Take the first `count` names that are free and that nobody waits for; if there are fewer, the waiter, of that
    number, is parked."""
    anybody_waits = txn.first(waiters.LINES + REQUESTS) is not None
    free = []
    for name in names:
        if _is_free(txn, name) and not (anybody_waits and txn.first(REQUESTED + name)):
            free.append(name)
            if len(free) == count:
                return _take(txn, free, Waiter(session, number, 0), now)
    if waiter is None:
        return BUSY
    place = _place(waiter)
    ticket = pack_int(txn.revision) + place[len(REQUESTS) :]
    for name in names:
        txn.put(REQUESTED + name + ticket, b"")
    waiters.park(txn, place, waiter, REQUEST.pack(Request(tuple(names), count, ticket)))
    return PARKED


def _place(waiter: Waiter) -> bytes:
    """Where the waiter of a request stands: alone. The lines in which it waits are those of the names."""
    return REQUESTS + pack_id(waiter.session) + pack_int(waiter.number)


def _take(txn: Txn, names: Sequence[bytes], to: Waiter, now: float, *, is_inherited: bool = False) -> Grant:
    held = Held(to.session, to.number, txn.revision, now, is_inherited)
    data = HELD.pack(held)
    for name in names:
        txn.put(MULTILOCKS + name, data)
    return Grant(tuple(names), held)


def look(txn: Txn, name: bytes) -> Held | None:
    data = txn.get(MULTILOCKS + name)
    return None if data is None else HELD.unpack(data)


def granted(txn: Txn, names: Iterable[bytes], waiter: Waiter) -> Grant | None:
    """Which of the names the attempt of the waiter's number got."""
    mine, last = [], None
    for name in names:
        held = look(txn, name)
        if held is not None and (held.session, held.grant) == (waiter.session, waiter.number):
            mine.append(name)
            last = held
    return None if last is None else Grant(tuple(mine), last)


def release(txn: Txn, names: Iterable[bytes], session: int, number: int, now: float) -> bool:
    """Give up those of the names that the attempt got, and serve who waits. False if there are none."""
    got = granted(txn, names, Waiter(session, number, 0))
    if got is None:
        return False
    for name in got.names:
        txn.delete(MULTILOCKS + name)
    _serve(txn, got.names, now)
    return True


def _serve(txn: Txn, names: Iterable[bytes], now: float, *, is_inherited: bool = False) -> None:
    """Grant what can be granted, in the order of asking, after these names became free or lost who was first in line.

    Who is granted leaves lines in which only later ones can be first now; so each is looked at once.
    """
    if txn.first(waiters.LINES + REQUESTS) is None:
        return
    tickets = _firsts(txn, names)
    seen = set(tickets)
    heapify(tickets)
    while tickets:
        ticket = heappop(tickets)
        place = REQUESTS + _behind_revision(ticket)
        next_up = waiters.head(txn, place)
        assert next_up is not None, "a request stands in line"
        request = REQUEST.unpack(next_up[1])
        free = [each for each in request.names if _is_free(txn, each) and _first(txn, each) == ticket]
        if len(free) >= request.count:
            _leave_lines(txn, request)
            _take(txn, free[: request.count], next_up[0], now, is_inherited=is_inherited)
            waiters.unpark(txn, place)
            for later in _firsts(txn, request.names):
                if later not in seen:
                    seen.add(later)
                    heappush(tickets, later)


def _is_free(txn: Txn, name: bytes) -> bool:
    return txn.get(MULTILOCKS + name) is None


def _firsts(txn: Txn, names: Iterable[bytes]) -> list[bytes]:
    """The tickets of the requests that are first in line of those names that are free."""
    found = {_first(txn, name) for name in names if _is_free(txn, name)}
    return [ticket for ticket in found if ticket is not None]


def _first(txn: Txn, name: bytes) -> bytes | None:
    """The ticket of the first request in the line of the name."""
    found = txn.first(REQUESTED + name)
    return None if found is None else found[0][len(REQUESTED) + len(name) :]


def line(txn: Txn, names: Iterable[bytes]) -> list[tuple[Waiter, bytes]]:
    """All who wait for any of the names and what they want, the longest waiter first."""
    tickets = {key[len(REQUESTED) + len(name) :] for name in names for key, _ in txn.scan(REQUESTED + name)}
    places = [REQUESTS + _behind_revision(ticket) for ticket in sorted(tickets)]
    return [found for place in places if (found := waiters.head(txn, place)) is not None]


def _behind_revision(ticket: bytes) -> bytes:
    return ticket[1 + ticket[0] - 0x14 :]


def _leave_lines(txn: Txn, request: Request) -> None:
    for name in request.names:
        txn.delete(REQUESTED + name + request.ticket)


def leave(txn: Txn, waiter: Waiter, now: float) -> bool:
    """Leave all lines, and let those behind in who can go now. False if the request had been granted meanwhile."""
    next_up = waiters.head(txn, _place(waiter))
    if not waiters.withdraw(txn, waiter):
        return False
    assert next_up is not None, "a wait stands in line until it is granted"
    request = REQUEST.unpack(next_up[1])
    _leave_lines(txn, request)
    _serve(txn, request.names, now)
    return True


def withdraw(txn: Txn, names: Iterable[bytes], waiter: Waiter, now: float) -> None:
    """Stop waiting; what the attempt got is given up."""
    if not leave(txn, waiter, now):
        release(txn, names, waiter.session, waiter.number, now)


def bury(txn: Txn, session: int, left: Iterable[waiters.Left], now: float) -> None:
    """The requests of the session leave the lines, the names it holds are free, and both go to who waits for them."""
    freed: list[bytes] = []
    for one in left:
        if one.place.startswith(REQUESTS):
            request = REQUEST.unpack(one.want)
            _leave_lines(txn, request)
            freed += request.names
    for key, data in txn.scan(MULTILOCKS):
        if HELD.unpack(data).session == session:
            txn.delete(key)
            freed.append(key[len(MULTILOCKS) :])
    _serve(txn, freed, now, is_inherited=True)
