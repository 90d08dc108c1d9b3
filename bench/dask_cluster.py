"""guildhall on a Dask cluster beside Dask's own primitives, on the same cluster in the same run.

    python bench/dask_cluster.py            # starts a scheduler and two workers on loopback
    python bench/dask_cluster.py --quick

Each operation: p50 and p99 of both and their ratio, measured in turns, so that a busy machine disturbs both alike.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import distributed
import psutil

import guildhall
from guildhall import aio

BATCH = 20
WAITERS = 1000
FULL = 20_000


@contextmanager
def cluster(n_workers: int = 2) -> Iterator[tuple[str, psutil.Process]]:
    """The address of a scheduler with workers of one thread each, and its process."""
    place = Path(tempfile.mkdtemp())
    file = place / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": place}
    scheduler = subprocess.Popen(
        [*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file),
         "--preload", "guildhall.hosts.dask"], **quiet,
    )  # fmt: skip
    while not file.exists() or not file.read_text():
        time.sleep(0.05)
    address = json.loads(file.read_text())["address"]
    worker = subprocess.Popen(
        [*dask, "worker", address, "--nworkers", str(n_workers), "--nthreads", "4", "--no-dashboard"], **quiet
    )
    try:
        yield address, psutil.Process(scheduler.pid)
    finally:
        for process in (worker, scheduler):
            process.terminate()
            process.wait()


# -- one operation ----------------------------------------------------------------------------------------------------


def timed(call: Callable[[], object], times_us: list[float]) -> None:
    for _ in range(BATCH):
        began = time.perf_counter()
        call()
        times_us.append((time.perf_counter() - began) * 1e6)


def compare(title: str, ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> None:
    mine: list[float] = []
    other: list[float] = []
    timed(ours, [])
    timed(theirs, [])
    for _ in range(rounds):
        timed(ours, mine)
        timed(theirs, other)
    report(title, mine, other)


def report(title: str, mine: list[float], other: list[float]) -> None:
    def at(times: list[float], percent: int) -> float:
        return statistics.quantiles(times, n=100)[percent - 1]

    def part(percent: int) -> str:
        one, two = at(mine, percent), at(other, percent)
        return f"p{percent} {one:7.0f} {two:7.0f} us, ratio {one / two:4.2f}"

    print(f"{title:32} {part(50)}  {part(99)}", flush=True)


def operations(native: distributed.Client, rounds: int) -> None:
    print("from the client: ours, Dask's")
    mine, other = guildhall.Variable("bench"), distributed.Variable("bench", client=native)
    compare("Variable.set", lambda: mine.set(1), lambda: other.set(1), rounds)
    compare("Variable.get", mine.get, other.get, rounds)
    queue, their_queue = guildhall.Queue("bench"), distributed.Queue("bench", client=native)
    compare("Queue.put", lambda: queue.put(1), lambda: their_queue.put(1), rounds)
    compare("Queue.qsize", queue.qsize, their_queue.qsize, rounds)
    compare("Queue.get", queue.get, their_queue.get, rounds)
    lock, their_lock = guildhall.Lock("bench"), distributed.Lock("bench")

    def cycle(one: Any) -> Callable[[], None]:
        def run() -> None:
            one.acquire()
            one.release()

        return run

    compare("Lock.acquire + release", cycle(lock), cycle(their_lock), rounds)
    semaphore, theirs = guildhall.Semaphore("bench", 2), distributed.Semaphore(2, name="bench-semaphore")
    compare("Semaphore.acquire + release", cycle(semaphore), cycle(theirs), rounds)
    event, their_event = guildhall.Event("bench"), distributed.Event("bench", client=native)
    compare("Event.set", event.set, their_event.set, rounds)
    compare("Event.wait, when it is set", event.wait, their_event.wait, rounds)
    compare("Event.is_set", event.is_set, their_event.is_set, rounds)


def tasks(client: guildhall.Client, native: distributed.Client, rounds: int) -> None:
    print("tasks")
    compare(
        "submit + result",
        lambda: client.submit(abs, -1).result(),
        lambda: native.submit(abs, -1, pure=False).result(),
        max(2, rounds // 5),
    )


# -- many at it -------------------------------------------------------------------------------------------------------


def contended(kind: str, cycles: int) -> float:
    """In a worker: so many cycles of lock, read, write. Returns the seconds that they took."""
    if kind == "ours":
        import guildhall as made
    else:
        import distributed as made  # type: ignore[no-redef]
    lock, count = made.Lock("contended"), made.Variable("contended")
    began = time.perf_counter()
    for _ in range(cycles):
        with lock:
            count.set(count.get() + 1)
    return time.perf_counter() - began


def lock_contention(client: guildhall.Client, native: distributed.Client, cycles: int) -> None:
    guildhall.Variable("contended").set(0)
    distributed.Variable("contended", client=native).set(0)
    workers = list(client.nthreads())
    took = {}
    for kind in ("ours", "theirs"):
        client.gather([client.submit(contended, kind, 2, workers=worker) for worker in workers])  # All is loaded.
        began = time.perf_counter()
        for future in [client.submit(contended, kind, cycles, workers=worker) for worker in workers]:
            future.result()
        took[kind] = (time.perf_counter() - began) / (cycles * len(workers)) * 1e6
    assert guildhall.Variable("contended").get() == (cycles + 2) * len(workers), "the lock is one"
    print(
        f"contended lock + read + write, {len(workers)} workers: {took['ours']:.0f} us a cycle, "
        f"Dask's {took['theirs']:.0f} us: {took['theirs'] / took['ours']:.1f} times better",
        flush=True,
    )


def pump(kind: str, n: int) -> None:
    made: Any = guildhall if kind == "ours" else distributed
    queue = made.Queue("pumped")
    for number in range(n):
        queue.put(number)


def drain(kind: str, n: int) -> float:
    made: Any = guildhall if kind == "ours" else distributed
    queue = made.Queue("pumped")
    queue.get()
    began = time.perf_counter()
    for _ in range(n - 1):
        queue.get()
    return (n - 1) / (time.perf_counter() - began)


def queue_throughput(client: guildhall.Client, n: int) -> None:
    first, last = sorted(client.nthreads())[:2]
    found = {}
    for kind in ("ours", "theirs"):
        out = client.submit(drain, kind, n, workers=last)
        client.submit(pump, kind, n, workers=first).result()
        found[kind] = out.result()
    mine, other = found.values()
    print(f"queue between two workers: {mine:.0f} items/s, Dask's {other:.0f}: {mine / other:.1f} times", flush=True)


def publish(n: int, listeners: int, size_bytes: int) -> None:
    pub, data = guildhall.Pub("bench"), os.urandom(size_bytes)
    guildhall.Latch("bench listen", listeners).wait()
    pub.put("first")  # Connections are made with it.
    guildhall.Event("bench go").wait()
    for number in range(n):
        pub.put(data or number)


def listen(n: int, listeners: int) -> float:
    sub = guildhall.Sub("bench")
    guildhall.Latch("bench listen", listeners).count_down()
    sub.get()
    guildhall.Latch("bench connected", listeners).count_down()
    sub.get()
    began = time.perf_counter()
    for _ in range(n - 1):
        sub.get()
    return (n - 1) / (time.perf_counter() - began)


async def start_probe(dask_scheduler: Any) -> None:
    """From now on note by how much the scheduler's event loop is late."""

    async def look() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.002)
            late.append(time.perf_counter() - began - 0.002)

    late: list[float] = []
    dask_scheduler.bench_probe = late, asyncio.ensure_future(look())


