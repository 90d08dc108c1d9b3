"""How long to look at the writer mutex before sleeping at it: commits, and a tree of tasks.

For each length of looking: commits a second of several processes that do nothing else, the smallest part that one of
them got, how long one took; and the time for a tree of tasks. Run it with `python bench/mutex.py`;
docs/decisions/0015-writer-mutex.md tells what follows.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from lib.functions import add, inc
from lib.timing import during, forked, head, joined, p50, row, seconds, share

import guildhall
from guildhall.store import mutex

LENGTHS = ((0, 0), (100, 0), (400, 0), (0, 100), (400, 100), (1500, 100))
SECONDS = 1.0
ROUNDS = 3
LEAVES = 2500


def look_for(looks: int, turns: int) -> None:
    mutex.LOOKS, mutex.TURNS = looks, turns


def commits(processes: int) -> tuple[float, float, float, float]:
    """A second, of all; the smallest part in hundredths of an even one; microseconds, p50 and 99.9th of a hundred."""
    with guildhall.open() as hall, tempfile.TemporaryDirectory() as told:
        counter = guildhall.Counter("c", hall=hall)
        start = time.monotonic() + 0.3

        def work(number: int) -> None:
            counter.add(1)
            time.sleep(max(0.0, start - time.monotonic()))
            taken = during(lambda: counter.add(1), SECONDS)
            facts = len(taken), p50(taken) * 1e6, share(taken, 0.999) * 1e6
            Path(told, str(number)).write_text(json.dumps(facts))

        joined(forked(work, processes))
        counts, middles, lates = zip(*(json.loads(path.read_text()) for path in Path(told).iterdir()))
    total = sum(counts)
    return total / SECONDS, 100 * min(counts) * processes / total, statistics.median(middles), max(lates)


def tree(client: guildhall.Client) -> None:
    level = client.map(inc, range(LEAVES))
    while len(level) > 1:
        level = [client.submit(add, *level[at : at + 2]) for at in range(0, len(level), 2)]
    assert level[0].result() == LEAVES * (LEAVES + 1) // 2


def trees(looks: int, turns: int) -> float:
    """Microseconds for each task."""
    with guildhall.Client(n_workers=2) as client:
        client.run(look_for, looks, turns)
        tree(client)
        return min(seconds(lambda: tree(client)) for _ in range(2 * ROUNDS)) / (2 * LEAVES) * 1e6


def main() -> None:
    print(f"{os.cpu_count()} cores\n")
    head("looks", "turns", "processes", "commits/s", "smallest part, %", "p50, us", "p99.9, us")
    for processes in (2, 4, 8, 32):
        for looks, turns in LENGTHS:
            look_for(looks, turns)
            rounds = [commits(processes) for _ in range(ROUNDS)]
            rate, part, middle, late = (statistics.median(side) for side in zip(*rounds))
            row(looks, turns, processes, f"{rate:.0f}", f"{part:.0f}", f"{middle:.1f}", f"{late:.0f}")
    head("looks", "turns", "us for each task of a tree")
    for looks, turns in LENGTHS:
        look_for(looks, turns)
        row(looks, turns, f"{trees(looks, turns):.1f}")


if __name__ == "__main__":
    main()
