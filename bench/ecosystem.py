"""guildhall under other libraries beside what they use otherwise, in one run; rounds of the two sides alternate.

    .venv/bin/python bench/ecosystem.py

Needs the extras of `.[test]` and `.[bench]`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, wait
from functools import partial
from typing import Any

import dask.array as da
import dask.bag as db
import distributed
import joblib
from lib.timing import ASKED, asked, head, seconds

import guildhall

ROUNDS = 7


def inc(x: int) -> int:
    return x + 1


def compare(what: str, peer: str, reach: float, ours: Callable[[], Any], theirs: Callable[[], Any]) -> None:
    """One row: the medians, and the median of the rounds' ratios."""
    ours()
    theirs()
    rounds = [(seconds(ours), seconds(theirs)) for _ in range(ROUNDS)]
    mine, other = (statistics.median(side) for side in zip(*rounds))
    ratio = statistics.median(other / mine for mine, other in rounds)
    asked(what, f"{mine * 1e3:.1f} ms", f"{peer} {other * 1e3:.1f} ms", ratio, reach)


def under_joblib(backend: str, count: int) -> Any:
    with joblib.parallel_config(backend, n_jobs=2):
        return joblib.Parallel()(joblib.delayed(inc)(x) for x in range(count))


def waited(executor: Any, count: int) -> None:
    wait([executor.submit(inc, x) for x in range(count)])


def round_trips(executor: Any) -> None:
    for x in range(200):
        executor.submit(inc, x).result()


def mapped(executor: Any) -> None:
    list(executor.map(inc, range(5000)))


def main() -> None:
    head(*ASKED)
    ours = guildhall.Client(n_workers=2)
    theirs = distributed.Client(n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50)
    executor, pool = ours.get_executor(), ProcessPoolExecutor(2)

    for what, work in (
        ("200 round trips of an executor", round_trips),
        ("executor.map of 5 000", mapped),
        ("wait for 10 000 calls of an executor", partial(waited, count=10_000)),
    ):
        compare(what, "ProcessPoolExecutor", 1, partial(work, executor), partial(work, pool))
    few = min(seconds(partial(waited, executor, 500)) for _ in range(ROUNDS)) / 500
    many = min(seconds(partial(waited, executor, 10_000)) for _ in range(3)) / 10_000
    asked("one call, of 10 000 under way", f"{many * 1e6:.0f} us", f"of 500: {few * 1e6:.0f} us", few / many, 0.5)

    compare(
        "joblib, 10 000 tiny calls",
        "loky",
        1,
        partial(under_joblib, "guildhall", 10_000),
        partial(under_joblib, "loky", 10_000),
    )
    for what, lazy in (
        ("dask.array, sum over 1 000 chunks", da.ones(10_000, chunks=10).sum()),
        ("dask.array, sum of x + x.T, 400 chunks", (lambda x: (x + x.T).sum())(da.ones((400, 400), chunks=20))),
        ("dask.bag, sum over 500 partitions", db.range(5_000, npartitions=500).map(inc).sum()),
    ):
        compare(what, "Dask", 5, partial(lazy.compute, scheduler=ours), partial(lazy.compute, scheduler=theirs))
    executor.shutdown()
    pool.shutdown()
    ours.close()
    theirs.close()


if __name__ == "__main__":
    main()
