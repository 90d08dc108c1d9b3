"""Ops of Variable: one value under a name, set and read by everybody."""

from __future__ import annotations

from ..store.transaction import Txn, Waiter
from . import values, waiters
from .op import BUSY, NotNow
from .values import Stored

VARIABLES = b"\x30"


def put(txn: Txn, name: bytes, value: bytes) -> None:
    """Set the value; all who wait for the first one wake."""
    key = VARIABLES + name
    old = txn.get(key)
    values.hold(txn, values.uses_of(value))
    txn.put(key, value)
    if old is None:
        waiters.unpark_all(txn, key)
    elif uses := values.uses_of(old):
        values.release(txn, uses)


def get(txn: Txn, name: bytes) -> bytes | None:
    """The value as it is stored; None if unset."""
    return txn.get(VARIABLES + name)


def get_held(txn: Txn, name: bytes, session: int) -> Stored | None:
    """The value, and a hold of the session on each object it refers to."""
    data = txn.get(VARIABLES + name)
    if data is None:
        return None
    stored = values.unpack(data)
    values.hold_for(txn, session, stored.uses)
    return stored


def await_set(txn: Txn, name: bytes, waiter: Waiter | None) -> NotNow | bool:
    """True if there is a value; else the waiter is parked until there is."""
    key = VARIABLES + name
    if txn.get(key) is not None:
        return True
    return BUSY if waiter is None else waiters.park(txn, key, waiter)


def delete(txn: Txn, name: bytes) -> None:
    """Unset; harmless if it was."""
    key = VARIABLES + name
    old = txn.get(key)
    if old is not None:
        txn.delete(key)
        values.release(txn, values.uses_of(old))
