"""A connection that breaks: what was applied is not applied again, what was not is, and no ring is missed."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import pytest
from far import Far
from faults import eventually

import guildhall
from guildhall import Broken, Counter, Event, Lock, Queue, Variable
from guildhall.hosts.dask import scheduler
from guildhall.hosts.dask.link import SessionOver


@pytest.fixture
def hall(far: Far) -> Any:
    """Of a worker: Dask would tell its end, so a connection that breaks may come back."""
    with guildhall.Hall(far.host("worker", "tcp://10.0.0.1:1")) as made:
        yield made


def test_each_addition_is_made_once_however_often_the_connection_breaks(far: Far, hall: guildhall.Hall) -> None:
    counter, dice = Counter("n", hall=hall), random.Random(7)
    stop = threading.Event()
    cuts = 0

    def cut() -> None:
        nonlocal cuts
        while not stop.is_set():
            time.sleep(dice.random() * 0.01)
            far.do(far.cut)
            cuts += 1

    cutter = threading.Thread(target=cut)
    cutter.start()
    try:
        told = [counter.add(1) for _ in range(4000)]
    finally:
        stop.set()
        cutter.join()
    assert told == list(range(1, 4001)), "each was told its own sum"
    assert cuts > 15


def test_items_are_put_and_got_once_by_threads_whose_connection_breaks(far: Far, hall: guildhall.Hall) -> None:
    queue, got = Queue("q", hall=hall), []
    stop = threading.Event()

    def cut() -> None:
        while not stop.wait(0.01):
            far.do(far.cut)

    def get() -> None:
        while (item := queue.get(timeout=30)) is not None:
            got.append(item)

    threads = [threading.Thread(target=get) for _ in range(3)]
    cutter = threading.Thread(target=cut)
    for thread in (*threads, cutter):
        thread.start()
    for number in range(300):
        queue.put(number)
    for _ in threads:
        queue.put(None)
    for thread in threads:
        thread.join(30)
    stop.set()
    cutter.join()
    assert sorted(got) == list(range(300))


def test_a_wait_goes_on_when_the_connection_is_back(far: Far, hall: guildhall.Hall) -> None:
    with guildhall.Hall(far.host()) as other:
        event, heard = Event("e", hall=hall), []
        thread = threading.Thread(target=lambda: heard.append(event.wait(20)))
        thread.start()
        assert eventually(lambda: len(Event("e", hall=other).statistics().waiting) == 1)
        far.do(lambda: setattr(far, "is_down", True))
        mine = far.ends[:1]
        far.do(lambda: far.cut(mine))
        Event("e", hall=other).set()  # It rings while nobody can be told.
        far.is_down = False
        thread.join(10)
        assert heard == [True]


def test_who_does_not_come_back_is_buried_and_learns_of_it(
    far: Far, hall: guildhall.Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "GRACE_S", 0.2)
    lock = Lock("l", hall=hall)
    assert lock.acquire()
    token = lock.fencing_token
    far.is_down = True
    far.do(far.cut)
    assert eventually(lambda: not far.hall.seats)
    far.is_down = False
    with guildhall.Hall(far.host()) as other:
        heir = Lock("l", hall=other)
        assert heir.acquire(timeout=2)
        assert heir.fencing_token > token
        with pytest.raises(SessionOver, match="was counted as dead"):
            Variable("v", hall=hall).set(1)
        Variable("v", hall=hall).set(2)  # As a session of its own again.
        assert Variable("v", hall=other).get() == 2
        with pytest.raises(guildhall.GuildhallError):
            lock.release()
        assert heir.locked()


def test_a_wait_of_a_session_that_is_over_ends_with_an_error(far: Far, hall: guildhall.Hall) -> None:
    outcome: list[BaseException] = []

    def wait() -> None:
        try:
            Event("never", hall=hall).wait()
        except Broken as error:
            outcome.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    assert eventually(lambda: len(Event("never", hall=hall).statistics().waiting) == 1)
    far.do(lambda: far.hall.bury_of("tcp://10.0.0.1:1"))
    thread.join(10)
    assert [type(error) for error in outcome] == [SessionOver]
