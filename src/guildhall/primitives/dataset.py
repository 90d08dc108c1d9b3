"""Ops of datasets: values kept under a name, until they are removed."""

from __future__ import annotations

from ..store.transaction import Txn
from . import values

DATASETS = b"\x4a"


def publish(txn: Txn, name: bytes, stored: bytes, override: bool) -> bool:
    """Keep the value. False if the name is taken and may not be."""
    before = txn.get(DATASETS + name)
    if before is not None and not override:
        return False
    values.hold(txn, values.uses_of(stored))
    txn.put(DATASETS + name, stored)
    if before is not None:
        values.release(txn, values.uses_of(before))
    return True


def fetch(txn: Txn, name: bytes, session: int) -> bytes | None:
    """The value; the session takes a hold on what it uses."""
    stored = txn.get(DATASETS + name)
    if stored is not None:
        values.hold_for(txn, session, values.uses_of(stored))
    return stored


def names(txn: Txn) -> list[bytes]:
    return [key[1:] for key, _ in txn.scan(DATASETS)]


def remove(txn: Txn, name: bytes) -> None:
    """Let it go, if it is there."""
    stored = txn.get(DATASETS + name)
    if stored is not None:
        txn.delete(DATASETS + name)
        values.release(txn, values.uses_of(stored))
