"""`Hall.snapshot` and `statistics()`: what is there is seen, once, and in a form that JSON has."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from faults import eventually
from hypothesis import example, given
from hypothesis import strategies as st

import guildhall
from guildhall import (
    Barrier,
    Client,
    Condition,
    Counter,
    Election,
    Event,
    Hall,
    Latch,
    Lock,
    Misuse,
    MultiLock,
    Pub,
    Queue,
    RateLimiter,
    RLock,
    RWLock,
    Semaphore,
    Sub,
    Variable,
)
from guildhall.client import census
from guildhall.client.census import KINDS
from guildhall.client.handles.statistics import Waiting
from guildhall.primitives import census as ops
from guildhall.store.keys import name_of, pack_name
from guildhall.store.memory import MemoryStore


def held(handle: Any, acquire: str = "acquire") -> Any:
    getattr(handle, acquire)()
    return handle


def counted(latch: Latch) -> Latch:
    latch.count_down()
    return latch


def waited(condition: Condition) -> Condition:
    """Somebody waits at it, as long as the hall is there."""

    def wait() -> None:
        with suppress(Misuse), condition:
            condition.wait(2)

    threading.Thread(target=wait, daemon=True).start()
    assert eventually(lambda: len(condition.statistics().waiting) == 1)
    return condition


MAKERS: dict[str, Callable[[Hall, Any], Any]] = {
    "variable": lambda hall, name: Variable(name, hall=hall).set(1),
    "counter": lambda hall, name: Counter(name, hall=hall).add(),
    "queue": lambda hall, name: Queue(name, hall=hall).put(1),
    "topic": lambda hall, name: Sub(name, hall=hall),
    "lock": lambda hall, name: held(Lock(name, hall=hall)),
    "rlock": lambda hall, name: held(RLock(name, hall=hall)),
    "rwlock": lambda hall, name: held(RWLock(name, hall=hall), "acquire_read"),
    "multilock": lambda hall, name: held(MultiLock([name], hall=hall)),
    "semaphore": lambda hall, name: held(Semaphore(name, 2, hall=hall)),
    "event": lambda hall, name: Event(name, hall=hall).set(),
    "barrier": lambda hall, name: Barrier(name, 3, hall=hall).abort(),
    "latch": lambda hall, name: counted(Latch(name, 3, hall=hall)),
    "condition": lambda hall, name: waited(Condition(name, Lock(f"of {name!r}", hall=hall), hall=hall)),
    "election": lambda hall, name: held(Election(name, hall=hall), "campaign"),
    "rate-limiter": lambda hall, name: held(RateLimiter(name, 5, hall=hall)),
}
NAMES = ["x", "y", ("x", 1), b"x", 7, "\0", "ünï"]


def without_times(record: Any) -> Any:
    """Times are told to the microsecond, and counted back from a clock that is read anew."""
    if isinstance(record, dict):
        return {key: None if key == "since" else without_times(value) for key, value in record.items()}
    return [without_times(item) for item in record] if isinstance(record, list | tuple) else record


def test_every_kind_is_tested() -> None:
    assert set(MAKERS) == {kind.word for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.word)
def test_every_thing_of_a_kind_is_seen_once_with_its_statistics(hall: Hall, kind: census.Kind) -> None:
    made = [MAKERS[kind.word](hall, name) for name in NAMES]
    things = hall.snapshot().things
    assert set(things) == {kind.word}
    assert sorted(repr(one.name) for one in things[kind.word]) == sorted(map(repr, NAMES))
    for one in things[kind.word]:
        found = census.thing(hall.host, kind, pack_name(kind.word, one.name))
        assert found is not None
        assert without_times(dataclasses.asdict(found)) == without_times(dataclasses.asdict(one))
    handles = [handle for handle in made if hasattr(handle, "statistics") and kind.word != "multilock"]
    for handle in handles:
        (seen,) = [one.statistics for one in things[kind.word] if repr(one.name) == repr(handle.name)]
        assert without_times(dataclasses.asdict(handle.statistics())) == without_times(dataclasses.asdict(seen))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.word)
def test_statistics_of_all_kinds_say_the_same_things_by_the_same_names(hall: Hall, kind: census.Kind) -> None:
    made = MAKERS[kind.word](hall, "x")
    (one,) = hall.snapshot().things[kind.word]
    for told in (one.statistics, made.statistics() if hasattr(made, "statistics") else one.statistics):
        assert told.kind == kind.word
        assert told.name in ("x", ("x",), ["x"])
        assert all(isinstance(waiter, Waiting) for waiter in told.waiting)
        assert isinstance(told.waiting, tuple)
        if kind.word in ("lock", "rlock", "rwlock", "multilock", "semaphore", "election"):
            assert [(holder.session, holder.pid) for holder in told.holders] == [(hall.host.session, os.getpid())]


def test_who_waits_is_told_with_what_it_waits_for(hall: Hall) -> None:
    full = Queue("full", maxsize=1, hall=hall)
    full.put(1)
    bounded, reader = Pub("t", maxlen=1, policy="block", hall=hall), Sub("t", hall=hall)
    bounded.put(1)
    leader = held(Election("e", hall=hall), "campaign")
    waits: dict[str, Callable[[], Any]] = {
        "get": lambda: Queue("empty", hall=hall).get(timeout=20),
        "put": lambda: full.put(2, timeout=20),
        "join": lambda: full.join(timeout=20),
        "lead": lambda: Election("e", hall=hall).campaign(timeout=20),
        "change": lambda: next(iter(_changes(Election("e", hall=hall)))),
        "value": lambda: Variable("v", hall=hall).get(timeout=20),
        "newer": lambda: Variable("w", hall=hall).wait_for(lambda value: value == 1, timeout=20),
    }
    Variable("w", hall=hall).set(0)
    threads = [threading.Thread(target=call, daemon=True) for call in (*waits.values(), lambda: bounded.put(2, 20))]
    for thread in threads:
        thread.start()

    def modes() -> set[str]:
        some = [one.statistics for things in hall.snapshot().things.values() for one in things]
        assert all(one.pid == os.getpid() for told in some for one in told.waiting)
        return {one.mode for told in some for one in told.waiting}

    assert eventually(lambda: modes() == set(waits))
    assert eventually(lambda: bounded.statistics().waiting_publishers == 1)
    assert (full.statistics().putters, full.statistics().getters) == (1, 0)
    assert (Election("e", hall=hall).statistics().candidates, Election("e", hall=hall).statistics().watchers) == (1, 1)
    assert Variable("w", hall=hall).statistics().watchers == 1
    leader.resign()
    Queue("empty", hall=hall).put(1)
    Variable("v", hall=hall).set(1)
    Variable("w", hall=hall).set(1)
    for _ in range(2):
        reader.get(timeout=10)
        full.get(timeout=10)
        full.task_done()
    for thread in threads:
        thread.join(10)
    assert modes() == set()


def _changes(election: Election) -> Iterator[Any]:
    watch = election.watch(timeout=20)
    next(watch)
    yield next(watch)


def test_what_is_only_waited_for_is_seen(hall: Hall) -> None:
    waits = [
        lambda: Variable("v", hall=hall).get(),
        lambda: Event("e", hall=hall).wait(),
        lambda: Queue("q", hall=hall).get(),
        lambda: Lock("l", hall=hall).acquire(),
    ]
    lock = held(Lock("l", hall=hall))
    began = time.time()
    threads = [threading.Thread(target=wait, daemon=True) for wait in waits]
    for thread in threads:
        thread.start()
    try:
        assert eventually(lambda: set(hall.snapshot().things) == {"variable", "event", "queue", "lock"})
        assert eventually(lambda: len(Event("e", hall=hall).statistics().waiting) == 1)
        assert eventually(lambda: len(lock.statistics().waiting) == 1)
        (waiter,) = lock.statistics().waiting
        assert waiter.pid == os.getpid()
        assert waiter.since is not None
        assert began - 1 < waiter.since <= time.time()
    finally:
        Variable("v", hall=hall).set(1)
        Event("e", hall=hall).set()
        Queue("q", hall=hall).put(1)
        lock.release()
    for thread in threads:
        thread.join(10)


def test_more_than_a_page_of_things_and_leases_is_seen_whole(hall: Hall) -> None:
    semaphores = [held(Semaphore(f"s{number}", 5, hall=hall)) for number in range(200)]
    for semaphore in semaphores[:50]:
        semaphore.acquire()
    for number in range(1, 501):
        Variable(number, hall=hall).set(number)
    things = hall.snapshot().things
    assert sorted(one.name for one in things["variable"]) == list(range(1, 501))
    assert sum(len(one.statistics.holders) for one in things["semaphore"]) == 250


def test_leases_of_a_semaphore_that_was_closed_are_not_shown_for_the_next_one(hall: Hall) -> None:
    held(Semaphore("s", 5, hall=hall)).close()
    assert "semaphore" not in hall.snapshot().things
    Semaphore("s", 7, hall=hall).acquire()
    (one,) = hall.snapshot().things["semaphore"]
    assert (one.statistics.capacity, len(one.statistics.holders)) == (7, 1)


def test_a_snapshot_is_frozen_and_has_a_form_in_json(hall: Hall) -> None:
    made = [make(hall, name) for make in MAKERS.values() for name in NAMES]
    snapshot = hall.snapshot()
    with pytest.raises(dataclasses.FrozenInstanceError):
        snapshot.revision = 0  # type: ignore[misc]
    plain = json.loads(json.dumps(snapshot.as_dict()))
    assert set(plain) == {"path", "revision", "time", "sessions", "tasks", "things", "blobs", "store"}
    assert plain["path"] == hall.path
    assert set(plain["things"]) == set(MAKERS)
    (session,) = plain["sessions"]
    assert (session["number"], session["pid"], session["is_alive"]) == (1, os.getpid(), True)
    assert {one["kind"] for one in session["holds"]} == {
        "lock", "election", "rlock", "rwlock", "multilock", "semaphore",
    }  # fmt: skip
    assert plain["store"]["left_bytes"] > plain["store"]["used_bytes"] > 0
    assert len(made) == len(MAKERS) * len(NAMES)


def test_the_revision_grows_and_is_not_ahead_of_what_is_seen(hall: Hall) -> None:
    seen = []
    for number in range(50):
        Variable("v", hall=hall).set(number)
        seen.append(hall.snapshot().revision)
    assert seen == sorted(set(seen))


def test_tasks_are_counted_by_state(client: Client) -> None:
    hall, go = Hall(client.host), Event("go", hall=client)

    def wait() -> None:
        Event("go").wait()

    def fail() -> None:
        raise LookupError

    before = hall.snapshot().tasks.by_state
    running = [client.submit(wait) for _ in range(2)]
    waiting = client.submit(lambda x: x, running[0])
    done, failed = client.submit(abs, 1), client.submit(fail)
    guildhall.wait([done])
    failed.exception()
    assert eventually(lambda: len(hall.snapshot().tasks.running) == 2, 20)
    tasks = hall.snapshot().tasks
    assert tasks.is_complete
    assert {task.key for task in tasks.running} == {future.key for future in running}
    assert {task.pid for task in tasks.running} <= {process.pid for process in client.cluster.pool.processes}
    assert all(task.since is not None and time.time() - task.since < 60 for task in tasks.running)
    more = {state: count - before[state] for state, count in tasks.by_state.items()}
    assert more == {"ready": 0, "running": 2, "waiting": 1, "finished": 1, "error": 1, "cancelled": 0}
    facts = [future.statistics() for future in (running[0], waiting, done, failed)]
    assert [fact.phase for fact in facts] == ["running", "waiting", "finished", "error"]
    assert facts[1].missing == 1
    assert facts[0].holders >= 2
    waiting.cancel()
    assert waiting.statistics().status == "cancelled"
    few = census.take(client.host, max_objects=1).tasks
    assert not few.is_complete
    go.set()
    client.gather(running)


def test_sessions_of_a_cluster_have_roles_and_ages(client: Client) -> None:
    everybody = Hall(client.host).snapshot().sessions
    assert [one.role for one in everybody] == ["process", "worker", "worker"]
    assert all(one.is_alive for one in everybody)
    assert all(one.since is not None and 0 <= time.time() - one.since < 600 for one in everybody)


def test_large_values_are_counted(hall: Hall) -> None:
    Variable("v", hall=hall).set(bytes(1_000_000))
    blobs = hall.snapshot().blobs
    assert blobs.count == 1
    assert blobs.size_bytes >= 1_000_000
    Variable("v", hall=hall).delete()
    assert hall.snapshot().blobs.count == 0


def test_publishing_moves_the_end_of_a_topic(hall: Hall) -> None:
    sub, pub = Sub("t", hall=hall), Pub("t", hall=hall)
    for number in range(5):
        pub.put(number)
    (one,) = hall.snapshot().things["topic"]
    assert (one.statistics.subscribers, one.statistics.end, one.statistics.kept) == (1, 5, 5)
    assert sub.get() == 0


names = st.one_of(st.text(max_size=5), st.binary(max_size=5), st.integers(), st.tuples(st.text(max_size=2)))


@example([("", b"\xff\xff")], 1)
@given(st.lists(st.tuples(names, st.binary(max_size=3)), max_size=30), st.integers(1, 5))
def test_names_are_found_once_each_whatever_stands_behind_them(some: list[tuple[Any, bytes]], limit: int) -> None:
    store = MemoryStore()
    packed = [pack_name("test", name) for name, _ in some]
    for key, (_, rest) in zip(packed, some, strict=True):
        store.transact(lambda txn, key=key, rest=rest: txn.put(b"\x39" + key + rest, b""))
        store.transact(lambda txn: txn.put(b"\x40other", b""))
    found: list[bytes] = []
    while page := store.read(ops.names, b"\x39", found[-1] if found else b"", limit):
        assert len(page) <= limit
        found += page
    assert found == sorted(set(packed))
    assert [name_of(name) for name in found] == [name_of(name) for name in sorted(set(packed))]
