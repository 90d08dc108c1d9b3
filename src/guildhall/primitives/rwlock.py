"""Ops of RWLock: a pool in which a reader takes one unit, and a writer all."""

from __future__ import annotations

from ..store.transaction import Txn, Waiter
from . import pool
from .op import NotNow
from .pool import Lease, Pool

RWLOCKS = b"\x55"
READ, WRITE = 1, 1 << 62
"""Units: more readers than 2**62 there are not."""

_FREE = Pool(WRITE)


def acquire(
    txn: Txn, name: bytes, units: int, session: int, number: int, now: float, waiter: Waiter | None
) -> NotNow | Lease:
    """READ or WRITE: enter if no writer is in and nobody waits; else the waiter, of that number, is parked."""
    found = pool.look(txn, RWLOCKS + name) or _FREE
    return pool.acquire(txn, RWLOCKS + name, found, units, session, number, now, waiter)
