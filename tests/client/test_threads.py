"""Many threads of one process in one hall: exact counts, nobody left asleep."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from guildhall import Event, Hall, Lock, Misuse, Pub, Queue, Sub, TimedOut, Variable

THREADS = 32


def together(function: Callable[[int], Any], count: int = THREADS) -> list[Any]:
    """Run the function in so many threads at once. Returns their results; raises what the first of them raised."""
    results: list[Any] = [None] * count
    failed: list[BaseException] = []

    def run(number: int) -> None:
        try:
            results[number] = function(number)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(n,), daemon=True) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    if failed:
        raise failed[0]
    return results


@pytest.mark.parametrize("shared", [True, False], ids=["one object", "an object each"])
def test_increments_under_a_lock_of_32_threads_are_all_there(hall: Hall, shared: bool) -> None:
    counter, one = Variable("c", hall=hall), Lock("l", hall=hall)
    counter.set(0)
    tokens: list[int | None] = []

    def count(_: int) -> None:
        lock = one if shared else Lock("l", hall=hall)
        for _ in range(30):
            with lock:
                counter.set(counter.get() + 1)
                tokens.append(lock.fencing_token)

    together(count)
    assert counter.get() == THREADS * 30
    assert None not in tokens
    assert tokens == sorted(set(tokens))
    assert not one.locked()


@pytest.mark.parametrize("maxsize", [0, 3])
def test_items_between_32_threads_come_once_and_in_the_order_of_each_producer(hall: Hall, maxsize: int) -> None:
    queue = Queue("q", maxsize, hall=hall)

    def work(number: int) -> list[tuple[int, int]]:
        if number % 2:
            for n in range(40):
                queue.put((number, n), timeout=30)
            return []
        return [queue.get(timeout=30) for _ in range(40)]

    got = together(work)
    assert Counter(item for some in got for item in some) == Counter(
        (p, n) for p in range(1, THREADS, 2) for n in range(40)
    )
    for some in got:
        for producer in range(THREADS):
            mine = [n for p, n in some if p == producer]
            assert mine == sorted(mine)
    assert queue.qsize() == 0


def test_every_subscriber_of_32_threads_gets_every_message(hall: Hall) -> None:
    subs = [Sub("t", hall=hall) for _ in range(THREADS // 2)]

    def work(number: int) -> list[tuple[int, int]]:
        if number % 2:
            for n in range(20):
                Pub("t", hall=hall).put((number, n))
            return []
        return [subs[number // 2].get(timeout=30) for _ in range(20 * THREADS // 2)]

    for number, got in enumerate(together(work)):
        if number % 2 == 0:
            for publisher in range(1, THREADS, 2):
                assert [n for p, n in got if p == publisher] == list(range(20))


def test_threads_that_share_a_subscription_get_each_message_once(hall: Hall) -> None:
    sub, pub = Sub("t", hall=hall), Pub("t", hall=hall)

    def work(number: int) -> list[int]:
        if number == 0:
            for n in range(31 * 20):
                pub.put(n)
            return []
        return [sub.get(timeout=30) for _ in range(20)]

    assert sorted(n for some in together(work) for n in some) == list(range(31 * 20))
    with pytest.raises(TimedOut):
        sub.get(timeout=0)


def test_a_thread_behind_another_on_one_subscription_keeps_its_timeout(hall: Hall) -> None:
    sub = Sub("t", hall=hall)
    other = threading.Thread(target=lambda: sub.get(timeout=5))
    other.start()
    time.sleep(0.05)
    began = time.monotonic()
    with pytest.raises(TimedOut):
        sub.get(timeout=0.1)
    assert time.monotonic() - began < 1
    Pub("t", hall=hall).put(1)
    other.join()


def test_variables_and_events_between_32_threads(hall: Hall) -> None:
    start, variable = Event("go", hall=hall), Variable("v", hall=hall)

    def work(number: int) -> Any:
        if number == 0:
            time.sleep(0.05)
            variable.set("there")
            start.set()
        assert start.wait(30)
        return variable.get(timeout=30)

    assert together(work) == ["there"] * THREADS


def test_a_closed_subscription_says_so(hall: Hall) -> None:
    sub = Sub("t", hall=hall)
    Pub("t", hall=hall).put(1)
    sub.close()
    sub.close()
    with pytest.raises(Misuse, match=r"'t'.*closed"):
        sub.get(timeout=0)


def test_a_wait_ends_with_a_clear_error_when_another_thread_closes_the_hall(hall: Hall) -> None:
    import guildhall

    mine = guildhall.open()
    errors: list[BaseException] = []

    def wait(call: Callable[[], Any]) -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    calls = (
        Queue("q", hall=mine).get,
        Event("e", hall=mine).wait,
        Variable("v", hall=mine).get,
        Sub("t", hall=mine).get,
    )
    threads = [threading.Thread(target=wait, args=(call,), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    mine.close()
    for thread in threads:
        thread.join(5)
    assert not any(thread.is_alive() for thread in threads)
    assert [type(error) for error in errors] == [Misuse] * 4
    assert all("closed" in str(error) for error in errors)
