"""Keys, purity, tasks that nobody refers to, as_completed in full, slots left by hand, trees of tasks."""

from __future__ import annotations

import asyncio
import itertools
import operator
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults import Ahead, eventually

from guildhall import (
    CancelledError,
    Client,
    Event,
    Misuse,
    Queue,
    TimedOut,
    Variable,
    as_completed,
    fire_and_forget,
    get_client,
    rejoin,
    secede,
    wait,
    worker_client,
)
from guildhall.primitives.values import KEYS, NAMED
from guildhall.primitives.waiters import WAITS
from guildhall.store.keys import pack_id


@pytest.fixture
def name() -> str:
    return os.urandom(4).hex()


def tick(name: str, value: Any = None) -> Any:
    Queue(name).put(value)
    return value


def runs(name: str) -> int:
    return Queue(name).qsize()


def keys_left(client: Client) -> int:
    return int(client.host.read(lambda txn: len(list(txn.scan(NAMED))) + len(list(txn.scan(KEYS)))))


# -- keys -------------------------------------------------------------------------------------------------------------


def test_each_call_is_a_call_unless_it_is_pure(client: Client, name: str) -> None:
    client.gather([client.submit(tick, name, 1) for _ in range(3)])
    assert runs(name) == 3
    pure = [client.submit(tick, name, 2, pure=True) for _ in range(3)]
    assert client.gather(pure) == [2, 2, 2]
    assert runs(name) == 4
    assert len({future.key for future in pure}) == 1


def test_pure_calls_differ_by_function_arguments_and_keywords(client: Client) -> None:
    array = np.arange(50_000)
    keys = {
        client.submit(function, *args, pure=True, **kwargs).key
        for function, args, kwargs in [
            (divmod, (7, 2), {}),
            (operator.add, (7, 2), {}),
            (operator.add, (2, 7), {}),
            (int, ("7",), {}),
            (int, ("7",), {"base": 8}),
            (np.sum, (array,), {}),
            (np.sum, (array + 1,), {}),
        ]
    }
    assert len(keys) == 7
    assert client.submit(np.sum, array, pure=True).key == client.submit(np.sum, array.copy(), pure=True).key


def test_a_key_stands_for_its_result_as_long_as_a_future_of_it_lives(client: Client, name: str) -> None:
    first = client.submit(tick, name, 1, key=f"k-{name}")
    second = client.submit(operator.neg, 5, key=f"k-{name}")
    assert (first.key, second.key) == (f"k-{name}",) * 2
    assert (first.result(), second.result()) == (1, 1)
    del first, second
    assert eventually(lambda: not keys_left(client))
    assert client.submit(operator.neg, 5, key=f"k-{name}").result() == -5


def test_a_key_whose_task_was_cancelled_is_free(client: Client, name: str) -> None:
    gate = client.submit(Event(name).wait, 30)
    first = client.submit(operator.neg, gate, key=f"k-{name}")
    first.cancel()
    second = client.submit(operator.neg, 5, key=f"k-{name}")
    assert second.result() == -5
    assert first.cancelled()
    Event(name).set()
    del first
    assert client.submit(abs, 1, key=f"k-{name}").result() == -5


def test_a_failed_task_stands_for_its_key_too(client: Client, name: str) -> None:
    first = client.submit(operator.truediv, 1, 0, key=f"k-{name}")
    with pytest.raises(ZeroDivisionError):
        first.result()
    assert isinstance(client.submit(abs, 1, key=f"k-{name}").exception(), ZeroDivisionError)


def test_map_takes_a_key_for_each_call_or_a_beginning_for_all(client: Client, name: str) -> None:
    futures = client.map(operator.neg, range(3), key=[f"{name}-a", f"{name}-b", f"{name}-c"])
    assert [future.key for future in futures] == [f"{name}-a", f"{name}-b", f"{name}-c"]
    assert client.gather(futures) == [0, -1, -2]
    assert [future.key for future in client.map(abs, range(2), key=name)] == [f"{name}-0", f"{name}-1"]
    with pytest.raises(Misuse, match="fewer keys than calls"):
        client.map(abs, range(3), key=["only"])


