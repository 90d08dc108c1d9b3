"""Shared memory that is full, or small from the start: a clear error, never a signal, and a way back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults import Child, eventually, script, spills

import guildhall
from guildhall import Client, Counter, Event, Hall, Lock, Pub, Queue, RWLock, StoreFull, Sub, TimedOut, Variable
from guildhall.client.vigil import Owned, ThreadsVigil
from guildhall.primitives import lock, waiters
from guildhall.store.keys import pack_name

BIG = "x" * 50_000
"""Small enough to be kept in the store itself."""


@pytest.fixture
def small_home(small_tmpfs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GUILDHALL_HOME", str(small_tmpfs))
    return small_tmpfs


@pytest.fixture
def small_hall(small_home: Path) -> Iterator[Hall]:
    with guildhall.open() as hall:
        yield hall


def fill(hall: Hall, name: str, value: Any = BIG) -> int:
    """Put into a queue until there is no room, then smaller items, down to the last corner. Returns how many fitted."""
    queue, count = Queue(name, hall=hall), 0
    for item in (value, "x" * 3000, "x" * 200, ""):
        while True:
            try:
                queue.put(item)
                count += 1
            except StoreFull:
                break
            assert count < 1_000_000
    return count


def drain(hall: Hall, name: str) -> int:
    queue, count = Queue(name, hall=hall), 0
    while True:
        try:
            queue.get(timeout=0)
            count += 1
        except TimedOut:
            return count


def test_everything_says_store_full_and_works_again_after_taking(small_hall: Hall) -> None:
    hall = small_hall
    lock, event, variable, sub = (
        Lock("l", hall=hall),
        Event("e", hall=hall),
        Variable("v", hall=hall),
        Sub("t", hall=hall),
    )
    variable.set("before")
    lock.acquire()
    for _ in range(3):
        count = fill(hall, "q")
        assert count > 100
        with pytest.raises(StoreFull, match=r"no room.*take or delete"):
            variable.set(BIG)
        with pytest.raises(StoreFull):
            Pub("t", hall=hall).put(BIG)
        with pytest.raises(StoreFull):
            Queue("other", hall=hall).put_many([BIG] * 3)
        assert variable.get() == "before"
        assert Queue("q", hall=hall).qsize() == count
        assert drain(hall, "q") == count
        variable.set(BIG)
        assert variable.get() == BIG
        variable.set("before")
        Pub("t", hall=hall).put(BIG)
        assert sub.get(timeout=1) == BIG
        event.set()
        assert event.wait(1)
    lock.release()


READER = """
import guildhall, signal
hall = guildhall.{way}
look = getattr(hall, "looking", None) or hall.host
look.read(lambda txn: (print("ready", flush=True), signal.pause()))
"""


@pytest.mark.parametrize("way", ["observe", "open"])
def test_a_reader_that_was_killed_does_not_make_the_store_grow(hall_name: str, tmp_path: Path, way: str) -> None:
    """LMDB keeps every page that a reader might look at, and does not know by itself that one is dead."""
    with guildhall.open(hall_name) as hall:
        variable = Variable("v", hall=hall)
        variable.set(0)
        reader = script(READER.format(way=f"{way}({hall_name!r})"), tmp_path)
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
        reader.kill()
        reader.communicate()
        for number in range(20_000):
            variable.set(number)
        assert hall.snapshot().store.file_bytes < 12 << 20


def test_a_hall_grows_again_when_others_free_its_file_system(small_home: Path, small_hall: Hall) -> None:
    others = small_home / "of others"
    taken = os.statvfs(small_home)
    others.write_bytes(bytes(taken.f_bavail * taken.f_frsize))
    small = fill(small_hall, "q")
    others.unlink()
    assert fill(small_hall, "q") > 100 > small
    assert drain(small_hall, "q") > small + 100


def test_a_lock_is_released_and_handed_on_while_memory_is_full(small_hall: Hall) -> None:
    hall = small_hall
    lock, ready = Lock("l", hall=hall), Event("r", hall=hall)
    lock.acquire()

    def wait() -> bool:
        ready.set()
        mine = Lock("l", hall=hall)
        return mine.acquire(timeout=20) and mine.release()

    waiter = Child(wait)
    assert ready.wait(10)
    time.sleep(0.1)
    fill(hall, "q")
    lock.release()
    assert waiter.result()
    assert not lock.locked()


def test_who_falls_asleep_while_memory_is_full_waits_and_says_nothing(small_hall: Hall) -> None:
    host, inside = small_hall.host, Lock("held", hall=small_hall)
    waiter, bell = host.waiter(), host.bell()
    Lock("l", lease_s=60, hall=small_hall).acquire()
    host.transact(lock.acquire, pack_name("lock", "l"), host.session, 99, waiter.number, waiter)
    with inside:  # What it would have to say does not fit.
        fill(small_hall, "q")
        vigil = ThreadsVigil(host, waiter, Owned())
        try:
            assert vigil.begin(bell.number)
            assert host.read(waiters.head, lock.LOCKS + pack_name("lock", "l")) == (
                waiter._replace(bell=bell.number), lock.CLAIM.pack(lock.Claim(99)),
            )  # fmt: skip
        finally:
            vigil.end()
            host.done(bell)


def test_the_lock_of_one_killed_while_memory_is_full_comes_free(small_hall: Hall) -> None:
    hall = small_hall
    ready = Event("r", hall=hall)

    def hold() -> None:
        Lock("l", hall=hall).acquire()
        ready.set()
        signal.pause()

    holder = Child(hold)
    assert ready.wait(10)
    fill(hall, "q")
    holder.kill()
    assert drain(hall, "q") > 100
    assert Lock("l", hall=hall).acquire(timeout=5)


def test_processes_that_fill_memory_together_can_still_empty_it(small_hall: Hall) -> None:
    hall = small_hall
    for _ in range(3):
        children = [Child(fill, hall, f"q{number}") for number in range(3)]
        counts = [child.result() for child in children]
        counts.append(fill(hall, "q3"))
        assert [drain(hall, f"q{number}") for number in range(4)] == counts
    Variable("v", hall=hall).set(BIG)


def test_a_process_that_joins_a_full_hall_can_empty_it(small_home: Path) -> None:
    with guildhall.open("full") as hall:
        count = fill(hall, "q")
        code = (
            "import guildhall; hall = guildhall.open('full'); q = guildhall.Queue('q', hall=hall)\n"
            "print(len([q.get(timeout=0) for _ in range(q.qsize())]))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout == f"{count}\n", done.stderr
        Variable("v", hall=hall).set(BIG)


def test_large_values_go_to_disk_when_memory_is_full_and_come_back_whole(small_hall: Hall) -> None:
    values = [os.urandom(3_000_000) for _ in range(5)]
    for number, value in enumerate(values):
        Variable(number + 1, hall=small_hall).set(value)
    assert spills()
    assert [Variable(number + 1, hall=small_hall).get() for number in range(5)] == values
    for number in range(5):
        Variable(number + 1, hall=small_hall).delete()
    assert not spills()


def test_large_values_that_were_refused_leave_nothing_on_disk(small_hall: Hall) -> None:
    variable, queue, pub, _sub = (kind("p", hall=small_hall) for kind in (Variable, Queue, Pub, Sub))
    fill(small_hall, "q")
    for _ in range(5):
        for call in (variable.set, queue.put, pub.put, lambda v: queue.put_many([v])):
            with pytest.raises(StoreFull):
                call(os.urandom(200_000))
    drain(small_hall, "q")
    Variable("flush", hall=small_hall).set(1)
    assert not spills()
    assert os.listdir(os.path.join(small_hall.path, "blobs")) == []


def test_a_hall_whose_blobs_are_on_disk_takes_them_along_when_it_closes(small_home: Path) -> None:
    with guildhall.open() as hall:
        for number in range(4):
            Variable(number + 1, hall=hall).set(os.urandom(4_000_000))
        assert spills()
    assert not spills()


def test_tasks_in_full_memory_fail_with_store_full_and_the_worker_lives(small_home: Path) -> None:
    with Client(n_workers=1) as client:
        pid = client.submit(os.getpid).result(timeout=30)
        hall: Any = client
        fill(hall, "q")
        with pytest.raises(StoreFull):
            client.submit(len, BIG)
        with pytest.raises(StoreFull):
            client.scatter(BIG)
        with pytest.raises(StoreFull):
            client.map(len, [BIG] * 10)
        drain(hall, "q")
        assert client.submit(os.getpid).result(timeout=30) == pid

        def fill_then_answer(size: int) -> Any:
            fill(guildhall.get_client(), "q")  # type: ignore[arg-type]
            return "x" * size

        future = client.submit(fill_then_answer, 60_000)
        with pytest.raises(StoreFull):
            future.result(timeout=60)
        drain(hall, "q")
        assert client.submit(os.getpid).result(timeout=30) == pid


SMALL_SHM = """
import os, sys, subprocess, tempfile
os.environ.pop("GUILDHALL_HOME", None)
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", "/dev/shm"], check=True)
import numpy as np
from guildhall import Client, Lock, Pub, Queue, Sub, Variable
with Client(n_workers=2) as client:
    assert client.host.directory.startswith("/dev/shm/"), client.host.directory
    counter = Variable("c"); counter.set(0)
    def increment(lock):
        with lock:
            counter.set(counter.get() + 1)
    client.gather([client.submit(increment, Lock("l")) for _ in range(50)])
    assert counter.get() == 50
    sub = Sub("t"); Pub("t").put("hello"); assert sub.get(timeout=5) == "hello"
    queue = Queue("q"); client.gather(client.map(queue.put, range(10)))
    assert sorted(queue.get(timeout=5) for _ in range(10)) == list(range(10))
    array = np.arange(13_000_000.0)  # 104 MB
    future = client.scatter(array)
    assert future.result().sum() == array.sum()
    assert client.submit(lambda a: float(a.sum()), future).result(timeout=60) == array.sum()
    made = client.map(lambda n: np.full(6_500_000, float(n)), range(3))  # 52 MB each
    for n, result in enumerate(client.gather(made)):
        assert result.shape == (6_500_000,) and (result == n).all()
    Variable("kept").set(array[:6_500_000])
    print(len([n for n in os.listdir(tempfile.gettempdir()) if n.startswith("guildhall-")]), "on disk", flush=True)
    del result
