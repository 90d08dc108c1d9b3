"""Counters of several processes: every add counts once, also when they are killed."""

from __future__ import annotations

import asyncio
import mmap
import pickle
import random
import threading
import time
from typing import Any

import pytest
from faults import Child, eventually

from guildhall import Client, Counter, Hall, aio


@pytest.fixture
def c(hall: Hall) -> Counter:
    return Counter("c", hall=hall)


def test_a_counter_counts(c: Counter) -> None:
    assert c.get() == 0
    assert [c.add(), c.add(5), c.add(-10), c.add(0)] == [1, 6, -4, -4]
    c.set(2**64)
    assert c.add(1) == c.get() == 2**64 + 1
    assert c.add(-(10**400)) == 2**64 + 1 - 10**400
    assert (c.statistics().name, c.statistics().adds) == ("c", 6)
    assert c.reset() == 2**64 + 1 - 10**400
    assert (c.get(), c.statistics().adds) == (0, 0)
    assert c.reset() == 0


def test_counters_are_told_apart_by_name(hall: Hall) -> None:
    for number, name in enumerate(("a", "a\0", b"a", 1, 1.0, True, ("a",))):
        assert Counter(name, hall=hall).add(number) == number
    one, other = Counter(hall=hall), Counter(hall=hall)
    assert one.name.startswith("counter-")
    assert one.name != other.name
    assert pickle.loads(pickle.dumps(one)).name == one.name


@pytest.mark.parametrize("n", [1.0, 1.5, float("nan"), "1", None, True, False, [1], 1j])
@pytest.mark.parametrize("method", ["add", "set"])
def test_only_whole_numbers_are_taken(c: Counter, method: str, n: Any) -> None:
    c.add(7)
    with pytest.raises(TypeError, match=rf"counter 'c': expected a whole number, got {type(n).__name__}"):
        getattr(c, method)(n)
    assert c.get() == 7
    assert c.statistics().adds == 1


def test_numbers_of_others_that_are_whole_are_taken(c: Counter) -> None:
    np = pytest.importorskip("numpy")
    assert c.add(np.int8(3)) == 3
    assert type(c.add(np.uint64(2**63))) is int


def stamps(hall: Hall, times: int) -> list[tuple[float, float, int]]:
    """(began, ended, what it returned) of each add."""
    mine, done = Counter("c", hall=hall), []
    for _ in range(times):
        began = time.monotonic()
        value = mine.add()
        done.append((began, time.monotonic(), value))
    return done


def test_every_add_of_several_processes_gets_a_number_of_its_own_in_the_order_of_time(hall: Hall, c: Counter) -> None:
    children = [Child(stamps, hall, 3000) for _ in range(3)]
    done = sorted((value, began, ended) for child in children for began, ended, value in child.result())
    assert [value for value, _, _ in done] == list(range(1, 9001))
    latest = 0.0
    for value, began, ended in done:
        assert ended >= latest, f"add {value} ended before a smaller one began"
        latest = max(latest, began)
    assert c.statistics().adds == c.get() == 9000


def test_threads_lose_no_add(hall: Hall, c: Counter) -> None:
    got: list[int] = []
    threads = [threading.Thread(target=lambda: got.extend(c.add(2) for _ in range(500))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(2, 4001, 2))


def test_a_kill_costs_nothing_that_was_added(hall: Hall, c: Counter) -> None:
    """What a process was told is counted; of what it was not told at most the last one."""
    seed = random.randrange(1 << 30)
    dice, memory = random.Random(seed), mmap.mmap(-1, 8 * 64)
    noted = memoryview(memory).cast("q")

    def labour(place: int) -> None:
        while True:
            c.add()
            noted[place] += 1

    for place in range(0, 30, 2):
        children = [Child(labour, place), Child(labour, place + 1)]
        assert eventually(lambda place=place: noted[place] and noted[place + 1], 20)
        time.sleep(dice.random() * 0.01)
        for child in children:
            child.kill()
        done = sum(noted)
        assert done <= c.get() <= done + place + 2, f"seed {seed}"
    assert c.get() == c.statistics().adds
    noted.release()
    memory.close()


def test_nothing_is_missed_when_it_is_reset_again_and_again(hall: Hall, c: Counter) -> None:
    adders = [Child(stamps, hall, 2000) for _ in range(2)]
    found = 0
    while found < 4000:
        found += c.reset()
    for adder in adders:
        adder.result()
    assert (found, c.get()) == (4000, 0)


def test_tasks_count(client: Client) -> None:
    Counter("tasks", hall=client).reset()
    got = client.gather(client.map(lambda n: Counter("tasks").add(n), [1] * 40))
    assert sorted(got) == list(range(1, 41))
    assert client.submit(lambda counter: counter.get(), Counter("tasks", hall=client)).result(timeout=20) == 40


def test_the_same_with_await(hall: Hall) -> None:
    async def main() -> int:
        c = aio.Counter("c", hall=hall)
        assert sorted(await asyncio.gather(*(c.add() for _ in range(10)))) == list(range(1, 11))
        await c.set(5)
        assert await c.get() == 5
        with pytest.raises(TypeError, match="whole number"):
            await c.add(0.5)  # type: ignore[arg-type]
        return await c.reset()

    assert asyncio.run(main()) == 5
