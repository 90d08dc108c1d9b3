"""Client, futures and tasks on a Dask cluster."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import distributed
import pytest
from clusters import Cluster
from distributed.comm import CommClosedError

import guildhall
from guildhall import (
    ActorLost,
    CancelledError,
    Client,
    Future,
    KilledWorker,
    Lock,
    Misuse,
    Queue,
    TimedOut,
    Unpicklable,
    Variable,
    as_completed,
    fire_and_forget,
    get_client,
    rejoin,
    secede,
    wait,
    worker_client,
)


def eventually(look: Callable[[], bool], within_s: float = 10) -> None:
    until = time.monotonic() + within_s
    while not look():
        assert time.monotonic() < until, "it does not come true"
        time.sleep(0.02)


def tasks_of(client: Client) -> dict[str, set[str]]:
    """What the scheduler keeps, and for whom."""

    def look(dask_scheduler: Any) -> dict[str, set[str]]:
        return {
            str(key): {one.client_key for one in task.who_wants or ()} for key, task in dask_scheduler.tasks.items()
        }

    found: dict[str, set[str]] = client.engine.client.run_on_scheduler(look)  # type: ignore[attr-defined]
    return found


def divide(a: float, b: float) -> float:
    return a / b


# -- tasks and futures ------------------------------------------------------------------------------------------------


def test_a_client_of_an_address_runs_tasks_through_dask(client: Client) -> None:
    assert isinstance(client, Client)
    future = client.submit(divide, 6, b=3)
    assert isinstance(future, Future)
    assert future.result() == 2.0
    assert future.status == "finished"
    assert future.done()
    assert future.key in tasks_of(client)
    assert "Workers: 2" in repr(client)
    assert "Cluster" in client._repr_html_()


def test_map_pairs_its_iterables_and_takes_iterators(client: Client) -> None:
    futures = client.map(divide, iter([2, 4, 6]), [1, 2, 3])
    assert client.gather(futures) == [2, 2, 2]
    assert client.gather({"a": futures[0], "b": (futures[1], 7)}) == {"a": 2, "b": (2, 7)}
    assert client.gather(client.map(lambda x, y: x + y, range(3), y=10)) == [10, 11, 12]


def test_large_keywords_of_two_maps_are_not_mixed_up(client: Client) -> None:
    ones = client.map(lambda x, of: x + of[-1], range(3), of=[1] * 200_000)
    twos = client.map(lambda x, of: x + of[-1], range(3), of=[2] * 200_000)
    assert client.gather([ones, twos]) == [[1, 2, 3], [2, 3, 4]]


def test_keywords_may_be_called_as_options_of_dask_are(client: Client) -> None:
    def both(x: int, keywords: int = 0, internal_priority: int = 0, batch_size: int = 0) -> tuple[int, ...]:
        return x, keywords, internal_priority, batch_size

    assert client.submit(both, 1, keywords=2, internal_priority=3).result() == (1, 2, 3, 0)
    assert client.gather(client.map(both, [1], keywords=2, internal_priority=3)) == [(1, 2, 3, 0)]


def test_futures_in_arguments_become_their_results(client: Client) -> None:
    one = client.submit(divide, 4, 2)
    assert client.submit(lambda a, b: a[0][0] + b["x"], [(one,)], {"x": one}).result() == 4


def test_each_call_runs_unless_it_is_pure_or_has_a_key(client: Client) -> None:
    first, second = client.submit(os.urandom, 4), client.submit(os.urandom, 4)
    assert first.key != second.key
    first, second = client.submit(os.urandom, 4, pure=True), client.submit(os.urandom, 4, pure=True)
    assert first.key == second.key
    assert first.result() == second.result()
    named = client.submit(divide, 1, 2, key="a-name")
    assert client.submit(divide, 1, 1, key="a-name").result() == named.result() == 0.5
    assert [one.key for one in client.map(abs, [1, 2], key=["k1", "k2"])] == ["k1", "k2"]


def test_what_a_task_raises_arrives_as_it_is(client: Client) -> None:
    class Own(Exception):
        def __init__(self, a: int, b: int) -> None:
            super().__init__(f"{a}-{b}")
            self.both = a, b

    def own() -> None:
        raise Own(1, 2) from KeyError("why")

    with pytest.raises(ZeroDivisionError):
        client.submit(divide, 1, 0).result()
    failed = client.submit(own)
    error: Any = failed.exception()
    assert str(error) == "1-2"
    assert error.both == (1, 2)
    assert failed.status == "error"
    assert "own()" in str(failed.traceback()) or "in own" in str(failed.traceback())
    assert client.submit(abs, -1).exception() is None
    with pytest.raises(ZeroDivisionError):
        client.gather([client.submit(abs, 1), client.submit(divide, 1, 0)])
    assert client.gather([client.submit(abs, -1), client.submit(divide, 1, 0)], errors="skip") == [1]


def test_exits_and_stops_are_failures_of_the_task_alone(client: Client) -> None:
    before = set(client.nthreads())
    assert isinstance(client.submit(sys.exit, 3).exception(), SystemExit)

    def stop() -> None:
        raise StopIteration("end")

    assert isinstance(client.submit(stop).exception(), RuntimeError)
    assert set(client.nthreads()) == before


def test_what_cannot_travel_is_told(client: Client) -> None:
    with pytest.raises(Unpicklable, match="abs"):
        client.submit(abs, threading.Lock())
    with pytest.raises(Unpicklable, match="result"):
        client.submit(threading.Lock).result(timeout=20)


def test_time_is_up(client: Client) -> None:
    slow = client.submit(time.sleep, 0.4)
    with pytest.raises(TimedOut):
        slow.result(timeout=0.05)
    with pytest.raises(TimedOut):
        wait([slow], timeout="50ms")
    assert slow.result(timeout=20) is None


def test_a_cancelled_future_says_so(client: Client) -> None:
    slow = client.submit(time.sleep, 0.5)
    after = client.submit(str, slow)
    client.cancel(slow)
    with pytest.raises(CancelledError):
        slow.result(timeout=20)
    assert slow.cancelled()
    assert slow.exception() is None
    with pytest.raises(CancelledError):
        after.result(timeout=20)
    with pytest.raises(CancelledError):
        wait([slow])


def test_completion_in_its_order(client: Client) -> None:
    def nap(s: float) -> float:
        time.sleep(s)
        return s

    naps = client.map(nap, [0.3, 0.05, 0.15])
    assert [future.result() for future in as_completed(naps)] == [0.05, 0.15, 0.3]
    more = as_completed([client.submit(nap, 0.01)], with_results=True)
    more.add(client.submit(nap, 0.2))
    assert [result for _, result in more] == [0.01, 0.2]
    done, not_done = wait([client.submit(nap, 0.01), client.submit(nap, 0.3)], return_when="FIRST_COMPLETED")
    assert (len(done), len(not_done)) == (1, 1)
    heard = threading.Event()
    client.submit(nap, 0.01).add_done_callback(lambda future: heard.set())
    assert heard.wait(20)


def test_a_future_can_be_awaited(client: Client) -> None:
    async def main() -> list[Any]:
        first = await client.submit(divide, 4, 2)
        with pytest.raises(ZeroDivisionError):
            await client.submit(divide, 1, 0)
        slow = asyncio.ensure_future(_awaited(client.submit(time.sleep, 5)))
        await asyncio.sleep(0.05)
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        return [first, *await asyncio.gather(*(_awaited(one) for one in client.map(abs, [-1, -2])))]

    assert asyncio.run(main()) == [2, 1, 2]


async def _awaited(future: Any) -> Any:
    return await future


@pytest.fixture
def copies_stay(client: Client) -> Iterator[None]:
    """Dask's memory manager looks every two seconds for copies that nobody needs, and drops them."""
    manager = client.engine.client.amm  # type: ignore[attr-defined]
    manager.stop()
    yield
    manager.start()


