"""guildhall beside its peers, in one run: p50 and p99 of each operation, and the ratio of the medians.

Rounds of the two sides alternate, so that a machine that changes its speed changes both. Run it with
`make bench-quick`; `make bench` has all peers and sizes.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import Manager
from typing import Any

import distributed
import numpy as np
from lib.timing import ASKED, asked, head, p50, rate, times, us

import guildhall

ROUNDS = 3


def inc(x: int) -> int:
    return x + 1


def compare(what: str, peer: str, reach: float, ours: Any, theirs: Any, count: int, peer_count: int) -> None:
    """Print one row: microseconds of ours and the peer's, how many times faster, and how many are asked for."""
    times(ours, count // 10 + 1)
    times(theirs, peer_count // 10 + 1)
    mine: list[float] = []
    other: list[float] = []
    ratios = []
    for _ in range(ROUNDS):
        now, then = times(ours, count), times(theirs, peer_count)
        ratios.append(p50(then) / p50(now))
        mine += now
        other += then
    ratio = statistics.median(ratios)
    asked(what, f"{us(mine)} us", f"{peer}: {us(other)} us", ratio, reach)


def increment(kinds: Any, name: str, times_: int) -> float:
    lock, value = kinds.Lock(name), kinds.Variable(name)
    began = time.perf_counter()
    for _ in range(times_):
        lock.acquire()
        value.set(value.get() + 1)
        lock.release()
    return (time.perf_counter() - began) / times_


def our_increment(times_: int) -> float:
    return increment(guildhall, "contended", times_)


def their_increment(times_: int) -> float:
    return increment(distributed, "contended", times_)


def publish(count: int) -> None:
    pub = guildhall.Pub("bench")
    for number in range(count):
        pub.put(number)


def subscribe(count: int) -> float:
    sub = guildhall.Sub("bench")
    guildhall.Event("ready").set()
    sub.get()
    began = time.perf_counter()
    for _ in range(count - 1):
        sub.get()
    return count / (time.perf_counter() - began)


def started(module: str, options: str) -> float:
    """Seconds from `Client()` until two workers have run a task, in a fresh process."""
    code = (
        f"import time, operator\nfrom {module} import Client\n"
        "if __name__ == '__main__':\n"
        f"    t = time.perf_counter(); c = Client(n_workers=2{options})\n"
        "    c.gather([c.submit(operator.neg, i, pure=False) for i in range(4)])\n"
        "    print(time.perf_counter() - t); c.close()\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(ran.stdout.split()[-1])


IDLE_S = 5.0


def idle() -> tuple[float, float]:
    """Of an idle cluster of two workers: percent of one core, with its client, and MiB of the larger worker."""
    code = (
        "import time, psutil\nfrom guildhall import Client\n"
        "c = Client(n_workers=2)\n"
        "c.gather([c.submit(abs, i) for i in range(4)])\n"
        "time.sleep(1)\n"
        "all = [psutil.Process(), *psutil.Process().children(recursive=True)]\n"
        "from pathlib import Path\n"
        "ran = lambda p: sum(int(f.read_text().split()[0]) for f in Path(f'/proc/{p.pid}/task').glob('*/schedstat'))\n"
        "cpu = lambda: sum(map(ran, all)) / 1e9\n"
        f"before = cpu(); time.sleep({IDLE_S})\n"
        f"print((cpu() - before) / {IDLE_S} * 100, max(p.memory_info().rss for p in all[1:]) / 2**20); c.close()\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    percent, resident = map(float, ran.stdout.split())
    return percent, resident


def read_anonymous(array: Any) -> float:
    """MiB of its own memory that a worker needs to read the whole array."""

    def own() -> int:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))

    before = own()
    float(array.max())
    return (own() - before) / 1024


def imported(module: str) -> float:
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def main() -> None:
    head(*ASKED)
    ours = guildhall.Client(n_workers=2)
    dask = distributed.Client(n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50)
    manager, pool = Manager(), ProcessPoolExecutor(2)

    v, dv = guildhall.Variable("v"), distributed.Variable("v")
    v.set(1)
    dv.set(1)
    compare("Variable.get", "Dask", 200, v.get, dv.get, 5000, 200)
    locks = guildhall.Lock("l"), distributed.Lock("l"), manager.Lock()
    cycles = [lambda lock=lock: (lock.acquire(), lock.release()) for lock in locks]
    compare("Lock acquire + release", "Dask", 150, cycles[0], cycles[1], 3000, 100)
    compare("Lock acquire + release", "Manager", 15, cycles[0], cycles[2], 3000, 1000)
    q, dq = guildhall.Queue("q"), distributed.Queue("q")
    compare("Queue put + get", "Dask", 80, lambda: (q.put(1), q.get()), lambda: (dq.put(1), dq.get()), 3000, 100)

    v2, dv2 = guildhall.Variable("contended"), distributed.Variable("contended")
    v2.set(0)
    dv2.set(0)
    mine = statistics.mean(ours.gather(ours.map(our_increment, [2000, 2000]))) / 2
    other = statistics.mean(dask.gather(dask.map(their_increment, [101, 100]))) / 2
    asked("increment under a Lock, 2 workers", f"{mine * 1e6:.0f} us", f"Dask: {other * 1e6:.0f} us", other / mine, 50)

    def round_trip() -> Any:
        return ours.submit(inc, 1).result()

    compare("task round trip", "Dask", 30, round_trip, lambda: dask.submit(inc, 1, pure=False).result(), 300, 50)
    compare("task round trip", "ProcessPoolExecutor", 1.5, round_trip, lambda: pool.submit(inc, 1).result(), 300, 300)
    mine = rate(lambda n: ours.gather(ours.map(inc, range(n))), 20000)
    other = rate(lambda n: dask.gather(dask.map(inc, range(n), pure=False)), 1000)
    asked("map, tasks/s", f"{mine:.0f}", f"Dask: {other:.0f}", mine / other, 80)
    other = rate(lambda n: list(pool.map(inc, range(n))), 3000)
    asked("map, tasks/s", f"{mine:.0f}", f"ProcessPoolExecutor: {other:.0f}", mine / other, 8)

    reading = ours.submit(subscribe, 50_000)
    guildhall.Event("ready").wait()
    writing = ours.submit(publish, 50_000)
    mine = reading.result()
    writing.result()
    asked("Pub -> Sub, messages/s", f"{mine:.0f}", "asked: 50 000", mine / 50_000, 1)

    array = np.random.default_rng(0).random(100 * 2**20 // 8)
    compare("scatter of 100 MB", "array.copy()", 1 / 1.3, lambda: ours.scatter(array), array.copy, 9, 9)
    copied = ours.submit(read_anonymous, ours.scatter(array)).result()
    asked("reading it in a worker, own memory", f"{copied:.2f} MiB", "asked: under 1 MiB", 1 / max(copied, 1e-3), 1)
    ours.close()
    dask.close()
    pool.shutdown()
    manager.shutdown()

    starts = [(started("guildhall", ""), started("distributed", ", dashboard_address=None")) for _ in range(ROUNDS)]
    mine, other = (statistics.median(side) for side in zip(*starts))
    asked("Client() and a task on each worker", f"{mine * 1e3:.0f} ms", f"Dask: {other * 1e3:.0f} ms", other / mine, 8)
    percent, resident = idle()
    asked("idle cluster of two, share of a core", f"{percent:.2f} %", "asked: 0.5 %", 0.5 / max(percent, 1e-3), 1)
    asked("a worker before user imports, resident", f"{resident:.1f} MiB", "asked: 35 MiB", 35 / resident, 1)
    imports = [(imported("guildhall"), imported("distributed")) for _ in range(ROUNDS)]
    mine, other = (statistics.median(side) for side in zip(*imports))
    asked("import", f"{mine * 1e3:.1f} ms", f"Dask: {other * 1e3:.0f} ms", other / mine, 15)


if __name__ == "__main__":
    main()
