"""Shares of something limited, in the order of asking: what is under Semaphore and RWLock.

A pool has a capacity. A lease takes units of it; who does not fit, or comes behind one who did not fit, stands in line.
A semaphore is a pool whose leases take one unit each; a lock for readers and writers is one where a writer takes all.
From this order alone follows that nobody starves, and that readers at the head of the line enter together.

Invariants: the first in line does not fit; a pool that is not `is_wanted` has nobody in line; `used` is the sum of the
units of its leases. A lease is found by its session and its number, that of the attempt that got it; so a death finds
all leases of the session, and a cycle costs the same however many there are.
"""

from __future__ import annotations

from ..store.keys import pack_id, pack_int
from ..store.records import Form, Record
from ..store.transaction import Txn, Waiter
from . import waiters
from .op import BUSY, NotNow

LEASES = b"\x5a"


class Pool(Record, tag=1, frozen=True):
    """The capacity and how much of it is used. One that was `born` (a commit's number) stays when it is not used."""

    capacity: int
    used: int = 0
    is_wanted: bool = False
    born: int = 0


class Lease(Record, tag=1, frozen=True):
    """Units of the pool of that birth, the fencing token and time of the grant, and whether a holder's death made room
    for it."""

    units: int
    born: int
    token: int
    since: float
    is_inherited: bool = False


POOL = Form(Pool)
LEASE = Form(Lease)


def _lease_key(place: bytes, session: int, number: int) -> bytes:
    return LEASES + pack_id(session) + pack_int(number) + place


def _place_of(key: bytes) -> bytes:
    """Of a lease's key, without its region and session: a number of at most 8 bytes stands before the place."""
    return key[1 + abs(key[0] - 0x14) :]


def look(txn: Txn, place: bytes) -> Pool | None:
    data = txn.get(place)
    return None if data is None else POOL.unpack(data)


def is_used(txn: Txn, place: bytes) -> bool:
    """Whether anybody holds a lease."""
    found = look(txn, place)
    return found is not None and found.used > 0


def lease(txn: Txn, place: bytes, waiter: Waiter) -> Lease | None:
    """What the attempt of the waiter's number got."""
    data = txn.get(_lease_key(place, waiter.session, waiter.number))
    return None if data is None else LEASE.unpack(data)


def acquire(
    txn: Txn, place: bytes, pool: Pool, units: int, session: int, number: int, now: float, waiter: Waiter | None
) -> NotNow | Lease:
    """Take so many units if they are free and nobody waits; else the waiter, of that number, is parked."""
    if pool.used + units <= pool.capacity and not (pool.is_wanted and waiters.head(txn, place)):
        made = _grant(txn, place, pool, units, Waiter(session, number, 0), now)
        txn.put(place, POOL.pack(Pool(pool.capacity, pool.used + units, False, pool.born)))
        return made
    if waiter is None:
        return BUSY
    if not pool.is_wanted:
        txn.put(place, POOL.pack(Pool(pool.capacity, pool.used, True, pool.born)))
    return waiters.park(txn, place, waiter, pack_int(units))


def _grant(
    txn: Txn, place: bytes, pool: Pool, units: int, to: Waiter, now: float, *, is_inherited: bool = False
) -> Lease:
    made = Lease(units, pool.born, txn.revision, now, is_inherited)
    txn.put(_lease_key(place, to.session, to.number), LEASE.pack(made))
    return made


def release(txn: Txn, place: bytes, session: int, number: int, now: float) -> bool:
    """Give the lease back; who fits now holds from this commit on. False if there is no such lease."""
    key = _lease_key(place, session, number)
    data = txn.get(key)
    if data is None:
        return False
    txn.delete(key)
    spent = LEASE.unpack(data)
    pool = look(txn, place)
    if pool is not None and pool.born == spent.born:
        _settle(txn, place, Pool(pool.capacity, pool.used - spent.units, pool.is_wanted, pool.born), now)
    return True


def _settle(txn: Txn, place: bytes, pool: Pool, now: float, *, is_inherited: bool = False) -> None:
    """Serve whoever fits, in order; then write the pool."""
    used, next_up = pool.used, None
    while pool.is_wanted and (next_up := waiters.head(txn, place)) is not None:
        to, want = next_up
        units = int.from_bytes(want[1:], "big")
        if used + units > pool.capacity:
            break
        _grant(txn, place, pool, units, to, now, is_inherited=is_inherited)
        waiters.unpark(txn, place)
        used += units
    if used or pool.born or next_up is not None:
        txn.put(place, POOL.pack(Pool(pool.capacity, used, next_up is not None, pool.born)))
    else:
        txn.delete(place)


def leave(txn: Txn, place: bytes, waiter: Waiter, now: float) -> bool:
    """Leave the line, and let those behind in who fit. False if a lease was granted meanwhile."""
    if not waiters.withdraw(txn, waiter):
        return False
    _settle_again(txn, place, now)
    return True


def withdraw(txn: Txn, place: bytes, waiter: Waiter, now: float) -> None:
    """Stop waiting; a lease that the attempt got is given back."""
    if not leave(txn, place, waiter, now):
        release(txn, place, waiter.session, waiter.number, now)


def _settle_again(txn: Txn, place: bytes, now: float) -> None:
    pool = look(txn, place)
    if pool is not None:
        _settle(txn, place, pool, now)


def close(txn: Txn, place: bytes) -> None:
    """The pool goes, whoever waits is let go without a lease, and leases that are out are no part of the next one."""
    txn.delete(place)
    waiters.unpark_all(txn, place)


def leases(txn: Txn, place: bytes) -> list[tuple[int, Lease]]:
    """The pool's leases, each with its session, the oldest first. Looks at all leases of the hall."""
    pool, found = look(txn, place), []
    for key, data in txn.scan(LEASES):
        if key.endswith(place):
            whose, session, one = read(key, data)
            if whose == place and pool is not None and one.born == pool.born:
                found.append((session, one))
    return sorted(found, key=lambda pair: pair[1].token)


def leases_of(txn: Txn, place: bytes, session: int) -> list[Lease]:
    """The pool's leases that the session holds. Looks at all leases of the session."""
    prefix = LEASES + pack_id(session)
    pool = look(txn, place)
    mine = [
        LEASE.unpack(data)
        for key, data in txn.scan(prefix)
        if key.endswith(place) and _place_of(key[len(prefix) :]) == place
    ]
    return [one for one in mine if pool is not None and one.born == pool.born]


def read(key: bytes, data: bytes) -> tuple[bytes, int, Lease]:
    """A lease as it is stored: of which pool, by which session, and what it is."""
    end = 2 + key[1] - 0x14
    return _place_of(key[end:]), int.from_bytes(key[2:end], "big"), LEASE.unpack(data)


def bury(txn: Txn, session: int, now: float) -> None:
    """All leases of the session are given back."""
    prefix = LEASES + pack_id(session)
    spent: dict[tuple[bytes, int], int] = {}
    for key, data in txn.scan(prefix):
        txn.delete(key)
        gone = LEASE.unpack(data)
        pool_of = _place_of(key[len(prefix) :]), gone.born
        spent[pool_of] = spent.get(pool_of, 0) + gone.units
    for (place, born), units in spent.items():
        pool = look(txn, place)
        if pool is not None and pool.born == born:
            rest = Pool(pool.capacity, pool.used - units, pool.is_wanted, pool.born)
            _settle(txn, place, rest, now, is_inherited=True)


def bury_wait(txn: Txn, left: waiters.Left, now: float) -> None:
    """A wait of a dead session: those behind it may fit."""
    _settle_again(txn, left.place, now)