async def stop_probe(dask_scheduler: Any) -> list[float]:
    """What was noted, in ms, in order of size."""
    late, task = dask_scheduler.bench_probe
    task.cancel()
    return [1e3 * one for one in sorted(late)]


def topics(
    title: str, client: guildhall.Client, scheduler: psutil.Process, n: int, listeners: int = 1, size_bytes: int = 0
) -> None:
    first, *others = sorted(client.nthreads())
    native = client.engine.client  # type: ignore[attr-defined]
    guildhall.Event("bench go").clear()
    heard = [client.submit(listen, n, listeners, workers=others[i % len(others)]) for i in range(listeners)]
    sent = client.submit(publish, n, listeners, size_bytes, workers=first)
    guildhall.Latch("bench connected", listeners).wait()
    native.run_on_scheduler(start_probe)
    before, passed = scheduler.cpu_times(), scheduler.io_counters()
    guildhall.Event("bench go").set()
    sent.result()
    rates = [one.result() for one in heard]
    after, now = scheduler.cpu_times(), scheduler.io_counters()
    late = native.run_on_scheduler(stop_probe)
    for latch in ("bench listen", "bench connected"):
        guildhall.Latch(latch, listeners).delete()
    spent = after.user + after.system - before.user - before.system
    through = now.read_chars + now.write_chars - passed.read_chars - passed.write_chars
    print(
        f"{title}: {min(rates):.0f} messages/s, {min(rates) * size_bytes / 1e6:.0f} MB/s; of the scheduler "
        f"{spent:.2f} s and {through / 1e3:.0f} kB for {n}, its loop late by {late[len(late) // 2]:.1f} ms, p99 "
        f"{late[len(late) * 99 // 100]:.1f} ms, at most {late[-1]:.1f} ms",
        flush=True,
    )


