"""What it costs a busy process that others look into its hall, and what looking costs.

Another process increments a variable under a lock as fast as it can. In turn it is left alone, and watched: by
`guildhall top` as people run it (once a second), by one that looks ten times a second, and by a process that takes
snapshots without a pause. Run it with `python bench/looking.py`.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from lib.timing import head, p50, row, times

import guildhall
from guildhall import Counter, Hall, Lock, Queue, Semaphore, Variable

ROUND_S = 3.0
ROUNDS = 5
THINGS = (10, 1000, 10_000)

IDLE = ["-c", "import time; time.sleep(3600)"]
BUSY = """
import sys, time
import guildhall
hall = guildhall.open(sys.argv[1])
lock, value, done = (kind("busy", hall=hall) for kind in (guildhall.Lock, guildhall.Variable, guildhall.Counter))
value.set(0)
while True:
    for _ in range(100):
        with lock:
            value.set(value.get() + 1)
    done.add(100)
"""
SNAPSHOTS = """
import sys
import guildhall
with guildhall.observe(sys.argv[1]) as seen:
    while True:
        seen.snapshot()
"""


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def increments_per_s(hall: Hall) -> float:
    done = Counter("busy", hall=hall)
    before, began = done.get(), time.perf_counter()
    time.sleep(ROUND_S)
    return (done.get() - before) / (time.perf_counter() - began)


def fill(hall: Hall, count: int) -> list[object]:
    """So many things with names: locks that are held, queues with items, variables, semaphores."""
    kept: list[object] = []
    for number in range(1, count // 4 + 1):
        lock, semaphore = Lock(number, hall=hall), Semaphore(number, 3, hall=hall)
        lock.acquire()
        semaphore.acquire()
        Queue(number, hall=hall).put("x")
        Variable(number, hall=hall).set(number)
        kept += [lock, semaphore]
    return kept


def watchers(path: str) -> dict[str, list[str]]:
    top = ["-m", "guildhall", "top", "--hall", path]
    return {
        "nobody": [],
        "top": [*top, "--every", "1"],
        "top, ten times a second": [*top, "--every", "0.1"],
        "snapshots without a pause": ["-c", SNAPSHOTS, path],
    }


def compare() -> None:
    """Increments a second while each of the watchers looks at a hall of its own, the rounds in turn; and how large the
    store's file grew."""
    rates: dict[str, list[float]] = {}
    files: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name in watchers(""):
            with guildhall.open() as hall:
                kept = fill(hall, 100)
                with running("-c", BUSY, hall.path), running(*(watchers(hall.path)[name] or IDLE)):
                    time.sleep(1.5)  # They have started.
                    rates.setdefault(name, []).append(increments_per_s(hall))
                    files.setdefault(name, []).append(hall.snapshot().store.file_bytes / 1e6)
                del kept
    alone = statistics.median(rates["nobody"])
    for name, some in rates.items():
        rate = statistics.median(some)
        row(name, f"{rate:,.0f}", f"{rate / alone:.2f}", f"{statistics.median(files[name]):.1f}")


def main() -> None:
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}; medians of {ROUNDS} rounds of {ROUND_S:g} s\n")
    head("who looks", "increments/s of another process", "of being alone", "file, MB")
    compare()
    print()
    head("things in the hall", "snapshot, ms", "us a thing")
    for count in THINGS:
        with guildhall.open() as hall:
            kept = fill(hall, count)
            spent = p50(times(hall.snapshot, 5))
            row(count, f"{spent * 1e3:.1f}", f"{spent / count * 1e6:.0f}")
            del kept


if __name__ == "__main__":
    main()
