"""Records that can be read and do not fit together: an op says so. It neither goes on for ever nor makes one up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import guildhall
from guildhall.client import checkup
from guildhall.errors import HallDamaged
from guildhall.primitives import (
    census,
    delivery,
    limiter,
    pool,
    queue,
    sessions,
    subscription,
    topic,
    values,
    variable,
    waiters,
)
from guildhall.primitives.limiter import Moment, Terms
from guildhall.primitives.op import PARKED
from guildhall.store import keys
from guildhall.store.keys import pack_int, pack_name
from guildhall.store.lmdb import LmdbStore
from guildhall.store.memory import MemoryStore
from guildhall.store.transaction import Waiter

N = pack_name("test", "n")
GROUP = values.object_id(1, 1)


@pytest.fixture
def store() -> MemoryStore:
    made = MemoryStore()
    made.transact(sessions.join, sessions.Session(1, 100, "process"))
    return made


def spoil(store: Any, key: bytes, value: bytes | None) -> None:
    """Put that at the key; None: nothing."""
    store.transact(lambda txn: txn.delete(key) if value is None else txn.put(key, value))


def test_a_name_without_its_end_is_told_and_not_found_again_and_again(store: MemoryStore) -> None:
    store.transact(variable.put, N, b"value")
    spoil(store, variable.VARIABLES + pack_name("test", "m")[:-1], b"value")
    with pytest.raises(HallDamaged, match="a key cannot be read"):
        store.read(census.names, variable.VARIABLES, b"", 32)


@pytest.mark.parametrize("number", [300, -300, 1 << 70, -(1 << 70), 1.5])
def test_a_number_that_was_cut_off_is_no_number(number: float) -> None:
    data = keys.pack((number,))
    for length in range(1, len(data)):
        with pytest.raises(HallDamaged):
            keys.unpack(data[:length])
        with pytest.raises(HallDamaged):
            keys.first_name(data[:length])


def test_messages_that_are_gone_are_told_and_not_waited_for(store: MemoryStore) -> None:
    store.transact(subscription.subscribe, N, GROUP, GROUP)
    store.transact(topic.publish, N, [b"one", b"two", b"three"], 0.0, None)
    for number in range(3):
        spoil(store, topic.MESSAGES + N + pack_int(number), None)
    with pytest.raises(HallDamaged, match="without gaps"):
        store.transact(subscription.fetch, N, GROUP, GROUP, 10, 1, None)


@pytest.mark.parametrize("wrong", [queue.Queue(0, size=-2), queue.Queue(0, more=queue.More(delayed=5))])
def test_a_queue_that_counts_what_is_not_there_is_not_emptied_for_ever(store: MemoryStore, wrong: queue.Queue) -> None:
    spoil(store, queue.QUEUES + N, queue.QUEUE.pack(wrong))
    with pytest.raises(HallDamaged, match="has counted"):
        store.transact(delivery.delete, N, 100)


def test_who_is_first_in_line_and_has_no_wait_is_told_and_not_looked_at_for_ever(store: MemoryStore) -> None:
    terms, waiter = Terms(1, 1000, 0), Waiter(1, 1, 1)
    assert store.transact(limiter.acquire, N, terms, 1, Moment("boot", 5000), None)
    assert store.transact(limiter.acquire, N, terms, 1, Moment("boot", 5000), waiter) is PARKED
    (wait,) = [key for key in store.keys if key.startswith(waiters.WAITS)]
    spoil(store, wait, None)
    with pytest.raises(HallDamaged, match="stands in it"):
        store.transact(limiter.turn, N, terms, Moment("boot", 9000), waiter)


def test_a_key_that_no_store_takes_comes_of_a_damaged_record(tmp_path: Path) -> None:
    LmdbStore.create(str(tmp_path), in_memory=False)
    store = LmdbStore(str(tmp_path), in_memory=False)
    with pytest.raises(HallDamaged, match="the store is damaged"):
        store.transact(lambda txn: txn.put(b"x" * 600, b""))
    with pytest.raises(HallDamaged, match="the store is damaged"):
        store.read(lambda txn: txn.get(b""))
    store.close()


def test_an_op_that_is_called_with_what_it_does_not_take_is_a_bug_and_no_damage(
    store: MemoryStore, tmp_path: Path
) -> None:
    LmdbStore.create(str(tmp_path), in_memory=False)
    on_disk = LmdbStore(str(tmp_path), in_memory=False)
    for each in (store, on_disk):
        for run in (each.transact, each.read):
            with pytest.raises(TypeError):
                run(variable.get, N, "too", "many")
    on_disk.close()


def test_what_is_read_outside_of_ops_is_told_too(hall: guildhall.Hall) -> None:
    for number, item in enumerate((b"\x93junk", b"\xff", b"", b"\x95\x01")):
        things = guildhall.Queue(number + 1, hall=hall)
        things.put(1)
        spoil(hall.host, queue.ITEMS + pack_name("queue", number + 1) + pack_int(0), item)
        with pytest.raises(HallDamaged):
            things.get(timeout=0)
    spoil(hall.host, pool.LEASES + b"\x15\x01", b"")
    with pytest.raises(HallDamaged):
        hall.snapshot()


def test_numbers_that_the_kernel_does_not_take_are_no_sessions_and_no_processes(tmp_path: Path) -> None:
    for key, value in (
        (sessions.NEXT_SESSION, b"\xff" * 30),
        (sessions.SESSIONS + pack_int(9), b"\x95\x01\xcf" + b"\xff" * 8 + b"\x05\xa1x\x00"),
        (sessions.SESSIONS + pack_int(9), b"\x95\x01\xff\x05\xa1x\x00"),
        (sessions.SESSIONS + pack_int(9), b"\x95\x01\x09\xcf" + b"\xff" * 8 + b"\xa1x\x00"),
    ):
        path = tmp_path / f"h{len(list(tmp_path.iterdir()))}"
        guildhall.open(path).close()
        with guildhall.open(path) as hall:
            spoil(hall.host, key, value)
        with pytest.raises(HallDamaged):
            guildhall.open(path).snapshot()
    path = tmp_path / "strange"
    guildhall.open(path).close()
    for name in ("9" * 30 + "-1-00", "²-1-00", "x"):
        (path / "blobs" / name).touch()
        (path / "bells" / name.replace("-", ".")).touch()
    assert all(one.kind != "unusable" for one in checkup.examine(str(path)))
