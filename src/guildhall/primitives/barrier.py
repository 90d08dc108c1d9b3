"""Ops of Barrier: nobody goes on until all parties are there; then all do, in one commit, and it serves again.

As in `threading.Barrier`, a barrier that is broken stays so until it is reset. It breaks when a party's time is up,
when one dies while it waits, when its action fails, and when it is aborted; a party that is interrupted only leaves.

With an action, the last party does not let the others go at once: it stands in line as they do, runs the action outside
of any transaction, and comes back (`go`). Who arrives meanwhile is of the next round. If that is full by then, too, a
party of it is rung to act.

Invariants: as many stand in line as the record says are waiting; fewer than the parties, unless an action runs; at a
broken one, nobody. The first `going` of the line go when the action is done, and the actor is among them.
A session has a key in PARTIES for each barrier of fixed parties in whose last round it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Final, Literal

from ..errors import BrokenBarrier, Misuse
from ..store.keys import name_of, pack_id
from ..store.records import Form, Record
from ..store.transaction import Txn, Waiter
from . import waiters
from .op import BUSY, NotNow

BARRIERS = b"\x5c"
PARTIES = b"\x69"


class Act(Enum):
    ACT = "act"


ACT: Final = Act.ACT
"""The answer to the last party: it is to run the action, and then to call `go`."""
ToAct = Literal[Act.ACT]


class Barrier(Record, tag=1, frozen=True):
    """The parties given by the first handle, how many wait, how often all went on, and why it is broken, if it is.

    While an action runs: how many go when it is done, and whose wait runs it. Of fixed parties: the sessions of the
    last round.
    """

    parties: int
    waiting: int = 0
    trips: int = 0
    broken: str = ""
    going: int = 0
    actor: tuple[int, int] = (0, 0)
    members: tuple[int, ...] = ()


class Outcome(Record, tag=1, frozen=True):
    """How a party's wait ended: its number among the parties, or why there is none."""

    index: int
    broken: str = ""


BARRIER = Form(Barrier)
OUTCOME = Form(Outcome)
_HAS_ACTION = b"a"
"""What a party wants that could run the action."""


def seen(txn: Txn, name: bytes) -> Barrier | None:
    """The barrier as it is written, for who looks and has no terms of its own; None if nobody used it yet."""
    data = txn.get(BARRIERS + name)
    return None if data is None else BARRIER.unpack(data)


def look(txn: Txn, name: bytes, parties: int) -> Barrier:
    """The barrier, as good as new if nobody used it yet. Raises Misuse if it was made for another number of parties."""
    found = seen(txn, name)
    if found is None:
        return Barrier(parties)
    if found.parties != parties:
        raise Misuse(
            f"barrier {name_of(name)!r:.60}: made for {found.parties} parties, here for {parties}; "
            "give all its handles the same"
        )
    return found


def wait(
    txn: Txn, name: bytes, parties: int, waiter: Waiter | None, actor: Waiter | None = None, member: int = 0
) -> NotNow | ToAct | int:
    """The last party lets all go on, and is told its number; the others are parked. Without a waiter, it breaks.

    With an actor, there is an action: the last party is parked as that, and is to run it. `member`: the session that
    asks, if the parties are fixed.
    """
    key = BARRIERS + name
    found = look(txn, name, parties)
    if found.broken:
        raise refusal(name, found.broken)
    if found.waiting + 1 == parties and not found.going:
        if actor is None:
            _let_go(txn, name, found, {member} if member else None)
            return found.waiting
        waiters.park(txn, key, actor, _HAS_ACTION)
        txn.put(key, _packed(found, parties, parties, actor[:2]))
        return ACT
    if waiter is None:
        _end(txn, name, found, "a party tried once and was not the last")
        return BUSY
    txn.put(key, _packed(found, found.waiting + 1, found.going, found.actor))
    return waiters.park(txn, key, waiter, b"" if actor is None else _HAS_ACTION)


def _packed(found: Barrier, waiting: int, going: int, actor: tuple[int, int]) -> bytes:
    return BARRIER.pack(Barrier(found.parties, waiting, found.trips, "", going, actor, found.members))


def _let_go(txn: Txn, name: bytes, found: Barrier, members: set[int] | None) -> None:
    """All in line who are of this round go on. Where the parties are fixed, they join these members."""
    key = BARRIERS + name
    for index in range(found.going or found.waiting):
        party = waiters.unpark(txn, key, OUTCOME.pack(Outcome(index)))
        assert party is not None, "as many stand in line as are waiting"
        if members is not None:
            members.add(party.session)
    if members is not None:
        _note_members(txn, name, found.members, members)
    left = found.waiting - found.going if found.going else 0
    now = found.members if members is None else tuple(sorted(members))
    txn.put(key, BARRIER.pack(Barrier(found.parties, left, found.trips + 1, "", 0, (0, 0), now)))


def _note_members(txn: Txn, name: bytes, before: Iterable[int], now: Iterable[int]) -> None:
    for session in set(before).difference(now):
        txn.delete(PARTIES + pack_id(session) + name)
    for session in set(now).difference(before):
        txn.put(PARTIES + pack_id(session) + name, b"")


def is_to_act(txn: Txn, name: bytes, waiter: Waiter) -> bool:
    """Whether the waiter, parked before, is now the last party of a full round, and is to run the action."""
    found = seen(txn, name)
    return found is not None and found.actor == waiter[:2]


