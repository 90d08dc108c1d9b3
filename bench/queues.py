"""Queues: the cost of each operation, from 10 to 100 000 items in the queue, and with others in line.

`python bench/queues.py` prints p50 and p99 in microseconds; peers of multiprocessing in the same run.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable
from typing import Any

import guildhall

DEPTHS = (0, 10, 1000, 100_000)
TIMES = 2000


def measure(call: Callable[[], Any], times: int = TIMES) -> str:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    taken.sort()
    return f"{taken[times // 2] * 1e6:.1f} / {taken[int(times * 0.99)] * 1e6:.1f}"


def operations(queue: guildhall.Queue, ranked: guildhall.PriorityQueue) -> dict[str, Callable[[], Any]]:
    def delayed() -> None:
        queue.put(1, delay=1e-6)
        queue.get()

    return {
        "put + get": lambda: (queue.put(1), queue.get()),
        "put + get of 1 KB": lambda value=b"x" * 1024: (queue.put(value), queue.get()),
        "put + get of 60 KB": lambda value=b"x" * 60_000: (queue.put(value), queue.get()),
        "put + take + ack": lambda: (queue.put(1), queue.take().ack()),
        "take + nack": lambda: (queue.put(1), queue.take().nack(), queue.get()),
        "put delayed + get": delayed,
        "PriorityQueue put + get": lambda: (ranked.put(1, priority=-1), ranked.get()),
        "qsize": queue.qsize,
    }


def main() -> None:
    with guildhall.open() as hall:
        print(f"| us, p50 / p99 | {' | '.join(f'{depth} deep' for depth in DEPTHS)} |")
        print("| --- |" + " --- |" * len(DEPTHS))
        rows: dict[str, list[str]] = {}
        for depth in DEPTHS:
            queue = guildhall.Queue(f"q{depth}", hall=hall)
            ranked = guildhall.PriorityQueue(f"p{depth}", hall=hall)
            for one in (queue, ranked):
                for at in range(0, depth, 1000):
                    one.put_many(range(min(1000, depth - at)))
            for what, call in operations(queue, ranked).items():
                measure(call, 100)
                rows.setdefault(what, []).append(measure(call))
            queue.get(batch=True)
            ranked.get(batch=True)
        for what, cells in rows.items():
            print(f"| {what} | {' | '.join(cells)} |")
        print("| with getters in line at another queue | 1 | 200 | | |")
        cells = [with_waiters(hall, waiters) for waiters in (1, 200)]
        print(f"| put + get | {' | '.join(cells)} | | |")
    peers()


def with_waiters(hall: guildhall.Hall, count: int) -> str:
    """Put and get while so many threads wait at another queue."""
    queue, idle = guildhall.Queue(f"w{count}", 10, hall=hall), guildhall.Queue(f"idle{count}", hall=hall)
    threads = [threading.Thread(target=lambda: list(idle), daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    while idle.statistics().getters < count:
        time.sleep(0.01)
    found = measure(lambda: (queue.put(1), queue.get()))
    idle.close()
    for thread in threads:
        thread.join()
    return found


def peers() -> None:
    with multiprocessing.Manager() as manager:
        managed = manager.Queue()
        piped: Any = multiprocessing.Queue()
        for what, queue in (("Manager().Queue", managed), ("multiprocessing.Queue", piped)):
            print(f"| {what}: put + get | {measure(lambda queue=queue: (queue.put(1), queue.get()), 500)} | | | |")


if __name__ == "__main__":
    main()
