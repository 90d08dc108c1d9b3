"""Ops of Lock: one holder at a time, the longest waiter next.

Invariant: a lock without a record has nobody in line, so whoever finds it free may take it at once and is fair.
A holder is one handle of one session; `grant` is the number of the wait or attempt that got it.
"""

from __future__ import annotations

from typing import NamedTuple

from ..errors import NotHeld
from ..store.keys import Space, name_of, pack_id
from ..store.records import Form, Record
from ..store.transaction import Txn, Waiter
from . import waiters
from .op import BUSY, NotNow

LOCKS = Space(b"\x32")
HELD = Space(b"\x33")


class Holder(NamedTuple):
    """One handle in one session, and the number of this attempt to get the lock."""

    session: int
    handle: int
    attempt: int = 0


class Lock(Record, tag=1, frozen=True):
    """The holder, the fencing token of its grant, and whether the holder before it died."""

    session: int
    handle: int
    grant: int
    token: int
    is_inherited: bool = False


LOCK = Form(Lock)


def acquire(txn: Txn, name: bytes, asked: Holder, waiter: Waiter | None) -> NotNow | Lock:
    """Take the lock if it is free; else the waiter is parked behind all others."""
    key = LOCKS[name]
    if txn.get(key) is None:
        taken = Lock(asked.session, asked.handle, asked.attempt, txn.revision)
        txn.put(key, LOCK.pack(taken))
        txn.put(HELD[pack_id(asked.session) + name], b"")
        return taken
    if waiter is None:
        return BUSY
    return waiters.park(txn, key, waiter, pack_id(asked.handle))


def look(txn: Txn, name: bytes) -> Lock | None:
    data = txn.get(LOCKS[name])
    return None if data is None else LOCK.unpack(data)


def release(txn: Txn, name: bytes, asked: Holder) -> None:
    """Give the lock up. The longest waiter, if any, holds it from this commit on."""
    held = look(txn, name)
    if held is None or held.session != asked.session or held.handle != asked.handle:
        who = "nobody holds it" if held is None else f"held by handle {held.handle} of session {held.session}"
        raise NotHeld(
            f"lock {name_of(name)!r}: released too often, or by another than its holder; {who}, "
            f"asked by handle {asked.handle} of session {asked.session}"
        )
    _pass_on(txn, name, held, is_inherited=False)


def _pass_on(txn: Txn, name: bytes, held: Lock, *, is_inherited: bool) -> None:
    key = LOCKS[name]
    next_up = waiters.head(txn, key)
    txn.delete(HELD[pack_id(held.session) + name])
    if next_up is None:
        txn.delete(key)
        return
    heir, want = next_up
    handle = int.from_bytes(want[1:], "big")
    txn.put(key, LOCK.pack(Lock(heir.session, handle, heir.number, txn.revision, is_inherited)))
    txn.put(HELD[pack_id(heir.session) + name], b"")
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
    prefix = HELD[pack_id(session)]
    for key, _ in txn.scan(prefix):
        name = key[len(prefix) :]
        held = look(txn, name)
        if held is not None and held.session == session:
            _pass_on(txn, name, held, is_inherited=True)
        else:
            txn.delete(key)
