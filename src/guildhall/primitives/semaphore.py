"""Ops of Semaphore: a pool of leases whose number the first handle gives, and which stays until it is closed."""

from __future__ import annotations

from ..errors import Misuse, SemaphoreClosed
from ..store.keys import name_of
from ..store.transaction import Txn, Waiter
from . import pool
from .op import NotNow
from .pool import POOL, Lease, Pool

SEMAPHORES = b"\x59"


def register(txn: Txn, name: bytes, max_leases: int, born: int = 0) -> Pool:
    """Make the semaphore if it is not there.

    Raises Misuse if it is there with another number of leases, SemaphoreClosed if the one of that birth is gone.
    """
    found = pool.look(txn, SEMAPHORES + name)
    if born and (found is None or found.born != born):
        raise closed(name)
    if found is None:
        found = Pool(max_leases, born=txn.revision)
        txn.put(SEMAPHORES + name, POOL.pack(found))
    elif found.capacity != max_leases:
        raise Misuse(
            f"semaphore {name_of(name)!r}: max_leases {max_leases}, but it was made with {found.capacity}; "
            "give the same number everywhere, or close() it and make it anew"
        )
    return found


def closed(name: bytes) -> SemaphoreClosed:
    return SemaphoreClosed(f"semaphore {name_of(name)!r}: it was closed; make another Semaphore of that name")


def acquire(
    txn: Txn, name: bytes, max_leases: int, born: int, session: int, number: int, now: float, waiter: Waiter | None
) -> NotNow | Lease:
    """One lease, if one is free and nobody waits; else the waiter, of that number, is parked. Raises as `register`."""
    found = register(txn, name, max_leases, born)
    return pool.acquire(txn, SEMAPHORES + name, found, 1, session, number, now, waiter)


def held(txn: Txn, name: bytes, born: int) -> int:
    """How many leases are out. Raises SemaphoreClosed if the semaphore of that birth (0: any) is gone."""
    found = pool.look(txn, SEMAPHORES + name)
    if born and (found is None or found.born != born):
        raise closed(name)
    return 0 if found is None else found.used


def close(txn: Txn, name: bytes, born: int) -> None:
    """The semaphore goes, unless it is another one's already; who waits for it is told."""
    found = pool.look(txn, SEMAPHORES + name)
    if found is not None and born in (0, found.born):
        pool.close(txn, SEMAPHORES + name)
