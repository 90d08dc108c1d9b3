"""Values that live as long as somebody refers to them: results of tasks, scattered data, blobs.

An object is made by one session and named (session, number). It is held by sessions (counted for each), by values
stored in variables, queues and topics, and by tasks that wait for it. When the last hold goes, the object goes, what
it uses is released in the same commit, and its blob's file is unlinked after it.

Invariant: `holds` counts one for each holder: a session that holds, however often, is one. How often its maker holds it
stands in the object (`owned`), how often another session does under HOLDS.

What this file must not know: what a pending object's `data` means (a task's recipe; the engine's business).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec

from ..store.keys import pack_id, pack_int
from ..store.keys import unpack as unpack_key
from ..store.records import UNREADABLE, Form, Record, damaged
from ..store.transaction import Txn, Waiter
from . import waiters
from .op import BUSY, NotNow

OBJECTS = b"\x20"
HOLDS = b"\x21"
NAMED = b"\x22"
"""By key: the object that has it."""
KEYS = b"\x23"
"""By object: its key, if it has one."""
BUDGET = b"\x24"
"""How many bytes all blobs may take in memory, if that is bounded."""
TOLD = b"\x28"
"""By feed: the objects whose end it has not taken yet."""

PENDING, FINISHED, ERROR, CANCELLED = range(4)


class Object(Record, tag=1, frozen=True):
    """One object. `uses` are the objects it holds itself; `is_watched`: somebody must be told of its end; `is_named`:
    it has a key, by which others find it as long as it is there."""

    state: Annotated[int, msgspec.Meta(ge=PENDING, le=CANCELLED)]
    holds: int
    owned: int
    data: bytes
    uses: tuple[bytes, ...] = ()
    blob: str = ""
    is_watched: bool = False
    is_named: bool = False


class Stored(Record, tag=1, frozen=True):
    """A user's value with the objects that it keeps alive. One that keeps none, as nearly all, is stored as it is."""

    data: bytes
    uses: tuple[bytes, ...] = ()


OBJECT = Form(Object)
STORED = Form(Stored)
STORED_HEAD = b"\x93"
"""How a Stored begins, in msgpack: an array of three. A pickle begins with 80."""
_pack_object, _unpack_object = OBJECT.pack, OBJECT.unpack


def pack(data: bytes, uses: tuple[bytes, ...] = ()) -> bytes:
    """A user's value as variables, queues and topics store it."""
    return STORED.pack(Stored(data, uses)) if uses or data[:1] == STORED_HEAD else data


def unpack(value: bytes) -> Stored:
    """What `pack` was given."""
    try:
        return STORED.unpack(value) if value[:1] == STORED_HEAD else Stored(value)
    except UNREADABLE as error:
        raise damaged(error) from error


def uses_of(value: bytes) -> tuple[bytes, ...]:
    """The objects that a stored value keeps alive."""
    return STORED.unpack(value).uses if value[:1] == STORED_HEAD else ()


def object_id(session: int, number: int) -> bytes:
    return pack_id(session) + pack_int(number)


def maker_of(oid: bytes) -> int:
    """The session that made the object."""
    return int(unpack_key(oid)[0])


def _hold_key(session: int, oid: bytes) -> bytes:
    return HOLDS + pack_id(session) + oid


def _put(txn: Txn, oid: bytes, old: Object, holds: int, owned: int) -> None:
    changed = Object(old.state, holds, owned, old.data, old.uses, old.blob, old.is_watched, old.is_named)
    txn.put(OBJECTS + oid, _pack_object(changed))


def make(txn: Txn, oid: bytes, state: int, data: bytes, uses: tuple[bytes, ...] = (), blob: str = "") -> None:
    """A new object, held once by the session that its id names."""
    lay(txn, oid, state, data, uses, blob)
    hold(txn, uses)


