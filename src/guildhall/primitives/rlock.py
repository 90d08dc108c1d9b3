"""Ops of RLock: one owner at a time, who may take it again; the longest waiter next.

An owner is a number in a session: what it stands for (a thread, a task of asyncio) is the caller's business. Each step
of an owner carries a number of its own (`last`), so that a step which was interrupted can be done again, or undone,
without knowing how far it came.
Invariants: as for Lock.
"""

from __future__ import annotations

from ..errors import NotHeld
from ..store.keys import name_of
from ..store.records import Form, Record
from ..store.transaction import Txn, Waiter
from . import waiters
from .op import BUSY, PARKED, NotNow

RLOCKS = b"\x54"


class RLock(Record, tag=1, frozen=True):
    """The owner, its last step, how often it holds, the token and time of the first, and whether the owner before it
    died."""

    session: int
    owner: int
    last: int
    count: int
    token: int
    since: float
    is_inherited: bool = False
    is_wanted: bool = False


class Claim(Record, tag=1, frozen=True):
    """What a waiter wants: the lock for this owner, held so often."""

    owner: int
    count: int = 1


RLOCK = Form(RLock)
CLAIM = Form(Claim)


def look(txn: Txn, name: bytes) -> RLock | None:
    data = txn.get(RLOCKS + name)
    return None if data is None else RLOCK.unpack(data)


def acquire(
    txn: Txn, name: bytes, session: int, owner: int, attempt: int, now: float, waiter: Waiter | None
) -> NotNow | RLock:
    """Take the lock if it is free or the owner's; else the waiter, whose number is the attempt's, is parked."""
    key = RLOCKS + name
    data = txn.get(key)
    if data is None:
        taken = RLock(session, owner, attempt, 1, txn.revision, now)
        txn.put(key, RLOCK.pack(taken))
        return taken
    held = RLOCK.unpack(data)
    if held.owner == owner and held.session == session:
        return _step(txn, key, held, attempt, held.count + 1)
    if waiter is None:
        return BUSY
    if not held.is_wanted:
        txn.put(key, RLOCK.pack(_wanted(held)))
    waiters.park(txn, key, waiter, CLAIM.pack(Claim(owner)))
    return PARKED


def _wanted(held: RLock) -> RLock:
    return RLock(
        held.session, held.owner, held.last, held.count, held.token, held.since, held.is_inherited, True
    )  # fmt: skip


def _step(txn: Txn, key: bytes, held: RLock, last: int, count: int) -> RLock:
    stepped = RLock(
        held.session, held.owner, last, count, held.token, held.since, held.is_inherited, held.is_wanted
    )  # fmt: skip
    txn.put(key, RLOCK.pack(stepped))
    return stepped


def release(txn: Txn, name: bytes, session: int, owner: int, attempt: int, now: float) -> None:
    """Give it up once. With the last one the longest waiter, if any, owns the lock from this commit on."""
    _down(txn, RLOCKS + name, _owned(txn, name, session, owner), attempt, now)


def _owned(txn: Txn, name: bytes, session: int, owner: int) -> RLock:
    held = look(txn, name)
    if held is None or held.session != session or held.owner != owner:
        who = "nobody holds it" if held is None else f"held by owner {held.owner} of session {held.session}"
        raise NotHeld(
            f"rlock {name_of(name)!r}: released too often, or by another than its owner; {who}, "
            f"asked by owner {owner} of session {session}; release it in the thread (or asyncio task) that acquired it"
        )
    return held


def _down(txn: Txn, key: bytes, held: RLock, attempt: int, now: float) -> None:
    if held.count > 1:
        _step(txn, key, held, attempt, held.count - 1)
    else:
        _pass_on(txn, key, held, now)


def _pass_on(txn: Txn, key: bytes, held: RLock, now: float, *, is_inherited: bool = False) -> None:
    """The longest waiter owns the lock, as often as it wants; if there is none, it is free."""
    if not held.is_wanted or not _give(txn, key, now, is_inherited):
        txn.delete(key)


def _give(txn: Txn, key: bytes, now: float, is_inherited: bool = False) -> bool:
    next_up = waiters.head(txn, key)
    if next_up is None:
        return False
    heir, want = next_up
    claim = CLAIM.unpack(want)
    txn.put(key, RLOCK.pack(RLock(
        heir.session, claim.owner, heir.number, claim.count, txn.revision, now, is_inherited, True,
    )))  # fmt: skip
    waiters.unpark(txn, key)
    return True


def give_up(txn: Txn, name: bytes, session: int, owner: int, now: float) -> Claim:
    """Give it up, however often it is held. Returns what is to be wanted to hold it so again."""
    held = _owned(txn, name, session, owner)
    _pass_on(txn, RLOCKS + name, held, now)
    return Claim(owner, held.count)


def enlist(txn: Txn, key: bytes, waiter: Waiter, want: bytes, now: float) -> None:
    """A waiter that stands in another line goes to the end of this lock's; if the lock is free, it is granted."""
    waiters.move(txn, waiter, key, want)
    data = txn.get(key)
    held = None if data is None else RLOCK.unpack(data)
    if held is None:
        _give(txn, key, now)
    elif not held.is_wanted:
        txn.put(key, RLOCK.pack(_wanted(held)))


def forgo(txn: Txn, name: bytes, waiter: Waiter, now: float) -> None:
    """Stop waiting; what this very wait was granted meanwhile is given up, however often it is held."""
    if waiters.withdraw(txn, waiter):
        return
    held = look(txn, name)
    if held is not None and (held.session, held.last) == (waiter.session, waiter.number):
        _pass_on(txn, RLOCKS + name, held, now)


def finish_release(txn: Txn, name: bytes, session: int, owner: int, attempt: int, now: float) -> None:
    """A release that was interrupted, nobody knows where: it is done from here on, once."""
    held = look(txn, name)
    if held is not None and (held.session, held.owner) == (session, owner) and held.last != attempt:
        _down(txn, RLOCKS + name, held, attempt, now)


def withdraw(txn: Txn, name: bytes, waiter: Waiter, now: float) -> None:
    """Stop waiting; if the attempt got the lock meanwhile, or once more, that is taken back."""
    if waiters.withdraw(txn, waiter):
        return
    held = look(txn, name)
    if held is not None and (held.session, held.last) == (waiter.session, waiter.number):
        _down(txn, RLOCKS + name, held, 0, now)


def bury(txn: Txn, session: int, now: float) -> None:
    """Every lock of the session goes to its next waiter, who can see that the owner died."""
    for key, data in txn.scan(RLOCKS):
        held = RLOCK.unpack(data)
        if held.session == session:
            _pass_on(txn, key, held, now, is_inherited=True)
