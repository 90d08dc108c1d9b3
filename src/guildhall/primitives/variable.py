"""Ops of Variable: one value under a name, set and read by everybody.

Beside each value is its mark: the version, which is the number of the commit that set it, whether a watcher may stand
in line, and whether the value keeps objects alive. Whoever only wants the value never looks there, and who sets it
looks nowhere else: the old value, which may be long, is read only if it keeps something alive. Versions are commits'
numbers, because these grow for ever: what is set again after a delete has a new one, and a deleted variable leaves
nothing behind.

A change that depends on the value it replaces (`swap`) is made if the version is still the one that was read. One that
was beaten too often takes a turn: while it has it, no other `swap` goes through. A `put` or `delete` does, for neither
looks at what it replaces: so one that comes during a turn counts as having come just after the change that the turn is
for (`finish`). That way nobody's `put` ever waits, and whoever has the turn is certain to succeed.

Invariants: a value has a mark, and what is unset has none. A name without a turn has nobody in line for one, so who
finds none may take it at once and is fair.
"""

from __future__ import annotations

from typing import NamedTuple

from ..errors import HallDamaged
from ..store.keys import name_of, pack_int
from ..store.records import Form, Record
from ..store.transaction import Txn, Waiter
from . import values, waiters
from .op import BUSY, NotNow

VARIABLES = b"\x30"
WATCHERS = b"\x50"
TURNS = b"\x51"
MARKS = b"\x53"

_AWAITED, _KEEPS = 1, 2
_FLAGS = [bytes((flags,)) for flags in range(4)]
"""The last byte of a mark; eight of the version stand before it."""


class Turn(Record, tag=1, frozen=True):
    """Whose turn it is to change a variable: a session, and a number of its own for each turn it asks for."""

    session: int
    ticket: int


TURN = Form(Turn)


def put(txn: Txn, name: bytes, value: bytes) -> None:
    """Set the value; all who wait for one, or for another one, wake."""
    mark = txn.get(MARKS + name)
    flags = 0 if mark is None else mark[8]
    old = values.uses_of(txn.get(VARIABLES + name) or b"") if flags & _KEEPS else ()
    uses = values.uses_of(value)
    if uses:
        values.hold(txn, uses)
    txn.put(VARIABLES + name, value)
    txn.put(MARKS + name, txn.revision.to_bytes(8, "big") + _FLAGS[_KEEPS if uses else 0])
    if mark is None:
        waiters.unpark_all(txn, VARIABLES + name)
    if mark is None or flags & _AWAITED:
        waiters.unpark_all(txn, WATCHERS + name)
    if old:
        values.release(txn, old)


def get(txn: Txn, name: bytes) -> bytes | None:
    """The value as it is stored; None if unset."""
    return txn.get(VARIABLES + name)


def version(txn: Txn, name: bytes) -> int:
    """Grows with every value; 0 while unset."""
    mark = txn.get(MARKS + name)
    return 0 if mark is None else int.from_bytes(mark[:8], "big")


class Seen(NamedTuple):
    """A value as it is stored, and its version."""

    version: int
    data: bytes


def look(txn: Txn, name: bytes, after: int = 0) -> Seen | None:
    """The value and its version; None if unset, or if the version is not later than `after`."""
    seen = version(txn, name)
    if not seen and txn.get(VARIABLES + name) is not None:
        raise HallDamaged(f"variable {name_of(name)!r:.60}: it has a value and no version; delete it, or set it anew")
    return Seen(seen, txn.get(VARIABLES + name) or b"") if seen > after else None


def look_held(txn: Txn, name: bytes, session: int) -> Seen | None:
    """As `look`, and a hold of the session on each object that the value refers to."""
    seen = look(txn, name)
    if seen is not None:
        values.hold_for(txn, session, values.uses_of(seen.data))
    return seen


def await_set(txn: Txn, name: bytes, waiter: Waiter | None) -> NotNow | bool:
    """True if there is a value; else the waiter is parked until there is."""
    key = VARIABLES + name
    if txn.get(key) is not None:
        return True
    return BUSY if waiter is None else waiters.park(txn, key, waiter)


def await_newer(txn: Txn, name: bytes, seen: int, waiter: Waiter | None) -> NotNow | bool:
    """True if there is a value of a later version than `seen`; else the waiter is parked until there is."""
    if version(txn, name) > seen:
        return True
    if waiter is None:
        return BUSY
    mark = txn.get(MARKS + name)
    if mark is not None and not mark[8] & _AWAITED:
        txn.put(MARKS + name, mark[:8] + _FLAGS[mark[8] | _AWAITED])
    return waiters.park(txn, WATCHERS + name, waiter)


def delete(txn: Txn, name: bytes) -> None:
    """Unset; harmless if it was. Watchers stay in line: they wait for a value."""
    key = VARIABLES + name
    old = txn.get(key)
    if old is not None:
        txn.delete(key)
        txn.delete(MARKS + name)
        values.release(txn, values.uses_of(old))


# -- changes that depend on what they replace -------------------------------------------------------------------------


def swap(txn: Txn, name: bytes, seen: int, value: bytes) -> NotNow | bool:
    """Set the value if the version is still `seen` (0: unset); False if it is not, BUSY during somebody's turn."""
    if txn.get(TURNS + name) is not None:
        return BUSY
    if version(txn, name) != seen:
        return False
    put(txn, name, value)
    return True


def take_turn(txn: Txn, name: bytes, session: int, ticket: int, waiter: Waiter | None) -> NotNow | bool:
    """True if it is the session's turn now; else the waiter is parked behind all who asked before."""
    key = TURNS + name
    if txn.get(key) is None:
        txn.put(key, TURN.pack(Turn(session, ticket)))
        return True
    return BUSY if waiter is None else waiters.park(txn, key, waiter, pack_int(ticket))


def finish(txn: Txn, name: bytes, session: int, ticket: int, seen: int, value: bytes) -> bool:
    """Change the value that was `seen` during the turn, and end the turn. False if it is not this one's turn.

    If the value is another by now, it was put without a look at the one before: then this change came just before it,
    and is overwritten already.
    """
    if not has_turn(txn, name, session, ticket):
        return False
    if version(txn, name) == seen:
        put(txn, name, value)
    _pass_on(txn, name)
    return True


def has_turn(txn: Txn, name: bytes, session: int, ticket: int) -> bool:
    data = txn.get(TURNS + name)
    return data is not None and TURN.unpack(data) == Turn(session, ticket)


def end_turn(txn: Txn, name: bytes, session: int, ticket: int) -> None:
    """Change nothing; the longest waiter has the turn from now on. Harmless if it is not this one's turn."""
    if has_turn(txn, name, session, ticket):
        _pass_on(txn, name)


def withdraw_turn(txn: Txn, name: bytes, session: int, ticket: int, waiter: Waiter) -> None:
    """Stop waiting for a turn; one that was granted meanwhile goes to the next."""
    if not waiters.withdraw(txn, waiter):
        end_turn(txn, name, session, ticket)


def _pass_on(txn: Txn, name: bytes) -> None:
    key = TURNS + name
    next_up = waiters.head(txn, key)
    if next_up is None:
        txn.delete(key)
        return
    heir, want = next_up
    txn.put(key, TURN.pack(Turn(heir.session, int.from_bytes(want[1:], "big"))))
    waiters.unpark(txn, key)


def bury(txn: Txn, session: int) -> None:
    """The turns of a dead session go to the next in line. Only turns that somebody has right now are looked at."""
    for key, data in txn.scan(TURNS):
        if TURN.unpack(data).session == session:
            _pass_on(txn, key[len(TURNS) :])