def lay(txn: Txn, oid: bytes, state: int, data: bytes, uses: tuple[bytes, ...] = (), blob: str = "") -> None:
    """As `make`, but the caller holds what it uses: for many at a time that use the same."""
    txn.put(OBJECTS + oid, _pack_object(Object(state, 1, 1, data, uses, blob)))


def budget(txn: Txn) -> int | None:
    """How many bytes all blobs may take in memory."""
    data = txn.get(BUDGET)
    return None if data is None else int.from_bytes(data, "big")


def set_budget(txn: Txn, size_bytes: int) -> None:
    """From now on no more than that."""
    txn.put(BUDGET, size_bytes.to_bytes(8, "big"))


def is_litter(txn: Txn, blob: str) -> bool:
    """Whether the blob, whose writer is dead, belongs to nobody: its object is gone, or never got it."""
    try:
        oid = bytes.fromhex(blob.rpartition("-")[2])
    except ValueError:  # No name of ours.
        return False
    found = look(txn, oid)
    return found is None or found.blob != blob


def look(txn: Txn, oid: bytes) -> Object | None:
    data = txn.get(OBJECTS + oid)
    return None if data is None else _unpack_object(data)


def _counted(oids: Sequence[bytes]) -> Iterable[tuple[bytes, int]]:
    if len(oids) == len(set(oids)):  # As nearly always; a Counter takes longer to make.
        return [(oid, 1) for oid in oids]
    return Counter(oids).items()


def hold(txn: Txn, oids: Sequence[bytes], met: dict[bytes, Object] | None = None) -> None:
    """One more hold on each; an object that is gone stays gone.

    `met`: some objects as the caller has read them, and maybe changed. They are written, held or not, and taken out.
    """
    for oid, count in _counted(oids):
        found = met.pop(oid, None) if met else None
        if found is None:
            found = look(txn, oid)
        if found is not None:
            _put(txn, oid, found, found.holds + count, found.owned)
    while met:
        oid, found = met.popitem()
        _put(txn, oid, found, found.holds, found.owned)


def hold_for(txn: Txn, session: int, oids: Iterable[bytes]) -> None:
    """One more hold of the session on each: for every copy of a reference that a process makes or receives."""
    mine = pack_id(session)
    for oid in oids:
        is_own = oid.startswith(mine)
        key = _hold_key(session, oid)
        count = None if is_own else txn.get(key)
        if count is not None:
            txn.put(key, pack_count(int.from_bytes(count, "big") + 1))
            continue
        found = look(txn, oid)
        if found is None:
            continue
        if is_own:
            _put(txn, oid, found, found.holds + (not found.owned), found.owned + 1)
        else:
            _put(txn, oid, found, found.holds + 1, found.owned)
            txn.put(key, b"\x01")


