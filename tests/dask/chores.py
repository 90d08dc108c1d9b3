"""What tasks of the tests do. A module of its own, as workers import it."""

from __future__ import annotations

import os
import time
from typing import Any

from guildhall import Event, Lock, Queue, Variable
from guildhall.hosts import dask


def count_up(name: str, times: int) -> int:
    lock, total = Lock(name), Variable(name)
    for _ in range(times):
        with lock:
            total.set(total.get() + 1)
    return dask.of_worker().session


def wait_in_task(name: str) -> Any:
    return Queue(name).get(timeout=20)


def hold(name: str) -> None:
    Lock(name).acquire()
    Event(name).set()
    time.sleep(60)


def size_of(name: str) -> int:
    return len(Variable(name).get())


def seven() -> int:
    return 7


def pid(*given: Any) -> int:
    return os.getpid()
