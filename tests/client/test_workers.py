"""The workers as a crew: asked one by one, started anew, more and fewer, with threads, resources and limits."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from faults import eventually

import guildhall
from guildhall import (
    CancelledError,
    Client,
    Event,
    KilledWorker,
    LocalCluster,
    Lock,
    Misuse,
    Queue,
    TimedOut,
    Variable,
    get_client,
)
from guildhall.tools import views


@pytest.fixture
def name() -> str:
    return os.urandom(4).hex()


@pytest.fixture
def own() -> Iterator[Client]:
    """A client whose workers a test may change."""
    with Client(n_workers=2) as made:
        yield made


def pid() -> int:
    return os.getpid()


# -- run --------------------------------------------------------------------------------------------------------------


def test_run_reaches_every_worker_also_busy_ones(client: Client, name: str) -> None:
    busy = client.map(Event(name).wait, [30] * 2)
    time.sleep(0.05)
    found = client.run(pid)
    assert sorted(found.values()) == sorted(one["pid"] for one in client.scheduler_info()["workers"].values())
    assert found == {address: int(address.rpartition("/")[2]) for address in found}
    Event(name).set()
    assert client.gather(busy) == [True, True]


def test_run_takes_arguments_futures_included_and_some_workers(client: Client) -> None:
    first = next(iter(client.nthreads()))
    assert client.run(divmod, 7, 2, workers=[first]) == {first: (3, 1)}
    assert client.run(lambda array: int(array.sum()), np.ones(20_000), workers=first) == {first: 20_000}
    futures = client.run(pid, wait=False)
    assert {address: future.result() for address, future in futures.items()} == client.run(pid)

    async def answer() -> int:
        return 42

    assert set(client.run(answer).values()) == {42}
    with pytest.raises(Misuse, match="not there"):
        client.run(pid, workers="local://1")


def test_what_run_raises_is_raised_returned_or_left_out(client: Client) -> None:
    with pytest.raises(ZeroDivisionError):
        client.run(divmod, 1, 0)
    assert [type(error) for error in client.run(divmod, 1, 0, on_error="return").values()] == [ZeroDivisionError] * 2
    assert client.run(divmod, 1, 0, on_error="ignore") == {}
    with pytest.raises(Misuse, match="on_error"):
        client.run(pid, on_error="hide")


def test_what_is_asked_of_a_worker_that_dies_fails(own: Client) -> None:
    first = next(iter(own.nthreads()))
    with pytest.raises(KilledWorker):
        own.run(os._exit, 1, workers=first)
    address, future = next(iter(own.run(time.sleep, 30, wait=False).items()))
    os.kill(int(address.rpartition("/")[2]), signal.SIGKILL)
    with pytest.raises(KilledWorker):
        future.result(timeout=10)


# -- restart, scale ---------------------------------------------------------------------------------------------------


def test_restart_cancels_what_is_not_done_and_keeps_the_rest(own: Client, name: str) -> None:
    done = own.submit(abs, -1)
    assert done.result() == 1
    Variable(name).set(5)
    running = own.map(time.sleep, [60, 60])
    waiting = own.submit(abs, running[0])  # Whoever is free meanwhile cannot run it.
    time.sleep(0.1)
    before = set(own.run(pid).values())
    own.restart(timeout=20)
    after = set(own.run(pid).values())
    assert len(after) == 2
    assert not before & after
    assert [future.status for future in (*running, waiting, done)] == ["cancelled"] * 3 + ["finished"]
    assert (Variable(name).get(), done.result(), own.submit(abs, -3).result()) == (5, 1, 3)


def test_more_and_fewer_workers_and_no_task_is_lost(own: Client) -> None:
    futures = own.map(lambda n: time.sleep(0.002) or n, range(600))
    own.cluster.scale(4)
    own.wait_for_workers(4, timeout=20)
    own.cluster.scale(1)
    assert eventually(lambda: len(own.nthreads()) == 1, 10)
    assert own.gather(futures) == list(range(600))
    own.cluster.scale(2)
    own.wait_for_workers(2, timeout=20)
    os.kill(next(iter(own.run(pid).values())), signal.SIGKILL)
    assert eventually(lambda: len(own.run(pid, on_error="ignore")) == 2, 10)
    with pytest.raises(Misuse, match="expected 1 or more"):
        own.cluster.scale(0)
    with pytest.raises(TimedOut):
        own.wait_for_workers(9, timeout=0.05)


def test_a_worker_that_retires_ends_its_task_first(own: Client, name: str) -> None:
    running = own.map(lambda _: (Queue(name).put(os.getpid()), time.sleep(0.6), os.getpid())[2], range(2))
    pids = {Queue(name).get(timeout=20) for _ in range(2)}
    own.cluster.scale(1)
    assert set(own.gather(running)) == pids
    assert eventually(lambda: len(own.nthreads()) == 1, 10)


def test_adapt_follows_what_there_is_to_do(own: Client) -> None:
    own.cluster.adapt(minimum=1, maximum=4)
    futures = own.map(time.sleep, [0.2] * 30)
    assert eventually(lambda: len(own.nthreads()) == 4, 15)
    own.gather(futures)
    assert eventually(lambda: len(own.nthreads()) == 1, 15)
    with pytest.raises(Misuse, match="above maximum"):
        own.cluster.adapt(minimum=3, maximum=2)


def test_a_worker_retires_after_so_many_tasks() -> None:
    with Client(n_workers=1, max_tasks_per_worker=5) as client:
        pids = client.gather(client.map(lambda _: os.getpid(), range(30)))
        assert all(pids.count(one) <= 5 for one in pids)


def test_the_initializer_is_called_first_in_every_worker(name: str) -> None:
    def prepare(word: str) -> None:
        os.environ["PREPARED"] = word

    with Client(n_workers=2, initializer=prepare, initargs=("yes",)) as client:
        assert set(client.run(os.getenv, "PREPARED").values()) == {"yes"}
        os.kill(next(iter(client.run(pid).values())), signal.SIGKILL)
        assert eventually(lambda: len(client.run(pid, on_error="ignore")) == 2, 10)
        assert set(client.run(os.getenv, "PREPARED").values()) == {"yes"}


def test_an_initializer_that_raises_is_told() -> None:
    with pytest.raises(OSError, match="division by zero"):
        Client(n_workers=1, initializer=lambda: 1 / 0)
    with pytest.raises(TypeError, match="initializer"):
        Client(n_workers=1, initializer=5)


# -- threads ----------------------------------------------------------------------------------------------------------


def test_threads_of_one_worker_run_tasks_at_a_time(name: str) -> None:
    with Client(n_workers=1, threads_per_worker=3) as client:
        assert list(client.nthreads().values()) == [3]
        assert "Workers: 1, Cores: 3" in repr(client)
        queue = Queue(name)

        def meet() -> int:
            queue.put(1)
            while queue.qsize() < 3:
                time.sleep(0.005)
            return os.getpid()

        assert len(set(client.gather(client.map(lambda _: meet(), range(3))))) == 1


def test_workers_that_are_threads_of_the_client(name: str) -> None:
    with Client(n_workers=3, processes=False) as client:
        assert set(client.gather(client.map(lambda _: os.getpid(), range(20)))) == {os.getpid()}

        def nested() -> int:
            with Lock(name):
                return sum(get_client().gather(get_client().map(abs, range(10))))

        assert client.gather([client.submit(nested) for _ in range(8)]) == [45] * 8
        assert client.submit(lambda: 1 / 0).exception().__class__ is ZeroDivisionError
        with pytest.raises(Misuse, match="threads"):
            client.cluster.scale(2)
    assert eventually(lambda: not [t for t in threading.enumerate() if t.name.startswith("guildhall-slot")])


# -- where tasks run --------------------------------------------------------------------------------------------------


def test_a_task_runs_on_the_workers_that_may_run_it(client: Client) -> None:
    one, other = client.nthreads()
    expected = {address: value for address, value in client.run(pid).items()}
    for address in (one, other, [one, other]):
        found = set(client.gather(client.map(lambda _: os.getpid(), range(30), workers=address)))
        assert found <= {expected[one] for one in ([address] if isinstance(address, str) else address)}
    named = client.scheduler_info()["workers"][other]["name"]
    assert client.submit(pid, workers=named).result() == expected[other]
    assert client.submit(pid, workers="local://1", allow_other_workers=True).result() in expected.values()
    later = client.submit(pid, workers="local://1")
    with pytest.raises(TimedOut):
        later.result(timeout=0.2)
    with pytest.raises(TypeError, match="workers"):
        client.submit(pid, workers=5)


def test_resources_bound_how_many_run_at_a_time(name: str) -> None:
    with Client(n_workers=1, threads_per_worker=4, resources={"GPU": 2}) as client:

        def most(_: int) -> int:
            queue = Queue(name)
            queue.put(1)
            time.sleep(0.05)
            at_a_time = queue.qsize()
            queue.get()
            return at_a_time

        assert max(client.gather(client.map(most, range(12), resources={"GPU": 1}))) == 2
        assert max(client.gather(client.map(most, range(6), resources={"GPU": 1.5}))) == 1
        assert max(client.gather(client.map(most, range(12)))) > 2
        assert client.submit(abs, -1, resources={"GPU": 0}).result() == 1
        with pytest.raises(TimedOut):
            client.submit(abs, -1, resources={"GPU": 3}).result(timeout=0.2)
        with pytest.raises(TypeError, match="resources"):
            client.submit(abs, -1, resources=["GPU"])
        with pytest.raises(Misuse, match="0 or more"):
            client.submit(abs, -1, resources={"GPU": -1})


def test_a_task_with_a_demand_survives_its_worker_and_its_dependencies(own: Client) -> None:
    first = own.submit(lambda: time.sleep(0.1) or 5)
    one, other = own.nthreads()
    behind = own.submit(lambda n: (n, os.getpid()), first, workers=[one, other], retries=1)
    assert behind.result()[0] == 5
    killer = own.submit(os.kill, int(one.rpartition("/")[2]), signal.SIGKILL, workers=[other])
    killer.result()
    assert own.submit(abs, -7, workers=[one, other]).result(timeout=20) == 7


# -- cancelling by force ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", ["sleep", "wait in guildhall", "python"])
def test_a_running_task_is_interrupted(client: Client, name: str, block: str) -> None:
    def run() -> None:
        Event(f"{name} begun").set()
        try:
            if block == "sleep":
                time.sleep(60)
            elif block == "python":
                while True:
                    pass
            else:
                Event(f"{name} never").wait()
        except Exception:
            Event(f"{name} swallowed").set()
        finally:
            Event(f"{name} ended").set()

    future = client.submit(run)
    assert Event(f"{name} begun").wait(20)
    time.sleep(0.02)
    future.cancel(force=True)
    assert Event(f"{name} ended").wait(5)
    assert not Event(f"{name} swallowed").is_set()
    with pytest.raises(CancelledError):
        future.result()
    assert client.gather(client.map(abs, range(20))) == list(range(20))


def test_all_that_threads_of_one_worker_run_is_interrupted(name: str) -> None:
    with Client(n_workers=1, threads_per_worker=3) as client:
        futures = client.map(lambda number: Event(f"{name} {number}").set() or Event(f"{name} never").wait(), range(3))
        assert all(Event(f"{name} {number}").wait(20) for number in range(3))
        client.cancel(futures, force=True)
        assert eventually(lambda: not any(client.processing().values()))
        assert client.gather(client.map(abs, range(20))) == list(range(20))
        assert eventually(lambda: Event(f"{name} never").statistics().waiting == ())


def test_interrupts_at_random_moments_leave_the_workers_whole(client: Client) -> None:
    for number in range(150):
        futures = client.map(lambda n: sum(range(n % 7 * 300)), range(20))
        time.sleep(number % 10 / 2000)
        client.cancel(futures[number % 20 :: 3], force=True)
        for future in futures:
            if not future.cancelled():
                future.result(timeout=20)
    assert client.gather(client.map(abs, range(200))) == list(range(200))
    assert eventually(lambda: not any(client.processing().values()))


# -- datasets ---------------------------------------------------------------------------------------------------------


def test_a_dataset_lives_without_any_future(client: Client, name: str) -> None:
    client.publish_dataset({"n": 1, "result": client.submit(np.full, 50_000, 3)}, name=name)
    assert name in client.list_datasets()
    time.sleep(0.2)
    found = client.submit(lambda: get_client().get_dataset(name)["result"].result().sum()).result()
    assert found == 150_000
    with pytest.raises(KeyError, match="taken"):
        client.publish_dataset(1, name=name)
    client.publish_dataset(1, name=name, override=True)
    assert client.get_dataset(name) == 1
    assert eventually(lambda: not os.listdir(client.host.blob_path("")))
    client.unpublish_dataset(name)
    client.unpublish_dataset(name)
    with pytest.raises(KeyError, match="not published"):
        client.get_dataset(name)
    assert client.get_dataset(name, default=7) == 7
    with pytest.raises(TypeError, match="without a name"):
        client.publish_dataset(1)


def test_what_the_cluster_does_is_told(client: Client, name: str) -> None:
    busy = client.submit(Event(name).wait, 30)
    assert eventually(lambda: [busy.key] in client.processing().values())
    assert client.processing(next(iter(client.nthreads()))).keys() == {next(iter(client.nthreads()))}
    assert client.who_has(busy) == {busy.key: []}
    assert all(busy.key not in keys for keys in client.has_what().values())
    Event(name).set()
    busy.result()
    assert client.who_has([busy]) == {busy.key: list(client.nthreads())}
    named, placed = client.submit(abs, -1, key=f"{name}-é"), client.scatter([1, 2])
    named.result()
    everywhere = client.has_what()
    assert list(everywhere) == list(client.nthreads())
    for keys in everywhere.values():
        assert {busy.key, named.key} | {one.key for one in placed} <= set(keys)
    assert client.who_has()[busy.key] == list(client.nthreads())
    only = next(iter(everywhere))
    assert list(client.has_what([only])) == [only]


def test_the_hall_and_its_workers_are_described() -> None:
    with Client(n_workers=2, threads_per_worker=3, resources={"GPU": 1}, memory_limit="1GB") as client:
        told = client.scheduler_info()
        assert (told["n_workers"], told["total_threads"], told["total_memory"]) == (2, 6, 2 * 10**9)
        assert told["started"] <= time.time()
        assert list(told["workers"]) == list(client.nthreads())
        for address, one in told["workers"].items():
            assert {"type", "id", "host", "local_directory", "last_seen", "services", "nanny"} <= one.keys()
            assert (one["nthreads"], one["memory_limit"], one["resources"]) == (3, 10**9, {"GPU": 1})
            assert one["status"] == "running"
            assert one["metrics"]["memory"] > 10**6
            assert client.run_on(one["name"], os.getpid) == client.run_on(address, os.getpid) == one["pid"]
        assert len(client.info(n_workers=1)["workers"]) == 1
        stopped = told["workers"][address]["pid"]
        os.kill(stopped, signal.SIGSTOP)
        assert eventually(lambda: client.scheduler_info()["workers"][address]["status"] == "paused")
        os.kill(stopped, signal.SIGCONT)
        with pytest.raises(Misuse, match="worker 'nobody'"):
            client.run_on("nobody", os.getpid)
        with pytest.raises(ZeroDivisionError):
            client.run_on(address, divmod, 1, 0)


def test_a_worker_that_hangs_is_seen_from_outside_with_what_it_runs(own: Client, name: str) -> None:
    busy = own.submit(Event(name).wait, 30)
    assert eventually(lambda: [busy.key] in own.processing().values())
    [hung] = [int(address.rpartition("/")[2]) for address, keys in own.processing().items() if keys]
    os.kill(hung, signal.SIGSTOP)
    try:
        with guildhall.observe(own.host.directory) as hall:
            assert eventually(lambda: [s.pid for s in hall.snapshot().sessions if s.is_stopped] == [hung])
            seen = hall.snapshot()
        [row] = [row for row in views.of_sessions(seen).rows if str(hung) in row]
        assert "STOPPED" in row
        assert busy.key in row
    finally:
        os.kill(hung, signal.SIGCONT)
    Event(name).set()
    assert busy.result(20)


def test_the_story_of_a_task_tells_where_it_stands(own: Client, name: str) -> None:
    own.cluster.scale(1)
    busy = own.submit(Event(name).wait, 30)
    assert eventually(lambda: [busy.key] in own.processing().values())
    waiting, failing = own.submit(str, busy), own.submit(divmod, 1, 0, retries=2, key=f"{name}-key")
    [ready, claimed] = own.story(busy)
    assert ready == (busy.key, "new", "ready", {"retries": 0}, None)
    assert claimed[:3] == (busy.key, "ready", "claimed")
    assert claimed[3]["worker"] in own.nthreads()
    assert 0 <= time.time() - claimed[4] < 60
    assert own.story(waiting.key) == [(waiting.key, "new", "waiting", {"results missing": 1, "retries": 0}, None)]
    Event(name).set()
    waiting.result()
    assert failing.exception(20) is not None
    [(key, before, after, details, since)] = own.story(f"{name}-key")
    assert (key, before, after, since) == (failing.key, "new", "error", None)
    assert "ZeroDivisionError" in details["error"]
    assert [step[2] for step in own.story(busy, "nobody")] == ["finished", "gone"]
    with pytest.raises(TypeError, match="futures or their keys"):
        own.story(7)


def test_options_that_the_peer_takes_do_not_reach_the_function(client: Client) -> None:
    assert client.submit(abs, -1, fifo_timeout="100ms", retries=None, actors=False).result() == 1
    assert client.gather(client.map(abs, [-1], fifo_timeout="100ms", retries=None, actor=False)) == [1]
    actors = client.gather(client.map(Counting, [1, 2], actors=True))
    assert [actor.add(1).result() for actor in actors] == [2, 3]
    assert client.submit(Counting, 5, actors=True).result().add(1).result() == 6


class Counting:
    def __init__(self, count: int) -> None:
        self.count = count

    def add(self, more: int) -> int:
        self.count += more
        return self.count


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"threads_per_worker": 0}, Misuse),
        ({"threads_per_worker": 1.5}, TypeError),
        ({"max_tasks_per_worker": 0}, Misuse),
        ({"resources": {"GPU": "2"}}, TypeError),
        ({"memory_limit": "much"}, Misuse),
        ({"unknown": 1}, TypeError),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        LocalCluster(1, **options)


def test_an_argument_of_run_that_cannot_travel_leaves_no_function_behind(client: Client) -> None:
    array = np.ones(20_000)

    def kept(_: Any) -> int:
        return array.size

    with pytest.raises(TypeError, match="cannot be pickled"):
        client.run(kept, threading.Lock())
    client.host.settle()
    assert eventually(lambda: not os.listdir(client.host.blob_path("")))
