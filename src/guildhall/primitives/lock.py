"""Ops of Lock: one holder at a time, the longest waiter next.

Invariant: a lock without a record has nobody in line, so whoever finds it free may take it at once and is fair; a lock
whose record does not say `is_wanted` has nobody in line either, so its release need not look.
A holder is one handle of one session; `grant` is the number of the attempt that got it.

What a session holds is found by looking at all locks held in the hall: a death is rare, an index would cost each cycle.
"""

from __future__ import annotations

from ..errors import NotHeld
from ..store.keys import name_of, pack_id
from ..store.records import Form, Record
from ..store.transaction import Txn, Waiter
from . import waiters
from .op import BUSY, PARKED, NotNow

LOCKS = b"\x32"


class Lock(Record, tag=1, frozen=True):
    """The holder, the fencing token of its grant, and whether the holder before it died."""

    session: int
    handle: int
    grant: int
    token: int
    is_inherited: bool = False
    is_wanted: bool = False


LOCK = Form(Lock)


def acquire(txn: Txn, name: bytes, session: int, handle: int, attempt: int, waiter: Waiter | None) -> NotNow | Lock:
    """Take the lock if it is free; else the waiter, whose number is the attempt's, is parked behind all others."""
    key = LOCKS + name
    data = txn.get(key)
    if data is None:
        taken = Lock(session, handle, attempt, txn.revision)
        txn.put(key, LOCK.pack(taken))
        return taken
    if waiter is None:
        return BUSY
    held = LOCK.unpack(data)
    if not held.is_wanted:
        txn.put(key, LOCK.pack(Lock(held.session, held.handle, held.grant, held.token, held.is_inherited, True)))
    waiters.park(txn, key, waiter, pack_id(handle))
    return PARKED


def look(txn: Txn, name: bytes) -> Lock | None:
    data = txn.get(LOCKS + name)
    return None if data is None else LOCK.unpack(data)


def release(txn: Txn, name: bytes, session: int, handle: int) -> None:
    """Give the lock up. The longest waiter, if any, holds it from this commit on."""
    data = txn.get(LOCKS + name)
    held = None if data is None else LOCK.unpack(data)
    if held is None or held.session != session or held.handle != handle:
        who = "nobody holds it" if held is None else f"held by handle {held.handle} of session {held.session}"
        raise NotHeld(
            f"lock {name_of(name)!r}: released too often, or by another than its holder; {who}, "
            f"asked by handle {handle} of session {session}; release it where it was acquired, once"
        )
    if held.is_wanted:
        _pass_on(txn, name, held, is_inherited=False)
    else:
        txn.delete(LOCKS + name)


def _pass_on(txn: Txn, name: bytes, held: Lock, *, is_inherited: bool) -> None:
    key = LOCKS + name
    next_up = waiters.head(txn, key) if held.is_wanted else None
    if next_up is None:
        txn.delete(key)
        return
    heir, want = next_up
    handle = int.from_bytes(want[1:], "big")
    txn.put(key, LOCK.pack(Lock(heir.session, handle, heir.number, txn.revision, is_inherited, True)))
    waiters.unpark(txn, key)


def withdraw(txn: Txn, name: bytes, waiter: Waiter) -> None:
    """Stop waiting; if the lock was granted to this very wait meanwhile, give it up."""
    if waiters.withdraw(txn, waiter):
        return
    held = look(txn, name)
    if held is not None and (held.session, held.grant) == (waiter.session, waiter.number):
        _pass_on(txn, name, held, is_inherited=False)


def let_go(txn: Txn, name: bytes, token: int) -> None:
    """Give up the grant of that token, unless that was done."""
    held = look(txn, name)
    if held is not None and held.token == token:
        _pass_on(txn, name, held, is_inherited=False)


def bury(txn: Txn, session: int) -> None:
    """Every lock of the session goes to its next waiter, who can see that the holder died."""
    for key, data in txn.scan(LOCKS):
        held = LOCK.unpack(data)
        if held.session == session:
            _pass_on(txn, key[len(LOCKS) :], held, is_inherited=True)
