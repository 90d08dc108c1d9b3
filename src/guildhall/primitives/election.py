"""Ops of Election: one leader at a time, the longest candidate next; whoever likes watches who leads.

Invariant: an election without a record has no candidates in line, so whoever finds it vacant leads at once and is fair.
A leader is one handle of one session; `grant` is the number of the attempt that got it. The term is the number of the
commit in which the leader took over, so it grows, and fences off what an earlier leader may still do.

What a session leads is found by looking at all elections that have a leader: a death is rare.
"""

from __future__ import annotations

from ..errors import NotHeld
from ..store.keys import name_of
from ..store.records import Form, Record
from ..store.transaction import Txn, Waiter
from . import values, waiters
from .op import BUSY, NotNow

ELECTIONS = b"\x5f"
WATCHERS = b"\x60"


class Leader(Record, tag=1, frozen=True):
    """Who leads, since which term, with what value, and the number of the commit that last changed any of it."""

    session: int
    handle: int
    grant: int
    term: int
    value: bytes
    changed: int


class Candidate(Record, tag=1, frozen=True):
    """Who wants to lead, and with what value."""

    handle: int
    value: bytes


LEADER = Form(Leader)
CANDIDATE = Form(Candidate)


def campaign(
    txn: Txn, name: bytes, session: int, handle: int, attempt: int, value: bytes, waiter: Waiter | None
) -> NotNow | Leader:
    """Lead, if nobody does; who leads already changes its value. Else the waiter is parked behind all candidates."""
    data = txn.get(ELECTIONS + name)
    if data is None:
        values.hold(txn, values.uses_of(value))
        return _lead(txn, name, Leader(session, handle, attempt, txn.revision, value, txn.revision))
    old = LEADER.unpack(data)
    if (old.session, old.handle) == (session, handle):
        values.hold(txn, values.uses_of(value))
        values.release(txn, values.uses_of(old.value))
        return _lead(txn, name, Leader(session, handle, old.grant, old.term, value, txn.revision))
    if waiter is None:
        return BUSY
    values.hold(txn, values.uses_of(value))
    return waiters.park(txn, ELECTIONS + name, waiter, CANDIDATE.pack(Candidate(handle, value)))


def _lead(txn: Txn, name: bytes, leader: Leader) -> Leader:
    txn.put(ELECTIONS + name, LEADER.pack(leader))
    waiters.unpark_all(txn, WATCHERS + name)
    return leader


def look(txn: Txn, name: bytes) -> Leader | None:
    data = txn.get(ELECTIONS + name)
    return None if data is None else LEADER.unpack(data)


def look_held(txn: Txn, name: bytes, session: int) -> Leader | None:
    """As `look`, with a hold of the session on each object that the value refers to."""
    found = look(txn, name)
    if found is not None:
        values.hold_for(txn, session, values.uses_of(found.value))
    return found


def await_change(txn: Txn, name: bytes, seen: int, waiter: Waiter | None) -> NotNow | Leader | None:
    """The leader (None: nobody), if that changed since commit `seen` (0: nobody led); else the waiter is parked."""
    found = look(txn, name)
    if (0 if found is None else found.changed) != seen:
        return found
    return BUSY if waiter is None else waiters.park(txn, WATCHERS + name, waiter)


def resign(txn: Txn, name: bytes, session: int, handle: int) -> None:
    """Give the lead up. The longest candidate, if any, leads from this commit on."""
    old = look(txn, name)
    if old is None or (old.session, old.handle) != (session, handle):
        who = "nobody leads" if old is None else f"led by handle {old.handle} of session {old.session}"
        raise NotHeld(
            f"election {name_of(name)!r:.60}: only its leader can resign, once; {who}, asked by handle {handle} of "
            f"session {session}; campaign first, with this object"
        )
    _pass_on(txn, name, old)


def _pass_on(txn: Txn, name: bytes, old: Leader) -> None:
    key = ELECTIONS + name
    values.release(txn, values.uses_of(old.value))
    next_up = waiters.head(txn, key)
    if next_up is None:
        txn.delete(key)
        waiters.unpark_all(txn, WATCHERS + name)
        return
    heir, want = next_up
    wanted = CANDIDATE.unpack(want)
    waiters.unpark(txn, key)
    _lead(txn, name, Leader(heir.session, wanted.handle, heir.number, txn.revision, wanted.value, txn.revision))


def leave(txn: Txn, waiter: Waiter, value: bytes) -> bool:
    """Be no candidate any more. False if the waiter leads meanwhile."""
    if not waiters.withdraw(txn, waiter):
        return False
    values.release(txn, values.uses_of(value))
    return True


def withdraw(txn: Txn, name: bytes, waiter: Waiter, value: bytes) -> None:
    """Be no candidate any more; if this very wait was granted meanwhile, resign."""
    if leave(txn, waiter, value):
        return
    found = look(txn, name)
    if found is not None and (found.session, found.grant) == (waiter.session, waiter.number):
        _pass_on(txn, name, found)


def let_go(txn: Txn, name: bytes, term: int) -> None:
    """End that term, unless it has ended."""
    found = look(txn, name)
    if found is not None and found.term == term:
        _pass_on(txn, name, found)


def bury_wait(txn: Txn, left: waiters.Left, now: float = 0.0) -> None:
    """A dead candidate's value goes."""
    values.release(txn, values.uses_of(CANDIDATE.unpack(left.want).value))


def bury(txn: Txn, session: int) -> None:
    """Wherever the session led, the longest candidate does."""
    for key, data in txn.scan(ELECTIONS):
        found = LEADER.unpack(data)
        if found.session == session:
            _pass_on(txn, key[len(ELECTIONS) :], found)
