"""What `statistics()` of things that are held answers: who holds, who waits, at one moment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ... import deadline
from ...primitives import lock, multilock, pool, rlock, rwlock, sessions, waiters
from ...store.keys import name_of
from ...store.transaction import Txn, Waiter


@dataclass(frozen=True, slots=True)
class Holder:
    """One who holds. `since` is in seconds since 1970 (None: unknown), as is `until`, when a lease ends."""

    session: int
    pid: int | None
    since: float | None
    fencing_token: int
    mode: str = ""
    """"read" or "write" of an RWLock."""
    count: int = 1
    """How often the owner of an RLock holds it."""
    names: tuple[Any, ...] = ()
    """Which names of a MultiLock."""
    until: float | None = None
    previous_holder_died: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """One who waits. `mode` is what it waits for, of an RWLock."""

    session: int
    pid: int | None
    mode: str = ""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Who holds, and who waits, the longest first. `capacity` is how many can hold at a time (None: not a number)."""

    kind: str
    name: Any
    holders: tuple[Holder, ...]
    waiting: tuple[Waiting, ...]
    capacity: int | None = 1


def _pid(txn: Txn, session: int) -> int | None:
    found = sessions.look(txn, session)
    return None if found is None else found.pid


def _when(at: float | None) -> float | None:
    return deadline.epoch(at) if at else None


def _waiting(txn: Txn, line: Iterable[tuple[Waiter, bytes]], *, has_modes: bool = False) -> tuple[Waiting, ...]:
    return tuple(
        Waiting(waiter.session, _pid(txn, waiter.session), _mode(int.from_bytes(want[1:], "big")) if has_modes else "")
        for waiter, want in line
    )


def _mode(units: int) -> str:
    return "read" if units == rwlock.READ else "write"


def of_lock(txn: Txn, name: Any, key: bytes) -> Statistics:
    held = lock.look(txn, key)
    holders = () if held is None else (
        Holder(
            held.session, _pid(txn, held.session), _when(held.since), held.token, until=_when(held.until),
            previous_holder_died=held.is_inherited,
        ),
    )  # fmt: skip
    return Statistics("lock", name, holders, _waiting(txn, waiters.line(txn, lock.LOCKS + key)))


def of_rlock(txn: Txn, name: Any, key: bytes) -> Statistics:
    held = rlock.look(txn, key)
    holders = () if held is None else (
        Holder(
            held.session, _pid(txn, held.session), _when(held.since), held.token, count=held.count,
            previous_holder_died=held.is_inherited,
        ),
    )  # fmt: skip
    return Statistics("rlock", name, holders, _waiting(txn, waiters.line(txn, rlock.RLOCKS + key)))


def of_rwlock(txn: Txn, name: Any, place: bytes) -> Statistics:
    holders = _lessees(txn, place, has_modes=True)
    return Statistics("rwlock", name, holders, _waiting(txn, waiters.line(txn, place), has_modes=True), None)


def of_semaphore(txn: Txn, name: Any, place: bytes) -> Statistics:
    found = pool.look(txn, place)
    capacity = None if found is None else found.capacity
    return Statistics("semaphore", name, _lessees(txn, place), _waiting(txn, waiters.line(txn, place)), capacity)


def _lessees(txn: Txn, place: bytes, *, has_modes: bool = False) -> tuple[Holder, ...]:
    return tuple(
        Holder(
            session, _pid(txn, session), _when(lease.since), lease.token, _mode(lease.units) if has_modes else "",
            previous_holder_died=lease.is_inherited,
        )
        for session, lease in pool.leases(txn, place)
    )  # fmt: skip


def of_multilock(txn: Txn, names: tuple[Any, ...], keys: tuple[bytes, ...]) -> Statistics:
    grants: dict[tuple[int, int], tuple[multilock.Held, list[Any]]] = {}
    for key in keys:
        held = multilock.look(txn, key)
        if held is not None:
            grants.setdefault((held.session, held.grant), (held, []))[1].append(name_of(key))
    holders = tuple(
        Holder(
            held.session, _pid(txn, held.session), _when(held.since), held.token, names=tuple(some),
            previous_holder_died=held.is_inherited,
        )
        for held, some in grants.values()
    )  # fmt: skip
    return Statistics("multilock", names, holders, _waiting(txn, multilock.line(txn, keys)), len(names))
