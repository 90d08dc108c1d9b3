"""Ops of Lock: one holder at a time, the longest waiter next.

Invariant: a lock without a record has nobody in line, so whoever finds it free may take it at once and is fair; a lock
whose record does not say `is_wanted` has nobody in line either, so its release need not look.
A holder is one handle of one session; `grant` is the number of the attempt that got it.

A holder with a lease holds until it releases, or until somebody takes over, which anybody may from `until` on: the
longest waiter first. Times are given by the caller, on a clock that all processes of the machine share.

What a session holds is found by looking at all locks held in the hall: a death is rare, an index would cost each cycle.
"""

from __future__ import annotations

from ..errors import LockLost, NotHeld
from ..store.keys import name_of
from ..store.records import Form, Record
from ..store.transaction import Txn, Waiter
from . import waiters
from .op import BUSY, PARKED, NotNow

LOCKS = b"\x32"


class Lock(Record, tag=1, frozen=True):
    """The holder, the fencing token of its grant, whether the holder before it died or let its lease run out, and when
    the grant was made and its lease ends."""

    session: int
    handle: int
    grant: int
    token: int
    is_inherited: bool = False
    is_wanted: bool = False
    since: float = 0.0
    until: float | None = None
    is_taken_over: bool = False


class Claim(Record, tag=1, frozen=True):
    """What a waiter wants: the lock for this handle, with a lease of so many seconds or without."""

    handle: int
    lease_s: float | None = None


LOCK = Form(Lock)
CLAIM = Form(Claim)
_pack, _unpack = LOCK.pack, LOCK.unpack
_newest: tuple[Lock | None, bytes] = None, b""
"""The last grant that this process wrote, and its bytes: whoever releases it at once need not pack it again."""


def acquire(
    txn: Txn,
    name: bytes,
    session: int,
    handle: int,
    attempt: int,
    waiter: Waiter | None,
    now: float = 0.0,
    lease_s: float | None = None,
) -> NotNow | Lock:
    """Take the lock if it is free; else the waiter, whose number is the attempt's, is parked behind all others."""
    global _newest
    key = LOCKS + name
    data = txn.get(key)
    if data is None:
        if lease_s is None:
            taken = Lock(session, handle, attempt, txn.revision, False, False, now)
        else:
            taken = Lock(session, handle, attempt, txn.revision, False, False, now, now + lease_s)
        data = _pack(taken)
        _newest = taken, data
        txn.put(key, data)
        return taken
    held = _unpack(data)
    if has_lapsed(held, now):
        heir = _pass_on(txn, key, held, now, is_taken_over=True)
        if heir is None:
            taken = _granted(txn, Claim(handle, lease_s), Waiter(session, attempt, 0), now, is_taken_over=True)
            txn.put(key, _pack(taken))
            return taken
        held = heir
    if waiter is None:
        return BUSY
    if not held.is_wanted:
        txn.put(key, _pack(_wanted(held)))
    waiters.park(txn, key, waiter, CLAIM.pack(Claim(handle, lease_s)))
    return PARKED


def look(txn: Txn, name: bytes) -> Lock | None:
    data = txn.get(LOCKS + name)
    return None if data is None else _unpack(data)


def is_open(txn: Txn, name: bytes) -> bool | None:
    """Whether nobody holds it; None if there is a line for it, or a lease."""
    data = txn.get(LOCKS + name)
    if data is None:
        return True
    held = _unpack(data)
    return None if held.is_wanted or held.until is not None else False


def has_lapsed(held: Lock, now: float) -> bool:
    """Whether the holder's lease ran out, so that others may take over."""
    return held.until is not None and held.until <= now


def release(
    txn: Txn,
    name: bytes,
    session: int,
    handle: int,
    now: float = 0.0,
    grant: Lock | None = None,
    has_lease: bool = False,
) -> None:
    """Give the lock up. The longest waiter, if any, holds it from this commit on.

    `grant` is what the session's handle got, if known: a record that still says the same need not be read. With a
    lease it is that very grant which is given up: raises LockLost if another took over.
    """
    key = LOCKS + name
    data = txn.get(key)
    if grant is not None and grant.session == session and not grant.is_wanted:
        newest, written = _newest
        if data == (written if newest is grant else _pack(grant)):
            txn.delete(key)
            return
    held = None if data is None else _unpack(data)
    token = grant.token if grant is not None and grant.session == session and has_lease else None
    if held is None or held.session != session or held.handle != handle or (token is not None and held.token != token):
        raise refusal(name, held, session, handle, token)
    if held.is_wanted:
        _pass_on(txn, key, held, now)
    else:
        txn.delete(key)


def refusal(name: bytes, held: Lock | None, session: int, handle: int, token: int | None) -> NotHeld | LockLost:
    """What to tell one who does not hold the lock, or (with the token of its grant) does not hold it any more."""
    who = "nobody holds it" if held is None else f"held by handle {held.handle} of session {held.session}"
    if token is not None:
        return LockLost(
            f"lock {name_of(name)!r}: the lease ran out and another took over; now {who}, asked by handle {handle} of "
            f"session {session} with fencing token {token}; renew() in time, or take a longer lease_s"
        )
    return NotHeld(
        f"lock {name_of(name)!r}: released too often, or by another than its holder; {who}, "
        f"asked by handle {handle} of session {session}; release it where it was acquired, once"
    )