@pytest.mark.usefixtures("copies_stay")
def test_scattered_values_are_in_workers(client: Client) -> None:
    one = client.scatter({"x": [1, 2]})
    assert one["x"].result() == [1, 2]
    futures = client.scatter([1, 2], broadcast=True)
    assert client.gather(futures) == [1, 2]
    assert len(client.who_has(futures)[futures[0].key]) == 2
    assert client.submit(sum, client.scatter((3, 4))).result() == 7


def test_coroutines_are_tasks_that_do_not_hold_up_their_worker(client: Client) -> None:
    async def slow(x: int) -> int:
        time.sleep(0.05)
        await asyncio.sleep(0.01)
        return x

    assert client.gather(client.map(slow, range(4))) == [0, 1, 2, 3]


def test_options_of_a_call(client: Client, name: str) -> None:
    address = sorted(client.nthreads())[0]
    assert client.submit(lambda: distributed.get_worker().address, workers=address).result() == address
    tries = Variable(name)
    tries.set(0)

    def fail_twice() -> int:
        tries.set(tries.get() + 1)
        if tries.get() < 3:
            raise ValueError("not yet")
        return int(tries.get())

    assert client.submit(fail_twice, retries=3).result() == 3
    with pytest.raises(TimedOut):
        client.submit(abs, 1, resources={"MAGIC": 1}).result(timeout=0.2)
    with pytest.raises(TypeError):
        client.submit(abs, 1, retries="3")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        client.submit(3)  # type: ignore[arg-type]
    with pytest.raises(Misuse):
        client.submit(abs, 1, key="x" * 500)


