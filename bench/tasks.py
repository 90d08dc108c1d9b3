"""Tasks beside those of dask.distributed and loky, in one run: many small ones, chains, trees, large results.

Run it with `python bench/tasks.py`, after `pip install -e '.[bench]'`. Two workers each.
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import distributed
import loky
from lib.functions import add, inc
from lib.timing import ASKED, asked, best, head

import guildhall


def mapped(client: Any, count: int) -> None:
    assert client.gather(client.map(inc, range(count)))[-1] == count


def chain(client: Any, length: int, **options: Any) -> None:
    future = client.submit(inc, 0, **options)
    for _ in range(length - 1):
        future = client.submit(inc, future, **options)
    assert future.result() == length


def tree(client: Any, leaves: int, **options: Any) -> None:
    level = client.map(inc, range(leaves), **options)
    while len(level) > 1:
        level = [client.submit(add, *level[at : at + 2], **options) for at in range(0, len(level), 2)]
    assert level[0].result() == leaves * (leaves + 1) // 2


def queued_bytes(client: guildhall.Client, count: int) -> float:
    """What the store grows by for each task that waits for its turn."""
    gate = client.submit(time.sleep, 4)
    before = client.host._store._env.info()["last_pgno"]  # type: ignore[union-attr]
    futures = client.map(add, range(count), [gate] * count)
    pages = client.host._store._env.info()["last_pgno"] - before  # type: ignore[union-attr]
    client.cancel(futures)
    return float(pages * 4096 / count)


def at_scale(client: guildhall.Client, counts: tuple[int, ...]) -> list[float]:
    """Microseconds for each task, submitted, run and gathered, of so many at a time."""
    found = []
    for count in counts:
        began = time.perf_counter()
        futures = client.map(inc, range(count))
        client.gather(futures)
        found.append((time.perf_counter() - began) / count * 1e6)
        del futures
    return found


PARENT = """
import time, numpy as np
from {0} import Client
def make(): return np.ones(125_000_000)
def last(a): return float(a[-1])
if __name__ == "__main__":
    with Client(n_workers=2, threads_per_worker=1) as client:
        client.submit(last, client.submit(np.ones, 10)).result()
        began = time.perf_counter()
        one = client.submit(make)
        client.submit(len, one).result()
        made = time.perf_counter()
        client.submit(last, one).result()
        print(made - began, time.perf_counter() - made)
"""


def main() -> None:
    head(*ASKED)
    with (
        guildhall.Client(n_workers=2) as ours,
        distributed.Client(n_workers=2, threads_per_worker=1, dashboard_address=None) as dask,
    ):
        size = queued_bytes(ours, 50_000)
        mapped(ours, 5000), mapped(dask, 500)
        mine = 100_000 / best(lambda: mapped(ours, 100_000))
        theirs = 3000 / best(lambda: dask.gather(dask.map(inc, range(3000), pure=False)))
        asked("map of 100 000, tasks/s", f"{mine:.0f}", f"Dask: {theirs:.0f}", mine / theirs, 100)
        with loky.get_reusable_executor(max_workers=2) as executor:
            list(executor.map(inc, range(100)))
            other = 5000 / best(lambda: list(executor.map(inc, range(5000))))
        asked("map of 100 000, tasks/s", f"{mine:.0f}", f"loky: {other:.0f}", mine / other, 5)
        one, two = best(lambda: chain(ours, 1000)), best(lambda: chain(dask, 300, pure=False)) * 1000 / 300
        asked("chain of 1000", f"{one * 1e3:.0f} ms", f"Dask: {two * 1e3:.0f} ms", two / one, 30)
        one, two = best(lambda: tree(ours, 5000)), best(lambda: tree(dask, 500, pure=False), 2) * 10
        asked("tree of 10 000", f"{one * 1e3:.0f} ms", f"Dask: {two * 1e3:.0f} ms (of 1000, times 10)", two / one, 50)
        scale = at_scale(ours, (1000, 10_000, 100_000, 1_000_000))
        print(
            "| each task of 10^3, 10^4, 10^5, 10^6 | " + ", ".join(f"{us:.1f}" for us in scale) + " us | | | flat | |"
        )
        asked("memory for each queued task", f"{size:.0f} bytes", "asked: under 1 KB", 1000 / size, 1)
    for kind in ("guildhall", "distributed"):
        out = subprocess.run([sys.executable, "-c", PARENT.format(kind)], capture_output=True, text=True).stdout
        print(f"| 1 GB made by a task, read by the next | {kind}: {out.strip()} s | | | | |")


if __name__ == "__main__":
    main()
