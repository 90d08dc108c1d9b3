"""Primitives that are broken on purpose: each fault is found, by random programs and by real processes.

A fault is one that was made somewhere before: a lock granted twice, a death that frees nothing, a line in which the
last is the first, a grant that wakes nobody, an update made over another's, an item that goes with its getter, a read
of what was there before, a transaction of which a dead process leaves half.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import runs
from models import Wrong
from programs import PLAYERS
from runs import PROGRAMS, simulated, storm

from guildhall.primitives import lock, pool, queue, variable, waiters
from guildhall.store.keys import pack_int
from guildhall.store.memory import MemoryStore
from guildhall.testing.simulation import SimHost

Patch = pytest.MonkeyPatch


def double_grant(patch: Patch) -> None:
    plain = lock.acquire

    def acquire(txn: Any, name: bytes, *args: Any) -> Any:
        if txn.first(waiters.LINES + lock.LOCKS + name) is None:
            txn.delete(lock.LOCKS + name)
        return plain(txn, name, *args)

    _named(patch, lock, "acquire", acquire)


def one_lease_too_many(patch: Patch) -> None:
    plain = pool.acquire

    def acquire(txn: Any, place: bytes, given: pool.Pool, *args: Any) -> Any:
        answer = plain(txn, place, pool.Pool(given.capacity + 1, given.used, given.is_wanted, given.born), *args)
        now = pool.look(txn, place)
        assert now is not None
        txn.put(place, pool.POOL.pack(pool.Pool(given.capacity, now.used, now.is_wanted, now.born)))
        return answer

    patch.setattr(pool, "acquire", acquire)


def forgotten_burial(patch: Patch) -> None:
    patch.setattr(lock, "bury", lambda txn, session, now=0.0: None)


def last_comes_first(patch: Patch) -> None:
    def park(txn: Any, place: bytes, waiter: Any, want: bytes = b"") -> Any:
        ticket = pack_int(-txn.revision) + pack_int(waiter.number)
        txn.put(waiters.LINES + place + ticket, waiters._IN_LINE.pack(waiters.InLine(*waiter[:3], want)))
        txn.put(waiters._wait_key(*waiter[:2]), waiters._WAIT.pack(waiters.Wait(place, ticket)))
        return waiters.PARKED

    patch.setattr(waiters, "park", park)


def lost_ring(patch: Patch) -> None:
    plain = waiters.unpark

    def unpark(txn: Any, *args: Any, **options: Any) -> Any:
        heir = plain(txn, *args, **options)
        txn.woken.clear()
        return heir

    patch.setattr(waiters, "unpark", unpark)


def lost_update(patch: Patch) -> None:
    def swap(txn: Any, name: bytes, seen: int, value: bytes) -> Any:
        variable.put(txn, name, value)
        return True

    _named(patch, variable, "swap", swap)


def item_dies_with_its_getter(patch: Patch) -> None:
    patch.setattr(queue, "bury", lambda txn, left: None)


def stale_reads(patch: Patch) -> None:
    plain = MemoryStore.transact

    def transact(store: Any, op: Any, *args: Any) -> Any:
        before = dict(store.data)
        result = plain(store, op, *args)
        store.before = before
        return result

    def read(life: Any, op: Any, *args: Any) -> Any:
        life.step()
        old = MemoryStore()
        old.data = life.sim.store.before
        old.keys = sorted(old.data)
        return old.read(op, *args)

    patch.setattr(MemoryStore, "transact", transact)
    patch.setattr(SimHost, "read", read)


def half_a_transaction(patch: Patch) -> None:
    patch.setattr(MemoryStore, "_put_back", lambda store, undo: None)


def _named(patch: Patch, module: Any, name: str, function: Any) -> None:
    """In place of an op, under its name: handles look ops up when they call them."""
    function.__module__, function.__name__, function.__qualname__ = module.__name__, name, name
    function.__wrapped__ = getattr(module, name)
    patch.setattr(module, name, function)


FAULTS: list[tuple[Callable[[Patch], None], str, str]] = [
    (double_grant, "lock", "though it should wait"),
    (one_lease_too_many, "semaphore", "though it should wait|but it came to"),
    (forgotten_burial, "lock", "."),
    (last_comes_first, "lock", "."),
    (last_comes_first, "barrier", "."),
    (last_comes_first, "election", "."),
    (lost_ring, "lock", "slept on"),
    (lost_ring, "queue", "slept on"),
    (lost_ring, "event", "slept on"),
    (lost_update, "variable", "having read"),
    (item_dies_with_its_getter, "queue", "."),
    (stale_reads, "latch", "not so at any time|stands in line still"),
    (stale_reads, "counter", "not so at any time"),
    (half_a_transaction, "multilock", "."),
]


def _programs(kind: str, **options: Any) -> None:
    """As many as are run of each kind whenever the tests are."""
    for seed in range(PROGRAMS // len(PLAYERS)):
        simulated(kind, seed, **options)


@pytest.mark.parametrize(("fault", "kind", "why"), FAULTS)
def test_random_programs_find_the_fault(
    fault: Callable[[Patch], None], kind: str, why: str, monkeypatch: Patch
) -> None:
    fault(monkeypatch)
    with pytest.raises((Wrong, AssertionError, TimeoutError), match=why):
        _programs(kind)


@pytest.mark.parametrize(("fault", "kind"), [(double_grant, "lock"), (lost_update, "variable")])
def test_the_search_finds_the_fault_by_itself(fault: Callable[[Patch], None], kind: str, monkeypatch: Patch) -> None:
    fault(monkeypatch)
    monkeypatch.setattr(runs, "check", lambda *args: None)
    with pytest.raises(Wrong, match="no order of the calls"):
        _programs(kind, is_cross_checked=True)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (double_grant, "lock"),
        (one_lease_too_many, "semaphore"),
        (forgotten_burial, "lock"),
        (last_comes_first, "lock"),
        (lost_update, "variable"),
    ],
)
def test_a_storm_finds_the_fault(fault: Callable[[Patch], None], kind: str, monkeypatch: Patch, tmp_path: Path) -> None:
    fault(monkeypatch)
    with pytest.raises((Wrong, AssertionError)):
        storm(kind, 0.6, 1, tmp_path)