def _granted(
    txn: Txn, claim: Claim, to: Waiter, now: float, is_inherited: bool = False, is_taken_over: bool = False
) -> Lock:
    until = None if claim.lease_s is None else now + claim.lease_s
    return Lock(to.session, claim.handle, to.number, txn.revision, is_inherited, False, now, until, is_taken_over)


def _wanted(held: Lock) -> Lock:
    return Lock(
        held.session, held.handle, held.grant, held.token, held.is_inherited, True, held.since, held.until,
        held.is_taken_over,
    )  # fmt: skip


def _pass_on(
    txn: Txn, key: bytes, held: Lock, now: float, *, is_inherited: bool = False, is_taken_over: bool = False
) -> Lock | None:
    """The longest waiter holds the lock; None, and it is free, if there is none."""
    taken = _give(txn, key, now, is_inherited, is_taken_over) if held.is_wanted else None
    if taken is None:
        txn.delete(key)
    return taken


def _give(txn: Txn, key: bytes, now: float, is_inherited: bool = False, is_taken_over: bool = False) -> Lock | None:
    next_up = waiters.serve(txn, key)
    if next_up is None:
        return None
    heir, want = next_up
    taken = _wanted(_granted(txn, CLAIM.unpack(want), heir, now, is_inherited, is_taken_over))
    txn.put(key, _pack(taken))
    _tell_head(txn, key, taken)
    return taken


def _tell_head(txn: Txn, key: bytes, held: Lock) -> None:
    """Who is first in line behind a lease sleeps until it ends: ring, so that it looks when that is."""
    if held.until is not None:
        next_up = waiters.head(txn, key)
        if next_up is not None and next_up[0].bell:
            txn.wake(next_up[0])


def enlist(txn: Txn, key: bytes, waiter: Waiter, want: bytes, now: float) -> None:
    """A waiter that stands in another line goes to the end of this lock's; if nobody holds it, it is granted."""
    waiters.move(txn, waiter, key, want)
    data = txn.get(key)
    held = None if data is None else _unpack(data)
    if held is None:
        _give(txn, key, now)
    elif has_lapsed(held, now):
        _give(txn, key, now, is_taken_over=True)
    elif not held.is_wanted:
        txn.put(key, _pack(_wanted(held)))
    if held is not None and held.until is not None and _is_first(txn, key, waiter):
        _tell_head(txn, key, held)


def renew(txn: Txn, name: bytes, session: int, handle: int, token: int, now: float, lease_s: float) -> Lock:
    """The lease of that grant ends so many seconds from now. Raises LockLost if another took over."""
    held = look(txn, name)
    if held is None or (held.session, held.token) != (session, token):
        raise refusal(name, held, session, handle, token)
    longer = Lock(
        held.session, held.handle, held.grant, held.token, held.is_inherited, held.is_wanted, held.since,
        now + lease_s, held.is_taken_over,
    )  # fmt: skip
    txn.put(LOCKS + name, _pack(longer))
    return longer


def lapse(txn: Txn, name: bytes, now: float) -> bool:
    """If the holder's lease ran out, the longest waiter takes over. Whether it did."""
    held = look(txn, name)
    if held is None or not has_lapsed(held, now) or waiters.head(txn, LOCKS + name) is None:
        return False
    _pass_on(txn, LOCKS + name, held, now, is_taken_over=True)
    return True


def next_lapse(txn: Txn, name: bytes, waiter: Waiter) -> float | None:
    """When the holder's lease ends, for the first in line; for others when it has ended long ago is soon enough."""
    held = look(txn, name)
    if held is None or held.until is None:
        return None
    return held.until if _is_first(txn, LOCKS + name, waiter) else held.until + GRACE_S


def _is_first(txn: Txn, key: bytes, waiter: Waiter) -> bool:
    next_up = waiters.head(txn, key)
    return next_up is not None and next_up[0][:2] == waiter[:2]


GRACE_S = 0.5
"""If the first in line has not taken over by then (it may be stuck itself), others see to it that it does."""


def leave(txn: Txn, name: bytes, waiter: Waiter) -> bool:
    """Leave the line. False if the lock had been granted to this very wait meanwhile."""
    if not waiters.withdraw(txn, waiter):
        return False
    held = look(txn, name)
    if held is not None:
        _tell_head(txn, LOCKS + name, held)
    return True


def withdraw(txn: Txn, name: bytes, waiter: Waiter, now: float = 0.0) -> None:
    """Stop waiting; if the lock was granted to this very wait meanwhile, give it up."""
    if leave(txn, name, waiter):
        return
    held = look(txn, name)
    if held is not None and (held.session, held.grant) == (waiter.session, waiter.number):
        _pass_on(txn, LOCKS + name, held, now)


def let_go(txn: Txn, name: bytes, token: int, now: float = 0.0) -> None:
    """Give up the grant of that token, unless that was done."""
    held = look(txn, name)
    if held is not None and held.token == token:
        _pass_on(txn, LOCKS + name, held, now)


def bury(txn: Txn, session: int, now: float = 0.0) -> None:
    """Every lock of the session goes to its next waiter, who can see that the holder died."""
    for key, data in txn.scan(LOCKS):
        held = _unpack(data)
        if held.session == session:
            _pass_on(txn, key, held, now, is_inherited=True)


def bury_wait(txn: Txn, left: waiters.Left, now: float = 0.0) -> None:
    """A wait of a dead session: who is first in line now must know when the lease ends."""
    data = txn.get(left.place)
    if data is not None:
        _tell_head(txn, left.place, _unpack(data))
