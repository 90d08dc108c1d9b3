"""Processes killed at random moments while they hold a lock or are inside a transaction."""

from __future__ import annotations

import os
import random
import signal
import time
from typing import Any

import pytest

import guildhall
from guildhall import Lock, Queue, Variable


def labour(hall: Any) -> None:
    """Count under a lock for ever; every round's token must be above the one before."""
    lock, counter, queue = Lock("l", hall=hall), Variable("c", hall=hall), Queue("q", hall=hall)
    while True:
        with lock:
            token = lock.fencing_token
            assert token is not None
            before, count = counter.get()
            if before >= token:
                Variable("wrong", hall=hall).set((before, token))
            counter.set((token, count + 1))
        queue.put(os.getpid())
        queue.get()


def kill_for(seconds: float, seed: int) -> int:
    """Run labourers and kill one after the other. Returns how many were killed."""
    dice = random.Random(seed)
    kills = 0
    until = time.monotonic() + seconds
    with guildhall.open() as hall:
        counter, wrong = Variable("c", hall=hall), Variable("wrong", hall=hall)
        counter.set((0, 0))
        wrong.set(None)
        running: list[int] = []
        while time.monotonic() < until:
            while len(running) < 3:
                pid = os.fork()
                if not pid:
                    labour(hall)
                running.append(pid)
            time.sleep(dice.uniform(0.001, 0.03))
            pid = running.pop(dice.randrange(3))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            kills += 1
        for pid in running:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        assert wrong.get() is None, f"two holders, seed {seed}"
        assert Lock("l", hall=hall).acquire(timeout=5), f"a dead holder kept the lock, seed {seed}"
        assert counter.get()[1] > 0
    return kills


def test_killed_holders_leave_the_lock_exclusive_and_free() -> None:
    assert kill_for(5, seed=1) > 50


@pytest.mark.chaos
def test_killed_holders_for_minutes() -> None:
    seconds = float(os.environ.get("CHAOS_S", "60"))
    seed = random.randrange(1 << 30)
    kills = kill_for(seconds, seed)
    print(f"seed {seed}: {kills} kills in {seconds:g} s")
    assert kills > seconds