def pack_count(count: int) -> bytes:
    return count.to_bytes((count.bit_length() + 7) // 8, "big")


def release_for(txn: Txn, session: int, oids: Iterable[bytes]) -> None:
    """The session gives one hold on each back."""
    mine = pack_id(session)
    spent: list[tuple[bytes, int]] = []
    for oid in oids:
        if oid.startswith(mine):
            found = look(txn, oid)
            if found is not None and found.owned:
                _let_go(txn, oid, found, int(found.owned == 1), found.owned - 1, spent)
            continue
        key = _hold_key(session, oid)
        data = txn.get(key)
        if data is None:
            continue
        count = int.from_bytes(data, "big") - 1
        if count:
            txn.put(key, pack_count(count))
        else:
            txn.delete(key)
            spent.append((oid, 1))
    _release(txn, spent)


def release(txn: Txn, oids: Sequence[bytes]) -> None:
    """One hold less on each; what nobody holds any more goes, and releases what it uses."""
    _release(txn, list(_counted(oids)))


def _release(txn: Txn, spent: list[tuple[bytes, int]]) -> None:
    while spent:
        oid, count = spent.pop()
        found = look(txn, oid)
        if found is not None:
            _let_go(txn, oid, found, count, found.owned, spent)


def _let_go(txn: Txn, oid: bytes, found: Object, count: int, owned: int, spent: list[tuple[bytes, int]]) -> None:
    """So many holds less on the object, whose maker has `owned` left. If it goes, what it used is added to `spent`."""
    if found.holds > count:
        _put(txn, oid, found, found.holds - count, owned)
        return
    txn.delete(OBJECTS + oid)
    if found.is_watched:
        _wake(txn, oid)
    if found.is_named:
        _unname(txn, oid)
    if found.blob:
        txn.unlink(found.blob)
    if found.uses:
        spent += _counted(found.uses)


def name(txn: Txn, oid: bytes, key: bytes) -> None:
    """The object is found by this key from now on, and no other is."""
    found = look(txn, oid)
    if found is None:
        return
    before = txn.get(NAMED + key)
    if before is not None:
        txn.delete(KEYS + before)
    txn.put(NAMED + key, oid)
    txn.put(KEYS + oid, key)
    named = Object(
        found.state, found.holds, found.owned, found.data, found.uses, found.blob, found.is_watched, True
    )  # fmt: skip
    txn.put(OBJECTS + oid, _pack_object(named))


def named(txn: Txn, key: bytes) -> tuple[bytes, Object] | None:
    """The object of that key, unless it was cancelled."""
    oid = txn.get(NAMED + key)
    found = None if oid is None else look(txn, oid)
    return None if oid is None or found is None or found.state == CANCELLED else (oid, found)


def key_of(txn: Txn, oid: bytes) -> bytes | None:
    """The key by which the object is found, if it has one."""
    return txn.get(KEYS + oid)


def _unname(txn: Txn, oid: bytes) -> None:
    key = txn.get(KEYS + oid)
    if key is not None:  # Else another object has taken the key over.
        txn.delete(KEYS + oid)
        txn.delete(NAMED + key)


def settle(
    txn: Txn, oid: bytes, state: int, data: bytes, uses: tuple[bytes, ...] = (), blob: str = ""
) -> Object | None:
    """A pending object gets its end; wakes who waits. Returns what it was before, whose `uses` the caller releases;
    None (and the new uses are not taken) if it is gone or has ended already."""
    found = look(txn, oid)
    if found is None or found.state != PENDING:
        return None
    hold(txn, uses)
    ended = Object(state, found.holds, found.owned, data, uses, blob, False, found.is_named)
    txn.put(OBJECTS + oid, _pack_object(ended))
    if found.is_watched:
        _wake(txn, oid)
    return found


def _wake(txn: Txn, oid: bytes) -> None:
    """Wake everybody who waits for the object, and tell the feeds that follow it."""
    for _, feed in waiters.line(txn, OBJECTS + oid):
        if feed:
            _tell(txn, feed, oid)
    waiters.unpark_all(txn, OBJECTS + oid)


def _tell(txn: Txn, feed: bytes, oid: bytes) -> None:
    """One more in the feed. Its bell rings for the first: for the others it has rung, and they are not taken yet."""
    if txn.first(TOLD + feed) is None:
        session, bell = unpack_key(feed)
        txn.wake(Waiter(session, 0, bell))
    txn.put(TOLD + feed + oid, b"")


def watch(txn: Txn, oid: bytes, found: Object) -> None:
    """The object's end matters to somebody who must be told."""
    if not found.is_watched:
        _put(txn, oid, watched(found), found.holds, found.owned)


def watched(old: Object) -> Object:
    """The same, whose end matters to somebody."""
    return Object(old.state, old.holds, old.owned, old.data, old.uses, old.blob, True, old.is_named)


def wait_settled(txn: Txn, oid: bytes, waiter: Waiter | None) -> NotNow | Object | None:
    """The object once it has ended (None if it is gone); until then the waiter is parked."""
    found = look(txn, oid)
    if found is None or found.state != PENDING:
        return found
    if waiter is None:
        return BUSY
    watch(txn, oid, found)
    return waiters.park(txn, OBJECTS + oid, waiter)


def watch_all(txn: Txn, oids: Sequence[bytes], watchers: Sequence[Waiter]) -> None:
    """Park a waiter at each object that is pending."""
    for oid, waiter in zip(oids, watchers, strict=True):
        wait_settled(txn, oid, waiter)


def follow(txn: Txn, feed: bytes, oids: Sequence[bytes], watchers: Sequence[Waiter]) -> None:
    """Have the feed told of each object's end, at once if it has ended; each watcher, without a bell, is one wait.

    A feed is for one who waits for very many: to learn who has ended costs nothing for those who have not.
    """
    for oid, watcher in zip(oids, watchers, strict=True):
        found = look(txn, oid)
        if found is None or found.state != PENDING:
            _tell(txn, feed, oid)
        else:
            watch(txn, oid, found)
            waiters.park(txn, OBJECTS + oid, watcher, feed)


def feed_of(waiter: Waiter) -> bytes:
    """The feed that rings this waiter's bell. A bell has one feed at a time."""
    return pack_id(waiter.session) + pack_int(waiter.bell)


def told(txn: Txn, feed: bytes, limit: int) -> list[bytes]:
    """Take objects that have ended out of the feed."""
    prefix = TOLD + feed
    found = [key for key, _ in txn.scan(prefix, limit=limit)]
    for key in found:
        txn.delete(key)
    return [key[len(prefix) :] for key in found]


def which_settled(txn: Txn, oids: Sequence[bytes]) -> list[int]:
    """The places of those that have ended or are gone."""
    return [place for place, oid in enumerate(oids) if settled(txn, oid) is not BUSY]


def settled(txn: Txn, oid: bytes) -> Object | NotNow | None:
    """As `wait_settled`, for a read."""
    found = look(txn, oid)
    return BUSY if found is not None and found.state == PENDING else found


def has_ended(txn: Txn, oid: bytes) -> bool:
    """Whether the object has ended or is gone."""
    return settled(txn, oid) is not BUSY


def settled_run(txn: Txn, oids: Iterable[bytes]) -> list[Object | None]:
    """The objects up to the first one that is pending."""
    run: list[Object | None] = []
    for oid in oids:
        found = look(txn, oid)
        if found is not None and found.state == PENDING:
            break
        run.append(found)
    return run


def reopen(txn: Txn, oid: bytes, found: Object, data: bytes, uses: tuple[bytes, ...]) -> bool:
    """An object that has ended is pending again. False if it is so already."""
    if found.state == PENDING:
        return False
    hold(txn, uses)
    pending = Object(PENDING, found.holds, found.owned, data, uses, "", found.is_watched, found.is_named)
    txn.put(OBJECTS + oid, _pack_object(pending))
    if found.blob:
        txn.unlink(found.blob)
    release(txn, found.uses)
    return True


def rewrite(txn: Txn, oid: bytes, found: Object, data: bytes) -> None:
    """Give a pending object other data."""
    changed = Object(
        found.state, found.holds, found.owned, data, found.uses, found.blob, found.is_watched, found.is_named
    )  # fmt: skip
    txn.put(OBJECTS + oid, _pack_object(changed))


def bury(txn: Txn, session: int) -> None:
    """All holds of the session go, and its feeds."""
    for key, _ in txn.scan(TOLD + pack_id(session)):
        txn.delete(key)
    prefix = HOLDS + pack_id(session)
    for key, _ in txn.scan(prefix):
        txn.delete(key)
        release(txn, (key[len(prefix) :],))
    for key, _ in txn.scan(OBJECTS + pack_id(session)):
        oid = key[len(OBJECTS) :]
        found = look(txn, oid)
        if found is not None and found.owned:
            spent: list[tuple[bytes, int]] = []
            _let_go(txn, oid, found, 1, 0, spent)
            _release(txn, spent)
