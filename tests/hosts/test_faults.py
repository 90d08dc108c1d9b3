"""Faults that docs/faults.md speaks of and that concern the whole hall: openers that die, rings that are lost, holders
that are stopped, clocks that are set."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults import Child, eventually

import guildhall
from guildhall import Counter, Event, Hall, Lock, Queue, Variable
from guildhall.hosts import doorbell


def test_processes_that_are_killed_while_they_open_a_hall_keep_nobody_out(hall_name: str) -> None:
    def come_in() -> None:
        with guildhall.open(hall_name) as hall:
            Counter("came", hall=hall).add()
            time.sleep(60)

    for moment in range(24):
        child = Child(come_in)
        time.sleep(moment * 0.0005)
        child.kill()
    with guildhall.open(hall_name) as hall:
        came = Counter("came", hall=hall)
        before = came.get()
        assert came.add() == before + 1
        assert 0 <= before <= 24
        assert sum(session.is_alive for session in hall.snapshot().sessions) == 1


def _dies(ringer: object, waiter: object) -> None:
    """In the place of what rings: its process dies between the commit and the ring."""
    os.kill(os.getpid(), signal.SIGKILL)


WAITS: dict[str, tuple[Callable[[Hall], Any], Callable[[Hall], Any]]] = {
    "event": (lambda hall: Event("x", hall=hall).wait(timeout=20), lambda hall: Event("x", hall=hall).set()),
    "queue": (lambda hall: Queue("x", hall=hall).get(timeout=20) == 1, lambda hall: Queue("x", hall=hall).put(1)),
    "variable": (
        lambda hall: Variable("x", hall=hall).get(timeout=20) == 1,
        lambda hall: Variable("x", hall=hall).set(1),
    ),
}


@pytest.mark.parametrize("kind", WAITS)
def test_who_dies_between_its_commit_and_the_ring_costs_the_waiter_a_moment(hall: Hall, kind: str) -> None:
    wait, serve = WAITS[kind]

    def serve_and_die(path: str) -> None:
        doorbell.Ringer.ring = _dies  # type: ignore[method-assign,assignment]
        with guildhall.open(path) as other:
            serve(other)

    waiter = Child(lambda path: wait(guildhall.open(path)), hall.path)
    assert eventually(lambda: _is_asleep(hall))
    killed = Child(serve_and_die, hall.path)
    assert os.waitstatus_to_exitcode(os.waitpid(killed.pid, 0)[1]) == -signal.SIGKILL
    began = time.monotonic()
    assert waiter.result() is True
    assert time.monotonic() - began < 10


def _is_asleep(hall: Hall) -> bool:
    return any(bell.is_socket() for bell in Path(hall.path, "bells").rglob("*"))


def test_a_stopped_holder_of_a_plain_lock_is_waited_for_and_goes_on(hall: Hall) -> None:
    def hold(path: str) -> bool:
        with guildhall.open(path) as mine, Lock("x", hall=mine) as held:
            Event("held", hall=mine).set()
            Event("enough", hall=mine).wait(timeout=60)
            return held.locked()

    holder = Child(hold, hall.path)
    assert Event("held", hall=hall).wait(timeout=20)
    os.kill(holder.pid, signal.SIGSTOP)
    try:
        assert not Lock("x", hall=hall).acquire(timeout=1.5)
        Event("enough", hall=hall).set()
        assert not Lock("x", hall=hall).acquire(timeout=0.2)
    finally:
        os.kill(holder.pid, signal.SIGCONT)
    assert holder.result() is True
    assert Lock("x", hall=hall).acquire(timeout=20)


@pytest.mark.parametrize("jump_s", [-86_400.0, 86_400.0])
def test_a_clock_that_is_set_ends_no_lease_and_no_timeout_early_and_none_late(
    hall: Hall, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    held, asking = Lock("x", lease_s=30, hall=hall), Lock("x", lease_s=30, hall=hall)
    assert held.acquire()
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump_s)
    monkeypatch.setattr("guildhall.deadline.wall", time.time)
    began = time.monotonic()
    assert not asking.acquire(timeout=0.3)
    assert 0.3 <= time.monotonic() - began < 10
    held.ensure_held()
    held.release()
    assert asking.acquire(timeout=0)
