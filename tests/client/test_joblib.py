"""joblib on our workers: results, order, errors, time, calls inside of calls, arrays, and what it leaves behind."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from faults import eventually
from joblib import Parallel, delayed

import guildhall
from guildhall import Client
from guildhall.joblib import GuildhallBackend
from guildhall.primitives import values


@pytest.fixture(autouse=True)
def _backend(client: Client) -> Iterator[None]:
    with joblib.parallel_config("guildhall"):
        yield


def square(x: int) -> int:
    return x * x


def test_calls_run_in_workers_and_results_keep_their_order() -> None:
    assert Parallel()(delayed(square)(x) for x in range(3000)) == [x * x for x in range(3000)]
    assert Parallel()(delayed(lambda x, y=1: x + y)(x, y=2) for x in range(10)) == list(range(2, 12))
    pids = Parallel(batch_size=1)(delayed(_slow_pid)() for _ in range(8))
    assert os.getpid() not in pids
    assert len(set(pids)) == 2
    assert Parallel()(delayed(square)(x) for x in ()) == []


def _slow_pid(*_: Any) -> int:
    time.sleep(0.05)
    return os.getpid()


def test_different_functions_in_one_run() -> None:
    calls = [delayed(square)(3), delayed(abs)(-2), delayed(str.upper)("a"), delayed(lambda: 7)()]
    assert Parallel(batch_size=4)(calls) == [9, 2, "A", 7]


def test_n_jobs_says_how_many_run_at_a_time(client: Client) -> None:
    assert joblib.effective_n_jobs(-1) == 2
    assert joblib.effective_n_jobs() == 2
    assert joblib.effective_n_jobs(5) == 5
    assert joblib.effective_n_jobs(-2) == 1
    with pytest.raises(ValueError, match="n_jobs"):
        joblib.effective_n_jobs(0)
    assert Parallel(n_jobs=1)(delayed(os.getpid)() for _ in range(2)) == [os.getpid()] * 2


def test_fewer_jobs_than_workers_leave_workers_alone(tmp_path: Path) -> None:
    with Client(n_workers=4) as client, joblib.parallel_config("guildhall", client=client, n_jobs=2):
        crowds = Parallel(pre_dispatch="all", batch_size=1)(delayed(_crowd)(str(tmp_path)) for _ in range(16))
    assert max(crowds) == 2


def _crowd(path: str) -> int:
    """How many calls are running now."""
    mine = Path(path) / f"{os.getpid()}-{threading.get_ident()}"
    mine.touch()
    time.sleep(0.05)
    crowd = len(list(Path(path).iterdir()))
    mine.unlink()
    return crowd


def test_generators_give_results_as_they_come(client: Client) -> None:
    ordered = Parallel(return_as="generator", batch_size=1)(delayed(_sleep_and_return)(s) for s in (0.4, 0, 0.2))
    assert list(ordered) == [0.4, 0, 0.2]
    unordered = Parallel(return_as="generator_unordered", batch_size=1)(
        delayed(_sleep_and_return)(s) for s in (0.5, 0, 0.1)
    )
    assert list(unordered) == [0, 0.1, 0.5]
    whole = Parallel(return_as="generator")(delayed(square)(x) for x in range(1000))
    assert next(whole) == 0
    assert sum(whole) == sum(x * x for x in range(1000))


def _sleep_and_return(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def test_one_generator_may_feed_another() -> None:
    inner = Parallel(return_as="generator")(delayed(square)(x) for x in range(200))
    outer = Parallel(return_as="generator")(delayed(square)(x) for x in inner)
    assert list(outer) == [x**4 for x in range(200)]


def test_a_generator_that_is_dropped_cancels_the_rest(tmp_path: Path) -> None:
    results = Parallel(return_as="generator", batch_size=1, pre_dispatch="all")(
        delayed(_touch_slowly)(str(tmp_path / str(x))) for x in range(50)
    )
    next(results)
    with pytest.warns(UserWarning, match="cancelled"):
        results.close()
    time.sleep(0.5)
    done = len(list(tmp_path.iterdir()))
    assert done < 20
    assert Parallel()(delayed(square)(x) for x in range(3)) == [0, 1, 4]


def _touch_slowly(path: str) -> None:
    time.sleep(0.05)
    Path(path).touch()


def test_an_error_is_raised_as_it_was_and_the_rest_is_cancelled(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        Parallel()(delayed(divmod)(1, x) for x in range(5))
    calls = [delayed(divmod)(1, 0), *(delayed(_touch_slowly)(str(tmp_path / str(x))) for x in range(100))]
    with pytest.raises(ZeroDivisionError):
        Parallel(batch_size=1, pre_dispatch="all")(calls)
    assert len(list(tmp_path.iterdir())) < 50


def test_a_call_that_takes_too_long_raises_timeout_error() -> None:
    began = time.monotonic()
    with pytest.raises((TimeoutError, multiprocessing.TimeoutError)):  # joblib has its own.
        Parallel(timeout=0.2)(delayed(time.sleep)(1) for _ in range(4))
    assert time.monotonic() - began < 0.9
    assert Parallel(timeout=20)(delayed(square)(x) for x in range(4)) == [0, 1, 4, 9]


@pytest.mark.parametrize("how", ["list", "generator", "generator_unordered", "error", "dropped"])
def test_what_runs_is_interrupted_when_nobody_wants_it_any_more(how: str) -> None:
    Parallel()(delayed(square)(x) for x in range(4))  # The workers have imported joblib.
    began = time.monotonic()
    calls = [delayed(time.sleep)(60) for _ in range(4)]
    if how == "error":
        with pytest.raises(ZeroDivisionError):
            Parallel()([calls[0], delayed(divmod)(1, 0)])
    elif how == "dropped":
        results = Parallel(return_as="generator")(calls)
        time.sleep(0.1)
        with pytest.warns(UserWarning, match="cancelled"):
            results.close()
    else:
        with pytest.raises((TimeoutError, multiprocessing.TimeoutError)):
            list(Parallel(timeout=0.2, return_as=how)(calls))
    assert Parallel()(delayed(square)(x) for x in range(4)) == [0, 1, 4, 9]
    assert time.monotonic() - began < 20


def test_a_context_is_usable_after_a_timeout() -> None:
    with Parallel(timeout=0.2) as parallel:
        with pytest.raises((TimeoutError, multiprocessing.TimeoutError)):
            parallel(delayed(time.sleep)(60) for _ in range(4))
        parallel.timeout = 20
        assert parallel(delayed(square)(x) for x in range(4)) == [0, 1, 4, 9]


def test_what_cannot_travel_is_said() -> None:
    with pytest.raises(guildhall.Unpicklable, match="joblib"):
        Parallel()(delayed(id)(threading.Lock()) for _ in range(3))
    assert Parallel()(delayed(square)(x) for x in range(3)) == [0, 1, 4]


def test_calls_inside_of_calls_run_on_the_same_workers_without_deadlock(client: Client) -> None:
    def inner(x: int) -> tuple[int, int]:
        return os.getpid(), x

    def middle(x: int) -> list[Any]:
        return Parallel(n_jobs=2)(delayed(inner)(x + y) for y in range(4))

    def outer(x: int) -> tuple[str, list[Any]]:
        backend, _ = joblib.parallel.get_active_backend()
        return type(backend).__name__, Parallel(n_jobs=2, batch_size=1)(delayed(middle)(x + y) for y in range(4))

    found = Parallel(batch_size=1)(delayed(outer)(x) for x in range(6))
    assert {name for name, _ in found} == {"GuildhallBackend"}
    assert [[[n for _, n in one] for one in many] for _, many in found] == [
        [[x + y + z for z in range(4)] for y in range(4)] for x in range(6)
    ]
    assert len({pid for _, many in found for one in many for pid, _ in one}) == 2


def test_an_array_that_all_calls_use_is_placed_once_and_stays_writable(client: Client) -> None:
    large = np.arange(1 << 20, dtype=float)
    fortran = np.asfortranarray(np.ones((1 << 9, 1 << 9)))

    def blobs() -> int:
        return len(os.listdir(os.path.join(client.host.directory, "blobs")))

    def use(x: int, array: Any, nested: Any) -> tuple[float, int]:
        array[0] = x
        return float(array[0] + nested["f"].sum()), len(os.listdir(directory))

    directory = os.path.join(client.host.directory, "blobs")
    before = blobs()
    found = Parallel(batch_size=1)(delayed(use)(x, large, {"f": fortran}) for x in range(30))
    assert [value for value, _ in found] == [x + fortran.sum() for x in range(30)]
    assert max(count for _, count in found) <= before + 2
    assert large[0] == 0
    assert eventually(lambda: blobs() <= before)
    small = np.arange(1000)
    sums = Parallel(max_nbytes=None)(delayed(np.sum)(array) for array in (small, large[1:]))
    assert sums == [small.sum(), large.sum()]


def test_nothing_is_left_in_the_hall(client: Client) -> None:
    def objects() -> int:
        client.host.settle()
        return client.host.read(lambda txn: len(list(txn.scan(values.OBJECTS))))

    before = objects()
    for _ in range(3):
        Parallel()(delayed(square)(x) for x in range(500))
    assert eventually(lambda: objects() <= before + 8)


def test_one_parallel_used_again_and_as_a_context() -> None:
    with Parallel() as parallel:
        for count in (10, 500, 3):
            assert parallel(delayed(square)(x) for x in range(count)) == [x * x for x in range(count)]
        with pytest.raises(ZeroDivisionError):
            parallel(delayed(divmod)(1, x) for x in (1, 0))
        assert parallel(delayed(square)(x) for x in range(3)) == [0, 1, 4]


def test_options_and_instances_are_taken(client: Client, tmp_path: Path) -> None:
    def flaky(path: str) -> int:
        with open(path, "a") as file:
            file.write("x")
        if os.path.getsize(path) < 2:
            raise ValueError("not yet")
        return 1

    with joblib.parallel_config("guildhall", client=client, retries=2):
        assert Parallel()(delayed(flaky)(str(tmp_path / x)) for x in "abc") == [1, 1, 1]
    assert Parallel(n_jobs=2, backend="guildhall")(delayed(square)(x) for x in range(3)) == [0, 1, 4]
    assert Parallel(n_jobs=2, backend=GuildhallBackend())(delayed(square)(x) for x in range(3)) == [0, 1, 4]
    with pytest.raises(TypeError, match="colour"), joblib.parallel_config("guildhall", colour="red"):
        Parallel(n_jobs=2)(delayed(square)(x) for x in range(3))


def test_the_initializer_runs_once_in_each_process_before_its_first_call(tmp_path: Path) -> None:
    def mark(path: Path) -> None:
        (path / str(os.getpid())).touch(exist_ok=False)

    def is_marked(path: Path) -> bool:
        return (path / str(os.getpid())).exists()

    found = Parallel(n_jobs=2, initializer=mark, initargs=(tmp_path,))(delayed(is_marked)(tmp_path) for _ in range(50))
    assert all(found)


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"])
def test_the_environment_says_how_many_threads_libraries_use(
    client: Client, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    pytest.importorskip("threadpoolctl")
    monkeypatch.setenv(name, "3")

    def threads(matrix: Any) -> set[int]:
        import threadpoolctl

        return {found["num_threads"] for found in threadpoolctl.threadpool_info()}

    assert Parallel(n_jobs=2)(delayed(threads)(np.ones((2, 2))) for _ in range(4)) == [{3}] * 4


def test_threads_of_libraries_are_limited_in_workers(client: Client) -> None:
    pytest.importorskip("threadpoolctl")

    def threads() -> set[int]:
        import threadpoolctl

        time.sleep(0.02)
        return {found["num_threads"] for found in threadpoolctl.threadpool_info()}

    matrix = np.ones((2, 2))
    with joblib.parallel_config("guildhall", inner_max_num_threads=1):
        found = Parallel(n_jobs=2)(delayed(lambda a: threads())(matrix) for _ in range(4))
    assert all(one <= {1} for one in found)


def test_scikit_learn_fits_and_searches_on_our_workers() -> None:
    pytest.importorskip("sklearn")
    from sklearn.datasets import make_classification
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import GridSearchCV, cross_val_score

    x, y = make_classification(400, random_state=0)
    forest = RandomForestClassifier(10, random_state=0)
    search = GridSearchCV(forest, {"max_depth": [2, 4]}, cv=3, n_jobs=-1).fit(x, y)
    with joblib.parallel_config("sequential"):
        expected = GridSearchCV(forest, {"max_depth": [2, 4]}, cv=3).fit(x, y)
        scores = cross_val_score(forest, x, y, cv=3)
    assert search.best_score_ == expected.best_score_
    assert list(cross_val_score(forest, x, y, cv=3, n_jobs=2)) == list(scores)


ALONE = """
import sys
{first}
{second}
import joblib
with joblib.parallel_config("guildhall", n_jobs=2):
    print(joblib.Parallel()(joblib.delayed(abs)(-x) for x in range(3)))
"""


@pytest.mark.parametrize("order", [("import guildhall", "import joblib"), ("import joblib", "import guildhall")])
def test_the_name_is_known_whichever_is_imported_first_and_without_a_client(order: tuple[str, str]) -> None:
    code = ALONE.format(first=order[0], second=order[1])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[0, 1, 2]\n", "")


def test_importing_guildhall_imports_no_joblib_and_joblib_no_client() -> None:
    code = (
        "import sys, guildhall; assert 'joblib' not in sys.modules; n = len(sys.meta_path); import joblib; "
        "assert len(sys.meta_path) == n - 1; "
        "print('guildhall.client' in sys.modules, 'guildhall' in joblib.parallel.BACKENDS)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("False True\n", "")


def test_without_joblib_the_error_names_the_extra() -> None:
    code = "import sys; sys.modules['joblib'] = None; import guildhall.joblib"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "ImportError: guildhall.joblib needs joblib: pip install 'guildhall[joblib]'" in done.stderr


def test_calls_that_never_stop_going_deeper_end_with_an_error() -> None:
    def deeper() -> list[Any]:
        return Parallel()(delayed(deeper)() for _ in range(1))  # type: ignore[no-any-return]

    with pytest.raises(RecursionError):
        deeper()
