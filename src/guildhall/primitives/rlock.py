"""Ops of RLock: one owner at a time, who may take it again; the longest waiter next.

An owner is a number in a session: what it stands for (a thread, a task of asyncio) is the caller's business. Each step
of an owner carries a number of its own (`last`), so that a step which was interrupted can be done again, or undone,
without knowing how far it came.
Invariants: as for Lock.
"""

from __future__ import annotations

from ..errors import NotHeld
from ..store.keys import name_of, pack_id
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


RLOCK = Form(RLock)


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
        txn.put(key, RLOCK.pack(RLock(
            held.session, held.owner, held.last, held.count, held.token, held.since, held.is_inherited, True,
        )))  # fmt: skip
    waiters.park(txn, key, waiter, pack_id(owner))
    return PARKED


def _step(txn: Txn, key: bytes, held: RLock, last: int, count: int) -> RLock:
    stepped = RLock(
        held.session, held.owner, last, count, held.token, held.since, held.is_inherited, held.is_wanted
    )  # fmt: skip
    txn.put(key, RLOCK.pack(stepped))
    return stepped


def release(txn: Txn, name: bytes, session: int, owner: int, attempt: int, now: float) -> None:
    """Give it up once. With the last one the longest waiter, if any, owns the lock from this commit on."""
    key = RLOCKS + name
    data = txn.get(key)
    held = None if data is None else RLOCK.unpack(data)
    if held is None or held.session != session or held.owner != owner:
        who = "nobody holds it" if held is None else f"held by owner {held.owner} of session {held.session}"
        raise NotHeld(
            f"rlock {name_of(name)!r}: released too often, or by another than its owner; {who}, "
            f"asked by owner {owner} of session {session}; release it in the thread (or asyncio task) that acquired it"
        )
    _down(txn, key, held, attempt, now)


def _down(txn: Txn, key: bytes, held: RLock, attempt: int, now: float, *, is_inherited: bool = False) -> None:
    if held.count > 1 and not is_inherited:
        _step(txn, key, held, attempt, held.count - 1)
        return
    next_up = waiters.head(txn, key) if held.is_wanted else None
    if next_up is None:
        txn.delete(key)
        return
    heir, want = next_up
    owner = int.from_bytes(want[1:], "big")
    txn.put(key, RLOCK.pack(RLock(
        heir.session, owner, heir.number, 1, txn.revision, now, is_inherited, True,
    )))  # fmt: skip
    waiters.unpark(txn, key)


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
            _down(txn, key, held, 0, now, is_inherited=True)
