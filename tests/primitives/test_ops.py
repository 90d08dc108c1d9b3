"""Ops over the memory store: no processes, no sleep."""

from __future__ import annotations

from typing import Any

import pytest

from guildhall.errors import NotHeld
from guildhall.primitives import event, lock, queue, sessions, subscription, topic, values, variable, waiters
from guildhall.primitives.op import BUSY, PARKED
from guildhall.primitives.values import FINISHED
from guildhall.store.keys import pack_name
from guildhall.store.memory import MemoryStore
from guildhall.store.transaction import Waiter

N = pack_name("test", "n")
ONE, TWO, THREE = (1, 1), (2, 1), (3, 1)
W2, W3 = Waiter(2, 1, 1), Waiter(3, 1, 1)


@pytest.fixture
def rung() -> list[Waiter]:
    return []


@pytest.fixture
def store(rung: list[Waiter]) -> MemoryStore:
    made = MemoryStore(ring=rung.append)
    for number in (1, 2, 3):
        made.transact(sessions.join, sessions.Session(number, 100 + number, "process"))
    return made


def items(*texts: str) -> list[bytes]:
    return [text.encode() for text in texts]


def got(batch: Any) -> list[bytes]:
    return list(batch.items)


def test_lock_goes_to_the_longest_waiter(store: MemoryStore, rung: list[Waiter]) -> None:
    store.transact(lock.acquire, N, *ONE, 0, None)
    assert store.transact(lock.acquire, N, *TWO, 0, None) is BUSY
    assert store.transact(lock.acquire, N, *TWO, 1, W2) is PARKED
    assert store.transact(lock.acquire, N, *THREE, 1, W3) is PARKED
    store.transact(lock.release, N, *ONE)
    assert rung == [W2]
    held: Any = store.read(lock.look, N)
    assert (held.session, held.grant) == (2, 1)


def test_who_is_first_in_line_after_a_death_is_told_to_look_when_a_delayed_item_is_due(
    store: MemoryStore, rung: list[Waiter]
) -> None:
    for waiter in (W2, W3):
        assert store.transact(queue.get, N, 0, 1, waiter.session, waiter) is PARKED
    store.transact(queue.put, N, 0, queue.item(b"\x00late", due=10.0), None)
    assert rung == [W2]
    store.transact(sessions.bury, 2)
    assert rung == [W2, W3]


def test_tokens_grow(store: MemoryStore) -> None:
    first: Any = store.transact(lock.acquire, N, *ONE, 0, None)
    store.transact(lock.release, N, *ONE)
    second: Any = store.transact(lock.acquire, N, *TWO, 0, None)
    assert second.token > first.token


def test_only_the_holder_releases(store: MemoryStore) -> None:
    with pytest.raises(NotHeld, match="nobody holds it"):
        store.transact(lock.release, N, *ONE)
    store.transact(lock.acquire, N, *ONE, 0, None)
    with pytest.raises(NotHeld, match="session 1"):
        store.transact(lock.release, N, *TWO)


def test_waiter_inherits_lock_when_holder_dies(store: MemoryStore) -> None:
    store.transact(lock.acquire, N, *ONE, 0, None)
    store.transact(lock.acquire, N, *TWO, 1, W2)
    assert store.transact(sessions.bury, 1)
    held: Any = store.read(lock.look, N)
    assert held.session == 2
    assert held.is_inherited
    assert not store.transact(sessions.bury, 1)


def test_a_dead_waiter_is_passed_over(store: MemoryStore) -> None:
    store.transact(lock.acquire, N, *ONE, 0, None)
    store.transact(lock.acquire, N, *TWO, 1, W2)
    store.transact(lock.acquire, N, *THREE, 1, W3)
    store.transact(sessions.bury, 2)
    store.transact(lock.release, N, *ONE)
    held: Any = store.read(lock.look, N)
    assert held.session == 3


def test_withdrawing_after_the_grant_gives_the_lock_on(store: MemoryStore) -> None:
    store.transact(lock.acquire, N, *ONE, 0, None)
    store.transact(lock.acquire, N, *TWO, 1, W2)
    store.transact(lock.release, N, *ONE)
    store.transact(lock.withdraw, N, W2)
    assert store.read(lock.look, N) is None


def test_queue_is_first_in_first_out(store: MemoryStore) -> None:
    store.transact(queue.put_many, N, items("a", "b", "c"))
    assert got(store.transact(queue.get, N, 0, 1, 1, None)) == items("a")
    assert got(store.transact(queue.get, N, 0, 2, 1, None)) == items("b", "c")
    assert store.transact(queue.get, N, 0, 1, 1, None) is BUSY
    assert got(store.transact(queue.get, N, 0, 0, 1, None)) == []


