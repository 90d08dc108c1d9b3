"""Ops of Counter: a whole number of any size, 0 until changed.

The record is how often was added (8 bytes) and the number (big-endian, signed, as long as it needs). It is read and
written by hand, because adding is all that a counter does, and a record's form would cost a tenth of it.
"""

from __future__ import annotations

from typing import NamedTuple

from ..store.transaction import Txn

COUNTERS = b"\x52"


class Count(NamedTuple):
    """The number, and how often was added since the counter was made or reset."""

    value: int
    adds: int


def add(txn: Txn, name: bytes, n: int) -> int:
    """Add; the new value."""
    key = COUNTERS + name
    data = txn.get(key)
    if data is None:
        value, adds = n, 1
    else:
        value, adds = int.from_bytes(data[8:], "big", signed=True) + n, int.from_bytes(data[:8], "big") + 1
    txn.put(key, adds.to_bytes(8, "big") + value.to_bytes((value.bit_length() + 8) >> 3, "big", signed=True))
    return value


def get(txn: Txn, name: bytes) -> int:
    data = txn.get(COUNTERS + name)
    return 0 if data is None else int.from_bytes(data[8:], "big", signed=True)


def look(txn: Txn, name: bytes) -> Count:
    data = txn.get(COUNTERS + name)
    return Count(0, 0) if data is None else Count(get(txn, name), int.from_bytes(data[:8], "big"))


def put(txn: Txn, name: bytes, value: int) -> None:
    """Set the number; how often was added stays."""
    adds = look(txn, name).adds.to_bytes(8, "big")
    txn.put(COUNTERS + name, adds + value.to_bytes((value.bit_length() + 8) >> 3, "big", signed=True))


def reset(txn: Txn, name: bytes) -> int:
    """Back to 0, and nothing is left of the counter. The value it had."""
    value = get(txn, name)
    txn.delete(COUNTERS + name)
    return value
