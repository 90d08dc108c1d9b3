"""Dask's collections on our workers: what they compute, what they free, and what they say when something fails."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import dask.bag as db
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from faults import eventually

import guildhall
from guildhall import CancelledError, Client, Future, get_client, wait
from guildhall.primitives import values


@pytest.fixture(autouse=True)
def _scheduler(client: Client) -> Iterator[None]:
    with dask.config.set(scheduler=client):
        yield


@dask.delayed
def inc(x: int) -> int:
    return x + 1


@dask.delayed
def add(x: int, y: int) -> int:
    return x + y


@dask.delayed
def worker_pid(*_: Any) -> int:
    time.sleep(0.01)
    return os.getpid()


def objects(client: Client) -> int:
    gc.collect()  # Dask's frames make circles of an error and its traceback.
    client.host.settle()
    return client.host.read(lambda txn: len(list(txn.scan(values.OBJECTS))))


# -- what they compute ------------------------------------------------------------------------------------------------


def test_delayed_runs_in_workers() -> None:
    assert add(inc(1), inc(2)).compute() == 5
    assert dask.compute(inc(1), {"a": [inc(2), 3]}, "x") == (2, {"a": [3, 3]}, "x")
    pids = dask.compute(*[worker_pid(x) for x in range(8)])
    assert os.getpid() not in pids
    assert len(set(pids)) == 2


def test_every_way_to_name_the_scheduler(client: Client) -> None:
    assert inc(1).compute(scheduler=client) == 2
    assert inc(1).compute(scheduler=client.get) == 2
    with client.get_executor() as executor, dask.config.set(scheduler=executor):
        assert add(inc(1), inc(2)).compute() == 5
        assert da.ones(100, chunks=10).sum().compute() == 100


def test_arrays() -> None:
    x = np.random.default_rng(0).random((300, 200))
    lazy = da.from_array(x, chunks=(70, 60))
    for compute in (
        lambda a: a.sum(),
        lambda a: (a + a.mean(axis=0)).std(),
        lambda a: a.T @ a,
        lambda a: a[::3, 10:150].max(axis=1),
        lambda a: (a.reshape(-1) ** 2).cumsum(axis=0),
    ):
        assert np.allclose(compute(lazy).compute(), compute(x))
    u, s, v = da.linalg.svd(lazy.rechunk((300, 50)))
    assert np.allclose(u.compute() @ np.diag(s.compute()) @ v.compute(), x)
    large = da.ones((2000, 2000), chunks=500)  # Chunks of 2 MB: blobs.
    assert (large @ large.T).sum().compute() == 2000**3


def test_bags() -> None:
    bag = db.range(1000, npartitions=10)
    assert bag.map(lambda x: x * 2).filter(lambda x: x % 3 == 0).sum().compute() == sum(
        x * 2 for x in range(1000) if x * 2 % 3 == 0
    )
    assert dict(bag.map(lambda x: x % 3).frequencies().compute()) == {0: 334, 1: 333, 2: 333}
    assert sorted(dict(bag.groupby(lambda x: x % 4).starmap(lambda k, v: (k, len(v))).compute()).items()) == [
        (0, 250), (1, 250), (2, 250), (3, 250),
    ]  # fmt: skip


def test_dataframes() -> None:
    rng = np.random.default_rng(0)
    left = pd.DataFrame({"k": rng.integers(0, 20, 1000), "v": rng.random(1000)})
    right = pd.DataFrame({"k": np.arange(20), "name": [f"n{x}" for x in range(20)]})
    a, b = dd.from_pandas(left, npartitions=8), dd.from_pandas(right, npartitions=2)
    pd.testing.assert_series_equal(a.groupby("k").v.mean().compute().sort_index(), left.groupby("k").v.mean())
    merged = a.merge(b, on="k").compute().sort_values(["k", "v"]).reset_index(drop=True)
    expected = left.merge(right, on="k").sort_values(["k", "v"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(merged, expected, check_dtype=False)
    assert a.set_index("v").index.compute().is_monotonic_increasing
    assert a.describe().compute().loc["count", "v"] == 1000
    with dask.config.set({"dataframe.shuffle.method": "tasks"}):
        assert len(a.shuffle("k").compute()) == 1000


def test_graphs_as_dictionaries(client: Client) -> None:
    from operator import add as plus

    graph = {"x": 1, "y": (plus, "x", 10), "z": (sum, ["x", "y"]), "alias": "z", ("t", 0): (plus, "alias", "alias")}
    assert client.get(graph, "y") == 11
    assert client.get(graph, ["z", ["alias", ("t", 0)], "x"]) == [12, [12, 24], 1]
    future = client.get(graph, "z", sync=False)
    assert isinstance(future, Future)
    assert future.result(20) == 12
    assert client.get({}, []) == []
    with pytest.raises(ValueError, match="'nowhere'"):
        client.get(graph, "nowhere")


def test_an_alias_of_something_long_done_is_still_there_for_who_comes_late(client: Client) -> None:
    graph: dict[Any, Any] = {"first": (abs, -1), "other name": "first"}
    graph |= {("slow", x): (abs, x) for x in range(600)}
    graph["last"] = (max, [*(("slow", x) for x in range(600)), "other name"])
    graph["later"] = (abs, "other name")
    assert client.get(graph, ["last", "later", "other name", "first"]) == [599, 1, 1, 1]


# -- compute and persist ----------------------------------------------------------------------------------------------


def test_compute_gives_futures_of_each(client: Client) -> None:
    future = client.compute(add(inc(1), 2))
    assert isinstance(future, Future)
    assert future.result(20) == 4
    futures = client.compute([inc(1), 5, [inc(2), inc(3)], {"a": inc(4)}])
    assert client.gather(futures) == [2, 5, [3, 4], {"a": 5}]
    assert client.compute([da.ones(10, chunks=2).sum(), inc(1)], sync=True) == [10, 2]
    assert client.compute(7) == 7


def test_persist_computes_in_the_background_once(client: Client, tmp_path: Path) -> None:
    def load(block: Any) -> Any:
        (tmp_path / os.urandom(4).hex()).touch()
        return block + 1

    array = da.ones((40,), chunks=10).map_blocks(load, meta=np.array(()))
    kept = client.persist(array)
    assert isinstance(kept, da.Array)
    assert kept.sum().compute() == 80
    assert (kept * 2).compute().tolist() == [4.0] * 40
    assert len(list(tmp_path.iterdir())) == 4
    again = array.persist()
    assert again.sum().compute() == 80
    frame = dd.from_pandas(pd.DataFrame({"a": range(100)}), npartitions=5)
    first, second = client.persist([frame, frame + 1])
    assert first.a.sum().compute() == 4950
    assert second.a.sum().compute() == 5050
    assert client.persist(db.range(10, npartitions=2)).sum().compute() == 45
    assert inc(inc(1).persist()).compute() == 3
    with pytest.raises(ValueError, match="persist"):
        client.persist([3])


def test_futures_may_stand_in_collections(client: Client) -> None:
    future = client.submit(abs, -3)
    assert inc(future).compute() == 4
    assert add(future, client.scatter(4)).compute() == 7

    @dask.delayed
    def deep(data: Any) -> Any:
        return data["x"][0] + 1

    assert deep({"x": [client.submit(abs, -10)]}).compute() == 11
    parts = client.map(np.full, [3, 3], [1.0, 2.0])
    array = da.concatenate([da.from_delayed(dask.delayed(part), (3,), float) for part in parts])
    assert array.sum().compute() == 9


def test_a_collection_of_another_client_is_refused(client: Client) -> None:
    kept = client.persist(da.ones(4, chunks=2))
    with Client(n_workers=1) as other, pytest.raises(ValueError, match="of this client"):
        kept.sum().compute(scheduler=other)


def test_inside_a_task_the_tasks_own_client_computes(client: Client) -> None:
    def outer(n: int) -> float:
        import dask.array

        return float(dask.array.ones(n, chunks=n // 4).sum().compute(scheduler=get_client()))

    assert client.gather(client.map(outer, [8, 12, 16, 20])) == [8, 12, 16, 20]


# -- what they free and what fails ------------------------------------------------------------------------------------


def test_results_that_are_needed_no_more_are_freed_at_once(client: Client) -> None:
    """A chain of 100 arrays of 8 MB never takes more than a few of them."""

    def step(block: Any) -> Any:
        time.sleep(0.01)
        return block + 1

    before = objects(client)
    array = np.zeros(1 << 20)
    graph: dict[Any, Any] = {"s0": (np.zeros, 1 << 20)}
    graph |= {f"s{x + 1}": (step, f"s{x}") for x in range(100)}
    graph["end"] = (np.max, "s100")
    future = client.get(graph, "end", sync=False)
    most = 0
    while not future.done():
        directory = os.path.join(client.host.directory, "blobs")
        most = max(most, len(os.listdir(directory)))
        time.sleep(0.005)
    assert future.result() == 100
    assert most <= 5
    del future, array
    assert eventually(lambda: objects(client) <= before)


def test_nothing_is_left_of_a_computation(client: Client) -> None:
    before = objects(client)
    da.random.random((100, 100), chunks=10).sum().compute()
    kept = client.persist(da.ones(100, chunks=10))
    kept.sum().compute()
    assert eventually(lambda: objects(client) == before + 10)
    del kept
    assert eventually(lambda: objects(client) == before)


def test_an_error_is_raised_as_it_was_and_the_rest_is_dropped(client: Client) -> None:
    @dask.delayed
    def fail() -> None:
        raise LookupError("no such thing")

    before = objects(client)
    with pytest.raises(LookupError, match="no such thing"):
        inc(inc(fail())).compute()
    root = dask.delayed(time.sleep)(0.3)
    late = [worker_pid(root, x) for x in range(500)]
    began = time.monotonic()
    with pytest.raises(LookupError):
        dask.compute(*late, fail())
    assert time.monotonic() - began < 2
    assert eventually(lambda: objects(client) <= before)
    failed = client.persist(add(fail(), 1))
    with pytest.raises(LookupError):
        inc(failed).compute()


def test_what_cannot_travel_is_said_and_nothing_is_left(client: Client) -> None:
    import threading

    before = objects(client)
    with pytest.raises(TypeError, match="node inc"):
        add(inc(1), inc(threading.Lock())).compute()
    assert eventually(lambda: objects(client) <= before)


def test_a_cancelled_part_cancels_what_needs_it(client: Client) -> None:
    slow = client.compute(dask.delayed(time.sleep)(0.3))
    needing = client.compute(inc(slow))
    slow.cancel()
    with pytest.raises(CancelledError):
        needing.result(20)


def test_retries_and_priorities_are_kept(client: Client, tmp_path: Path) -> None:
    @dask.delayed
    def flaky(path: str) -> int:
        with open(path, "a") as file:
            file.write("x")
        if os.path.getsize(path) < 3:
            raise ValueError("not yet")
        return 1

    assert flaky(str(tmp_path / "a")).compute(retries=2) == 1
    with dask.annotate(retries=2):
        annotated = flaky(str(tmp_path / "b"))
    assert annotated.compute(optimize_graph=False) == 1
    assert client.compute(flaky(str(tmp_path / "c")), retries=2, priority=5).result(20) == 1
    with pytest.raises(ValueError, match="not yet"):
        flaky(str(tmp_path / "d")).compute()


def test_workers_and_resources_are_kept(client: Client) -> None:
    one, other = client.run(os.getpid).items()
    parts = [worker_pid(number) for number in range(6)]
    assert set(client.gather(client.compute(parts, workers=[one[0]]))) == {one[1]}
    assert set(dask.compute(*parts, workers=other[0])) == {other[1]}
    (pids,) = dask.persist(parts, workers=other[0])
    assert set(dask.compute(*pids)) == {other[1]}
    with dask.annotate(workers=[one[0]]):
        annotated = [worker_pid(-number) for number in range(6)]
    assert set(dask.compute(*annotated, optimize_graph=False)) == {one[1]}
    assert set(dask.compute(*annotated, optimize_graph=False, workers=other[0])) == {one[1]}, "what is nearer counts"
    with dask.annotate(workers=lambda key: [one[0]]):
        assert set(client.compute(parts, sync=True)) == {one[1]}
    assert client.compute(parts[0], workers=["nobody"], allow_other_workers=True).result(20) in (one[1], other[1])
    stuck = client.compute(parts[0], workers=["nobody"])
    lacking = client.compute(parts[1], resources={"GPU": 1})
    time.sleep(0.2)
    assert {stuck.status, lacking.status} == {"pending"}
    with Client(n_workers=2, resources={"GPU": 1}) as able:
        assert able.compute(parts[1], resources={"GPU": 1}).result(20)


def test_options_that_make_no_sense_are_refused(client: Client) -> None:
    part = worker_pid(1)
    for options in ({"workers": 3}, {"resources": "GPU"}, {"retries": "2"}, {"allow_other_workers": "some"}):
        with pytest.raises(TypeError, match=next(iter(options))):
            client.compute(part, **options)
    with pytest.raises(guildhall.Misuse, match="no node"):
        client.compute(part, actors="nobody")
    with pytest.raises(guildhall.Misuse, match="expected a class"):
        client.compute(part, actors=True)


class Tally:
    def __init__(self, start: int) -> None:
        self.sum = start

    def add(self, more: int) -> int:
        self.sum += more
        return self.sum


def test_nodes_may_be_actors(client: Client) -> None:
    made = dask.delayed(Tally)(inc(1))
    tally = client.compute(made, actors=made, optimize_graph=False).result(20)
    assert [tally.add(1).result() for _ in range(3)] == [3, 4, 5]
    again = client.compute(made, actors={made.key: True}, optimize_graph=False).result(20)
    assert again.add(1).result() == 3
    assert client.get({"t": (Tally, 7)}, "t", actors=["t"]).add(1).result() == 8


def test_a_worker_that_dies_under_a_computation_is_made_good(client: Client, tmp_path: Path) -> None:
    @dask.delayed
    def die_once(path: str) -> int:
        if not os.path.exists(path):
            Path(path).touch()
            os._exit(3)
        return 1

    parts = [inc(die_once(str(tmp_path / str(x)))) for x in range(4)]
    assert dask.compute(*parts) == (2, 2, 2, 2)


def test_a_large_graph_goes_in_batches(client: Client) -> None:
    total = dask.delayed(sum)([inc(x) for x in range(3000)])
    assert total.compute() == sum(range(1, 3001))


def test_waiting_for_persisted_parts(client: Client) -> None:
    kept = client.persist(da.ones(20, chunks=5))
    parts = list(dict(kept.__dask_graph__()).values())
    assert all(isinstance(part, Future) for part in parts)
    assert wait(parts, timeout=20).not_done == set()


def test_importing_guildhall_imports_no_dask() -> None:
    code = "import sys, guildhall; guildhall.Client; assert 'dask' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_dask_the_error_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['dask'] = None; import guildhall\n"
        "with guildhall.Client(n_workers=1) as client: client.get({'x': 1}, 'x')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "ImportError: Dask collections need dask: pip install 'guildhall[dask]'" in done.stderr
    assert guildhall.__version__
