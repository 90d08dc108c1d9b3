"""Queues whose waiters give up."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import pytest

from guildhall import Hall, Queue, TimedOut, Variable


def test_a_getter_behind_a_batch_that_timed_out_is_served(hall: Hall) -> None:
    queue, got = Queue("q", hall=hall), []

    def get_three() -> None:
        with pytest.raises(TimedOut):
            queue.get(timeout=0.3, batch=3)

    threads = [threading.Thread(target=get_three)]
    threads[0].start()
    time.sleep(0.1)
    threads.append(threading.Thread(target=lambda: got.append(queue.get(timeout=5))))
    threads[1].start()
    time.sleep(0.05)
    queue.put("one")
    began = time.monotonic()
    for thread in threads:
        thread.join()
    assert got == ["one"]
    assert time.monotonic() - began < 2


def test_a_large_item_that_was_never_put_leaves_nothing(hall: Hall) -> None:
    queue = Queue("q", maxsize=1, hall=hall)
    queue.put(0)
    for _ in range(3):
        with pytest.raises(TimedOut):
            queue.put(b"x" * 200_000, timeout=0.02)
    Variable("flush", hall=hall).set(1)
    assert os.listdir(os.path.join(hall.path, "blobs")) == []


def test_a_batch_larger_than_the_bound_that_timed_out_closes_the_gate_again(hall: Hall) -> None:
    queue = Queue("q", maxsize=1, hall=hall)
    with pytest.raises(TimedOut):
        queue.get(timeout=0.05, batch=3)
    queue.put(1)
    with pytest.raises(TimedOut):
        queue.put(2, timeout=0.05)
    assert queue.get(batch=True) == [1]
    assert queue.get(batch=True) == []


class Poison:
    def __reduce__(self) -> tuple[Any, ...]:
        return _refuse, ()


def _refuse() -> None:
    raise LookupError("cannot be read")


def test_an_unreadable_item_goes_to_the_dead_letters_and_its_batch_back(hall: Hall) -> None:
    queue = Queue("q", hall=hall)
    queue.put_many([1, b"x" * 200_000, Poison(), b"y" * 200_000, 5])
    for size in (5, True):
        queue.put_many([])
        with pytest.raises(LookupError, match="cannot be read"):
            queue.get(batch=size)
        assert queue.qsize() == 4
        assert queue.get(batch=4) == [1, b"x" * 200_000, b"y" * 200_000, 5]
        queue.put_many([1, b"x" * 200_000, Poison(), b"y" * 200_000, 5])
    assert queue.get(batch=2) == [1, b"x" * 200_000]
    with pytest.raises(LookupError, match="cannot be read"):
        queue.get()
    assert queue.get(batch=2) == [b"y" * 200_000, 5]
    assert queue.dead_letters.qsize() == 3
    for _ in range(3):
        with pytest.raises(LookupError, match="cannot be read"):
            queue.dead_letters.get()
    assert queue.dead_letters.qsize() == 0
    Variable("flush", hall=hall).set(1)
    assert os.listdir(os.path.join(hall.path, "blobs")) == []