def go(txn: Txn, name: bytes, waiter: Waiter, is_fixed: bool = False) -> None:
    """The action is done: its round goes on, unless it was broken meanwhile. Who acted is told as the others are.

    The next round may be full, too: then its last party is to act.
    """
    found = seen(txn, name)
    if found is None or found.actor != waiter[:2]:
        return
    _let_go(txn, name, found, set() if is_fixed else None)
    _begin_next(txn, name, is_fixed)


def _begin_next(txn: Txn, name: bytes, is_fixed: bool) -> None:
    """If the next round is full, too, the last of its parties that has an action is to act; if none has, it goes."""
    found = seen(txn, name)
    if found is None or found.waiting < found.parties:
        return
    line = waiters.line(txn, BARRIERS + name)[: found.parties]
    following = next((waiter for waiter, want in reversed(line) if want == _HAS_ACTION), None)
    if following is None:
        _let_go(txn, name, _going(found, (0, 0)), set() if is_fixed else None)
        _begin_next(txn, name, is_fixed)
        return
    txn.put(BARRIERS + name, BARRIER.pack(_going(found, following[:2])))
    if following.bell:
        txn.wake(following)


def _going(found: Barrier, actor: tuple[int, int]) -> Barrier:
    return Barrier(found.parties, found.waiting, found.trips, "", found.parties, actor, found.members)


def fail(txn: Txn, name: bytes, waiter: Waiter, why: str) -> None:
    """The action raised: the barrier breaks, for all but the one who ran it, which has an error to raise."""
    found = seen(txn, name)
    if found is not None and found.actor == waiter[:2]:
        waiters.withdraw(txn, waiter)
        _end(txn, name, found, why)


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
    """The party leaves, as if it had not come. If it was to run the action, the barrier breaks."""
    found = seen(txn, name)
    going = waiters.line(txn, BARRIERS + name)[: found.going] if found is not None and found.going else ()
    if not waiters.withdraw(txn, waiter):
        waiters.collect(txn, waiter)
        return
    assert found is not None, "a barrier that is waited for is written down"
    if found.actor == waiter[:2]:
        _end(txn, name, found, f"the party that was to run the action (session {waiter.session}) was interrupted")
    else:
        left = found.going - any(one[:2] == waiter[:2] for one, _ in going)
        txn.put(BARRIERS + name, _packed(found, found.waiting - 1, left, found.actor))


def abort(txn: Txn, name: bytes, parties: int) -> None:
    """Break it: who waits or comes is told so."""
    _end(txn, name, look(txn, name, parties), "it was aborted")


def reset(txn: Txn, name: bytes, parties: int) -> None:
    """Make it whole and empty: who waits is told that it was broken."""
    found = look(txn, name, parties)
    _clear(txn, name, found, "it was reset while a party waited")
    txn.put(BARRIERS + name, BARRIER.pack(Barrier(parties, 0, found.trips)))


def delete(txn: Txn, name: bytes) -> None:
    """Nothing is left of it. Who waits is told that it was broken."""
    found = seen(txn, name)
    if found is not None:
        _clear(txn, name, found, "it was deleted while a party waited")
        txn.delete(BARRIERS + name)


def bury_wait(txn: Txn, left: waiters.Left, now: float = 0.0) -> None:
    """A party died while it waited: the others need not wait for it."""
    if left.granted is None:
        name = left.place[len(BARRIERS) :]
        found = seen(txn, name)
        assert found is not None, "a barrier that is waited for is written down"
        doing = "ran the action" if found.actor[0] == left.session else "waited"
        _end(txn, name, found, f"a party (session {left.session}) died while it {doing}")


def bury(txn: Txn, session: int) -> None:
    """A session of the last round will not come again: where the parties are fixed, the others need not wait for it.
    Of one all whose sessions are gone, and that nobody else waits at, nothing is left."""
    prefix = PARTIES + pack_id(session)
    for key, _ in txn.scan(prefix):
        txn.delete(key)
        name = key[len(prefix) :]
        found = seen(txn, name)
        assert found is not None, "a barrier that has parties is written down"
        members = tuple(one for one in found.members if one != session)
        now = Barrier(found.parties, found.waiting, found.trips, found.broken, found.going, found.actor, members)
        if members:
            txn.put(BARRIERS + name, BARRIER.pack(now))
            _end(txn, name, now, f"a party of the last round (session {session}) is gone")
        elif found.waiting:
            txn.put(BARRIERS + name, BARRIER.pack(now))
        else:
            txn.delete(BARRIERS + name)


def _end(txn: Txn, name: bytes, found: Barrier, why: str) -> None:
    """Break it, unless it is broken: the first reason is the one to tell."""
    if not found.broken:
        _let_all_go(txn, name, why)
        broken = Barrier(found.parties, 0, found.trips, why, 0, (0, 0), found.members)
        txn.put(BARRIERS + name, BARRIER.pack(broken))


def _clear(txn: Txn, name: bytes, found: Barrier, why: str) -> None:
    _let_all_go(txn, name, why)
    _note_members(txn, name, found.members, ())


def _let_all_go(txn: Txn, name: bytes, why: str) -> None:
    told = OUTCOME.pack(Outcome(-1, why))
    while waiters.unpark(txn, BARRIERS + name, told) is not None:
        pass