def test_fire_and_forget_runs_though_nobody_keeps_it(client: Client, name: str) -> None:
    def tell() -> None:
        time.sleep(0.1)
        Queue(name).put("done")

    fire_and_forget(client.submit(tell))
    assert Queue(name).get(timeout=20) == "done"


def test_a_killer_task_fails_with_killed_worker(client: Client) -> None:
    def die() -> None:
        os._exit(1)

    with pytest.raises(KilledWorker, match=r"die.*4 workers died"):
        client.submit(die).result(timeout=60)
    client.wait_for_workers(2, timeout=60)
    eventually(lambda: client.submit(divide, 1, 1).result(timeout=30) == 1)


# -- in tasks ---------------------------------------------------------------------------------------------------------


def test_tasks_that_wait_for_tasks_give_their_slots_up(client: Client) -> None:
    """More of them than there are threads."""

    def outer(x: int) -> int:
        return int(get_client().submit(lambda y: y + 1, x).result()) * 10

    assert client.gather(client.map(outer, range(12))) == [10 * (x + 1) for x in range(12)]


def test_tasks_that_wait_for_a_queue_give_their_slots_up(client: Client, name: str) -> None:
    def take() -> int:
        return int(Queue(name).get(timeout=30))

    waiting = [client.submit(take) for _ in range(8)]
    puts = client.map(lambda x: Queue(name).put(x), range(8))
    client.gather(puts)
    assert sorted(client.gather(waiting)) == list(range(8))


def test_seceding_by_hand(client: Client) -> None:
    def leave(x: int) -> int:
        secede()
        time.sleep(0.05)
        rejoin()
        with worker_client() as inner:
            return int(inner.submit(abs, -x).result())

    assert client.gather(client.map(leave, range(5))) == list(range(5))
    assert isinstance(client.submit(rejoin).exception(timeout=30), Misuse)


def test_futures_travel_in_closures_and_results(client: Client) -> None:
    kept = client.submit(divide, 9, 3)
    assert client.submit(lambda: kept.result() + 1).result(timeout=30) == 4
    returned = client.submit(lambda: [get_client().submit(abs, -5)]).result(timeout=30)
    assert returned[0].result(timeout=30) == 5


def test_dasks_own_tasks_find_the_hall_and_the_client(client: Client, name: str) -> None:
    Variable(name).set(3)
    native = distributed.Client.current()

    def look() -> int:
        return int(Variable(name).get()) + int(get_client().submit(abs, -1).result())

    assert native.submit(look, pure=False).result(timeout=30) == 4


# -- references -------------------------------------------------------------------------------------------------------


