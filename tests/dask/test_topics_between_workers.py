"""Messages between the workers of a real cluster: they do not pass the scheduler, nor disturb it, and who lives loses
none when others are killed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
from clusters import Cluster

import guildhall
from guildhall import Client, Event, Latch, Pub, Sub, Variable

LARGE_BYTES = 1 << 20


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Workers of its own, which may be killed, and are not started again."""
    with Cluster(tmp_path_factory.mktemp("direct"), 0, has_nannies=False) as made:
        yield made


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    with Client(cluster.address) as made:
        for _ in range(3 - len(made.nthreads())):
            cluster.add_workers(1)
        made.wait_for_workers(3, timeout=60)
        yield made


@pytest.fixture
def submit(client: Client) -> Callable[..., Any]:
    """Runs the function at the worker of that number."""
    workers = sorted(client.nthreads())

    def call(number: int, function: Callable[..., Any], *args: Any) -> Any:
        return client.submit(function, *args, workers=workers[number])

    return call


def hear(name: str, n: int) -> list[Any]:
    """What a subscription in this worker gets. It says when it is there."""
    with Sub(name) as sub:
        Latch(f"{name} listen", 1).count_down()
        return [sub.get(timeout=60) for _ in range(n)]


def count(name: str, listeners: int, n: int) -> tuple[int, bool]:
    """As `hear`, for many: how many came, and whether in order."""
    with Sub(name) as sub:
        Latch(f"{name} listen", listeners).count_down()
        return n, all(sub.get(timeout=60) == number for number in range(n))


def put(name: str, listeners: int, n: int) -> None:
    """Numbers from 0 on, when so many listen."""
    pub = Pub(name)
    Latch(f"{name} listen", listeners).wait(timeout=60)
    for number in range(n):
        pub.put(number)


def put_large(name: str, n: int) -> None:
    pub, data = Pub(name), os.urandom(LARGE_BYTES)
    Latch(f"{name} listen", 1).wait(timeout=60)
    Event(f"{name} go").wait(timeout=60)
    for _ in range(n):
        pub.put(data)


def hear_large(name: str, n: int) -> int:
    return sum(map(len, hear(name, n)))


def bytes_of(process: psutil.Process) -> int:
    """What it has read and written so far, over sockets too."""
    counters = process.io_counters()
    return int(counters.read_chars + counters.write_chars)


def test_a_hundred_megabytes_do_not_pass_the_scheduler(cluster: Cluster, submit: Callable[..., Any], name: str) -> None:
    scheduler = psutil.Process(cluster.scheduler.pid)
    heard, sent = submit(0, hear_large, name, 100), submit(1, put_large, name, 100)
    Latch(f"{name} listen", 1).wait(timeout=60)
    before = bytes_of(scheduler)
    Event(f"{name} go").set()
    assert heard.result(timeout=60) == 100 * LARGE_BYTES
    sent.result(timeout=60)
    assert bytes_of(scheduler) - before < LARGE_BYTES, "less than a hundredth of it"