def test_a_full_queue_takes_the_waiting_item_when_one_goes(store: MemoryStore, rung: list[Waiter]) -> None:
    a, b = items("a", "b")
    assert store.transact(queue.put, N, 1, a, None)
    assert store.transact(queue.put, N, 1, b, W2) is PARKED
    assert got(store.transact(queue.get, N, 1, 1, 1, None)) == [a]
    assert rung == [W2]
    assert got(store.transact(queue.get, N, 1, 1, 1, None)) == [b]


def test_an_item_granted_to_the_dead_goes_back_to_the_head(store: MemoryStore) -> None:
    assert store.transact(queue.get, N, 0, 1, 2, W2) is PARKED
    store.transact(queue.put_many, N, items("a", "b"))
    store.transact(sessions.bury, 2)
    assert got(store.transact(queue.get, N, 0, 2, 1, None)) == items("a", "b")


def test_a_dead_batch_getter_lets_the_next_one_be_served(store: MemoryStore, rung: list[Waiter]) -> None:
    store.transact(queue.get, N, 0, 3, 2, W2)
    store.transact(queue.get, N, 0, 1, 3, W3)
    store.transact(queue.put_many, N, items("a"))
    assert rung == []
    store.transact(sessions.bury, 2)
    assert rung == [W3]
    assert got(store.transact(queue.collect, N, W3)) == items("a")


def test_a_batch_getter_that_leaves_lets_the_next_one_be_served(store: MemoryStore, rung: list[Waiter]) -> None:
    store.transact(queue.get, N, 0, 3, 2, W2)
    store.transact(queue.get, N, 0, 1, 3, W3)
    store.transact(queue.put_many, N, items("a"))
    assert store.transact(queue.leave_get, N, W2)
    assert rung == [W3]
    assert not store.transact(queue.leave_get, N, W3)


def test_a_dead_putter_releases_what_its_item_referred_to(store: MemoryStore) -> None:
    oid = values.object_id(1, 1)
    store.transact(values.make, oid, FINISHED, b"data")
    store.transact(queue.put, N, 1, b"full", None)
    assert store.transact(queue.put, N, 1, values.pack(b"ref", (oid,)), W2) is PARKED
    store.transact(values.release_for, 1, (oid,))
    assert store.read(values.look, oid) is not None
    store.transact(sessions.bury, 2)
    assert store.read(values.look, oid) is None


def test_a_batch_larger_than_the_bound_is_served(store: MemoryStore) -> None:
    assert store.transact(queue.get, N, 1, 3, 2, W2) is PARKED
    for text in "abc":
        assert store.transact(queue.put, N, 1, text.encode(), None) is True
    assert got(store.transact(queue.collect, N, W2)) == items("a", "b", "c")


def test_event_lets_everybody_go_even_if_cleared_at_once(store: MemoryStore) -> None:
    assert store.transact(event.wait, N, W2) is PARKED
    store.transact(event.put, N)
    store.transact(event.clear, N)
    assert store.read(waiters.is_granted, W2)
    assert store.transact(event.wait, N, None) is BUSY


def test_every_subscriber_gets_every_message_and_none_is_kept_after(store: MemoryStore) -> None:
    store.transact(topic.publish, N, items("lost"))
    one, two = values.object_id(1, 1), values.object_id(2, 1)
    store.transact(subscription.subscribe, N, one, one)
    store.transact(subscription.subscribe, N, two, two)
    store.transact(topic.publish, N, items("a", "b"))
    assert store.transact(subscription.fetch, N, one, one, 9, 1, None).messages == items("a", "b")
    assert store.transact(subscription.fetch, N, two, two, 1, 2, None).messages == items("a")
    store.transact(sessions.bury, 2)
    assert list(store.read(lambda txn: txn.scan(topic.MESSAGES))) == []


def test_a_stored_value_keeps_its_object_until_overwritten(store: MemoryStore) -> None:
    oid = values.object_id(1, 1)
    store.transact(values.make, oid, FINISHED, b"data")
    store.transact(variable.put, N, values.pack(b"ref", (oid,)))
    store.transact(sessions.bury, 1)
    assert store.read(values.look, oid) is not None
    store.transact(variable.put, N, b"other")
    assert store.read(values.look, oid) is None


def test_nothing_is_left_when_all_are_buried(store: MemoryStore) -> None:
    store.transact(lock.acquire, N, *ONE, 0, None)
    store.transact(lock.acquire, N, *TWO, 1, W2)
    member = values.object_id(3, 1)
    store.transact(subscription.subscribe, N, member, member)
    store.transact(topic.publish, N, items("m"))
    for number in (1, 2, 3):
        store.transact(sessions.bury, number)
    left = {key[:1] for key in store.keys}
    assert left <= {b"\x01", topic.TOPICS}
