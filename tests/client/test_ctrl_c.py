"""Ctrl-C, real and at every moment: the call ends at once, nothing is held, nothing is left, the next one works."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from faults import Child, eventually, pressed_everywhere, script

from guildhall import (
    Client,
    DeadlockError,
    Election,
    Event,
    Hall,
    Lock,
    NotHeld,
    Pub,
    Queue,
    RLock,
    Semaphore,
    Sub,
    TimedOut,
    Variable,
    as_completed,
    wait,
)
from guildhall.primitives.event import EVENTS
from guildhall.primitives.waiters import LINES, WAITS
from guildhall.store.keys import pack_id


def records(hall: Any) -> int:
    """How many waits are written in the store, of anybody."""
    return int(hall.host.read(lambda txn: len(list(txn.scan(LINES))) + len(list(txn.scan(WAITS)))))


def own_waits(client: Client) -> int:
    """How many waits of this process are written in the store; the workers' come and go."""
    prefix = WAITS + pack_id(client.host.session)
    return int(client.host.read(lambda txn: len(list(txn.scan(prefix)))))


def interrupted(call: Callable[[], Any], after_s: float = 0.15) -> float:
    """Press Ctrl-C while the call waits, in the main thread. Returns how long the call took to end after that."""
    pressed: list[float] = []

    def press() -> None:
        pressed.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(after_s, press)
    timer.start()
    try:
        call()
    except KeyboardInterrupt:
        return time.monotonic() - pressed[0]
    finally:
        timer.join()
    raise AssertionError("the call was not interrupted")