def test_equal_calls_of_one_pure_map_run_once(client: Client, name: str) -> None:
    values = [n % 5 for n in range(100)]
    assert client.gather(client.map(tick, [name] * 100, values, pure=True)) == values
    assert runs(name) == 5


def test_a_pure_client_shares_unless_told_otherwise(name: str) -> None:
    with Client(n_workers=1, pure=True) as client:
        client.gather([client.submit(tick, name, 1), client.submit(tick, name, 1)])
        assert runs(name) == 1
        client.submit(tick, name, 1, pure=False).result()
        assert runs(name) == 2


def test_tasks_share_by_key_too(client: Client, name: str) -> None:
    def nested() -> Any:
        return get_client().submit(tick, name, 3, key=f"k-{name}").result()

    kept = client.submit(tick, name, 3, key=f"k-{name}")
    assert client.gather([client.submit(nested) for _ in range(4)]) == [3] * 4
    assert runs(name) == 1
    assert kept.result() == 3


@pytest.mark.parametrize(
    ("key", "error"), [(5, TypeError), (b"k", TypeError), ("", Misuse), ("k" * 401, Misuse), (["k"], TypeError)]
)
def test_a_bad_key_is_refused(client: Client, key: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="key"):
        client.submit(abs, 1, key=key)


# -- tasks that nobody refers to --------------------------------------------------------------------------------------


def test_a_task_without_a_future_is_cancelled_unless_it_is_fired(client: Client, name: str) -> None:
    blockers = client.map(Event(name).wait, [30] * 2)
    time.sleep(0.05)
    dropped = client.submit(tick, f"{name} dropped", client.submit(abs, blockers[0]))
    fired = client.submit(tick, f"{name} fired", client.submit(abs, blockers[0]))
    fire_and_forget(fired)
    fire_and_forget([fired])
    del dropped, fired
    client.host.settle()
    Event(name).set()
    assert eventually(lambda: runs(f"{name} fired") == 1)
    client.gather(blockers)
    assert runs(f"{name} dropped") == 0
    Queue(f"{name} fired").get()
    with pytest.raises(TypeError):
        fire_and_forget([1])


def test_nothing_is_left_of_a_fired_task(client: Client, name: str) -> None:
    for number in range(20):
        fire_and_forget(client.submit(tick, name, np.full(20_000, number)))
    for _ in range(20):
        Queue(name).get(timeout=20)
    assert eventually(lambda: not client.host.read(lambda txn: list(txn.scan(b"\x47"))))
    assert eventually(lambda: len(list(client.host.read(lambda txn: list(txn.scan(b"\x20"))))) < 3)


# -- as_completed -----------------------------------------------------------------------------------------------------


def test_a_map_with_a_buffer_gives_futures_in_order_and_takes_the_memory_of_that(client: Client) -> None:
    ahead = Ahead(client.host, 3_000)
    for future in client.map(pow, ahead, itertools.repeat(2), buffersize=100):
        assert future.done()
        assert future.result() == ahead.given**2
        ahead.given += 1
        if ahead.given in (1_000, 2_000):
            assert eventually(lambda: ahead.objects() <= 110)
    assert (ahead.given, ahead.sent) == (3_000, 3_000)
    assert ahead.most <= 101


