"""What a worker does beside running tasks: share, help, give back."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from faults import eventually

from guildhall import Client, Event
from guildhall.engine.local import tasks
from guildhall.engine.local.tasks import Done, Recipe
from guildhall.engine.local.worker import Run
from guildhall.errors import StoreFull
from guildhall.primitives import sessions, values, waiters
from guildhall.primitives.op import PARKED
from guildhall.primitives.values import ERROR
from guildhall.store.memory import MemoryStore
from guildhall.store.transaction import Waiter


def threads_of_worker() -> tuple[int, list[str]]:
    return os.getpid(), [thread.name for thread in threading.enumerate()]


def test_helpers_end_when_nobody_is_blocked_any_more(client: Client) -> None:
    for _ in range(3):
        event = Event()
        blocked = [client.submit(event.wait, 30) for _ in range(6)]
        client.submit(event.set).result(timeout=20)
        assert client.gather(blocked) == [True] * 6

    def helpers() -> list[str]:
        seen = dict(client.gather([client.submit(threads_of_worker) for _ in range(8)]))
        return [name for names in seen.values() for name in names if "helper" in name]

    assert eventually(lambda: not helpers())


def test_two_tasks_run_on_two_workers_also_after_many_short_ones(client: Client) -> None:
    for _ in range(5):
        client.gather(client.map(abs, range(2000)))
        event = Event()

        def meet(event: Event, number: int) -> int:
            until = time.monotonic() + 0.05
            while time.monotonic() < until:
                pass
            return os.getpid()

        pids = client.gather(client.map(meet, [event] * 2, range(2)))
        assert len(set(pids)) == 2


def submitted(store: MemoryStore, count: int, first: int = 1) -> list[bytes]:
    oids = [values.object_id(1, number) for number in range(first, first + count)]
    store.transact(tasks.submit, [(oid, Recipe("f", b"", b""), ()) for oid in oids])
    return oids


def test_a_worker_claims_no_more_than_its_share() -> None:
    store = MemoryStore()
    for number in (1, 2, 3):
        store.transact(sessions.join, sessions.Session(number, 100 + number, "worker"))
    store.transact(tasks.enlist, 2)
    store.transact(tasks.enlist, 3)
    submitted(store, 10)
    counts = [len(store.transact(tasks.claim, 2, limit, None)[1]) for limit in (128, 1, 3, 128, 128)]  # type: ignore[index]
    assert counts == [5, 1, 2, 1, 1]


def test_the_count_of_ready_tasks_is_exact_whatever_happens() -> None:
    store = MemoryStore()
    for number in (1, 2):
        store.transact(sessions.join, sessions.Session(number, 100 + number, "worker"))
    oids = submitted(store, 20)

    def check() -> None:
        ready = len(list(store.read(lambda txn: txn.scan(tasks.READY))))
        assert ready == int.from_bytes(store.data[tasks.READY_COUNT], "big")

    store.transact(tasks.cancel, oids[:3])
    check()
    key, taken = store.transact(tasks.claim, 2, 4, None)  # type: ignore[misc]
    check()
    store.transact(tasks.unclaim, key, [oid for oid, _ in taken[2:]])
    check()
    store.transact(tasks.finish, key, [tasks.Done(taken[0][0], values.FINISHED, b"")])
    store.transact(sessions.bury, 2, 0, (tasks.bury,))
    check()
    store.transact(values.release_for, 1, oids)
    while isinstance(claimed := store.transact(tasks.claim, 1, 3, None), tuple):
        check()
        store.transact(tasks.finish, claimed[0], [tasks.Done(oid, values.FINISHED, b"") for oid, _ in claimed[1]])
    check()


def test_a_thread_does_not_go_on_while_what_it_has_not_begun_is_given_back() -> None:
    """It would claim what stands behind that, and end when there is no room to give anything back."""
    store, is_full = MemoryStore(), False
    store.transact(sessions.join, sessions.Session(1, 101, "worker"))
    submitted(store, 3)
    went_on: list[tuple[bool, object]] = []

    class Host:
        def transact(self, op: Any, *args: Any) -> Any:
            if op is tasks.unclaim:
                thread = threading.Thread(target=lambda: went_on.append((is_back, run._next(None))))
                thread.start()
                thread.join(0.05)
                threads.append(thread)
                if is_full:
                    raise StoreFull("no room")
            return store.transact(op, *args)

    for is_full in (True, False):
        threads: list[threading.Thread] = []
        is_back = False
        claimed = store.transact(tasks.claim, 1, 2, None)
        assert isinstance(claimed, tuple)
        run = Run(Host(), claimed[0], claimed[1])  # type: ignore[arg-type]
        run.yield_rest()
        is_back = True
        for thread in threads:
            thread.join()
        (task,) = [next_up for _, next_up in went_on]
        assert task == (claimed[1][0] if is_full else None)
        if is_full:
            store.transact(tasks.unclaim, claimed[0], [oid for oid, _ in claimed[1]])
        went_on.clear()


def test_the_dead_are_held_against_the_task_that_ran_and_not_against_its_neighbours() -> None:
    store = MemoryStore()
    for number in (1, 2):
        store.transact(sessions.join, sessions.Session(number, 100 + number, "worker"))
    oids = submitted(store, 6)

    claim, bury = partial(tasks.claim, lane=1), partial(sessions.bury, estates=(tasks.bury,))

    def deaths() -> list[int]:
        objects = [store.read(values.look, oid) for oid in oids]
        return [tasks.RECIPE.unpack(found.data).deaths for found in objects if found and found.state == values.PENDING]

    key, _ = store.transact(claim, 2, 6, None)  # type: ignore[misc]
    store.transact(tasks.finish, key, [tasks.Done(oids[0], values.FINISHED, b"")])
    store.transact(partial(bury, marks=(0, tasks.mark_of(oids[2]))), 2)
    assert deaths() == [0, 1, 0, 0, 0]

    store.transact(sessions.join, sessions.Session(3, 103, "worker"))
    store.transact(claim, 3, 2, None)
    store.transact(bury, 3)
    assert sum(deaths()) > 1, "without its words all that it had claimed may be to blame"


def test_a_worker_that_dies_as_it_is_woken_for_a_task_wakes_the_next() -> None:
    store = MemoryStore()
    idle = [Waiter(number, number, 0) for number in (1, 2)]
    for waiter in idle:
        store.transact(sessions.join, sessions.Session(waiter.session, 100 + waiter.session, "worker"))
        assert store.transact(tasks.claim, waiter.session, 1, waiter) is PARKED
    submitted(store, 1)
    (woken,) = [waiter for waiter in idle if store.read(waiters.is_granted, waiter)]
    (other,) = [waiter for waiter in idle if waiter is not woken]
    store.transact(partial(sessions.bury, estates=(tasks.bury,)), woken.session)
    assert store.read(waiters.is_granted, other)


def hold_up(go: str) -> None:
    while not os.path.exists(go):
        time.sleep(0.01)


def test_a_task_killed_in_a_batch_is_blamed_alone(tmp_path: Path) -> None:
    go, died = tmp_path / "go", tmp_path / "died"
    go.touch()

    def die_once(number: int) -> int:
        if number == 50 and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    with Client(n_workers=1, initializer=hold_up, initargs=(str(go),)) as client:
        client.gather(client.map(abs, range(3000)))  # It claims many at a time from now on.
        go.unlink()
        gate = client.submit(time.sleep, 0.05)
        futures = client.map(die_once, range(100))
        gate.result(20)
        assert eventually(died.exists)
        assert eventually(lambda: futures[50].statistics().deaths == 1)
        pending = [future.statistics() for future in futures if not future.done()]
        assert [seen.deaths for seen in pending if seen.key != futures[50].key] == [0] * (len(pending) - 1)
        assert len(pending) > 40
        go.touch()
        assert client.gather(futures) == list(range(100))


class Counting:
    """A transaction that counts how often each object is read and written."""

    def __init__(self, txn: Any) -> None:
        self._txn = txn
        self.reads: Counter[bytes] = Counter()
        self.writes: Counter[bytes] = Counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._txn, name)

    def get(self, key: bytes) -> Any:
        self.reads[key] += 1
        return self._txn.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        self.writes[key] += 1
        self._txn.put(key, value)


def test_tasks_submitted_together_read_and_write_what_they_depend_on_once() -> None:
    store = MemoryStore()
    first, second = submitted(store, 2)
    several = [
        (values.object_id(1, number), Recipe("g", b"", b"", (first, second)), (first, second)) for number in (3, 4, 5)
    ]

    def submit(txn: Any) -> Counting:
        counting = Counting(txn)
        tasks.submit(counting, several)
        return counting

    counted = store.transact(submit)
    for oid in (first, second):
        key = values.OBJECTS + oid
        assert (counted.reads[key], counted.writes[key]) == (1, 1)
        found = store.read(values.look, oid)
        assert found is not None
        assert (found.holds, found.is_watched) == (1 + len(several), True)
    store.transact(values.release_for, 1, [first, second, *(oid for oid, _, _ in several)])
    assert [key for key in store.keys if key.startswith(values.OBJECTS)] == []


def test_a_task_that_fails_as_it_is_submitted_leaves_nothing_at_what_it_would_have_waited_for() -> None:
    store = MemoryStore()
    pending, failed = submitted(store, 2)
    store.transact(tasks.settle, Done(failed, ERROR, b"e"))
    before = store.read(values.look, pending)
    stillborn = values.object_id(1, 3)
    store.transact(tasks.submit, [(stillborn, Recipe("g", b"", b"", (pending, failed)), (pending, failed))])
    end = store.read(values.look, stillborn)
    assert end is not None
    assert end.state == ERROR
    assert store.read(values.look, pending) == before
    assert [key for key in store.keys if key.startswith(tasks.DEPENDENTS)] == []
