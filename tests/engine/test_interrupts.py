"""Interrupts reach the task that they are meant for while it runs, and nothing else."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from faults import Child

from guildhall import Client
from guildhall.engine.local import interrupts
from guildhall.engine.local.interrupts import Interrupted, Interruptible


@pytest.fixture(autouse=True)
def quick_switches() -> Iterator[None]:
    """Threads take turns so often that they meet everywhere."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_an_interrupt_never_leaves_its_task() -> None:
    astray: list[BaseException] = []
    interrupted = 0
    is_over = threading.Event()
    run: Interruptible | None = None

    def work() -> None:
        nonlocal run, interrupted
        run = Interruptible()
        for number in range(20_000):
            try:
                try:
                    run.play(b"%d" % number, partial(_add_up, number % 100))
                except Interrupted:
                    interrupted += 1
                sum(range(5))  # Where the worker's own code would be.
            except BaseException as error:
                astray.append(error)
        is_over.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not is_over.is_set():
        if run is not None and (oid := run.current) is not None:
            run.interrupt(oid)
    thread.join()
    assert not astray
    assert interrupted
    assert Child(can_be_profiled).result()


def can_be_profiled() -> bool:
    """As long as Python believes that somebody is to be interrupted, it looks at each step, and a function that is
    profiled never begins (CPython 3.11)."""
    signal.alarm(10)
    sys.setprofile(lambda *_: None)
    sys.setprofile((lambda: None)())
    return True


def test_worker_threads_survive_thousands_of_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    died: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    with Client(n_workers=1, threads_per_worker=3, processes=False) as client:
        worker = next(one.worker for one in threading.enumerate() if one.name == "guildhall-attendant")  # type: ignore[attr-defined]
        futures = client.map(lambda number: sum(x for x in range(number % 500)), range(3000))
        tries = 0
        while not all(future.done() for future in futures[-3:]):
            for run in list(worker._runs.values()):
                if (oid := run.current) is not None:
                    tries += worker.interrupt(oid)
        results = [None if future.cancelled() else future.result(timeout=20) for future in futures]
        assert not died
        assert all(found in (None, sum(range(number % 500))) for number, found in enumerate(results))
        assert 0 < results.count(None) <= tries
        assert all(thread.is_alive() for thread in worker.threads)


@pytest.mark.parametrize("is_main", [False, True])
def test_an_interrupt_waits_until_what_runs_inside_has_ended(is_main: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    ready = threading.Event()
    runs: list[Interruptible] = []

    def outer() -> None:
        with runs[0].apart():
            inner = Interruptible()
            told.append(inner.play(b"inner", inside))
        told.append("never")

    def inside() -> str:
        ready.set()
        until = time.monotonic() + 0.2
        while time.monotonic() < until:
            pass
        return "inner"

    def work() -> None:
        runs.append(Interruptible())
        try:
            runs[0].play(b"outer", outer)
        except Interrupted:
            told.append("interrupted")

    def aim() -> None:
        assert ready.wait(20)
        assert runs[0].interrupt(b"outer")
        assert not runs[0].interrupt(b"inner")

    if is_main:
        import signal

        before = signal.signal(interrupts.SIGNAL, lambda *_: runs[0].on_signal())
        thread = threading.Thread(target=aim)
        thread.start()
        work()
        thread.join()
        signal.signal(interrupts.SIGNAL, before)
    else:
        thread = threading.Thread(target=work)
        thread.start()
        aim()
        thread.join()
    assert told == ["inner", "interrupted"]


def _add_up(most: int) -> int:
    return sum(x for x in range(most))