def test_a_map_with_a_buffer_takes_the_options_of_map(client: Client, name: str) -> None:
    keys = [future.key for future in client.map(abs, range(5), key=name, buffersize=2)]
    assert keys == [f"{name}-{number}" for number in range(5)]
    given = [f"{name} {letter}" for letter in "abc"]
    assert [future.key for future in client.map(abs, range(3), key=given, buffersize=1)] == given
    assert [one.result() for one in client.map(sorted, [[1, 2]], reverse=True, pure=True, buffersize=9)] == [[2, 1]]
    failed, good = client.map(lambda x: 1 // x, [0, 1], buffersize=1)
    assert (failed.status, good.result()) == ("error", 1)
    assert list(client.map(abs, [], buffersize=3)) == []
    with pytest.raises(ValueError, match="buffersize"):
        client.map(abs, [1], buffersize=0)


def test_a_map_with_a_buffer_that_is_left_early_runs_no_more(client: Client, tmp_path: Path) -> None:
    def leave_mark(number: int) -> None:
        time.sleep(0.02)
        (tmp_path / str(number)).touch()

    next(client.map(leave_mark, itertools.count(), buffersize=50))
    time.sleep(0.1)
    marks = len(list(tmp_path.iterdir()))
    time.sleep(0.2)
    assert len(list(tmp_path.iterdir())) <= marks + 1 < 50


@pytest.mark.parametrize("buffersize", [None, 64])
def test_a_map_over_a_slow_generator_runs_while_that_goes_on(
    client: Client, tmp_path: Path, buffersize: int | None
) -> None:
    def numbers() -> Iterator[int]:
        for number in range(5):
            yield number
            time.sleep(0.02)
            assert buffersize is not None or eventually((tmp_path / str(number)).exists)

    for place, future in enumerate(client.map(lambda x: (tmp_path / str(x)).touch(), numbers(), buffersize=buffersize)):
        future.result(timeout=20)
        assert buffersize is None or not (tmp_path / str(place + 3)).exists()
    assert len(list(tmp_path.iterdir())) == 5


def test_as_completed_takes_more_while_it_runs(client: Client) -> None:
    todo = as_completed([client.submit(abs, -3)])
    seen = []
    for future in todo:
        seen.append(future.result())
        if seen[-1]:
            todo.add(client.submit(abs, 1 - seen[-1]))
    assert seen == [3, 2, 1, 0]
    assert todo.is_empty()
    todo.update(client.map(abs, range(3)))
    assert todo.count() == 3
    assert sorted(future.result() for future in todo) == [0, 1, 2]


def test_as_completed_wakes_for_what_another_thread_adds(client: Client, name: str) -> None:
    slow = client.submit(Event(name).wait, 30)
    todo = as_completed([slow], timeout=20)
    quick = client.submit(abs, -1)
    threading.Timer(0.1, todo.add, [quick]).start()
    assert next(todo) is quick
    Event(name).set()
    assert list(todo) == [slow]


def test_as_completed_gives_batches_and_errors(client: Client) -> None:
    futures = client.map(operator.truediv, [1] * 4, [1, 0, 2, 4])
    wait(futures)
    todo = as_completed(futures, with_results=True, raise_errors=False)
    assert todo.has_ready()
    found = dict(todo.next_batch())
    assert [found[future] for future in (futures[0], *futures[2:])] == [1.0, 0.5, 0.25]
    assert isinstance(found[futures[1]], ZeroDivisionError)
    assert [batch for batch in as_completed([]).batches()] == []
    assert len([one for batch in as_completed(futures).batches() for one in batch]) == 4
    pending = as_completed([client.submit(time.sleep, 0.2)])
    assert pending.next_batch(block=False) == []
    pending.clear()
    assert pending.is_empty()


def test_as_completed_in_a_coroutine(client: Client) -> None:
    async def squares() -> list[int]:
        return sorted([future.result() async for future in as_completed(client.map(pow, range(4), [2] * 4))])

    assert asyncio.run(squares()) == [0, 1, 4, 9]


def test_as_completed_that_is_dropped_leaves_no_line(client: Client, name: str) -> None:
    slow = client.submit(Event(name).wait, 30)
    waits = WAITS + pack_id(client.host.session)
    todo = as_completed([slow], timeout=0.05)
    with pytest.raises(TimedOut):
        next(todo)
    todo = as_completed([slow, client.submit(abs, 1)])
    next(todo)
    del todo
    client.host.flush()
    assert eventually(lambda: not client.host.read(lambda txn: list(txn.scan(waits))))
    Event(name).set()


# -- slots ------------------------------------------------------------------------------------------------------------


def test_a_task_that_secedes_lets_another_run(name: str) -> None:
    with Client(n_workers=1) as client:

        def steps_aside() -> bool:
            secede()
            until = time.monotonic() + 20
            while not Event(name).is_set() and time.monotonic() < until:
                time.sleep(0.01)
            rejoin()
            return bool(Event(name).is_set())

        waits = client.submit(steps_aside)
        assert client.submit(Event(name).set).result(timeout=20) is None
        assert waits.result(timeout=20)


def test_a_task_may_end_without_rejoining(name: str) -> None:
    with Client(n_workers=1) as client:
        for number in range(20):
            assert client.submit(lambda n: (secede(), n)[1], number).result(timeout=20) == number
        assert client.submit(abs, -1).result(timeout=20) == 1
        assert client.submit(lambda: threading.active_count()).result(timeout=20) < 12


def test_secede_and_rejoin_say_where_they_belong(client: Client) -> None:
    with pytest.raises(Misuse, match="no task here"):
        secede()
    with pytest.raises(Misuse, match="not seceded"):
        rejoin()
    with pytest.raises(Misuse, match="not seceded"):
        client.submit(rejoin).result()


def test_the_client_of_a_worker(client: Client) -> None:
    def total(n: int, apart: bool) -> int:
        with worker_client(separate_thread=apart) as inner:
            return sum(inner.gather(inner.map(abs, range(n))))

    assert client.gather(client.map(total, [10, 20], [True, False])) == [45, 190]


# -- trees of tasks ---------------------------------------------------------------------------------------------------


def fib(n: int) -> int:
    if n < 2:
        return n
    client = get_client()
    one, other = client.submit(fib, n - 1), client.submit(fib, n - 2)
    return int(one.result()) + int(other.result())


def sort(items: list[int]) -> list[int]:
    if len(items) < 2:
        return items
    client, (pivot, *rest) = get_client(), items
    low = client.submit(sort, [item for item in rest if item < pivot])
    high = client.submit(sort, [item for item in rest if item >= pivot])
    low_sorted, high_sorted = client.gather([low, high])
    return [*low_sorted, pivot, *high_sorted]


def set_bounds(helpers: int, depth: int) -> None:
    from guildhall.engine.local import worker

    worker.MAX_HELPERS, worker.MAX_DEPTH = helpers, depth
    time.sleep(0.05)


@pytest.mark.parametrize(("helpers", "depth"), [(256, 16), (256, 0), (2, 16), (3, 2)])
def test_trees_of_tasks_end_whatever_the_bounds(helpers: int, depth: int) -> None:
    with Client(n_workers=2) as client:
        client.gather(client.map(set_bounds, [helpers] * 10, [depth] * 10))
        assert client.submit(fib, 11).result(timeout=60) == 89
        items = [n * 7919 % 101 for n in range(60)]
        assert client.submit(sort, items).result(timeout=60) == sorted(items)


def count_down(n: int) -> int:
    return 0 if not n else 1 + int(get_client().submit(count_down, n - 1).result())


def test_a_long_chain_of_tasks_within_tasks_ends(client: Client) -> None:
    assert client.submit(count_down, 150).result(timeout=60) == 150


def test_a_task_run_inside_another_keeps_to_its_own_errors_and_the_timeout(client: Client) -> None:
    def around() -> list[Any]:
        inner = get_client()
        failed = inner.submit(operator.truediv, 1, 0)
        found: list[Any] = [type(failed.exception()).__name__]
        began = time.monotonic()
        try:
            inner.submit(time.sleep, 3).result(timeout=0.1)
        except TimedOut:
            found.append(time.monotonic() - began < 2)
        return found

    assert client.submit(around).result(timeout=30) == ["ZeroDivisionError", True]


def test_a_cancelled_child_ends_its_parents_wait(client: Client) -> None:
    def parent() -> str:
        child = get_client().submit(time.sleep, 0)
        child.cancel()
        try:
            child.result()
        except CancelledError:
            return "cancelled"
        return "ran"

    assert client.submit(parent).result(timeout=20) == "cancelled"
    Variable("unused").delete()