def test_a_variable_keeps_a_result_until_it_is_overwritten(cluster: Cluster, client: Client, name: str) -> None:
    with Client(cluster.address) as maker:
        future = maker.submit(divide, 8, 2)
        key = future.key
        Variable(name, hall=maker).set({"future": future})
        del future
    eventually(lambda: tasks_of(client).get(key) == {"guildhall"})
    assert Variable(name).get()["future"].result() == 4
    assert client.submit(lambda: Variable(name).get()["future"].result()).result() == 4
    Variable(name).set(None)
    eventually(lambda: key not in tasks_of(client))


def test_a_queue_keeps_its_futures_until_they_are_taken(cluster: Cluster, client: Client, name: str) -> None:
    queue = Queue(name)
    with Client(cluster.address) as maker:
        futures = maker.map(abs, [-1, -2, -3])
        keys = {future.key for future in futures}
        Queue(name, hall=maker).put_many(futures)
        del futures
    eventually(lambda: [tasks_of(client).get(key) for key in keys] == [{"guildhall"}] * 3)

    def take() -> int:
        return int(Queue(name).get().result())

    assert sorted(client.gather([client.submit(take) for _ in range(2)])) == [1, 2]
    assert queue.get().result() == 3
    eventually(lambda: not keys & set(tasks_of(client)))


def test_a_pending_and_a_failed_future_travel_too(client: Client, name: str) -> None:
    variable = Variable(name)
    variable.set(client.submit(time.sleep, 0.3))
    assert variable.get().status == "pending"
    assert variable.get().result(timeout=30) is None
    variable.set(client.submit(divide, 1, 0))
    with pytest.raises(ZeroDivisionError):
        variable.get().result(timeout=30)
    gone = client.submit(time.sleep, 3)
    gone.cancel()
    variable.set(gone)
    eventually(lambda: bool(variable.get().cancelled()))


# -- the cluster ------------------------------------------------------------------------------------------------------


def test_facts_of_the_cluster(client: Client) -> None:
    assert set(client.nthreads().values()) == {2}
    assert set(client.scheduler_info()["workers"]) == set(client.nthreads())
    future = client.submit(abs, -1)
    future.result()
    assert client.who_has(future)[future.key][0] in client.nthreads()
    assert set(client.processing()) == set(client.nthreads())
    with pytest.raises(TimedOut):
        client.wait_for_workers(50, timeout=0.2)


def test_run_calls_in_each_worker_beside_its_tasks(client: Client, name: str) -> None:
    event = guildhall.Event(name)
    busy = client.map(lambda _: event.wait(timeout=30), range(4))
    found = client.run(lambda: (Variable(name).set(1), Variable(name).get(), os.getpid())[1:])
    assert [one[0] for one in found.values()] == [1, 1]
    event.set()
    client.gather(busy)
    one = sorted(found)[0]
    assert list(client.run(os.getpid, workers=[one])) == [one]
    with pytest.raises(ZeroDivisionError):
        client.run(divide, 1, 0)
    assert isinstance(client.run(divide, 1, 0, on_error="return")[one], ZeroDivisionError)
    assert client.run(divide, 1, 0, on_error="ignore") == {}
    assert client.gather(client.run(os.getpid, wait=False)) == {at: pid for at, (_, pid) in found.items()}
    with pytest.raises(Misuse, match="not there"):
        client.run(os.getpid, workers="tcp://nowhere:1")


def test_datasets(cluster: Cluster, client: Client, name: str) -> None:
    with Client(cluster.address) as maker:
        maker.publish_dataset({"f": maker.submit(divide, 3, 1)}, name=name)
        with pytest.raises(KeyError):
            maker.publish_dataset(1, name=name)
        maker.publish_dataset(**{f"{name}-2": 5})
    assert {name, f"{name}-2"} <= set(client.list_datasets())
    assert client.get_dataset(name)["f"].result() == 3
    client.unpublish_dataset(name)
    client.unpublish_dataset(name)
    with pytest.raises(KeyError):
        client.get_dataset(name)
    assert client.get_dataset(name, default=7) == 7


