"""The hall in a real Dask scheduler: clients, tasks, deaths, and what a scheduler must have."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import psutil
import pytest
from chores import count_up, hold, pid, seven, size_of, wait_in_task
from clusters import Cluster, wait_for
from distributed import Client
from far import Far

from guildhall import Event, Hall, HallRefused, Lock, Queue, Semaphore, Variable
from guildhall.hosts import current, dask
from guildhall.hosts.dask import comms


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The hall is attached by the first client; workers have no nannies that would start them again."""
    with Cluster(tmp_path_factory.mktemp("cluster"), 0, scheduler_options=(), has_nannies=False) as made:
        for _ in range(2):
            made.add_workers(1)
        yield made


@pytest.fixture(scope="module")
def at(cluster: Cluster) -> Iterator[tuple[Client, Hall]]:
    with cluster.hall() as found:
        found[0].wait_for_workers(2)
        current.add_default(found[1].host)
        yield found
        current.remove_default(found[1].host)


def test_tasks_on_all_workers_share_locks_and_variables_with_the_client(at: tuple[Client, Hall]) -> None:
    client, _ = at
    Variable("n").set(0)
    sessions = client.gather([client.submit(count_up, "n", 25, pure=False) for _ in range(8)])
    assert Variable("n").get() == 200
    assert len(set(sessions)) == 2, "each worker is one session"


def test_a_second_connect_of_a_client_gives_the_same_host(at: tuple[Client, Hall]) -> None:
    client, hall = at
    again = dask.connect(client)
    assert again is hall.host
    again.close()
    assert Variable("still here").set(1) is None


def test_blocked_tasks_do_not_keep_others_from_running(at: tuple[Client, Hall]) -> None:
    client, _ = at
    blocked = [client.submit(wait_in_task, "late", pure=False) for _ in range(8)]  # Twice as many as threads.
    assert client.submit(seven, pure=False).result(timeout=20) == 7
    Queue("late").put_many(range(8))
    assert sorted(client.gather(blocked)) == list(range(8))


def test_large_values_travel_and_leave_nothing(at: tuple[Client, Hall]) -> None:
    client, hall = at
    before = hall.host.usage().used_bytes
    big = bytes(range(256)) * 20_000  # 5 MB: in pieces.
    value = Variable("big")
    value.set(big)
    assert client.submit(size_of, "big", pure=False).result(timeout=20) == len(big)
    assert value.get() == big
    value.delete()
    hall.host.settle()
    wait_for(lambda: hall.host.usage().used_bytes < before + 100_000)


HOLDER = """
Lock("held").acquire(); Semaphore("seats", 1).acquire()
taken = Queue("items").take()
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_client_held_is_free_when_it_is_killed(cluster: Cluster, at: tuple[Client, Hall], how: int) -> None:
    Queue("items").put("once more")
    holder = cluster.script(HOLDER)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"ready\n"
    assert Lock("held").locked()
    began = time.monotonic()
    holder.send_signal(how)
    with Lock("held") as lock:
        assert lock.previous_holder_died
    with Semaphore("seats", 1):
        pass
    assert Queue("items").get(timeout=2) == "once more"
    assert time.monotonic() - began < 2


def test_what_a_worker_held_is_free_when_it_is_killed(cluster: Cluster, at: tuple[Client, Hall]) -> None:
    client, _ = at
    worker = cluster.add_workers(1)
    client.wait_for_workers(3)
    address = next(address for address, found in client.run(pid).items() if found == worker.pid)
    task = client.submit(hold, "by a worker", workers=[address], retries=0, allow_other_workers=False, pure=False)
    assert Event("by a worker").wait(20)
    began = time.monotonic()
    worker.kill()
    assert Lock("by a worker").acquire(timeout=10)
    assert time.monotonic() - began < 2
    task.cancel()


def test_waiters_that_are_killed_do_not_keep_the_line(cluster: Cluster, at: tuple[Client, Hall]) -> None:
    lock = Lock("line")
    lock.acquire()
    waiter = cluster.script("print('ready', flush=True)\nLock('line').acquire()\n")
    assert waiter.stdout is not None
    waiter.stdout.readline()
    wait_for(lambda: len(lock.statistics().waiting) == 1)
    got: list[bool] = []
    thread = threading.Thread(target=lambda: got.append(Lock("line").acquire(timeout=10)))
    thread.start()
    wait_for(lambda: len(lock.statistics().waiting) == 2)
    waiter.kill()
    lock.release()
    thread.join()
    assert got == [True]


def test_many_waiters_cost_the_scheduler_nothing(cluster: Cluster, at: tuple[Client, Hall]) -> None:
    lock = Lock("many")
    lock.acquire()
    got: list[int] = []

    def wait() -> None:
        with Lock("many"):
            got.append(1)

    threads = [threading.Thread(target=wait) for _ in range(300)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(lock.statistics().waiting) == 300, 30)

    process = psutil.Process(cluster.scheduler.pid)
    time.sleep(3)  # What was looked at once is looked at less and less.
    before = sum(process.cpu_times()[:2])
    time.sleep(3)
    assert sum(process.cpu_times()[:2]) - before < 0.75, "of 3 s"
    lock.release()
    for thread in threads:
        thread.join(30)
    assert len(got) == 300


def test_another_version_is_told_what_to_install_where(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comms, "VERSION", "9.9.9")
    with Client(cluster.address) as client, pytest.raises(HallRefused, match=r"pip install 'guildhall\[dask\]=="):
        dask.connect(client)


def test_what_was_sent_before_a_death_counts_though_dask_hears_of_the_death_first(far: Far) -> None:
    host = far.host("client", "a client")
    seat = far.hall.seats[host.session]
    is_sent, was_held = threading.Event(), threading.Event()

    def bury() -> None:
        was_held.set()
        assert is_sent.wait(10)
        far.hall.bury_of("a client")

    burying = threading.Thread(target=far.do, args=(bury,))
    burying.start()
    assert was_held.wait(10)
    host.link.tell("mark", (0, 7))
    is_sent.set()
    burying.join()
    assert seat.marks == [7]
    assert not far.hall.seats