def lock_case(hall: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    holder, waiter = Lock("l", hall=hall), Lock("l", hall=hall)
    holder.acquire()
    return waiter.acquire, lambda: holder.release() and waiter.acquire(timeout=5) and waiter.release()


def get_case(hall: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    queue = Queue("q", hall=hall)
    return queue.get, lambda: queue.put(1) is None and queue.get(timeout=5) == 1


def batch_case(hall: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    queue = Queue("b", hall=hall)
    queue.put(0)
    return lambda: queue.get(batch=2), lambda: queue.put(1) is None and queue.get(batch=2, timeout=5) == [0, 1]


def put_case(hall: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    queue = Queue("full", maxsize=1, hall=hall)
    queue.put(1)
    return lambda: queue.put(2), lambda: queue.get() == 1 and queue.put(3) is None and queue.get(batch=True) == [3]


def take_case(hall: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    queue = Queue("taken", hall=hall)
    return queue.take, lambda: queue.put(1) is None and queue.take(timeout=5).ack() is None and queue.join(timeout=0)


def delayed_case(hall: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    queue = Queue("delayed", hall=hall)
    queue.put(1, delay=2)
    return queue.get, lambda: queue.get(timeout=5) == 1


def join_case(hall: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    queue = Queue("joined", hall=hall)
    queue.put(1)
    return queue.join, lambda: queue.get() == 1 and queue.task_done() is None and queue.join(timeout=5)


def event_case(hall: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    event = Event("e", hall=hall)
    return event.wait, lambda: event.set() is None and event.wait(5)


def variable_case(hall: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    variable = Variable("v", hall=hall)
    return variable.get, lambda: variable.set(1) is None and variable.get(timeout=5) == 1


def sub_case(hall: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    sub = Sub("t", hall=hall)
    return sub.get, lambda: Pub("t", hall=hall).put(1) is None and sub.get(timeout=5) == 1


CASES = [
    lock_case, get_case, batch_case, put_case, take_case, delayed_case, join_case, event_case, variable_case, sub_case,
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_ctrl_c_ends_a_wait_and_the_same_thing_works_again(hall: Hall, case: Any) -> None:
    def child() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        call, again = case(hall)
        for _ in range(2):
            assert interrupted(call) < 1
            assert records(hall) == 0
        assert again()
        assert records(hall) == 0

    Child(child).result()


@pytest.mark.parametrize("what", ["result", "exception", "gather", "wait", "wait for the first", "as_completed"])
def test_ctrl_c_ends_a_wait_for_tasks_and_they_go_on(client: Client, what: str) -> None:
    name = f"go {what}"
    futures = [client.submit(lambda: Event(name).wait(30)) for _ in range(3)]
    call: dict[str, Callable[[], Any]] = {
        "result": futures[0].result,
        "exception": futures[0].exception,
        "gather": lambda: client.gather(futures),
        "wait": lambda: wait(futures),
        "wait for the first": lambda: wait(futures, return_when="FIRST_COMPLETED"),
        "as_completed": lambda: list(as_completed(futures)),
    }
    assert _others_wait(client, 3)
    assert interrupted(call[what]) < 1
    assert own_waits(client) == 0
    Event(name).set()
    assert client.gather(futures) == [True] * 3
    call[what]()


def _others_wait(client: Client, count: int) -> bool:
    def waiting() -> int:
        return int(client.host.read(lambda txn: len(list(txn.scan(LINES + EVENTS)))))

    return eventually(lambda: waiting() == count, 20) and not time.sleep(0.05)


class Press(KeyboardInterrupt):
    """Raised where the signal found us."""


def pestered(step: Callable[[], Any], check: Callable[[str], None], times: int, seed: int) -> None:
    """Run the step again and again while Ctrl-C comes at random moments; check after each one, told where it came."""
    dice = random.Random(seed)

    def raise_press(*_: Any) -> None:
        raise Press

    signal.signal(signal.SIGALRM, raise_press)
    pressed = 0
    while pressed < times:
        try:
            # Again after a second: what is raised in a finalizer or a callback of the collector, Python ignores.
            signal.setitimer(signal.ITIMER_REAL, dice.uniform(0.00002, 0.0012), 1.0)
            while True:
                step()
        except Press as error:
            signal.setitimer(signal.ITIMER_REAL, 0)
            pressed += 1
            place = traceback.extract_tb(error.__traceback__)[-2].name
        try:
            check(place)
        except Press as error:
            raise AssertionError("a signal came late") from error


def test_ctrl_c_at_any_moment_leaves_the_lock_free(hall: Hall) -> None:
    seed = random.randrange(1 << 30)

    def child() -> None:
        lock, contended = Lock("l", hall=hall), Lock("l", hall=hall)

        def step() -> None:
            with lock:
                assert not contended.acquire(blocking=False)

        def check(place: str) -> None:
            if place == "__exit__":  # Python looks for signals before the first line of it: nothing can be done there.
                with suppress(NotHeld):
                    lock.release()
            assert not lock.locked(), f"the lock is still held, pressed in {place}, seed {seed}"
            assert records(hall) == 0

        pestered(step, check, 1500, seed)

    Child(child).result()


def test_ctrl_c_at_any_moment_of_a_wait_leaves_nobody_in_line(hall: Hall) -> None:
    seed = random.randrange(1 << 30)

    def child() -> None:
        lock, other = Lock("l", hall=hall), Lock("l", hall=hall)
        queue, event, full = Queue("q", hall=hall), Event("e", hall=hall), Queue("full", 1, hall=hall)
        full.put(0)

        def step() -> None:
            for call in (lambda: queue.get(timeout=0.0003), lambda: full.put(1, timeout=0.0003)):
                with suppress(TimedOut):
                    call()
            event.wait(0.0003)
            if lock.acquire(timeout=0.001):
                try:
                    other.acquire(timeout=0.0003)
                finally:
                    lock.release()

        def check(place: str) -> None:
            if lock.locked() and place == "step":
                lock.release()  # Between the acquire and the try, or the finally and the release: not our lines.
            assert not lock.locked(), f"the lock is held by a wait that was left, seed {seed}"
            assert records(hall) == 0, f"a wait is left behind, seed {seed}"
            assert full.get(batch=True) == [0]
            full.put(0)

        pestered(step, check, 600, seed)

    Child(child).result()


def test_ctrl_c_at_any_moment_loses_at_most_the_item_in_hand(hall: Hall) -> None:
    """As with queue.Queue, what get() had taken when the signal came may go with it; nothing else, nothing twice."""
    seed = random.randrange(1 << 30)

    def child() -> int:
        queue, got, numbers = Queue("q", hall=hall), [], iter(range(1 << 30))
        presses = [0]

        def step() -> None:
            queue.put_many([next(numbers), next(numbers)])
            got.append(queue.get(timeout=5))
            got.append(queue.get(timeout=5))

        def check(_: str) -> None:
            presses[0] += 1
            while queue.qsize():
                got.append(queue.get(timeout=0))

        pestered(step, check, 600, seed)
        assert got == sorted(set(got)), f"an item twice or out of turn, seed {seed}"
        lost = next(numbers) - len(got)
        assert lost <= 2 * presses[0], f"{lost} lost in {presses[0]} presses, seed {seed}"
        return lost

    print(f"{Child(child).result()} items were in hand")


def test_ctrl_c_while_what_a_wait_slept_with_is_given_back_gives_the_grant_back(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = type(hall.host).done
    presses = []

    def pressed(host: Any, bell: Any) -> None:
        done(host, bell)
        if threading.current_thread() is threading.main_thread():
            presses.append(bell)
            raise KeyboardInterrupt

    monkeypatch.setattr(type(hall.host), "done", pressed)
    for make, get, give in (
        (lambda: Lock("l", hall=hall), "acquire", "release"),
        (lambda: RLock("r", hall=hall), "acquire", "release"),
        (lambda: Semaphore("s", 1, hall=hall), "acquire", "release"),
        (lambda: Election("e", hall=hall), "campaign", "resign"),
    ):
        holder, held = make(), threading.Event()

        def hold(holder: Any = holder, get: str = get, give: str = give, held: threading.Event = held) -> None:
            getattr(holder, get)()
            held.set()
            time.sleep(0.1)
            getattr(holder, give)()

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        with pytest.raises(KeyboardInterrupt):
            getattr(make(), get)()
        thread.join()
        assert getattr(make(), get)(timeout=0), f"{get} was granted, and nobody knows"
    assert len(presses) == 4
    assert records(hall) == 0


def test_ctrl_c_behind_a_single_try_leaves_nothing_held(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is free only when it is looked at once more must not be taken by a try that nobody could take back."""
    plain, tries = hall.host.transact, list[Any]()
    for make, get, give in (
        (lambda: Lock("l", hall=hall), "acquire", "release"),
        (lambda: Election("e", hall=hall), "campaign", "resign"),
    ):
        holder, asker = make(), make()
        assert getattr(holder, get)()

        def transact(op: Any, *args: Any, holder: Any = holder, give: str = give) -> Any:
            answer = plain(op, *args)
            monkeypatch.setattr(hall.host, "transact", plain)
            if not tries:
                getattr(holder, give)()
            tries.append(answer)
            monkeypatch.setattr(hall.host, "transact", transact)
            if len(tries) == 2:
                raise KeyboardInterrupt
            return answer

        tries.clear()
        monkeypatch.setattr(hall.host, "transact", transact)
        with suppress(KeyboardInterrupt):
            assert not getattr(asker, get)(timeout=0)
        monkeypatch.setattr(hall.host, "transact", plain)
        assert getattr(make(), get)(timeout=0), f"{get} got it, and nobody knows"


def test_ctrl_c_behind_a_single_try_of_a_lock_that_was_waited_for(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, holder = Lock("l", hall=hall), Lock("l", hall=hall)
    holder.acquire()
    thread = threading.Thread(target=lambda: time.sleep(0.05) or holder.release())
    thread.start()
    assert lock.acquire()
    thread.join()
    lock.release()
    plain = hall.host.transact

    def transact(op: Any, *args: Any) -> Any:
        plain(op, *args)
        monkeypatch.setattr(hall.host, "transact", plain)
        raise KeyboardInterrupt

    monkeypatch.setattr(hall.host, "transact", transact)
    with pytest.raises(KeyboardInterrupt):
        lock.acquire(timeout=0)
    assert not lock.locked()


SCATTERS = """
import random, signal
import numpy as np
from guildhall import Client

signal.signal(signal.SIGALRM, signal.default_int_handler)
array = np.ones(6_000_000)
with Client(n_workers=1) as client:
    for _ in range(25):
        try:
            # Pressed again each second: Python ignores a press that comes while a finalizer runs.
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.001, 0.04), 1)
            while True:
                client.scatter(array)
        except KeyboardInterrupt:
            signal.setitimer(signal.ITIMER_REAL, 0)
    assert (client.scatter(array).result() == array).all()
print("whole")
"""


def test_ctrl_c_while_a_large_array_is_copied_ends_the_copy_alone(tmp_path: Path) -> None:
    process = script(SCATTERS, tmp_path)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "whole\n"), err


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Some presses go into finalizers.
def test_ctrl_c_while_a_wait_is_ended_by_an_error_leaves_it_not_in_line(hall: Hall) -> None:
    """A lock that this thread has, asked for by another object: DeadlockError, and Ctrl-C at every place of that."""
    told = []

    def case() -> tuple[Callable[[], Any], Callable[[str], None]]:
        other = Lock("l", hall=hall)

        def call() -> None:
            try:
                other.acquire()
            except DeadlockError:
                told.append(True)

        def check(place: str) -> None:
            assert records(hall) == 0, f"it stands in line still; Ctrl-C came at {place}"

        return call, check

    with Lock("l", hall=hall):
        assert pressed_everywhere(case) > 100
    assert told
    assert Lock("l", hall=hall).acquire(timeout=0)
