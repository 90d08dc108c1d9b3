"""Ops of Latch: a count that only goes down; at zero, everybody who waits is let go, for good.

Invariant: while somebody waits, the count is above zero.
"""

from __future__ import annotations

from ..errors import Misuse
from ..store.keys import name_of
from ..store.records import Form, Record
from ..store.transaction import Txn, Waiter
from . import waiters
from .op import BUSY, NotNow

LATCHES = b"\x5b"


class Latch(Record, tag=1, frozen=True):
    """The count given by the first handle, and what is left of it."""

    count: int
    left: int


LATCH = Form(Latch)


def seen(txn: Txn, name: bytes) -> Latch | None:
    """The latch as it is written, for who looks and has no terms of its own; None if nobody used it yet."""
    data = txn.get(LATCHES + name)
    return None if data is None else LATCH.unpack(data)


def look(txn: Txn, name: bytes, count: int) -> Latch:
    """The latch, as good as new if nobody used it yet. Raises Misuse if it was made with another count."""
    data = txn.get(LATCHES + name)
    if data is None:
        return Latch(count, count)
    found = LATCH.unpack(data)
    if found.count != count:
        raise Misuse(
            f"latch {name_of(name)!r:.60}: made with count {found.count}, here with {count}; "
            "give all its handles the same"
        )
    return found


def count_down(txn: Txn, name: bytes, count: int, number: int) -> int:
    """So many less, not below zero; at zero all who wait are let go. Returns what is left."""
    found = look(txn, name, count)
    left = max(0, found.left - number)
    txn.put(LATCHES + name, LATCH.pack(Latch(count, left)))
    if found.left and not left:
        waiters.unpark_all(txn, LATCHES + name)
    return left


def delete(txn: Txn, name: bytes) -> None:
    """Nothing is left of it. Raises Misuse while somebody waits."""
    waiters.refuse_waited(txn, LATCHES + name, "latch")
    txn.delete(LATCHES + name)


def wait(txn: Txn, name: bytes, count: int, waiter: Waiter | None) -> NotNow | bool:
    """True if the count is zero; else the waiter is parked until it is."""
    found = look(txn, name, count)
    if found.left == 0:
        return True
    if waiter is None:
        return BUSY
    txn.put(LATCHES + name, LATCH.pack(found))
    return waiters.park(txn, LATCHES + name, waiter)
