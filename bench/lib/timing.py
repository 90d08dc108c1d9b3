"""Measuring helpers that every script of bench/ shares: samples, their middle and 99th, rows of a table."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Call = Callable[[], Any]


def seconds(call: Call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def times(call: Call, count: int, before: Call | None = None, batch: int = 1) -> list[float]:
    """Seconds of each of so many calls; `before` each comes what is not measured. With a batch, of so many calls each
    the mean: the clock then costs nothing, and single slow calls are not seen."""
    taken = []
    clock = time.perf_counter
    for _ in range(count):
        if before is not None:
            before()
        began = clock()
        for _ in range(batch):
            call()
        taken.append((clock() - began) / batch)
    return taken


def during(call: Call, seconds_: float, at_least: int = 1) -> list[float]:
    """Seconds of each call, one after the other until the time is over."""
    taken: list[float] = []
    clock = time.perf_counter
    until = clock() + seconds_
    now = clock()
    while now < until or len(taken) < at_least:
        call()
        taken.append(-now + (now := clock()))
    return taken


def best(call: Call, rounds: int = 3) -> float:
    """Seconds of the fastest round."""
    return min(seconds(call) for _ in range(rounds))


def rate(run: Callable[[int], Any], count: int, rounds: int = 3) -> float:
    """Calls a second: of the fastest round."""
    return count / best(lambda: run(count), rounds)


def share(samples: Iterable[float], part: float) -> float:
    """The value that so large a part of the samples does not pass."""
    ordered = sorted(samples)
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)]


def p50(samples: Iterable[float]) -> float:
    return share(samples, 0.5)


def p99(samples: Iterable[float]) -> float:
    return share(samples, 0.99)


def us(samples: Sequence[float]) -> str:
    """p50 and p99 in microseconds."""
    return f"{p50(samples) * 1e6:.1f} / {p99(samples) * 1e6:.1f}"


def row(*cells: object) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def head(*cells: object) -> None:
    row(*cells)
    row(*("---" for _ in cells))


def asked(what: str, ours: str, theirs: str, ratio: float, reach: float) -> None:
    """A row of a table that says how much faster we are, how much is asked of us, and whether that is reached."""
    row(what, ours, theirs, f"{ratio:.1f}", f"{reach:g}", "yes" if ratio >= reach else "NO")


ASKED = ("what", "guildhall", "peer", "times faster", "asked", "reached")


def forked(work: Callable[[int], Any], processes: int) -> list[int]:
    """Children that each do the work, told which they are. `joined` waits for them."""
    pids = []
    for number in range(processes):
        pid = os.fork()
        if not pid:
            status = 1
            try:
                work(number)
                status = 0
            finally:
                os._exit(status)
        pids.append(pid)
    return pids


def joined(pids: Iterable[int]) -> None:
    for pid in pids:
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status:
            raise RuntimeError(f"a process of the measurement ended with {status}")
