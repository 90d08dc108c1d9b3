"""What users of dask.distributed expect of the names that guildhall shares with it, line by line."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import pickle
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from faults import eventually

import guildhall
from guildhall import (
    CancelledError,
    Client,
    Event,
    Future,
    LocalCluster,
    Lock,
    Pub,
    Queue,
    Sub,
    Variable,
    as_completed,
    get_client,
    wait,
)

KINDS = [Variable, Queue, Lock, Event, Pub, Sub]


def add(a: Any, b: Any = 1) -> Any:
    return a + b


def fail(text: str = "as told") -> None:
    raise LookupError(text)


def slowly(seconds: float, value: Any = None) -> Any:
    time.sleep(seconds)
    return value


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


# -- names and identity -----------------------------------------------------------------------------------------------


def test_kinds_have_name_spaces_of_their_own(client: Client, name: str) -> None:
    Variable(name).set("variable")
    Queue(name).put("queue")
    lock, event, sub = Lock(name), Event(name), Sub(name)
    lock.acquire()
    Pub(name).put("message")
    assert not event.is_set()
    assert (Variable(name).get(), Queue(name).get(), sub.get(timeout=5)) == ("variable", "queue", "message")
    lock.release()


@pytest.mark.parametrize("kind", KINDS)
def test_name_is_an_attribute_and_objects_of_one_name_are_not_equal(client: Client, kind: Any) -> None:
    assert kind("given").name == "given"
    assert kind("given") != kind("given")
    assert kind(("a", 1)).name == ("a", 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
def test_primitives_pickle_as_their_name(client: Client, kind: Any, dumps: Any) -> None:
    again = pickle.loads(dumps({"deep": [kind("given")]}))["deep"][0]
    assert type(again) is kind
    assert again.name == "given"


def test_a_queue_pickles_with_its_maxsize(client: Client) -> None:
    assert pickle.loads(pickle.dumps(Queue("sized", maxsize=7))).maxsize == 7


def test_primitives_reach_tasks_in_every_way(client: Client, name: str) -> None:
    variable = Variable(name)
    variable.set(5)

    def by_closure() -> Any:
        return variable.get()

    def by_default(v: Variable = variable) -> Any:
        return v.get()

    def by_argument(v: Any) -> Any:
        return (v["x"][0] if isinstance(v, dict) else v).get()

    assert client.gather([
        client.submit(by_closure), client.submit(by_default), client.submit(by_argument, variable),
        client.submit(by_argument, {"x": [variable]}), client.submit(lambda n: Variable(n).get(), name),
    ]) == [5] * 5  # fmt: skip


def test_client_may_be_named_to_primitives(client: Client, name: str) -> None:
    for kind in KINDS:
        assert kind(name, client=client).name == name


# -- time -------------------------------------------------------------------------------------------------------------


def test_late_is_the_builtin_timeout_error(client: Client, name: str) -> None:
    assert guildhall.TimeoutError is TimeoutError is asyncio.TimeoutError is concurrent.futures.TimeoutError
    stuck = client.submit(Event(name).wait, 30)
    full = Queue(f"{name} full", 1)
    full.put(1)
    calls = [
        lambda t: Variable(name).get(t), lambda t: Queue(name).get(t), lambda t: full.put(1, t),
        lambda t: Sub(name).get(t), stuck.result, stuck.exception, stuck.traceback, lambda t: wait([stuck], t),
        lambda t: wait([stuck], t, return_when="FIRST_COMPLETED"), lambda t: list(as_completed([stuck], timeout=t)),
    ]  # fmt: skip
    for call in calls:
        for timeout in ("10ms", 0.01, timedelta(milliseconds=10), 0):
            with pytest.raises(TimeoutError):
                call(timeout)
    lock = Lock(name)
    lock.acquire()
    assert Lock(name).acquire(timeout="10ms") is False
    assert Event(name).wait("10ms") is False
    Event(name).set()
    assert stuck.result(timeout=20) is True


def test_cancelled_error_is_that_of_concurrent_futures() -> None:
    assert CancelledError is concurrent.futures.CancelledError


# -- Variable ---------------------------------------------------------------------------------------------------------


def test_all_who_wait_for_a_variable_get_it_and_get_does_not_consume(client: Client, name: str) -> None:
    waits = [client.submit(lambda: Variable(name).get(timeout=30)) for _ in range(4)]
    time.sleep(0.05)
    Variable(name).set("x")
    assert client.gather(waits) == ["x"] * 4
    assert [Variable(name).get() for _ in range(2)] == ["x"] * 2
    Variable(name).delete()
    Variable(name).delete()
    with pytest.raises(TimeoutError):
        Variable(name).get(timeout=0.01)
    Variable(name).set("y")
    assert Variable(name).get() == "y"


VALUES: list[Any] = [
    None, False, 0, "", 2**100, -(2**100), 1.5, float("inf"), b"\x00\xff", [1, [2, (3,)]], (1, [2]),
    {"a": {1, 2}}, {1: 2}, frozenset({1}), 1j, "é\ud800", range(3), timedelta(1), Path("/x"), int, len,
    np.float32(1.5), ...,
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_keep_their_types_everywhere(client: Client, name: str, value: Any) -> None:
    sub = Sub(name)
    Variable(name).set(value)
    Queue(name).put(value)
    Pub(name).put(value)
    task = client.submit(lambda v: v, value)
    for got in (
        Variable(name).get(),
        Queue(name).get(),
        sub.get(timeout=5),
        task.result(timeout=20),
        client.scatter([value])[0].result(),
    ):
        assert got == value
        assert type(got) is type(value)


def test_functions_and_arrays_are_values(client: Client, name: str) -> None:
    Variable(name).set(lambda x: x + 1)
    assert Variable(name).get()(1) == 2
    for size in (10, 100_000):
        array = np.arange(size)
        Queue(name).put(array)
        assert (Queue(name).get() == array).all()


# -- Queue ------------------------------------------------------------------------------------------------------------


def test_none_is_an_item_and_batches_are_lists(client: Client, name: str) -> None:
    queue = Queue(name)
    queue.put(None)
    assert queue.qsize() == 1
    assert queue.get(timeout=0) is None
    assert queue.get(batch=True) == []
    queue.put_many([1, 2, 3])
    assert queue.get(batch=1) == [1]
    assert queue.get(batch=True) == [2, 3]
    waiting = client.submit(lambda: Queue(name).get(batch=3))
    for number in range(4):
        queue.put(number)
    assert waiting.result(timeout=20) == [0, 1, 2]
    assert queue.get(batch=0, timeout=1) == 3


def test_maxsize_belongs_to_the_first_creator(client: Client, name: str) -> None:
    first, second = Queue(name, maxsize=1), Queue(name, maxsize=5)
    assert (first.maxsize, second.maxsize) == (1, 5)
    second.put(1)
    with pytest.raises(TimeoutError):
        second.put(2, timeout=0.02)
    assert first.get() == 1
    with pytest.raises(TimeoutError):
        first.get(timeout=0.02)


def test_a_queue_registers_when_it_is_made(client: Client, name: str) -> None:
    Queue(name, maxsize=1)
    client.submit(lambda: Queue(name, maxsize=9).put(1)).result(timeout=20)
    with pytest.raises(TimeoutError):
        Queue(name, maxsize=9).put(2, timeout=0.02)


# -- Lock and Event ---------------------------------------------------------------------------------------------------


def test_a_lock_is_served_in_turn_and_is_not_reentrant(client: Client, name: str) -> None:
    lock, order = Lock(name), Queue(f"{name} order")
    with lock as same:
        assert same is lock
        assert lock.acquire(blocking=False) is False
        assert lock.acquire(timeout=0) is False
        threads = []
        for number in range(4):
            threads.append(threading.Thread(target=_take_turn, args=(name, number)))
            threads[-1].start()
            time.sleep(0.03)
    for thread in threads:
        thread.join()
    assert order.get(batch=4, timeout=5) == [0, 1, 2, 3]
    assert Lock(name).locked() is False


def _take_turn(name: str, number: int) -> None:
    with Lock(name):
        Queue(f"{name} order").put(number)


def test_a_lock_is_released_on_exceptions_and_only_by_its_object(client: Client, name: str) -> None:
    lock = Lock(name)
    with pytest.raises(ZeroDivisionError), lock:
        raise ZeroDivisionError
    assert not lock.locked()
    lock.acquire()
    for other in (Lock(name), pickle.loads(pickle.dumps(lock))):
        with pytest.raises(RuntimeError, match="released too often"):
            other.release()
    with pytest.raises(RuntimeError):
        client.submit(lock.release).result(timeout=20)
    assert lock.release() is True
    with pytest.raises(RuntimeError):
        lock.release()


def test_clear_does_not_disturb_waiters(client: Client, name: str) -> None:
    event = Event(name)
    assert event.is_set() is False
    waiting = client.submit(lambda: Event(name).wait(30))
    time.sleep(0.05)
    event.clear()
    event.set()
    event.clear()
    assert waiting.result(timeout=20) is True
    assert event.is_set() is False


# -- Pub and Sub ------------------------------------------------------------------------------------------------------


def test_publishing_to_nobody_is_harmless_and_a_late_sub_hears_nothing_old(client: Client, name: str) -> None:
    pub = Pub(name)
    pub.put("to nobody")
    sub = Sub(name)
    pub.put([1, (2,), 2**100])
    assert next(sub) == [1, (2,), 2**100]
    pub.put("a")
    pub.put("b")
    assert (sub.next(), next(iter(sub))) == ("a", "b")
    with pytest.raises(TimeoutError):
        sub.next(timeout=0.01)


def test_collecting_a_sub_disturbs_nobody(client: Client, name: str) -> None:
    future = client.submit(add, 1)
    other = Sub(name)
    sub = Sub(name)
    Pub(name).put(1)
    del sub
    assert future.result(timeout=20) == 2
    assert other.get(timeout=5) == 1


# -- submit, keys, futures --------------------------------------------------------------------------------------------


def test_calls_are_not_pure_unless_asked(client: Client, name: str) -> None:
    futures = [client.submit(lambda: Queue(name).put(1)) for _ in range(3)]
    client.gather(futures)
    assert Queue(name).qsize() == 3
    assert len({future.key for future in futures}) == 3


def test_keys_start_with_the_functions_name_or_are_given(client: Client) -> None:
    assert client.submit(add, 1).key.startswith("add-")
    assert client.submit(add, 1, key="mine").key == "mine"
    assert client.scatter({"x": 1})["x"].key == "x"
    assert client.map(add, [1])[0].key.startswith("add-")


def test_futures_in_arguments_become_values_at_any_depth(client: Client) -> None:
    one = client.submit(add, 1)
    nested: Any = [one, (one, {"k": one}), {"k": [one]}]
    assert client.submit(lambda v: v, nested).result(timeout=20) == [2, (2, {"k": 2}), {"k": [2]}]
    assert client.submit(lambda v: v, {one}).result(timeout=20) == {2}
    assert client.submit(lambda *, k: k, k=[one]).result(timeout=20) == [2]


def test_futures_in_closures_and_results_are_usable(client: Client) -> None:
    one = client.submit(add, 1)
    assert client.submit(lambda: one.result(timeout=20)).result(timeout=20) == 2
    inner = client.submit(lambda: get_client().submit(add, 5)).result(timeout=20)
    assert isinstance(inner, Future)
    assert inner.result(timeout=20) == 6


def test_futures_travel_pending_and_failed(client: Client, name: str) -> None:
    pending, failed = client.submit(lambda: Event(name).wait(30)), client.submit(fail)
    Variable(name).set(pending)
    Queue(name).put({"deep": [failed]})
    got, broken = Variable(name).get(), Queue(name).get()["deep"][0]
    assert got is not pending
    assert (got.key, got.status) == (pending.key, "pending")
    Event(name).set()
    assert got.result(timeout=20) is True
    with pytest.raises(LookupError, match="as told"):
        broken.result(timeout=20)


def test_a_variable_or_queue_keeps_a_result_alive(client: Client, name: str) -> None:
    def objects() -> int:
        client.host.flush()
        return int(client.host.read(lambda txn: len(list(txn.scan(b"\x20")))))

    before = objects()
    future = client.submit(add, 40, 2)
    Variable(name).set(future)
    for _ in range(3):
        Queue(name).put(future)
    del future
    assert Queue(name).qsize() == 3
    assert Variable(name).get().result(timeout=20) == 42
    assert [f.result(timeout=20) for f in Queue(name).get(batch=True)] == [42] * 3
    assert objects() == before + 1
    Variable(name).set(None)
    assert eventually(lambda: objects() == before)


def test_dropping_the_last_future_cancels_a_task_that_has_not_run(name: str) -> None:
    with Client(n_workers=1) as client:
        blocker = client.submit(time.sleep, 0.3)
        dropped = client.submit(lambda: Queue(name).put("ran"))
        del dropped
        Variable(f"{name} flush").set(1)
        blocker.result(timeout=20)
        client.submit(add, 1).result(timeout=20)
        assert Queue(name).qsize() == 0


def test_futures_that_only_a_generator_made_live_until_their_tasks_have_them(client: Client, name: str) -> None:
    """Each is let go by the generator before the call that uses it is in the store."""
    assert client.gather(client.map(add, (client.submit(add, n) for n in range(600)))) == list(range(2, 602))
    Queue(name).put_many(client.submit(add, n) for n in range(5))
    assert client.gather(Queue(name).get(batch=5)) == [1, 2, 3, 4, 5]


def test_a_cancelled_future_and_what_depends_on_it(client: Client, name: str) -> None:
    future = client.submit(lambda: Event(name).wait(30))
    dependent = client.submit(add, future)
    client.cancel(future)
    later = client.submit(add, future)
    for one in (future, dependent, later):
        assert eventually(one.done)
        with pytest.raises(CancelledError):
            one.result(timeout=5)
        assert one.exception(timeout=5) is None
        assert one.status == "cancelled"
        assert one.cancelled()
    good = client.submit(add, 1)
    with pytest.raises(CancelledError):
        wait([future, good], timeout=20)
    with pytest.raises(CancelledError):
        client.gather([future, good])
    assert client.gather([future, good], errors="skip") == [2]
    Event(name).set()


def test_a_task_that_runs_is_not_interrupted_by_cancel(client: Client, name: str) -> None:
    def run() -> None:
        Event(name).set()
        time.sleep(0.2)
        Queue(name).put("finished")

    future = client.submit(run)
    assert Event(name).wait(20)
    future.cancel()
    assert future.status == "cancelled"
    assert Queue(name).get(timeout=20) == "finished"


def test_status_is_one_of_the_known(client: Client, name: str) -> None:
    pending = client.submit(lambda: Event(name).wait(30))
    good, bad = client.submit(add, 1), client.submit(fail)
    assert pending.status == "pending"
    assert not pending.done()
    Event(name).set()
    assert wait([pending, good, bad], timeout=20).not_done == set()
    assert (pending.status, good.status, bad.status) == ("finished", "finished", "error")
    assert bad.done()
    assert not bad.cancelled()
    assert "finished" in repr(good)
    assert "error" in repr(bad)


def test_futures_compare_by_identity(client: Client) -> None:
    one, other = client.submit(add, 1, key="k"), client.submit(add, 1, key="k")
    assert one != other
    assert len({one, other, one}) == 2


def test_wait_for_the_first_and_for_all(client: Client, name: str) -> None:
    slow, quick = client.submit(lambda: Event(name).wait(30)), client.submit(add, 1)
    done, not_done = wait([slow, quick], timeout=20, return_when="FIRST_COMPLETED")
    assert (done, not_done) == ({quick}, {slow})
    Event(name).set()
    assert wait([slow, quick], timeout=20).done == {slow, quick}
    assert wait([]) == (set(), set())


def test_as_completed_gives_each_future_once_in_the_order_of_their_ends(client: Client, name: str) -> None:
    def after(number: int) -> int:
        Event(f"{name} {number}").wait(30)
        return number

    futures = client.map(after, range(2))
    completed = as_completed(futures, with_results=True, timeout=20)
    Event(f"{name} 1").set()
    assert next(completed) == (futures[1], 1)
    Event(f"{name} 0").set()
    assert list(completed) == [(futures[0], 0)]
    assert list(as_completed([])) == []
    many = client.map(add, range(200))
    assert sorted(f.result() for f in as_completed(many)) == list(range(1, 201))


def test_as_completed_raises_what_a_failed_one_raised_only_with_results(client: Client) -> None:
    failed = client.submit(fail)
    assert list(as_completed([failed])) == [failed]
    with pytest.raises(LookupError):
        list(as_completed([failed], with_results=True))


def test_map_stops_with_the_shortest_and_passes_keywords_whole(client: Client) -> None:
    assert client.gather(client.map(add, [1, 2, 3], [10, 20])) == [11, 22]
    assert client.gather(client.map(lambda a, b: (a, b), [1, 2], b=[7, 8])) == [(1, [7, 8]), (2, [7, 8])]
    assert client.map(add, []) == []


def test_gather_keeps_the_shape_and_knows_how_to_skip(client: Client) -> None:
    good, bad = client.submit(add, 1), client.submit(fail)
    assert client.gather({"a": good, "b": (good, [good])}) == {"a": 2, "b": (2, [2])}
    assert client.gather(f for f in (good, good)) == [2, 2]
    assert client.gather(good) == 2
    with pytest.raises(LookupError):
        client.gather([good, bad])
    assert client.gather([good, bad, good], errors="skip") == [2, 2]


def test_done_callbacks_come_from_another_thread_also_late_and_after_failures(client: Client) -> None:
    seen: list[Any] = []
    good, bad = client.submit(add, 1), client.submit(fail)
    wait([good, bad], timeout=20)
    for future in (good, bad, client.submit(slowly, 0.05)):
        future.add_done_callback(
            lambda f: seen.append((f.status, threading.current_thread() is threading.main_thread()))
        )
    assert eventually(lambda: len(seen) == 3)
    assert sorted(seen) == [("error", False), ("finished", False), ("finished", False)]


def test_higher_priority_runs_first(name: str) -> None:
    with Client(n_workers=1) as client:
        blocker = client.submit(time.sleep, 0.3)
        order = Queue(name)
        low = [client.submit(order.put, "low", priority=-1) for _ in range(3)]
        high = [client.submit(order.put, "high", priority=1) for _ in range(3)]
        wait([blocker, *low, *high], timeout=20)
        assert order.get(batch=True) == ["high"] * 3 + ["low"] * 3


def test_async_functions_are_tasks_and_futures_are_awaited(client: Client) -> None:
    async def double(x: int) -> int:
        await asyncio.sleep(0.01)
        return 2 * x

    assert client.submit(double, 4).result(timeout=20) == 8

    async def main() -> Any:
        with pytest.raises(LookupError):
            await client.submit(fail)
        return await asyncio.gather(*client.map(double, range(5)))

    assert asyncio.run(main()) == [0, 2, 4, 6, 8]


def test_exceptions_keep_args_attributes_and_cause(client: Client) -> None:
    def raise_it() -> None:
        error = OSError(2, "no such", "file")
        error.extra = {"a": 1}  # type: ignore[attr-defined]
        try:
            raise KeyError("cause")
        except KeyError as cause:
            raise error from cause

    error = client.submit(raise_it).exception(timeout=20)
    assert isinstance(error, FileNotFoundError)
    assert (error.errno, error.filename, error.extra) == (2, "file", {"a": 1})  # type: ignore[attr-defined]
    assert isinstance(error.__cause__, KeyError)
    assert "raise_it" in str(client.submit(raise_it).traceback(timeout=20))
    assert client.submit(add, 1).traceback(timeout=20) is None


def test_scatter_keeps_the_shape(client: Client) -> None:
    listed, keyed, single = client.scatter([1, 2]), client.scatter({"a": 1}), client.scatter("text", broadcast=True)
    assert [f.result() for f in listed] == [1, 2]
    assert keyed["a"].result() == 1
    assert single.result() == "text"
    assert client.submit(add, listed[0], keyed["a"]).result(timeout=20) == 2


# -- clients ----------------------------------------------------------------------------------------------------------


def test_of_several_clients_the_newest_is_the_default_and_the_one_before_comes_back(client: Client, name: str) -> None:
    assert Client.current() is client
    assert get_client() is client
    Variable(name).set("first")
    with Client(n_workers=1) as newer:
        assert Client.current() is newer
        with pytest.raises(TimeoutError):
            Variable(name).get(timeout=0)
        assert Variable(name, client=client).get(timeout=0) == "first"
    assert Client.current() is client
    assert Variable(name).get(timeout=0) == "first"


def test_a_cluster_may_have_several_clients(client: Client, name: str) -> None:
    with LocalCluster(n_workers=1) as cluster:
        with Client(cluster) as one, Client(cluster) as other:
            Variable(name, client=one).set(one.submit(add, 1))
            assert Variable(name, client=other).get().result(timeout=20) == 2
        with Client(cluster) as third:
            assert third.submit(add, 2).result(timeout=20) == 3
            assert list(third.ncores().values()) == [1]


def test_in_a_task_the_client_is_the_clusters(client: Client) -> None:
    def inside() -> Any:
        mine = get_client()
        assert Client.current().host is mine.host
        return mine.gather(mine.map(add, range(5))), os.getpid()

    result, pid = client.submit(inside).result(timeout=30)
    assert result == [1, 2, 3, 4, 5]
    assert pid != os.getpid()


@pytest.fixture(scope="module", autouse=True)
def _no_other_client() -> Iterator[None]:
    yield
    assert not guildhall.client.client._clients, "a client was left open"  # type: ignore[attr-defined]
