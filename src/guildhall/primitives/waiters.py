"""The one fair wait queue under everything that blocks.

A place is a key that processes wait at. Two records stand for one wait: in line, and under its session, so that the
session's death finds it. Invariant: both are there, or neither, or (granted with something to collect) only the
session's, holding the grant. So a waiter whose record is gone has been granted.

A waiter may stand in line without a bell while it is still awake and looks by itself: then it costs nobody a ring.
Before it falls asleep it hangs one (`arm`), in a transaction that also says whether it was granted in the meantime.
There it may also say that it is endless: it leaves only when it is granted (or by Ctrl-C and the like), and with what
its agent states about itself (the business of `deadlock.py`). The statement goes with the wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..errors import Misuse
from ..store.keys import name_of, pack_id, pack_int
from ..store.records import Form, Record
from ..store.transaction import Txn, Waiter
from .op import PARKED, NotNow

LINES = b"\x10"
WAITS = b"\x11"
STATEMENTS = b"\x12"


class InLine(Record, tag=1, frozen=True):
    """One wait, seen from its place. `want` belongs to the primitive."""

    session: int
    number: int
    bell: int
    want: bytes
    is_endless: bool = False
    since: float = 0.0


class Wait(Record, tag=1, frozen=True):
    """One wait, seen from its session: where it stands in line, or what it was granted."""

    place: bytes
    ticket: bytes
    granted: bytes | None = None
    is_endless: bool = False


_IN_LINE = Form(InLine)
_WAIT = Form(Wait)


def _wait_key(session: int, number: int) -> bytes:
    return WAITS + pack_id(session) + pack_int(number)


def statement_key(session: int, number: int) -> bytes:
    """Where the statement of an endless wait is, if it has one."""
    return STATEMENTS + pack_id(session) + pack_int(number)


def park(txn: Txn, place: bytes, waiter: Waiter, want: bytes = b"") -> NotNow:
    """Stand in line at the place, behind all who are there."""
    ticket = pack_int(txn.revision) + pack_int(waiter.number)
    one = InLine(waiter.session, waiter.number, waiter.bell, want, False, waiter.since)
    txn.put(LINES + place + ticket, _IN_LINE.pack(one))
    txn.put(_wait_key(waiter.session, waiter.number), _WAIT.pack(Wait(place, ticket)))
    return PARKED


def arm(txn: Txn, waiter: Waiter, bell: int, is_endless: bool = False, statement: bytes = b"") -> bool:
    """Ring this bell when the waiter is granted. False if it has been granted already."""
    wait_key = _wait_key(waiter.session, waiter.number)
    data = txn.get(wait_key)
    wait = None if data is None else _WAIT.unpack(data)
    if wait is None or wait.granted is not None:
        return False
    key = LINES + wait.place + wait.ticket
    data = txn.get(key)
    assert data is not None, "a wait stands in line until it is granted"
    line = _IN_LINE.unpack(data)
    one = InLine(waiter.session, waiter.number, bell, line.want, is_endless, line.since)
    txn.put(key, _IN_LINE.pack(one))
    if wait.is_endless != is_endless:
        txn.put(wait_key, _WAIT.pack(Wait(wait.place, wait.ticket, None, is_endless)))
    if statement:
        txn.put(statement_key(waiter.session, waiter.number), statement)
    elif wait.is_endless:
        txn.delete(statement_key(waiter.session, waiter.number))
    return True


def endless(txn: Txn, session: int, number: int) -> tuple[bytes, bytes] | None:
    """Where the wait stands in line and what it wants, if it is one that ends only when it is granted."""
    data = txn.get(_wait_key(session, number))
    wait = None if data is None else _WAIT.unpack(data)
    if wait is None or not wait.is_endless or wait.granted is not None:
        return None
    line = txn.get(LINES + wait.place + wait.ticket)
    assert line is not None, "a wait stands in line until it is granted"
    return wait.place, _IN_LINE.unpack(line).want


def head(txn: Txn, place: bytes) -> tuple[Waiter, bytes] | None:
    """The longest waiter at the place and what it wants."""
    found = txn.first(LINES + place)
    if found is None:
        return None
    line = _IN_LINE.unpack(found[1])
    return Waiter(line.session, line.number, line.bell, line.since), line.want


def line(txn: Txn, place: bytes) -> list[tuple[Waiter, bytes]]:
    """All who wait at the place and what they want, the longest waiter first."""
    found = []
    for _, data in txn.scan(LINES + place):
        one = _IN_LINE.unpack(data)
        found.append((Waiter(one.session, one.number, one.bell, one.since), one.want))
    return found


def want(txn: Txn, waiter: Waiter) -> bytes | None:
    """What the waiter wants; None if it does not stand in line any more."""
    found = _standing(txn, waiter)
    return None if found is None else found[2].want


def place(txn: Txn, waiter: Waiter) -> bytes | None:
    """Where the waiter stands in line; None if it does not any more."""
    found = _standing(txn, waiter)
    return None if found is None else found[1].place


def _standing(txn: Txn, waiter: Waiter) -> tuple[bytes, Wait, InLine] | None:
    """Where the waiter stands in line, and its two records."""
    data = txn.get(_wait_key(waiter.session, waiter.number))
    wait = None if data is None else _WAIT.unpack(data)
    if wait is None or wait.granted is not None:
        return None
    key = LINES + wait.place + wait.ticket
    line = txn.get(key)
    assert line is not None, "a wait stands in line until it is granted"
    return key, wait, _IN_LINE.unpack(line)


def rewrite(txn: Txn, waiter: Waiter, want: bytes) -> None:
    """The waiter, which stands in line, wants something else at the same place."""
    found = _standing(txn, waiter)
    assert found is not None, "only who stands in line may change its mind"
    key, _, line = found
    changed = InLine(line.session, line.number, line.bell, want, line.is_endless, line.since)
    txn.put(key, _IN_LINE.pack(changed))


def move(txn: Txn, waiter: Waiter, place: bytes, want: bytes) -> None:
    """The waiter, which stands in some line, goes to the end of the line at the place, with its bell.

    Its old ticket ends the new one: waiters moved in one commit stay apart, and in their order.
    """
    found = _standing(txn, waiter)
    assert found is not None, "only who stands in line can be moved"
    key, wait, line = found
    txn.delete(key)
    ticket = pack_int(txn.revision) + wait.ticket
    moved = InLine(line.session, line.number, line.bell, want, line.is_endless, line.since)
    txn.put(LINES + place + ticket, _IN_LINE.pack(moved))
    txn.put(_wait_key(waiter.session, waiter.number), _WAIT.pack(Wait(place, ticket, None, wait.is_endless)))


def unpark(txn: Txn, place: bytes, granted: bytes | None = None, only: bytes | None = None) -> Waiter | None:
    """Take the longest waiter out of the line and wake it, with something to collect or without.

    `only`: if this is what it wants; else it stays.
    """
    found = txn.first(LINES + place)
    if found is None:
        return None
    key, data = found
    line = _IN_LINE.unpack(data)
    if only is not None and line.want != only:
        return None
    return _serve(txn, place, key, line, granted)


def serve(txn: Txn, place: bytes) -> tuple[Waiter, bytes] | None:
    """Take the longest waiter out of the line and wake it, with nothing to collect. Who it is, and what it wants."""
    found = txn.first(LINES + place)
    if found is None:
        return None
    line = _IN_LINE.unpack(found[1])
    return _serve(txn, place, found[0], line, None), line.want


def _serve(txn: Txn, place: bytes, key: bytes, line: InLine, granted: bytes | None) -> Waiter:
    waiter = Waiter(line.session, line.number, line.bell, line.since)
    txn.delete(key)
    if granted is None:
        txn.delete(_wait_key(waiter.session, waiter.number))
    else:
        txn.put(_wait_key(waiter.session, waiter.number), _WAIT.pack(Wait(place, b"", granted)))
    if line.is_endless:
        txn.delete(statement_key(waiter.session, waiter.number))
    if waiter.bell:
        txn.wake(waiter)
    return waiter


def unpark_all(txn: Txn, place: bytes) -> None:
    """Wake everybody at the place."""
    while unpark(txn, place) is not None:
        pass


def is_granted(txn: Txn, waiter: Waiter) -> bool:
    """Whether the waiter, once parked, has been granted (or has withdrawn)."""
    data = txn.get(_wait_key(waiter.session, waiter.number))
    return data is None or _WAIT.unpack(data).granted is not None


def which_granted(txn: Txn, many: Sequence[Waiter]) -> list[Waiter]:
    """Those of the waiters that `is_granted`."""
    return [waiter for waiter in many if is_granted(txn, waiter)]


def is_gone(txn: Txn, waiter: Waiter) -> bool:
    """Whether the waiter, once parked, has been granted something that it need not collect."""
    return txn.get(_wait_key(waiter.session, waiter.number)) is None


def collect(txn: Txn, waiter: Waiter) -> bytes | None:
    """What the waiter was granted, once; None if there was nothing to collect."""
    key = _wait_key(waiter.session, waiter.number)
    data = txn.get(key)
    if data is None:
        return None
    granted = _WAIT.unpack(data).granted
    assert granted is not None, "collected while still in line"
    txn.delete(key)
    return granted


def withdraw(txn: Txn, waiter: Waiter) -> bool:
    """Leave the line. False if the waiter had been granted meanwhile: it has what it wanted."""
    key = _wait_key(waiter.session, waiter.number)
    data = txn.get(key)
    if data is None:
        return False
    wait = _WAIT.unpack(data)
    if wait.granted is not None:
        return False
    txn.delete(LINES + wait.place + wait.ticket)
    txn.delete(key)
    if wait.is_endless:
        txn.delete(statement_key(waiter.session, waiter.number))
    return True


def dismiss(txn: Txn, waiter: Waiter) -> None:
    """Take the waiter out of its line and wake it, granted nothing. Harmless if it stands in none."""
    data = txn.get(_wait_key(waiter.session, waiter.number))
    wait = None if data is None else _WAIT.unpack(data)
    line = None if wait is None else txn.get(LINES + wait.place + wait.ticket)
    if line is not None:
        withdraw(txn, waiter)
        if bell := _IN_LINE.unpack(line).bell:
            txn.wake(Waiter(waiter.session, waiter.number, bell))


def count(txn: Txn, place: bytes) -> int:
    """How many stand in line at the place."""
    return sum(1 for _ in txn.scan(LINES + place))


def is_granted_at(txn: Txn, place: bytes) -> bool:
    """Whether anybody was granted something there and has not collected it yet. Looks at all waits of the hall."""
    return any((wait := _WAIT.unpack(data)).granted is not None and wait.place == place for _, data in txn.scan(WAITS))


def refuse_waited(txn: Txn, place: bytes, kind: str) -> None:
    """Raises Misuse if anybody waits at the place, which is of a thing that is to be deleted."""
    if number := count(txn, place):
        raise Misuse(
            f"{kind} {name_of(place[1:])!r:.60}: it cannot be deleted while somebody waits ({number} now); "
            "let them go, or wait until they have"
        )


def withdraw_all(txn: Txn, many: Iterable[Waiter]) -> None:
    """Leave every line."""
    for waiter in many:
        withdraw(txn, waiter)


class Left(NamedTuple):
    """One wait of a dead session: what it wanted, and what it was granted and never collected."""

    place: bytes
    want: bytes
    granted: bytes | None
    session: int


def leave(txn: Txn, session: int) -> list[Left]:
    """Take a dead session out of every line."""
    waits = []
    for key, data in txn.scan(WAITS + pack_id(session)):
        wait = _WAIT.unpack(data)
        want = b""
        if wait.granted is None:
            line = txn.get(LINES + wait.place + wait.ticket)
            assert line is not None, "a wait stands in line until it is granted"
            want = _IN_LINE.unpack(line).want
            txn.delete(LINES + wait.place + wait.ticket)
            if wait.is_endless:
                txn.delete(STATEMENTS + key[len(WAITS) :])
        waits.append(Left(wait.place, want, wait.granted, session))
        txn.delete(key)
    return waits
