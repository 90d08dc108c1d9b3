"""fork: a child works with a session of its own, and its parent does not notice."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from faults import Child

import guildhall
from guildhall import Client, Event, Hall, Lock, Pub, Queue, Sub, TimedOut, Variable
from guildhall.hosts import embedded


def use_everything(hall: Hall, tag: str) -> int:
    """A round of every primitive; returns the session it ran in."""
    with Lock("l", hall=hall):
        count = Variable("count", hall=hall).get(timeout=5)
        Variable("count", hall=hall).set(count + 1)
    queue, event, sub = Queue(tag, hall=hall), Event(tag, hall=hall), Sub(tag, hall=hall)
    queue.put(tag)
    assert queue.get(timeout=5) == tag
    with pytest.raises(TimedOut):
        queue.get(timeout=0.01)
    event.set()
    assert event.wait(5)
    Pub(tag, hall=hall).put(tag)
    assert sub.get(timeout=5) == tag
    large = Variable(f"large {tag}", hall=hall)
    large.set(b"x" * 100_000)
    assert large.get(timeout=5) == b"x" * 100_000
    return hall.host.session


def test_children_of_a_parent_with_busy_threads_are_whole_and_the_parent_unharmed(hall: Hall) -> None:
    Variable("count", hall=hall).set(0)
    stop, failed = threading.Event(), []
    counts = [0] * 4

    def busy(number: int) -> None:
        queue, sub, pub = (
            Queue(f"busy{number}", hall=hall),
            Sub(f"busy{number}", hall=hall),
            Pub(f"busy{number}", hall=hall),
        )
        try:
            while not stop.is_set():
                queue.put(counts[number])
                assert queue.get(timeout=5) == counts[number]
                pub.put(counts[number])
                assert sub.get(timeout=5) == counts[number]
                counts[number] += 1
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=busy, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    mine = hall.host.session
    children = []
    for number in range(40):
        children.append(Child(use_everything, hall, f"child {number}"))
        time.sleep(0.01)
    seen = {child.result() for child in children}
    stop.set()
    for thread in threads:
        thread.join(20)
    assert failed == []
    assert min(counts) > 10
    assert len(seen) == 40
    assert mine not in seen
    assert hall.host.session == mine
    assert Variable("count", hall=hall).get() == 40
    assert use_everything(hall, "parent") == mine


def test_a_child_of_a_child_has_a_session_of_its_own(hall: Hall) -> None:
    Variable("count", hall=hall).set(0)

    def middle() -> tuple[int, int]:
        before = use_everything(hall, "middle")
        return Child(use_everything, hall, "grandchild").result(), use_everything(hall, "middle") if before else 0

    def middle_that_forks_first() -> int:
        return Child(use_everything, hall, "grandchild").result()

    grandchild, child = Child(middle).result()
    late = Child(middle_that_forks_first).result()
    assert len({grandchild, child, late, hall.host.session}) == 4
    assert Variable("count", hall=hall).get() == 4


def test_what_the_parent_holds_stays_the_parents(hall: Hall) -> None:
    lock, sub, queue = Lock("held", hall=hall), Sub("t", hall=hall), Queue("q", hall=hall)
    lock.acquire()

    def child() -> list[Any]:
        with pytest.raises(guildhall.NotHeld):
            lock.release()
        mine = Sub("t", hall=hall)
        Pub("t", hall=hall).put("from the child")
        got = [mine.get(timeout=5)]
        with pytest.raises(TimedOut):
            sub.get(timeout=0.01)
        Pub("t", hall=hall).put("second")
        got.append(sub.get(timeout=5))
        sub.close()
        queue.put("from the child")
        return got

    assert Child(child).result() == ["from the child", "second"]
    hall.host.bury_dead()
    assert lock.locked()
    assert lock.release()
    assert [sub.get(timeout=5) for _ in range(2)] == ["from the child", "second"]
    Pub("t", hall=hall).put("after")
    assert sub.get(timeout=5) == "after"
    assert queue.get(timeout=5) == "from the child"


def test_a_subscription_dropped_in_a_child_goes_on_in_the_parent(hall: Hall) -> None:
    subs = [Sub("t", hall=hall)]

    def child() -> None:
        Variable("v", hall=hall).set(1)
        subs.clear()
        Variable("v", hall=hall).set(2)

    Child(child).result()
    Pub("t", hall=hall).put("still here")
    assert subs[0].get(timeout=5) == "still here"


def test_a_fork_while_other_threads_wait_leaves_them_waiting(hall: Hall) -> None:
    queue, event, lock = Queue("q", hall=hall), Event("e", hall=hall), Lock("l", hall=hall)
    lock.acquire()
    got: list[Any] = []
    waits = (lambda: queue.get(timeout=20), lambda: event.wait(20), lambda: Lock("l", hall=hall).acquire(timeout=20))
    threads = [threading.Thread(target=lambda wait=wait: got.append(wait())) for wait in waits]
    for thread in threads:
        thread.start()
    time.sleep(0.1)

    def child() -> None:
        Variable("v", hall=hall).set(1)
        with pytest.raises(TimedOut):
            Queue("other", hall=hall).get(timeout=0.02)
        Queue("q", hall=hall).put("woken")
        Event("e", hall=hall).set()

    for _ in range(3):
        Child(child).result()
    lock.release()
    for thread in threads:
        thread.join(5)
    assert sorted(map(str, got)) == ["True", "True", "woken"]
    assert queue.get(batch=True) == ["woken", "woken"]


def test_a_fork_beside_threads_that_open_and_ring_never_hangs(hall: Hall) -> None:
    """The child must need no lock that another thread of the parent may have held at the fork."""
    stop = threading.Event()

    def ring() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            fresh = Queue(f"ring{number}", hall=hall)
            waiting = threading.Thread(target=lambda fresh=fresh: fresh.get(timeout=5))
            waiting.start()
            fresh.put(1)
            waiting.join()

    threads = [threading.Thread(target=ring) for _ in range(3)]
    for thread in threads:
        thread.start()
    Variable("v", hall=hall).set(0)
    for number in range(100):
        child = Child(lambda number=number: Variable(number + 1, hall=hall).set(number))
        signal.alarm(20)
        child.result()
        signal.alarm(0)
    stop.set()
    for thread in threads:
        thread.join()
    assert [Variable(n + 1, hall=hall).get(timeout=0) for n in range(100)] == list(range(100))


def test_a_future_inherited_and_dropped_by_a_child_takes_nothing_from_it(client: Client) -> None:
    futures = [client.submit(bytes, 100)]
    futures[0].result(timeout=20)
    Variable("future").set(futures[0])

    def child() -> int:
        mine = Variable("future").get(timeout=5)
        futures.clear()
        Variable("future").delete()
        Event("dropped").set()
        Event("parent dropped").wait(5)
        Variable("flush").set(1)
        return len(mine.result(timeout=5))

    running = Child(child)
    assert Event("dropped").wait(10)
    futures.clear()
    Variable("flush").set(0)
    Event("parent dropped").set()
    assert running.result() == 100


def test_a_child_of_a_client_can_submit(client: Client) -> None:
    assert Child(lambda: client.submit(int, "7").result(timeout=20)).result() == 7
    assert client.submit(int, "8").result(timeout=20) == 8


def test_a_process_that_a_task_forks_waits_without_taking_tasks(client: Client) -> None:
    def fork_and_wait() -> Any:
        def wait() -> tuple[int, Any]:
            return os.getpid(), Queue("for the child").get(timeout=20)

        child = Child(wait)
        Event("forked").set()
        return child.pid, child.result()

    for name in ("for the child", "forked"):
        Variable(name).set(0)
    future = client.submit(fork_and_wait)
    assert Event("forked").wait(20)
    time.sleep(0.1)
    pids = set(client.gather(client.map(lambda _: (time.sleep(0.005), os.getpid())[1], range(60))))
    Queue("for the child").put("at last")
    pid, answer = future.result(timeout=30)
    assert answer == (pid, "at last")
    assert pid not in pids


def _in_another_process(name: str, number: int) -> int:
    with guildhall.open(name) as hall:
        counter = Variable("c", hall=hall)
        for _ in range(20):
            with Lock("l", hall=hall):
                counter.set(counter.get() + 1)
        Queue("q", hall=hall).put(number)
        return hall.host.session


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing_works_with_a_hall_by_name(hall_name: str, method: str) -> None:
    with guildhall.open(hall_name) as hall:
        Variable("c", hall=hall).set(0)
        with multiprocessing.get_context(method).Pool(3) as pool:
            found = pool.starmap(_in_another_process, [(hall_name, n) for n in range(9)])
            pool.close()
            pool.join()
        assert hall.host.session not in found
        assert Variable("c", hall=hall).get() == 180
        assert sorted(Queue("q", hall=hall).get(batch=True)) == list(range(9))


def test_a_child_that_leaves_python_the_long_way_leaves_the_cluster_running() -> None:
    with Client(n_workers=1) as client:
        pid = os.fork()
        if not pid:
            try:
                with client:
                    Variable("v").set(1)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        assert Variable("v").get(timeout=5) == 1
        assert client.submit(int, "3").result(timeout=20) == 3
        assert os.path.isdir(client.host.directory)


def test_threads_of_a_child_that_use_the_hall_at_once_join_it_once(hall: Hall) -> None:
    def use(number: int) -> list[int]:
        start, used = threading.Barrier(8), []

        def work(place: int) -> None:
            start.wait()
            if place % 2:
                used.append(hall.host.session)
            with Lock("l", hall=hall):
                used.append(hall.host.session)

        threads = [threading.Thread(target=work, args=(place,), daemon=True) for place in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()
        return used

    for number in range(10):
        assert len(set(Child(use, number).result())) == 1


def test_a_child_forked_while_its_parent_opens_a_hall_keeps_nobody_out(hall_name: str) -> None:
    with guildhall.open(hall_name) as hall:
        store = hall.host._store
        assert store is not None
        with store._guarded():
            child = Child(time.sleep, 30)
        code = "import sys, guildhall; guildhall.open(sys.argv[1]).close()"
        subprocess.run([sys.executable, "-c", code, hall_name], check=True, timeout=20)
        child.kill()


def test_a_child_forked_while_a_thread_opens_a_hall_can_open_one() -> None:
    def open_one() -> str:
        with guildhall.open() as mine:
            return mine.path

    with embedded._hosts_gate:
        child = Child(open_one)
    assert child.result()
