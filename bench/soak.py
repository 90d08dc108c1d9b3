"""Whether anything grows: mixed load for a long time, sampled, judged and plotted. `make soak MINUTES=60`.

A client with two workers and three plain processes use one hall: tasks (small, and with a value of 1 MB), locks, queues
(got, and taken and acknowledged), topics, counters, variables with large values, and events of names that are new each
time. One of the plain processes is killed and replaced every few seconds. Sampled: memory (what each process has for
itself, and what they share), the store's file and what of it is used, file descriptors, threads, sessions, blobs, and
how long a lock with a counter takes. Flat is: the last third is not above the second by more than what is allowed; the
first is for warming up.

Writes soak.json and its plot, light and dark, into bench/results, or where `--out` says; `--report` draws the plot anew
from the soak.json that is there. The exit code tells whether all is flat.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

import guildhall
from guildhall import Client, Counter, Event, Lock, Pub, Queue, Sub, TimedOut, Variable

PLAIN = 3
CHURN_S = 5.0
"""So often a plain process is killed, and another one takes its place."""
PAUSE_S = 0.002
"""What a process rests between two operations, so that what is measured is not two cores that are full."""
MEGABYTE = 1 << 20
CONTROL = 2000
"""So many numbers are added up: about as long as what is measured."""
SAMPLES = 600
"""About how many a run takes, but not more than one a second."""
ALLOWED = {
    "memory MB": (0.05, 4.0),
    "shared MB": (0.05, 8.0),
    "file MB": (0.05, 8.0),
    "used MB": (0.10, 1.0),
    "descriptors": (0.0, 6.0),
    "threads": (0.0, 3.0),
    "sessions": (0.0, 1.0),
    "blobs": (0.0, 4.0),
    "p50 / control": (0.30, 0.0),
    "p99 / control": (1.00, 0.0),
}
"""By how much the last third may be above the second: a share of it, and so much whatever it is. Latency is held
against that of a control, which computes for as long and asks nobody: on a machine that others use, both get slower."""
SHOWN = (*ALLOWED, "p50 us", "p99 us")


# -- load -------------------------------------------------------------------------------------------------------------


def touch(value: bytes) -> int:
    """A task with a large argument."""
    return len(value)


class Toiler:
    """A plain process: one operation after the other, and how long each took."""

    def __init__(self, hall: guildhall.Hall) -> None:
        self.dice = random.Random(os.getpid())
        self.hall = hall
        self.queue, self.lock = Queue("q", maxsize=100, hall=hall), Lock("l", hall=hall)
        self.pub, self.sub = Pub("t", maxlen=100, hall=hall), Sub("t", hall=hall)
        self.large, self.counter = Variable("large", hall=hall), Counter("c", hall=hall)
        self.number = 0

    def step(self) -> None:
        self.number += 1
        self.dice.choice((self.pass_on, self.work, self.guard, self.count, self.publish, self.hear, self.signal))()
        if self.number % 50 == 0:
            self.large.set(os.urandom(1000) * 200)  # 200 kB: a blob.
            self.large.get()

    def pass_on(self) -> None:
        with suppress(TimedOut):
            self.queue.put(self.number, timeout=0.05)

    def work(self) -> None:
        with suppress(TimedOut):
            if self.number % 2:
                self.queue.get(timeout=0.01)
            else:
                with self.queue.take(timeout=0.01):
                    pass

    def guard(self) -> None:
        with self.lock:
            pass

    def count(self) -> None:
        self.counter.add(1)

    def publish(self) -> None:
        self.pub.put(self.number)

    def hear(self) -> None:
        with suppress(TimedOut, guildhall.Lagged):
            self.sub.get(timeout=0)

    def signal(self) -> None:
        """A name that nobody used before, and nobody will again."""
        event = Event(f"e {os.getpid()} {self.number}", hall=self.hall)
        event.set()
        event.wait()
        event.clear()


def toil(directory: str, out: str) -> None:
    """Until killed. Writes a line a second: microseconds of the operations that do not wait for others."""
    with guildhall.open(Path(directory)) as hall, Path(out).open("a") as lines:
        toiler, took_us, control_us, since = Toiler(hall), list[float](), list[float](), time.monotonic()
        while True:
            toiler.step()
            began = time.perf_counter()
            toiler.guard()
            toiler.count()
            between = time.perf_counter()
            sum(range(CONTROL))
            took_us.append((between - began) * 1e6)
            control_us.append((time.perf_counter() - between) * 1e6)
            time.sleep(PAUSE_S)
            if time.monotonic() - since > 1:
                lines.write(json.dumps([time.time(), took_us, control_us]) + "\n")
                lines.flush()
                took_us, control_us, since = [], [], time.monotonic()


class Load:
    """The client, its tasks, and the plain processes."""

    def __init__(self, client: Client, out: Path) -> None:
        self.client, self.out = client, out
        self.lines = out / "soak.lines"
        self.lines.write_text("")
        self.plain: list[subprocess.Popen[bytes]] = []
        self.killed = self.tasks = 0
        self._next_s = time.monotonic() + CHURN_S

    def step(self) -> None:
        while len(self.plain) < PLAIN:
            command = [sys.executable, __file__, "--toil", self.client.host.directory, "--out", str(self.lines)]
            self.plain.append(subprocess.Popen(command))
        if time.monotonic() > self._next_s:
            self._next_s = time.monotonic() + CHURN_S
            self._kill(self.plain.pop(0))
        ended = [process.args for process in self.plain if process.poll() is not None]
        assert not ended, "a plain process ended by itself"
        futures = self.client.map(abs, range(20), pure=False)
        assert sum(self.client.gather(futures)) == 190
        assert self.client.submit(touch, b"x" * MEGABYTE, pure=False).result(timeout=60) == MEGABYTE
        self.tasks += 21
        time.sleep(0.02)

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.killed += 1

    def end(self) -> None:
        for process in self.plain:
            self._kill(process)


# -- samples ----------------------------------------------------------------------------------------------------------


def sample(load: Load) -> dict[str, float]:
    """What the hall and its processes take now."""
    here = psutil.Process()
    processes = [here, *here.children(recursive=True)]
    host = load.client.host
    usage = host.usage()
    found: dict[str, float] = {"at": time.time(), "memory MB": 0.0, "descriptors": 0, "threads": 0}
    for process in processes:
        with suppress(psutil.Error):
            memory = process.memory_full_info()
            found["memory MB"] += (memory.uss) / MEGABYTE
            found["descriptors"] += process.num_fds()
            found["threads"] += process.num_threads()
    blobs = Path(host.directory) / "blobs"
    sizes = [size for path in blobs.iterdir() if (size := _size(path))]
    found["blobs"] = len(sizes)
    found["shared MB"] = (usage.file_bytes + sum(sizes)) / MEGABYTE
    found["file MB"] = usage.file_bytes / MEGABYTE
    found["used MB"] = usage.used_bytes / MEGABYTE
    found["sessions"] = len(processes_in(host))
    return found


def processes_in(host: Any) -> list[Any]:
    from guildhall.primitives import sessions

    return list(host.read(sessions.everybody))


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0


def with_latencies(samples: list[dict[str, float]], lines: Path) -> list[dict[str, float]]:
    """Each sample with the p50 and p99 of what was measured since the one before."""
    measured = sorted(json.loads(line) for line in lines.read_text().splitlines() if line.endswith("]"))
    before = 0.0
    for one in samples:
        recent = [line for line in measured if before < line[0] <= one["at"]]
        before = one["at"]
        took = sorted(us for _, some, _ in recent for us in some)
        control = sorted(us for _, _, some in recent for us in some)
        for name, share in (("p50", 50), ("p99", 99)):
            if took:
                one[f"{name} us"] = took[len(took) * share // 100]
                one[f"{name} / control"] = one[f"{name} us"] / control[len(control) * share // 100]
    return samples


def verdicts(samples: list[dict[str, float]]) -> dict[str, dict[str, Any]]:
    """For each figure: the median of the second third and of the last, and whether that is flat."""
    third = len(samples) // 3
    found = {}
    for what, (share, fixed) in ALLOWED.items():
        middle, last = (
            statistics.median(one[what] for one in part if what in one)
            for part in (samples[third : 2 * third], samples[2 * third :])
        )
        is_flat = last <= middle + max(fixed, share * middle)
        found[what] = {"second third": round(middle, 2), "last third": round(last, 2), "flat": is_flat}
    return found


def plot(samples: list[dict[str, float]], out: Path) -> None:
    from lib import plots  # Here: the processes that toil need none.

    try:
        plots.draw_soak(samples, SHOWN, out)
    except ModuleNotFoundError as error:
        raise SystemExit("soak: the plot needs matplotlib: pip install 'guildhall[bench]'") from error


def soak(minutes: float, out: Path) -> int:
    """The number of figures that are not flat."""
    out.mkdir(parents=True, exist_ok=True)
    every_s = max(1.0, minutes * 60 / SAMPLES)
    samples: list[dict[str, float]] = []
    with Client(n_workers=2) as client:
        load = Load(client, out)
        try:
            began = next_s = time.monotonic()
            while time.monotonic() < began + minutes * 60:
                load.step()
                if time.monotonic() >= next_s:
                    next_s += every_s
                    samples.append(sample(load))
        finally:
            load.end()
        counted = Counter("c", hall=client).get()
    found = verdicts(with_latencies(samples, load.lines))
    load.lines.unlink()
    facts = {"minutes": minutes, "tasks": load.tasks, "killed": load.killed, "counted": counted}
    (out / "soak.json").write_text(json.dumps({**facts, "verdicts": found, "samples": samples}, indent=1))
    plot(samples, out)
    print(f"{minutes:g} minutes, {load.tasks} tasks, {counted} counted, {load.killed} processes killed and replaced")
    for what, verdict in found.items():
        state = "flat" if verdict["flat"] else "GROWS"
        print(f"{what:12} {verdict['second third']:>10} -> {verdict['last third']:>10}  {state}")
    return sum(not verdict["flat"] for verdict in found.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--out", default=str(Path(__file__).parent / "results"))
    parser.add_argument("--report", action="store_true", help="no run: the plot of the results that are there")
    parser.add_argument("--toil", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.toil:
        toil(given.toil, given.out)
        return 0
    if given.report:
        plot(json.loads((Path(given.out) / "soak.json").read_text())["samples"], Path(given.out))
        return 0
    return min(soak(given.minutes, Path(given.out)), 1)


if __name__ == "__main__":
    sys.exit(main())