def test_many_small_messages_take_nothing_of_the_scheduler(
    client: Client, cluster: Cluster, submit: Callable[..., Any], name: str
) -> None:
    """And come in order, to several. Its event loop is asked for the time meanwhile."""
    n = 100_000
    scheduler = psutil.Process(cluster.scheduler.pid)
    heard = [submit(number, count, name, 2, n) for number in (0, 2)]
    Latch(f"{name} listen", 2).wait(timeout=60)
    before = scheduler.cpu_times()
    sent, waits = submit(1, put, name, 2, n), []
    while not sent.done():
        began = time.monotonic()
        Variable(f"{name} nothing").set(0)
        waits.append(time.monotonic() - began)
        time.sleep(0.005)
    assert [one.result(timeout=60) for one in heard] == [(n, True)] * 2
    after = scheduler.cpu_times()
    spent_s = after.user + after.system - before.user - before.system
    assert spent_s < 2, f"{spent_s:.2f} s of the scheduler: through it, each message takes about 0.1 ms"
    assert sorted(waits)[len(waits) // 2] < 0.05, "an operation is answered while they are under way"


def test_a_client_hears_and_is_heard(submit: Callable[..., Any], name: str) -> None:
    with Sub(name) as mine:
        heard = submit(0, hear, name, 20)
        Latch(f"{name} listen", 1).wait(timeout=60)
        Pub(name).put_many(range(10))
        submit(1, put, name, 1, 10).result(timeout=60)
        assert [mine.get(timeout=20) for _ in range(20)] == [*range(10)] * 2
        assert sorted(heard.result(timeout=60)) == sorted([*range(10)] * 2)


def put_futures(name: str) -> None:
    client = guildhall.get_client()
    Latch(f"{name} listen", 2).wait(timeout=60)
    pub = Pub(name)
    for number in range(3):
        pub.put([client.submit(pow, number, 2)])


def hear_futures(name: str) -> list[Any]:
    with Sub(name) as sub:
        Latch(f"{name} listen", 2).count_down()
        Event(f"{name} go").wait(timeout=60)
        return [sub.get(timeout=60)[0].result(timeout=60) for _ in range(3)]


def test_futures_in_messages_keep_their_results(client: Client, submit: Callable[..., Any], name: str) -> None:
    heard = [submit(0, hear_futures, name), submit(2, hear_futures, name)]
    submit(1, put_futures, name).result(timeout=60)
    time.sleep(0.2)  # Whoever made them has let go of them by now.
    Event(f"{name} go").set()
    assert [one.result(timeout=60) for one in heard] == [[0, 1, 4]] * 2


async def hear_async(name: str) -> list[Any]:
    async with guildhall.aio.Sub(name) as sub:
        await guildhall.aio.Latch(f"{name} listen", 1).count_down()
        return [await sub.get(timeout=60) for _ in range(10)]


def hear_in_a_loop(name: str) -> list[Any]:
    return asyncio.run(hear_async(name))


async def put_async(name: str) -> None:
    await guildhall.aio.Latch(f"{name} listen", 1).wait(timeout=60)
    pub = guildhall.aio.Pub(name)
    for number in range(10):
        await pub.put(number)


def put_in_a_loop(name: str) -> None:
    asyncio.run(put_async(name))


def test_coroutines_in_workers(submit: Callable[..., Any], name: str) -> None:
    heard = submit(0, hear_in_a_loop, name)
    submit(1, put_in_a_loop, name).result(timeout=60)
    assert heard.result(timeout=60) == list(range(10))


def put_until_killed(name: str) -> None:
    pub, number = Pub(name), 0
    Latch(f"{name} listen", 2).wait(timeout=60)
    Variable(f"{name} pid").set(os.getpid())
    while not Event(f"{name} stop").is_set():
        for _ in range(100):
            pub.put(("doomed", number))
            number += 1


def hear_until(name: str) -> list[tuple[str, int]]:
    with Sub(name) as sub:
        Latch(f"{name} listen", 2).count_down()
        heard = []
        while (message := sub.get(timeout=60)) != "end":
            heard.append(message)
        return heard


def listen_until_killed(name: str) -> None:
    with Sub(name) as sub:
        Latch(f"{name} listen", 2).count_down()
        Variable(f"{name} pid").set(os.getpid())
        while True:
            sub.get()


def kill_there(name: str) -> None:
    os.kill(Variable(f"{name} pid").get(timeout=60), signal.SIGKILL)


def tell_apart(heard: list[tuple[str, int]], who: str) -> list[int]:
    return [number for one, number in heard if one == who]


def test_a_killed_publisher_leaves_the_others_whole(client: Client, submit: Callable[..., Any], name: str) -> None:
    heard = submit(0, hear_until, name)
    doomed = submit(1, put_until_killed, name)
    with Sub(name) as mine:  # So that what workers put goes both ways.
        Latch(f"{name} listen", 2).count_down()
        assert mine.get(timeout=60) == ("doomed", 0)
        kill_there(name)
    pub = Pub(name)
    for number in range(100):
        pub.put(("alive", number))
    doomed.cancel()
    pub.put("end")
    found = heard.result(timeout=60)
    assert tell_apart(found, "alive") == list(range(100))
    numbers = tell_apart(found, "doomed")
    assert numbers == list(range(len(numbers)))


def put_to_the_end(name: str) -> None:
    pub = Pub(name)
    Latch(f"{name} listen", 2).wait(timeout=60)
    for number in range(20_000):
        pub.put(("alive", number))
        if number == 5_000:
            kill_there(name)
    pub.put("end")


def test_a_killed_subscriber_holds_nobody_up_and_leaves_nothing(
    client: Client, submit: Callable[..., Any], name: str
) -> None:
    heard, doomed = submit(0, hear_until, name), submit(1, listen_until_killed, name)
    submit(2, put_to_the_end, name).result(timeout=60)
    doomed.cancel()
    assert tell_apart(heard.result(timeout=60), "alive") == list(range(20_000))
    until = time.monotonic() + 20
    while (left := Pub(name).statistics().subscribers) and time.monotonic() < until:
        time.sleep(0.05)
    assert left == 0