def test_executor(client: Client) -> None:
    with client.get_executor() as executor:
        assert list(executor.map(divide, [2, 4], [1, 2])) == [2, 2]
        future = executor.submit(divide, 1, b=0)
        assert isinstance(future.exception(timeout=20), ZeroDivisionError)
        slow = executor.submit(time.sleep, 5)
        assert slow.cancel()
        assert slow.cancelled()
    with pytest.raises(RuntimeError):
        executor.submit(abs, 1)
    assert client.submit(lambda: list(guildhall.Executor().map(abs, [-1]))).result(timeout=30) == [1]


class Tally:
    def __init__(self, start: int) -> None:
        self.total = start

    def add(self, n: int) -> int:
        self.total += n
        return self.total

    def pid(self) -> int:
        return os.getpid()

    def fail(self) -> None:
        raise KeyError("no")

    def nap(self) -> None:
        time.sleep(0.5)


def test_actors(client: Client) -> None:
    actor = client.submit(Tally, 5, actor=True).result()
    assert [actor.add(client.submit(abs, -1)).result(), actor.add(2).result()] == [6, 8]
    assert actor.total == 8
    with pytest.raises(KeyError):
        actor.fail().result()
    with pytest.raises(TimedOut):
        actor.nap().result(timeout=0.05)
    assert client.submit(lambda: actor.add(1).result()).result(timeout=30) == 9
    with pytest.raises(TypeError):
        client.submit(abs, actor=True)
    with pytest.raises(Misuse, match="restart=True"):
        client.submit(Tally, 0, actor=True, restart=True)
    os.kill(actor.pid().result(), 9)
    with pytest.raises(ActorLost):
        eventually(lambda: actor.add(1).result(timeout=10) < 0)
    client.wait_for_workers(2, timeout=60)


def test_collections_are_computed_by_dask(client: Client) -> None:
    dask = pytest.importorskip("dask")
    array = pytest.importorskip("dask.array")
    ones = array.ones((100, 100), chunks=(50, 50))
    assert ones.sum().compute() == 10000
    assert client.compute(ones.sum()).result() == 10000
    assert client.compute([ones.sum()], sync=True) == [10000]
    assert client.persist(ones).sum().compute() == 10000
    future = client.submit(divide, 4, 2)
    assert dask.delayed(lambda x: x + 1)(future).compute() == 3
    with dask.config.set(scheduler=client):
        assert ones.mean().compute() == 1


def test_restart_starts_workers_anew_and_keeps_the_hall(cluster: Cluster, client: Client, name: str) -> None:
    Variable(name).set("there")
    before = set(client.run(os.getpid).values())
    lost = client.submit(abs, -3)
    lost.result()
    Variable(f"{name} lost").set(lost)
    client.restart(timeout=60)
    client.wait_for_workers(2, timeout=60)
    assert not before & set(client.run(os.getpid).values())
    assert Variable(name).get() == "there"
    assert lost.status == "cancelled"
    with pytest.raises(CancelledError):
        Variable(f"{name} lost").get().result(timeout=10)
    with Lock(name):
        assert client.submit(lambda: Lock(name).acquire(timeout=0)).result(timeout=30) is False


def test_nothing_is_kept_that_nobody_has(client: Client) -> None:
    """After all of the above."""
    gc.collect()
    client.run(gc.collect)
    try:
        eventually(lambda: not tasks_of(client))
    except AssertionError:
        raise AssertionError(f"kept: {tasks_of(client)}") from None


def test_a_worker_that_dies_as_a_client_comes_does_not_keep_it_out(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dask tells it as one of the answers of all workers: what comes in its place is asked by nobody."""
    asked = distributed.Client.run

    def run(client: distributed.Client, *args: Any, **options: Any) -> Any:
        return {**asked(client, *args, **options), "tcp://127.0.0.1:1": CommClosedError("connection reset by peer")}

    monkeypatch.setattr(distributed.Client, "run", run)
    with Client(cluster.address) as client:
        assert client.submit(int, "7").result(timeout=30) == 7
