"""How long to look before sleeping: round trips of tasks, and increments under one lock by several processes.

For each length of looking: microseconds for one increment (all processes together), and processor time for one. Run it
with `python bench/waiting.py`; docs/decisions/0002-waiting.md tells what follows.
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import time

import psutil
from lib.timing import forked, head, joined, p50, p99, row, seconds, times

import guildhall
from guildhall.hosts import embedded

LOOKS_US = (0, 10, 20, 50, 100, 200)
TIMES = 3000
ROUNDS = 5


def increment(hall: guildhall.Hall, times: int, hold_us: float) -> None:
    lock, value = guildhall.Lock("l", hall=hall), guildhall.Variable("v", hall=hall)
    for _ in range(times):
        with lock:
            value.set(value.get() + 1)
            until = time.perf_counter() + hold_us / 1e6
            while hold_us and time.perf_counter() < until:
                pass


def measure(hall: guildhall.Hall, processes: int, look_us: float, hold_us: float) -> tuple[float, float]:
    """Microseconds, and microseconds of processor time, for one increment."""
    guildhall.Variable("v", hall=hall).set(0)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)

    def work(_: int) -> None:
        embedded.LOOK_S = look_us / 1e6
        increment(hall, TIMES // processes, hold_us)

    took = seconds(lambda: joined(forked(work, processes)))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return took / TIMES * 1e6, cpu / TIMES * 1e6


def round_trips(look_us: float) -> tuple[float, float, float]:
    """Microseconds, median and 99th of a hundred, of a task's round trip, and of processor time for one, when idle
    workers look for that long."""
    code = f"import guildhall.hosts.embedded as e; e.LOOK_S = {look_us / 1e6}"
    with guildhall.Client(n_workers=2) as client:
        pids = {process.pid for process in client.cluster.pool.processes}
        while pids:  # Until each worker has been told.
            pids.discard(client.submit(told, code).result())
        before = processor_s(client)
        taken = times(lambda: client.submit(abs, 1).result(), 1000)
        cpu = processor_s(client) - before
    return p50(taken) * 1e6, p99(taken) * 1e6, cpu / 1000 * 1e6


def told(code: str) -> int:
    exec(code)
    time.sleep(0.01)
    return os.getpid()


def processor_s(client: guildhall.Client) -> float:
    everybody = [os.getpid(), *(process.pid for process in client.cluster.pool.processes)]
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in everybody)


def main() -> None:
    if "--no-yield" in sys.argv:
        os.sched_yield = lambda: None
    head("a worker looks, us", "round trip p50 / p99, us", "processor us a round trip")
    for look_us in (0, 50, 100, 200, 500):
        rounds = [round_trips(look_us) for _ in range(ROUNDS)]
        middle, late, cpu = (statistics.median(side) for side in zip(*rounds))
        row(look_us, f"{middle:.0f} / {late:.0f}", f"{cpu:.0f}")
    head("processes", "held, us", "look, us", "us an increment", "processor us an increment")
    with guildhall.open() as hall:
        for processes, hold_us in ((2, 0), (2, 30), (4, 0), (8, 0)):
            for look_us in LOOKS_US:
                rounds = [measure(hall, processes, look_us, hold_us) for _ in range(ROUNDS)]
                wall, cpu = (statistics.median(side) for side in zip(*rounds))
                row(processes, hold_us, look_us, f"{wall:.1f}", f"{cpu:.1f}")


if __name__ == "__main__":
    main()
