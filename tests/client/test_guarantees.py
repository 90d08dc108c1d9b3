"""What docs/guarantees.md says of several primitives at once, or of what no other file is about."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import pytest
from faults import Child, eventually, pressed_everywhere

import guildhall
from guildhall import (
    Barrier,
    BrokenBarrier,
    Client,
    Condition,
    Counter,
    Election,
    Event,
    Hall,
    Latch,
    Lock,
    MultiLock,
    Pub,
    Queue,
    RateLimiter,
    RLock,
    RWLock,
    Semaphore,
    Sub,
    Variable,
)


def killed(function: Any) -> None:
    """Run the function in a process that is killed right behind it."""

    def run() -> None:
        function()
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(AssertionError, match=f"child ended with -{signal.SIGKILL}"):
        Child(run).result()


def test_ctrl_c_anywhere_in_an_add_adds_once_or_not_at_all(hall: Hall) -> None:
    def child() -> None:
        counter = Counter("c", hall=hall)

        def case() -> Any:
            before = counter.get()

            def check(place: str) -> None:
                assert counter.get() in (before, before + 3), f"pressed at {place}"

            return lambda: counter.add(3), check

        assert pressed_everywhere(case) > 5
        assert counter.add(3) > 3

    Child(child).result()


def test_what_a_killed_process_did_stays(hall: Hall) -> None:
    def did() -> None:
        Variable("v", hall=hall).set([1])
        Counter("c", hall=hall).add(5)
        Queue("q", hall=hall).put_many("ab")
        Queue("over", hall=hall).close()
        Event("e", hall=hall).set()
        Latch("l", 3, hall=hall).count_down(2)
        Pub("t", keep=2, hall=hall).put_many("xyz")
        assert RateLimiter("r", 2, per_s=1000, hall=hall).acquire()

    killed(did)
    hall.host.bury_dead()
    assert Variable("v", hall=hall).get(timeout=0) == [1]
    assert Counter("c", hall=hall).get() == 5
    assert Queue("q", hall=hall).get(batch=True) == ["a", "b"]
    with pytest.raises(guildhall.Closed):
        Queue("over", hall=hall).put(1)
    assert Event("e", hall=hall).is_set()
    assert Latch("l", 3, hall=hall).count == 1
    late = Sub("t", start="oldest", hall=hall)
    assert [late.get(timeout=0), late.get(timeout=0)] == ["y", "z"]
    assert RateLimiter("r", 2, per_s=1000, hall=hall).statistics().gone == 1


def test_a_dataset_outlives_the_process_that_published_it(client: Client) -> None:
    killed(lambda: client.publish_dataset({"n": bytes(100_000)}, name="kept"))
    client.host.bury_dead()
    assert client.get_dataset("kept") == {"n": bytes(100_000)}
    client.unpublish_dataset("kept")


WAITS: dict[str, Any] = {
    "variable": lambda hall: Variable("unset", hall=hall).get(),
    "variable watch": lambda hall: next(Variable("unset", hall=hall).watch()),
    "variable update": lambda hall: Variable("unset", hall=hall).update(abs),
    "queue get": lambda hall: Queue("empty", hall=hall).get(),
    "queue take": lambda hall: Queue("empty", hall=hall).take(),
    "queue put": lambda hall: Queue("full", 1, hall=hall).put(2),
    "queue join": lambda hall: Queue("full", 1, hall=hall).join(),
    "lock": lambda hall: Lock("held", hall=hall).acquire(),
    "lease": lambda hall: Lock("held", lease_s=5, hall=hall).acquire(),
    "rlock": lambda hall: RLock("held", hall=hall).acquire(),
    "reader": lambda hall: RWLock("held", hall=hall).acquire_read(),
    "writer": lambda hall: RWLock("held", hall=hall).acquire_write(),
    "multilock": lambda hall: MultiLock(["held", "free"], hall=hall).acquire(),
    "semaphore": lambda hall: Semaphore("held", hall=hall).acquire(),
    "event": lambda hall: Event("clear", hall=hall).wait(),
    "latch": lambda hall: Latch("closed", 1, hall=hall).wait(),
    "barrier": lambda hall: Barrier("open", 2, hall=hall).wait(),
    "election": lambda hall: Election("led", hall=hall).campaign(),
    "rate limiter": lambda hall: RateLimiter("spent", 1, per_s=1000, hall=hall).acquire(),
    "subscription": lambda hall: Sub("silent", hall=hall).get(),
    "publisher": lambda hall: Pub("blocked", hall=hall).put(2),
}


def wait_at_a_condition(hall: Hall) -> None:
    with Condition("quiet", hall=hall) as changed:
        changed.wait()


WAITS["condition"] = wait_at_a_condition


@pytest.mark.parametrize("what", WAITS)
def test_who_is_killed_while_it_waits_leaves_the_line_and_takes_nothing(hall: Hall, what: str) -> None:
    queue, sub = Queue("full", 1, hall=hall), Sub("blocked", maxlen=1, policy="block", hall=hall)
    queue.put(1)
    Pub("blocked", hall=hall).put(1)
    leader = Election("led", hall=hall)
    assert leader.campaign()
    assert RateLimiter("spent", 1, per_s=1000, hall=hall).acquire()
    held = (
        Lock("held", hall=hall),
        RLock("held", hall=hall),
        MultiLock(["held"], hall=hall),
        Semaphore("held", hall=hall),
    )
    for lock in held:
        assert lock.acquire()
    assert RWLock("held", hall=hall).acquire_write()
    waiter = Child(WAITS[what], hall)
    assert eventually(lambda: in_lines(hall) > 0), "it does not wait"
    waiter.kill()
    assert eventually(lambda: hall.host.bury_dead() or in_lines(hall) == 0)
    assert queue.get(timeout=0) == 1
    assert queue.get(batch=True) == []
    assert sub.get(timeout=0) == 1
    for lock in held:
        assert lock.release()
        assert type(lock).acquire(lock, timeout=0), "it went to the dead"
    assert leader.is_leader


def in_lines(hall: Hall) -> int:
    return int(hall.host.read(lambda txn: len(list(txn.scan(b"\x10")))))


def test_all_who_wait_are_let_go_by_one_step(hall: Hall) -> None:
    """Event, Latch, Barrier and a Variable that is set: nobody is first."""
    gates: dict[str, tuple[Any, Any]] = {
        "event": (lambda: Event("e", hall=hall).wait(20), lambda: Event("e", hall=hall).set()),
        "latch": (lambda: Latch("l", 1, hall=hall).wait(20), lambda: Latch("l", 1, hall=hall).count_down()),
        "variable": (lambda: Variable("v", hall=hall).get(20), lambda: Variable("v", hall=hall).set(1)),
        "barrier": (lambda: Barrier("b", 5, hall=hall).wait(20) >= 0, lambda: Barrier("b", 5, hall=hall).wait(20)),
    }
    for what, (wait, let_go) in gates.items():
        done: list[Any] = []
        threads = [threading.Thread(target=lambda: done.append(wait())) for _ in range(4)]  # noqa: B023
        for thread in threads:
            thread.start()
        assert eventually(lambda: in_lines(hall) == 4), what
        let_go()
        for thread in threads:
            thread.join(20)
        assert [bool(one) for one in done] == [True] * 4, what
        assert in_lines(hall) == 0


def test_a_barrier_that_a_party_left_by_ctrl_c_is_not_broken(hall: Hall) -> None:
    def child() -> None:
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            Barrier("b", 2, hall=hall).wait()

    Child(child).result()
    barrier = Barrier("b", 2, hall=hall)
    assert not barrier.broken
    with pytest.raises(BrokenBarrier):
        barrier.wait(timeout=0.01)
    assert barrier.broken


class Tally:
    def __init__(self) -> None:
        self.count = 0

    def add(self) -> int:
        Event("tally may go on").wait(20)
        self.count += 1
        return self.count


def test_a_call_of_an_actor_that_nobody_waits_for_any_more_goes_on(client: Client) -> None:
    tally = client.submit(Tally, actor=True).result(20)
    first = tally.add()
    with pytest.raises(guildhall.TimedOut):
        first.result(timeout=0.05)
    del first
    Event("tally may go on").set()
    assert tally.add().result(20) == 2
    Event("tally may go on").clear()


def test_calls_of_an_executor_begin_in_the_order_of_submission() -> None:
    with guildhall.Executor(1) as executor:
        begun = [executor.submit(time.monotonic_ns) for _ in range(500)]
        assert sorted(moments := [one.result(20) for one in begun]) == moments


def test_ctrl_c_in_a_computation_drops_what_has_not_run(client: Client) -> None:
    dask = pytest.importorskip("dask")
    ran = Counter("ran")

    @dask.delayed  # type: ignore[untyped-decorator]
    def work(number: int) -> int:
        time.sleep(0.02)
        return Counter("ran").add()

    def press() -> None:
        assert eventually(lambda: ran.get() > 3, 30)
        os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=press)
    presser.start()
    with pytest.raises(KeyboardInterrupt):
        dask.compute(*(work(n) for n in range(500)), scheduler=client)
    presser.join()
    assert eventually(lambda: not any(client.processing().values()), 20)
    most = ran.get() + 2  # What the two workers were running goes on.
    assert most < 400
    time.sleep(0.3)
    assert ran.get() <= most
