"""Primitives that are broken on purpose, for tests and commands that must find that.

A fault is one that was made somewhere before: a lock granted twice, a death that frees nothing, a line in which the
last is the first, a grant that wakes nobody, an update made over another's, an item that goes with its getter, a read
of what was there before, a transaction of which a dead process leaves half.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from guildhall.engine.local import tasks
from guildhall.primitives import (
    deadlock,
    delivery,
    lock,
    pool,
    queue,
    subscription,
    topic,
    values,
    variable,
    waiters,
)
from guildhall.store.keys import pack_id, pack_int
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
    plain = waiters._serve

    def serve(txn: Any, *args: Any) -> Any:
        heir = plain(txn, *args)
        txn.woken.clear()
        return heir

    patch.setattr(waiters, "_serve", serve)


def lost_update(patch: Patch) -> None:
    def swap(txn: Any, name: bytes, seen: int, value: bytes) -> Any:
        variable.put(txn, name, value)
        return True

    _named(patch, variable, "swap", swap)


def item_dies_with_its_getter(patch: Patch) -> None:
    patch.setattr(queue, "bury", lambda txn, left: None)


def taken_dies_with_its_taker(patch: Patch) -> None:
    plain = delivery.bury

    def bury(txn: Any, session: int, marks: Any, left: Any) -> None:
        for key, _ in txn.scan(queue.TAKEN + pack_id(session)):
            txn.delete(key)
        plain(txn, session, marks, left)

    patch.setattr(delivery, "bury", bury)


def forgotten_marks(patch: Patch) -> None:
    plain = delivery.bury
    patch.setattr(delivery, "bury", lambda txn, session, marks, left: plain(txn, session, (), left))


def marks_in_advance(patch: Patch) -> None:
    plain = delivery.bury
    patch.setattr(delivery, "bury", lambda txn, session, marks, left: plain(txn, session, (1 << 40,), left))


def double_delivery(patch: Patch) -> None:
    plain = queue._pop

    def _pop(txn: Any, name: bytes, now: queue.Queue, is_left: bool) -> Any:
        position, item, is_kept = plain(txn, name, now, is_left)
        if now.end % 3 == 0 and not now.ahead:
            queue.place(txn, name, now, position, item)
        return position, item, is_kept

    patch.setattr(queue, "_pop", _pop)


def comes_back_last(patch: Patch) -> None:
    patch.setattr(
        delivery,
        "_give_back",
        lambda txn, name, now, position, value, deliveries, due=0.0: queue.append(
            txn, name, now, queue.ITEM.pack(queue.Item(value, deliveries))
        ),
    )


def blind_to_circles(patch: Patch) -> None:
    patch.setattr(deadlock.Search, "closes", lambda search, node: False)


def false_alarm(patch: Patch) -> None:
    plain = deadlock.declare

    def declare(txn: Any, waiter: Any, bell: int, statement: Any, *args: Any) -> Any:
        answer = plain(txn, waiter, bell, statement, *args)
        return deadlock.Circle("a circle", ()) if answer is True and statement is not None else answer

    patch.setattr(deadlock, "declare", declare)


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


def tasks_die_with_their_worker(patch: Patch) -> None:
    def bury(txn: Any, session: int, marks: Any = ()) -> None:
        for key, _ in txn.scan(tasks.CLAIMS + pack_int(session)):
            txn.delete(key)
        txn.delete(tasks.WORKERS + pack_id(session))

    patch.setattr(tasks, "bury", bury)


def all_of_a_claim_are_blamed(patch: Patch) -> None:
    plain = tasks.bury
    patch.setattr(tasks, "bury", lambda txn, session, marks=(): plain(txn, session))


def one_task_is_claimed_twice(patch: Patch) -> None:
    plain = tasks._claimed

    def _claimed(txn: Any, session: int, taken: Any, *args: Any) -> Any:
        if len(taken) > 1:
            tasks._put_first(txn, *taken[-1])
        return plain(txn, session, taken, *args)

    patch.setattr(tasks, "_claimed", _claimed)


def retries_without_end(patch: Patch) -> None:
    plain = tasks._with
    patch.setattr(tasks, "_with", lambda old, *, retries=None, **rest: plain(old, **rest))


def no_worker_is_woken(patch: Patch) -> None:
    patch.setattr(tasks, "_wake_idle", lambda txn, count: None)


def an_end_is_made_over_another(patch: Patch) -> None:
    plain = values.settle

    def settle(txn: Any, oid: bytes, *args: Any) -> Any:
        found = values.look(txn, oid)
        if found is not None and found.state != values.PENDING:
            txn.put(values.OBJECTS + oid, values.OBJECT.pack(replace(found, state=args[0], data=args[1])))
        return plain(txn, oid, *args)

    patch.setattr(values, "settle", settle)


def who_depends_on_what_is_gone_is_not_forgotten(patch: Patch) -> None:
    patch.setattr(tasks, "_forget", lambda txn, oid: None)


def one_too_many_is_told_as_missed(patch: Patch) -> None:
    plain = subscription._caught_up

    def _caught_up(cursor: Any, log: Any) -> Any:
        after = plain(cursor, log)
        return replace(after, lagged=after.lagged + 1) if after.lagged > cursor.lagged else after

    patch.setattr(subscription, "_caught_up", _caught_up)


def nobody_is_full(patch: Patch) -> None:
    patch.setattr(topic, "_is_full", lambda txn, name, log, count: False)


def dead_subscribers_stay(patch: Patch) -> None:
    patch.setattr(subscription, "bury", lambda txn, session: None)


def what_a_member_held_goes_with_it(patch: Patch) -> None:
    plain = subscription._without

    def _without(cursor: Any, member: bytes, had: Any) -> Any:
        return replace(plain(cursor, member, had), returned=cursor.returned)

    patch.setattr(subscription, "_without", _without)


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
    (taken_dies_with_its_taker, "queue", "."),
    (forgotten_marks, "queue", "."),
    (marks_in_advance, "queue", "."),
    (double_delivery, "queue", "."),
    (comes_back_last, "queue", "."),
    (last_comes_first, "queue", "."),
    (blind_to_circles, "circles", "hangs"),
    (false_alarm, "circles", "that there never was|slept on"),
    (stale_reads, "latch", "not so at any time|stands in line still"),
    (stale_reads, "counter", "not so at any time"),
    (half_a_transaction, "multilock", "."),
    (one_too_many_is_told_as_missed, "bounded topic", "is the next"),
    (nobody_is_full, "bounded topic", "waits, or does not"),
    (dead_subscribers_stay, "bounded topic", "."),
    (what_a_member_held_goes_with_it, "durable topic", "."),
    (tasks_die_with_their_worker, "tasks", "."),
    (all_of_a_claim_are_blamed, "tasks", "to blame"),
    (one_task_is_claimed_twice, "tasks", "."),
    (retries_without_end, "tasks", "."),
    (no_worker_is_woken, "tasks", "slept on|has been over"),
    (an_end_is_made_over_another, "tasks", "but it came to"),
    (who_depends_on_what_is_gone_is_not_forgotten, "tasks", "left behind"),
]
