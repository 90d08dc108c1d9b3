"""What Variable and Counter cost: each operation alone, beside many names and watchers, and adds of several processes.

Run it with `python bench/counter.py`. Microseconds p50 and p99 of one call; what a set costs that others wait for; then
adds, and updates, in a second by 1, 2 and 4 processes together.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from lib.timing import forked, head, joined, p50, row, seconds, times, us

import guildhall
from guildhall import Counter, Hall, Variable

TIMES = 20_000
NAMES = 10_000
WATCHERS = 200
ROUNDS = 3


def measure(call: Callable[[], Any], count: int = TIMES) -> str:
    return us(times(call, count))


def calls(hall: Hall) -> dict[str, Callable[[], Any]]:
    variable, counter = Variable("v", hall=hall), Counter("c", hall=hall)
    variable.set(0)
    watch = variable.watch()

    def set_and_watch() -> None:
        variable.set(0)
        next(watch)

    return {
        "Variable.get": variable.get,
        "Variable.set": lambda: variable.set(0),
        "Variable.version": lambda: variable.version,
        "Variable.update": lambda: variable.update(lambda n: n),
        "Variable.compare_and_set": lambda: variable.compare_and_set(0, 0),
        "set, and a step of a watch": set_and_watch,
        "Counter.add": counter.add,
        "Counter.get": counter.get,
    }


def together(hall: Hall, processes: int, count: int, call: Callable[[], Any]) -> float:
    """Calls in a second, of all processes. They begin together, when the last of them is there."""
    ready, go = Counter("ready", hall=hall), guildhall.Event("go", hall=hall)
    ready.reset()
    go.clear()

    def work(_: int) -> None:
        ready.add()
        go.wait()
        for _ in range(count // processes):
            call()

    pids = forked(work, processes)
    while ready.get() < processes:
        time.sleep(0.001)
    return count / seconds(lambda: (go.set(), joined(pids)))


def watchers(hall: Hall, count: int) -> list[int]:
    """Processes that wait for a change of another variable, as many threads in each as it takes."""
    other = Variable("other", hall=hall)
    other.set("on")

    def watch(place: int) -> None:
        share = len(range(place, count, 4))
        threads = [threading.Thread(target=other.wait_for, args=("end".__eq__,)) for _ in range(share)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    pids = forked(watch, min(count, 4))
    while other.statistics().watchers < count:
        time.sleep(0.01)
    return pids


def watched(hall: Hall) -> None:
    """What a set costs whom others wait for: asleep, each costs a ring; again at once, those it woke are still busy."""
    other = Variable("other", hall=hall)
    head("us of a set, p50", "all who watch it are asleep", "again and again")
    for count in (1, 10, WATCHERS):
        pids = watchers(hall, count)
        taken = []
        for _ in range(50):
            while other.statistics().watchers < count:
                time.sleep(0.001)
            time.sleep(0.002)  # The last to stand in line looks for a moment before it sleeps.
            taken.append(seconds(lambda: other.set("on")))
        again = measure(lambda: other.set("on")).partition(" ")[0]
        other.set("end")
        joined(pids)
        row(f"{count} who watch it", f"{p50(taken) * 1e6:.0f}", again)
    print()


def main() -> None:
    with guildhall.open() as hall:
        table = {name: [measure(call)] for name, call in calls(hall).items()}
        for number in range(NAMES):
            Variable(("many", number), hall=hall).set(number)
            Counter(("many", number), hall=hall).add(number)
        for name, call in calls(hall).items():
            table[name].append(measure(call))
        pids = watchers(hall, WATCHERS)
        for name, call in calls(hall).items():
            table[name].append(measure(call))
        Variable("other", hall=hall).set("end")
        joined(pids)
        head("us, p50 / p99", "alone", f"beside {NAMES} names", f"and {WATCHERS} who watch another")
        for name, cells in table.items():
            row(name, *cells)
        print()
        watched(hall)
        counter, variable = Counter("n", hall=hall), Variable("n", hall=hall)
        head("a second, best of three", "Counter.add", "Variable.update")
        for processes in (1, 2, 4):
            counter.reset()
            variable.set(0)
            count = 100_000
            adds = max(together(hall, processes, count, counter.add) for _ in range(ROUNDS))
            updates = max(
                together(hall, processes, count // 4, lambda: variable.update(lambda n: n + 1)) for _ in range(ROUNDS)
            )
            assert counter.get() == ROUNDS * count
            assert variable.get() == ROUNDS * count // 4
            row(f"{processes} processes", f"{adds:.0f}", f"{updates:.0f}")


if __name__ == "__main__":
    main()
