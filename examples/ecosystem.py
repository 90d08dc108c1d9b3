"""Under other libraries: an executor, joblib, Dask, a progress bar. Checks itself: python examples/ecosystem.py"""

from __future__ import annotations

from concurrent.futures import as_completed

import dask.array as da
import joblib

import guildhall
from guildhall import Client


def count_primes(below: int) -> int:
    return sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(2, below))


def executor(client: Client) -> None:
    """The standard library's futures, on our workers."""
    with client.get_executor() as pool:
        futures = {pool.submit(count_primes, below): below for below in (10, 100, 1000)}
        found = {futures[future]: future.result() for future in as_completed(futures)}
    assert found == {10: 4, 100: 25, 1000: 168}


def under_joblib() -> None:
    """Parallel loops, and what is built on them, as in scikit-learn."""
    with joblib.parallel_config("guildhall"):
        found = joblib.Parallel()(joblib.delayed(count_primes)(below) for below in (10, 100, 1000))
    assert found == [4, 25, 168]


def under_dask(client: Client) -> None:
    """Arrays larger than one task's share, computed chunk by chunk."""
    kept = client.persist(da.ones((1000, 1000), chunks=250))
    guildhall.progress(kept)
    assert kept.sum().compute(scheduler=client) == 1_000_000


with Client(n_workers=2) as client:
    executor(client)
    under_joblib()
    under_dask(client)
print("all is well")