here = os.listdir(tempfile.gettempdir())
print(os.listdir(f"/dev/shm/guildhall-{os.getuid()}"), [n for n in here if n.startswith("guildhall-")])
"""


def test_a_shared_memory_of_64_mb_is_enough_for_100_mb_arrays(tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("a mount namespace needs privileges")
    place = tmp_path / "t"
    place.mkdir()
    file = tmp_path / "small.py"
    file.write_text(SMALL_SHM)
    done = subprocess.run(
        ["unshare", "-m", sys.executable, str(file)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "TMPDIR": str(place)},
    )
    assert done.returncode == 0, done.stderr
    on_disk, left = done.stdout.splitlines()
    assert int(on_disk.split()[0]) >= 3
    assert left == "[] []"


CLIENT_WITH_BLOBS = """
import os, sys, time
from guildhall import Client, Variable
client = Client(n_workers=1)
kept = [client.scatter(os.urandom(4_000_000)) for _ in range(4)]
Variable("kept").set(os.urandom(4_000_000))
print(client.host.directory, *(p.pid for p in client.cluster.pool.processes), flush=True)
time.sleep(60)
"""


def test_blobs_on_disk_of_a_killed_client_go_with_its_hall(small_home: Path, tmp_path: Path) -> None:
    process = script(CLIENT_WITH_BLOBS, tmp_path)
    assert process.stdout is not None
    directory, *_ = process.stdout.readline().split()
    assert spills()
    process.kill()
    process.communicate()
    assert eventually(lambda: not os.path.exists(directory), 3) or guildhall.open().close() is None
    guildhall.open().close()
    assert not os.path.exists(directory)
    assert not spills()


def test_who_finds_no_room_to_leave_a_line_leaves_it_as_soon_as_there_is(small_hall: Hall, tmp_path: Path) -> None:
    """While somebody stands still in a read, no page that was given up can be used: not even leaving is written."""
    hall, reads = small_hall, tmp_path / "reads"
    writer, reader = RWLock("r", hall=hall), RWLock("r", hall=hall)
    writer.acquire_write()
    child = Child(stand_still_in_a_read, hall, reads)
    try:
        assert eventually(reads.exists)
        answer: list[Any] = []
        thread = threading.Thread(target=lambda: answer.append(error_of(lambda: reader.acquire_read(timeout=3))))
        thread.start()
        assert eventually(lambda: len(writer.statistics().waiting) == 1)
        fill(hall, "q")
        use_up(hall)
        thread.join(60)
        assert answer == [StoreFull]
    finally:
        child.kill()
    assert eventually(lambda: goes_on(lambda: Queue("q", hall=hall).get(timeout=0)))
    assert eventually(lambda: not writer.statistics().waiting)
    writer.release_write()
    assert not writer.locked(), "nobody reads who was told that it does not"


def stand_still_in_a_read(hall: Hall, reads: Path) -> None:
    store: Any = hall.host._store
    hall.host.read(lambda txn: None)
    raw = store._begin()
    reads.touch()
    time.sleep(600)
    raw.abort()


def goes_on(run: Callable[[], Any]) -> bool:
    return error_of(run) is not StoreFull


def use_up(hall: Hall) -> None:
    """Give up pages that nobody can use until nothing more is written."""
    counter = Counter("c", hall=hall)
    for _ in range(100_000):
        try:
            counter.add(1)
        except StoreFull:
            return
    pytest.fail("there is room without end")


def error_of(run: Callable[[], Any]) -> Any:
    try:
        return run()
    except Exception as error:
        return type(error)
