"""Ops of Condition: waiting for news about what a lock guards.

To wait is to release the lock and to stand in line at the condition, in one commit. To notify is to move the longest
waiters from there into the lock's line, where they are served like everybody else: nobody is woken before the lock is
its own, and an RLock comes back as often as it was held. A wait that was notified has a record until it returns, so
that what a dead or interrupted one was told is passed on to the next.

A condition has no record: it is a line. Everybody in it waits with the same lock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..errors import LockLost, Misuse, NotHeld
from ..store.keys import name_of, pack_id, pack_int
from ..store.records import Form, Record
from ..store.transaction import Txn, Waiter
from . import lock, rlock, waiters
from .lock import Lock
from .op import PARKED, NotNow
from .rlock import RLock

CONDITIONS = b"\x5d"
NOTIFIED = b"\x5e"

_ENLIST: dict[bytes, Callable[[Txn, bytes, Waiter, bytes, float], None]] = {
    lock.LOCKS: lock.enlist,
    rlock.RLOCKS: rlock.enlist,
}
"""How a waiter gets into the lock's line, by the region of the lock."""


class Guard(NamedTuple):
    """The lock, by its place, and who holds it: the handle of a Lock, with its lease and its grant, or the owner of an
    RLock."""

    place: bytes
    session: int
    owner: int
    lease_s: float | None = None
    grant: Lock | None = None


class Sleeper(Record, tag=1, frozen=True):
    """The lock that a waiter gave up, and what it will want in the lock's line."""

    lock: bytes
    want: bytes


class Notified(Record, tag=1, frozen=True):
    """Where a wait was notified that has not returned."""

    condition: bytes


SLEEPER = Form(Sleeper)
NOTIFIED_FORM = Form(Notified)


def wait(txn: Txn, name: bytes, guard: Guard, waiter: Waiter, now: float) -> NotNow:
    """Release the lock, however often it is held, and stand in line. Raises NotHeld or LockLost if it is not held."""
    _check(txn, name, guard, "wait")
    return waiters.park(txn, CONDITIONS + name, waiter, SLEEPER.pack(Sleeper(guard.place, _give_up(txn, guard, now))))


def _give_up(txn: Txn, guard: Guard, now: float) -> bytes:
    name = guard.place[1:]
    if guard.place[:1] == rlock.RLOCKS:
        return rlock.CLAIM.pack(rlock.give_up(txn, name, guard.session, guard.owner, now))
    lock.release(txn, name, guard.session, guard.owner, now, guard.grant, guard.lease_s is not None)
    return lock.CLAIM.pack(lock.Claim(guard.owner, guard.lease_s))


def _check(txn: Txn, name: bytes, guard: Guard, verb: str) -> None:
    if held_by(txn, guard) is None:
        raise refusal(txn, name, guard, verb)
    next_up = waiters.head(txn, CONDITIONS + name)
    if next_up is not None and (other := SLEEPER.unpack(next_up[1]).lock) != guard.place:
        raise Misuse(
            f"condition {name_of(name)!r:.60}: others wait with {_words(other)}, here it is {_words(guard.place)}; "
            "give all its handles the same lock"
        )


def held_by(txn: Txn, guard: Guard) -> Lock | RLock | None:
    """What is written of the lock, if who the guard says holds it."""
    name = guard.place[1:]
    if guard.place[:1] == rlock.RLOCKS:
        owned = rlock.look(txn, name)
        return owned if owned is not None and (owned.session, owned.owner) == guard[1:3] else None
    held = lock.look(txn, name)
    is_ours = held is not None and (held.session, held.handle) == guard[1:3] and held.token == _token(guard, held)
    return held if is_ours else None


def _token(guard: Guard, held: Lock) -> int:
    return held.token if guard.grant is None else guard.grant.token


def refusal(txn: Txn, name: bytes, guard: Guard, verb: str) -> NotHeld | LockLost:
    """What to tell one who does not hold the lock, or does not hold it any more."""
    if guard.lease_s is not None and guard.grant is not None and guard.grant.session == guard.session:
        held = lock.look(txn, guard.place[1:])
        return lock.refusal(guard.place[1:], held, guard.session, guard.owner, guard.grant.token)
    return NotHeld(
        f"condition {name_of(name)!r:.60}: only the holder of its {_words(guard.place)} can {verb}; "
        "acquire it first, through this object"
    )


