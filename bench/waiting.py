"""How long to look before sleeping: increments under one lock by several processes, and what they cost.

For each length of looking: microseconds for one increment (all processes together), and processor time for one. Run it
with `python bench/waiting.py`; docs/decisions/0002-waiting.md tells what follows.
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import time

import guildhall
from guildhall.client import drive

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
    began = time.perf_counter()
    children = []
    for _ in range(processes):
        pid = os.fork()
        if not pid:
            drive.LOOK_S = look_us / 1e6
            increment(hall, TIMES // processes, hold_us)
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    took = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return took / TIMES * 1e6, cpu / TIMES * 1e6


def main() -> None:
    if "--no-yield" in sys.argv:
        os.sched_yield = lambda: None
    print("| processes | held, us | look, us | us an increment | processor us an increment |")
    print("| --- | --- | --- | --- | --- |")
    with guildhall.open() as hall:
        for processes, hold_us in ((2, 0), (2, 30), (4, 0), (8, 0)):
            for look_us in LOOKS_US:
                rounds = [measure(hall, processes, look_us, hold_us) for _ in range(ROUNDS)]
                wall, cpu = (statistics.median(side) for side in zip(*rounds))
                print(f"| {processes} | {hold_us} | {look_us} | {wall:.1f} | {cpu:.1f} |", flush=True)


if __name__ == "__main__":
    main()
