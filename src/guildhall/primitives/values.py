"""Values that live as long as somebody refers to them: results of tasks, scattered data, blobs.

An object is made by one session and named (session, number). It is held by sessions (counted for each), by values
stored in variables, queues and topics, and by tasks that wait for it. When the last hold goes, the object goes, what
it uses is released in the same commit, and its blob's file is unlinked after it.

What this file must not know: what a pending object's `data` means (a task's recipe; the engine's business).
"""

from __future__ import annotations

from collections.abc import Iterable

from ..store.keys import pack_id, pack_int
from ..store.records import Form, Record
from ..store.transaction import Txn, Waiter
from . import waiters
from .op import BUSY, NotNow

OBJECTS = b"\x20"
HOLDS = b"\x21"

PENDING, FINISHED, ERROR, CANCELLED = range(4)


class Object(Record, tag=1, frozen=True):
    """One object: `holds` counts every hold; `uses` are the objects it holds itself."""

    state: int
    holds: int
    data: bytes
    uses: tuple[bytes, ...] = ()
    blob: str = ""
    is_watched: bool = False


class Stored(Record, tag=1, frozen=True):
    """A user's value with the objects that it keeps alive."""

    data: bytes
    uses: tuple[bytes, ...] = ()


OBJECT = Form(Object)
STORED = Form(Stored)
_pack_object, _unpack_object = OBJECT.pack, OBJECT.unpack


def object_id(session: int, number: int) -> bytes:
    return pack_id(session) + pack_int(number)


def _hold_key(session: int, oid: bytes) -> bytes:
    return HOLDS + pack_id(session) + oid


def make(txn: Txn, session: int, oid: bytes, made: Object) -> None:
    """A new object, held once by the session; `made.holds` is 1."""
    txn.put(OBJECTS + oid, _pack_object(made))
    txn.put(_hold_key(session, oid), b"\x01")
    for use in made.uses:
        hold(txn, use)


def look(txn: Txn, oid: bytes) -> Object | None:
    data = txn.get(OBJECTS + oid)
    return None if data is None else _unpack_object(data)


def hold(txn: Txn, oid: bytes) -> bool:
    """One more hold; False if the object is gone."""
    found = look(txn, oid)
    if found is None:
        return False
    txn.put(OBJECTS + oid, _pack_object(_with(found, holds=found.holds + 1)))
    return True


def hold_for(txn: Txn, session: int, oids: Iterable[bytes]) -> None:
    """One more hold of the session on each: for every copy of a reference that a process makes or receives."""
    for oid in oids:
        key = _hold_key(session, oid)
        count = txn.get(key)
        if count is not None:
            txn.put(key, pack_count(int.from_bytes(count, "big") + 1))
        elif hold(txn, oid):
            txn.put(key, b"\x01")


def pack_count(count: int) -> bytes:
    return count.to_bytes((count.bit_length() + 7) // 8, "big")


def release_for(txn: Txn, session: int, oids: Iterable[bytes]) -> None:
    """The session gives one hold on each back."""
    for oid in oids:
        key = _hold_key(session, oid)
        data = txn.get(key)
        if data is None:
            continue
        count = int.from_bytes(data, "big") - 1
        if count:
            txn.put(key, pack_count(count))
        else:
            txn.delete(key)
            release(txn, (oid,))


def release(txn: Txn, oids: Iterable[bytes]) -> None:
    """One hold less on each; what nobody holds any more goes, and releases what it uses."""
    todo = list(oids)
    while todo:
        oid = todo.pop()
        found = look(txn, oid)
        if found is None:
            continue
        if found.holds > 1:
            txn.put(OBJECTS + oid, _pack_object(_with(found, holds=found.holds - 1)))
            continue
        txn.delete(OBJECTS + oid)
        if found.is_watched:
            waiters.unpark_all(txn, OBJECTS + oid)
        if found.blob:
            txn.unlink(found.blob)
        todo.extend(found.uses)


def settle(
    txn: Txn, oid: bytes, state: int, data: bytes, uses: tuple[bytes, ...] = (), blob: str = ""
) -> Object | None:
    """A pending object gets its end; wakes who waits. Returns what it was before; None (and the new uses are not
    taken) if it is gone or has ended already."""
    found = look(txn, oid)
    if found is None or found.state != PENDING:
        return None
    for use in uses:
        hold(txn, use)
    txn.put(OBJECTS + oid, _pack_object(Object(state, found.holds, data, uses, blob)))
    if found.is_watched:
        waiters.unpark_all(txn, OBJECTS + oid)
    release(txn, found.uses)
    return found


def wait_settled(txn: Txn, oid: bytes, waiter: Waiter | None) -> NotNow | Object | None:
    """The object once it has ended (None if it is gone); until then the waiter is parked."""
    found = look(txn, oid)
    if found is None or found.state != PENDING:
        return found
    if waiter is None:
        return BUSY
    if not found.is_watched:
        txn.put(OBJECTS + oid, _pack_object(_with(found, is_watched=True)))
    return waiters.park(txn, OBJECTS + oid, waiter)


def settled(txn: Txn, oid: bytes) -> Object | NotNow | None:
    """As `wait_settled`, for a read."""
    found = look(txn, oid)
    return BUSY if found is not None and found.state == PENDING else found


def _with(
    old: Object, *, holds: int | None = None, is_watched: bool | None = None, data: bytes | None = None
) -> Object:
    return Object(
        old.state,
        old.holds if holds is None else holds,
        old.data if data is None else data,
        old.uses,
        old.blob,
        old.is_watched if is_watched is None else is_watched,
    )


def bury(txn: Txn, session: int) -> None:
    """All holds of the session go."""
    prefix = HOLDS + pack_id(session)
    for key, _ in txn.scan(prefix):
        txn.delete(key)
        release(txn, (key[len(prefix) :],))


def rewrite(txn: Txn, oid: bytes, found: Object, data: bytes) -> None:
    """Give a pending object other data."""
    txn.put(OBJECTS + oid, _pack_object(_with(found, data=data)))
