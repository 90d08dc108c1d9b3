"""Feeds: who waits for many objects is told who has ended, and only that."""

from __future__ import annotations

from guildhall.engine.local import tasks
from guildhall.engine.local.tasks import Done, Recipe
from guildhall.primitives import values, waiters
from guildhall.primitives.values import CANCELLED, FINISHED, PENDING, object_id
from guildhall.store.memory import MemoryStore
from guildhall.store.transaction import Waiter

LISTENER = Waiter(2, 0, 9)
FEED = values.feed_of(LISTENER)


def made(count: int) -> tuple[MemoryStore, list[Waiter], list[bytes]]:
    """A store with pending objects that a feed follows, and whom it rang."""
    rung: list[Waiter] = []
    store = MemoryStore(ring=rung.append)
    oids = [object_id(1, number) for number in range(count)]
    for oid in oids:
        store.transact(values.make, oid, PENDING, b"")
    store.transact(values.follow, FEED, oids, [Waiter(2, 100 + number, 0) for number in range(count)])
    return store, rung, oids


def test_ends_come_in_the_feed_once_and_ring_once() -> None:
    store, rung, oids = made(5)
    assert store.transact(values.told, FEED, 10) == []
    for oid in oids[:3]:
        store.transact(values.settle, oid, FINISHED, b"x")
    assert [(one.session, one.bell) for one in rung] == [(2, 9)]
    assert store.transact(values.told, FEED, 2) == oids[:2]
    store.transact(values.settle, oids[3], CANCELLED, b"")
    assert len(rung) == 1
    assert store.transact(values.told, FEED, 10) == oids[2:4]
    assert store.transact(values.told, FEED, 10) == []
    store.transact(values.settle, oids[4], FINISHED, b"")
    assert len(rung) == 2


def test_what_has_ended_or_is_gone_is_told_at_once() -> None:
    store, _, oids = made(1)
    store.transact(values.settle, oids[0], FINISHED, b"")
    store.transact(values.told, FEED, 10)
    gone = object_id(1, 77)
    store.transact(values.follow, FEED, [oids[0], gone], [Waiter(2, 1, 0), Waiter(2, 2, 0)])
    assert store.transact(values.told, FEED, 10) == [oids[0], gone]


def test_an_object_that_goes_is_told() -> None:
    store, _, oids = made(1)
    store.transact(values.release_for, 1, oids)
    assert store.transact(values.told, FEED, 10) == oids


def test_two_feeds_and_a_waiter_of_one_object_are_all_told() -> None:
    store, rung, oids = made(1)
    other = values.feed_of(Waiter(3, 0, 4))
    store.transact(values.follow, other, oids, [Waiter(3, 1, 0)])
    store.transact(values.wait_settled, oids[0], Waiter(4, 1, 6))
    store.transact(values.settle, oids[0], FINISHED, b"")
    assert {(one.session, one.bell) for one in rung} == {(2, 9), (3, 4), (4, 6)}
    for feed in (FEED, other):
        assert store.transact(values.told, feed, 10) == oids


def test_a_dead_listener_leaves_nothing() -> None:
    store, _, oids = made(3)
    store.transact(values.settle, oids[0], FINISHED, b"")
    store.transact(waiters.leave, 2)
    store.transact(values.bury, 2)
    store.transact(values.release_for, 1, oids)
    assert store.keys == []


def test_a_task_is_cancelled_only_until_a_worker_has_it() -> None:
    store = MemoryStore()
    oids = [object_id(1, number) for number in range(3)]
    store.transact(tasks.submit, [(oid, Recipe("f", b"", b""), ()) for oid in oids])
    store.transact(tasks.enlist, 5)
    claimed = store.transact(tasks.claim, 5, 1, None)
    assert store.read(tasks.standing) == (2, 1)
    assert [store.read(tasks.is_claimed, oid) for oid in oids] == [True, False, False]
    assert not store.transact(tasks.cancel_waiting, oids[0])
    assert store.transact(tasks.cancel_waiting, oids[1])
    assert store.transact(tasks.cancel_waiting, oids[1])
    found = store.read(values.look, oids[0])
    assert found is not None
    assert found.state == PENDING
    store.transact(tasks.finish, claimed[0], [Done(oids[0], FINISHED, b"x")])
    assert not store.transact(tasks.cancel_waiting, oids[0])
    assert store.transact(tasks.cancel_waiting, object_id(1, 99))