def _words(place: bytes) -> str:
    return f"{'rlock' if place[:1] == rlock.RLOCKS else 'lock'} {name_of(place[1:])!r:.60}"


def notify(txn: Txn, name: bytes, guard: Guard, number: int | None, now: float) -> None:
    """The longest waiters, so many (None: all), stand in line for the lock."""
    _check(txn, name, guard, "notify")
    while number != 0 and _notify_one(txn, name, now):
        number = None if number is None else number - 1


def _notify_one(txn: Txn, name: bytes, now: float) -> bool:
    next_up = waiters.head(txn, CONDITIONS + name)
    if next_up is None:
        return False
    waiter, want = next_up
    _enlist(txn, waiter, SLEEPER.unpack(want), now)
    txn.put(_notified_key(waiter), NOTIFIED_FORM.pack(Notified(name)))
    return True


def _enlist(txn: Txn, waiter: Waiter, sleeper: Sleeper, now: float) -> None:
    _ENLIST[sleeper.lock[:1]](txn, sleeper.lock, waiter, sleeper.want, now)


def _notified_key(waiter: Waiter) -> bytes:
    return NOTIFIED + pack_id(waiter.session) + pack_int(waiter.number)


def time_up(txn: Txn, name: bytes, waiter: Waiter, now: float) -> bool:
    """Wait for the lock only. False if the waiter had been notified meanwhile: then it does so already."""
    if waiters.place(txn, waiter) != CONDITIONS + name:
        return False
    want = waiters.want(txn, waiter)
    assert want is not None, "who has a place stands in line"
    _enlist(txn, waiter, SLEEPER.unpack(want), now)
    return True


def collect(txn: Txn, guard: Guard, waiter: Waiter) -> Lock | RLock | None:
    """The wait returns: the lock that it was granted, None if its lease ran out since and another took over."""
    txn.delete(_notified_key(waiter))
    return _granted(txn, guard, waiter)


def _granted(txn: Txn, guard: Guard, waiter: Waiter) -> Lock | RLock | None:
    name = guard.place[1:]
    if guard.place[:1] == rlock.RLOCKS:
        owned = rlock.look(txn, name)
        return owned if owned is not None and (owned.session, owned.last) == waiter[:2] else None
    held = lock.look(txn, name)
    return held if held is not None and (held.session, held.grant) == waiter[:2] else None


def turn_back(txn: Txn, name: bytes, guard: Guard, waiter: Waiter, now: float) -> NotNow | Lock | RLock | None:
    """The wait is interrupted, nobody knows where: it wants its lock back, and what it was told is passed on.

    The lock, if it is held still or again; PARKED if the waiter stands in its line; None if it was lost.
    """
    time_up(txn, name, waiter, now)
    _pass_on(txn, _notified_key(waiter), now)
    if waiters.place(txn, waiter) is not None:
        return PARKED
    return _granted(txn, guard, waiter) or held_by(txn, guard)


def abandon(txn: Txn, guard: Guard, waiter: Waiter, now: float) -> Lock | RLock | None:
    """End the wait without the lock, and pass on what it was told. The lock, if it was not even released."""
    _pass_on(txn, _notified_key(waiter), now)
    if guard.place[:1] == rlock.RLOCKS:
        rlock.forgo(txn, guard.place[1:], waiter, now)
    else:
        lock.withdraw(txn, guard.place[1:], waiter, now)
    return held_by(txn, guard)


def _pass_on(txn: Txn, key: bytes, now: float) -> None:
    data = txn.get(key)
    if data is not None:
        txn.delete(key)
        _notify_one(txn, NOTIFIED_FORM.unpack(data).condition, now)


def bury(txn: Txn, session: int, now: float) -> None:
    """What the session's waits were told is passed on."""
    for key, _ in txn.scan(NOTIFIED + pack_id(session)):
        _pass_on(txn, key, now)