def idle(native: distributed.Client) -> None:
    native.run_on_scheduler(start_probe)
    time.sleep(3)
    late = native.run_on_scheduler(stop_probe)
    print(
        f"the scheduler's loop, with nothing to do: late by {late[len(late) // 2]:.1f} ms, p99 "
        f"{late[len(late) * 99 // 100]:.1f} ms, at most {late[-1]:.1f} ms",
        flush=True,
    )


def all_topics(client: guildhall.Client, native: distributed.Client, scheduler: psutil.Process, n: int) -> None:
    print("publish/subscribe between workers")
    idle(native)
    topics("one publisher, one subscriber", client, scheduler, 10 * n)
    topics("one publisher, 8 subscribers", client, scheduler, n, listeners=8)
    topics("messages of 1 MiB", client, scheduler, n // 100, size_bytes=1 << 20)
    topics("a million messages" if n == FULL else "many messages", client, scheduler, 50 * n)


# -- a thousand waiters -----------------------------------------------------------------------------------------------


async def waiters(scheduler: psutil.Process, settle_s: float, seconds: float) -> float:
    """The share of a core that the scheduler takes while they wait."""
    guildhall.Lock("crowded").acquire()
    waiting = [asyncio.ensure_future(_one()) for _ in range(WAITERS)]
    await asyncio.sleep(settle_s)
    share = await _share(scheduler, seconds)
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    return share


async def _one() -> None:
    await aio.Lock("crowded").acquire()


async def their_waiters(address: str, scheduler: psutil.Process, settle_s: float, seconds: float) -> float:
    async with distributed.Client(address, asynchronous=True, set_as_default=True) as client:
        first = distributed.Semaphore(1, name="crowded-theirs", scheduler_rpc=client.scheduler, loop=client.loop)
        await first.acquire()
        others = [
            distributed.Semaphore(1, name="crowded-theirs", scheduler_rpc=client.scheduler, loop=client.loop)
            for _ in range(WAITERS)
        ]
        waiting = [asyncio.ensure_future(other.acquire()) for other in others]
        await asyncio.sleep(settle_s)
        share = await _share(scheduler, seconds)
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return share


async def _share(process: psutil.Process, seconds: float) -> float:
    before = process.cpu_times()
    await asyncio.sleep(seconds)
    after = process.cpu_times()
    return (after.user + after.system - before.user - before.system) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument(
        "--topics", action="store_true", help="only publish/subscribe, with a worker for each subscriber"
    )
    quick, only_topics = (given := parser.parse_args()).quick, given.topics
    logging.getLogger("distributed").setLevel(logging.ERROR)
    rounds, n = (5, 2_000) if quick else (50, FULL)
    n_workers = 9 if only_topics else 2
    with cluster(n_workers) as (address, scheduler), guildhall.Client(address) as client:
        client.wait_for_workers(n_workers, timeout=60)
        native = client.engine.client  # type: ignore[attr-defined]
        print(f"distributed {distributed.__version__}, {os.cpu_count()} cores")
        if only_topics:
            all_topics(client, native, scheduler, n)
            return
        operations(native, rounds)
        tasks(client, native, rounds)
        lock_contention(client, native, 50 if quick else 300)
        queue_throughput(client, n // 10)
        all_topics(client, native, scheduler, n)
        times_s = (1, 3) if quick else (16, 16)  # Who waits looks for circles after 1, 2, 4, ... and then each 16 s.
        nobody = asyncio.run(_share(scheduler, 3))
        mine = asyncio.run(waiters(scheduler, *times_s))
        theirs = asyncio.run(their_waiters(address, scheduler, *times_s))
        print(
            f"{WAITERS} waiters on one lock: the scheduler takes {100 * mine:.1f} % of a core, "
            f"with Dask's {100 * theirs:.1f} %, with nobody {100 * nobody:.1f} %"
        )


if __name__ == "__main__":
    main()
