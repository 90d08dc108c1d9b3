"""Ops of Barrier: nobody goes on until all parties are there; then all do, in one commit, and it serves again.

As in `threading.Barrier`, a barrier that is broken stays so until it is reset. It breaks when a party's time is up,
when one dies while it waits, and when it is aborted; a party that is interrupted only leaves.

Invariants: as many stand in line as the record says are waiting, fewer than the parties; at a broken one, nobody.
"""

from __future__ import annotations

from ..errors import BrokenBarrier, Misuse
from ..store.keys import name_of
from ..store.records import Form, Record
from ..store.transaction import Txn, Waiter
from . import waiters
from .op import BUSY, NotNow

BARRIERS = b"\x5c"


class Barrier(Record, tag=1, frozen=True):
    """The parties given by the first handle, how many wait, how often all went on, and why it is broken, if it is."""

    parties: int
    waiting: int = 0
    trips: int = 0
    broken: str = ""


class Outcome(Record, tag=1, frozen=True):
    """How a party's wait ended: its number among the parties, or why there is none."""

    index: int
    broken: str = ""


BARRIER = Form(Barrier)
OUTCOME = Form(Outcome)


def look(txn: Txn, name: bytes, parties: int) -> Barrier:
    """The barrier, as good as new if nobody used it yet. Raises Misuse if it was made for another number of parties."""
    data = txn.get(BARRIERS + name)
    if data is None:
        return Barrier(parties)
    found = BARRIER.unpack(data)
    if found.parties != parties:
        raise Misuse(
            f"barrier {name_of(name)!r:.60}: made for {found.parties} parties, here for {parties}; "
            "give all its handles the same"
        )
    return found


def wait(txn: Txn, name: bytes, parties: int, waiter: Waiter | None) -> NotNow | int:
    """The last party lets all go on, and is told its number; the others are parked. Without a waiter, it breaks."""
    key = BARRIERS + name
    found = look(txn, name, parties)
    if found.broken:
        raise refusal(name, found.broken)
    if found.waiting + 1 == parties:
        for index in range(found.waiting):
            waiters.unpark(txn, key, OUTCOME.pack(Outcome(index)))
        txn.put(key, BARRIER.pack(Barrier(parties, 0, found.trips + 1)))
        return found.waiting
    if waiter is None:
        _end(txn, name, found, "a party tried once and was not the last")
        return BUSY
    txn.put(key, BARRIER.pack(Barrier(parties, found.waiting + 1, found.trips)))
    return waiters.park(txn, key, waiter)


def refusal(name: bytes, why: str) -> BrokenBarrier:
    return BrokenBarrier(f"barrier {name_of(name)!r:.60}: broken, for {why}; reset() makes it whole again")


def collect(txn: Txn, waiter: Waiter) -> Outcome:
    """How the wait ended."""
    granted = waiters.collect(txn, waiter)
    assert granted is not None, "a party is told how its wait ended"
    return OUTCOME.unpack(granted)


def give_up(txn: Txn, name: bytes, parties: int, waiter: Waiter) -> bool:
    """The party's time is up: the barrier breaks. False if its wait had ended meanwhile."""
    if not waiters.withdraw(txn, waiter):
        return False
    _end(txn, name, look(txn, name, parties), f"the time of a party (session {waiter.session}) was up")
    return True


def withdraw(txn: Txn, name: bytes, parties: int, waiter: Waiter) -> None:
    """The party leaves, as if it had not come."""
    if waiters.withdraw(txn, waiter):
        found = look(txn, name, parties)
        txn.put(BARRIERS + name, BARRIER.pack(Barrier(parties, found.waiting - 1, found.trips)))
    else:
        waiters.collect(txn, waiter)


def abort(txn: Txn, name: bytes, parties: int) -> None:
    """Break it: who waits or comes is told so."""
    _end(txn, name, look(txn, name, parties), "it was aborted")


def reset(txn: Txn, name: bytes, parties: int) -> None:
    """Make it whole and empty: who waits is told that it was broken."""
    found = look(txn, name, parties)
    _let_all_go(txn, name, "it was reset while a party waited")
    txn.put(BARRIERS + name, BARRIER.pack(Barrier(parties, 0, found.trips)))


def bury_wait(txn: Txn, left: waiters.Left, now: float = 0.0) -> None:
    """A party died while it waited: the others need not wait for it."""
    if left.granted is None:
        name = left.place[len(BARRIERS) :]
        data = txn.get(BARRIERS + name)
        assert data is not None, "a barrier that is waited for is written down"
        _end(txn, name, BARRIER.unpack(data), f"a party (session {left.session}) died while it waited")


def _end(txn: Txn, name: bytes, found: Barrier, why: str) -> None:
    """Break it, unless it is broken: the first reason is the one to tell."""
    if not found.broken:
        _let_all_go(txn, name, why)
        txn.put(BARRIERS + name, BARRIER.pack(Barrier(found.parties, 0, found.trips, why)))


def _let_all_go(txn: Txn, name: bytes, why: str) -> None:
    told = OUTCOME.pack(Outcome(-1, why))
    while waiters.unpark(txn, BARRIERS + name, told) is not None:
        pass
