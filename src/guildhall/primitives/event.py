"""Ops of Event: a flag that processes wait for."""

from __future__ import annotations

from ..store.transaction import Txn, Waiter
from . import waiters
from .op import BUSY, NotNow

EVENTS = b"\x31"


def put(txn: Txn, name: bytes) -> None:
    """Raise the flag; everybody who waits is let go, even if it is lowered at once."""
    key = EVENTS + name
    if txn.get(key) is None:
        txn.put(key, b"\x01")
        waiters.unpark_all(txn, key)


def clear(txn: Txn, name: bytes) -> None:
    """Lower the flag."""
    txn.delete(EVENTS + name)


def is_set(txn: Txn, name: bytes) -> bool:
    return txn.get(EVENTS + name) is not None


def wait(txn: Txn, name: bytes, waiter: Waiter | None) -> NotNow | bool:
    """True if the flag is up; else the waiter is parked until it is raised."""
    if txn.get(EVENTS + name) is not None:
        return True
    return BUSY if waiter is None else waiters.park(txn, EVENTS + name, waiter)
