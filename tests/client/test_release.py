"""What nobody refers to any more goes, soon, and also when nobody does anything."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
from faults import eventually, script

from guildhall import (
    Client,
    Event,
    Hall,
    Lock,
    Misuse,
    Pub,
    Queue,
    Sub,
    TimedOut,
    Variable,
    as_completed,
    wait,
)  # fmt: skip


def blobs(client: Client) -> list[str]:
    return os.listdir(os.path.join(client.host.directory, "blobs"))


def soon_empty(client: Client) -> bool:
    return eventually(lambda: not blobs(client), 5)


def test_a_blob_goes_with_its_last_future_while_the_client_does_nothing(client: Client) -> None:
    future = client.scatter(np.zeros(100_000))
    assert blobs(client)
    del future
    assert soon_empty(client)


def test_a_blob_goes_although_many_small_results_were_let_go_before_it(client: Client) -> None:
    for _ in range(3):
        client.gather(client.map(abs, range(5000)))
        client.scatter(np.zeros(100_000))
        assert len(blobs(client)) <= 1
    assert soon_empty(client)


def test_a_result_lives_in_a_variable_until_it_is_overwritten_and_in_a_queue_until_it_is_taken(client: Client) -> None:
    Variable("kept").set(client.scatter(np.ones(100_000)))
    Queue("kept").put(client.scatter(np.ones(50_000)))
    time.sleep(0.2)
    assert len(blobs(client)) == 2
    assert Variable("kept").get().result().sum() == 100_000
    assert Queue("kept").get(timeout=5).result().sum() == 50_000
    Variable("kept").set(None)
    assert soon_empty(client)


def test_results_that_only_tasks_passed_on_are_freed(client: Client) -> None:
    last = client.submit(np.zeros, 100_000)
    for _ in range(5):
        last = client.submit(np.add, last, 1)
    assert last.result(timeout=20)[0] == 5
    del last
    assert soon_empty(client)


def regions(client: Client) -> Counter[int]:
    """How many records there are of each region."""
    return client.host.read(lambda txn: Counter(key[0] for key, _ in txn.scan(b"")))


def everything(client: Client, number: int) -> None:
    """A round of all there is, each thing under a name of its own, and dropped at any time."""
    name = f"round {number}"
    with Lock(name):
        assert not Lock(name).acquire(timeout=0.001)
    event, variable, sub, pub = Event(name), Variable(name), Sub(name), Pub(name)
    event.set()
    event.clear()
    assert not event.wait(0.001)
    variable.set([client.submit(abs, -number), client.scatter(number)])
    assert [future.result() for future in variable.get()] == [number, number]
    variable.delete()
    with suppress(TimedOut):
        variable.get(timeout=0.001)
    for value in (1, client.submit(abs, -1), np.zeros(20_000)):
        pub.put(value)
    sub.get(timeout=5)
    sub.close()
    slow = client.submit(time.sleep, 0.002)
    chain = [client.submit(lambda x, y: x, number, slow) for _ in range(3)]
    deep = client.submit(abs, client.submit(abs, chain[0]))
    failed = client.submit(lambda x: 1 // 0, chain[1])
    if number % 3:
        wait([deep, failed])
        assert isinstance(failed.exception(), ZeroDivisionError)
    elif number % 2:
        client.cancel([slow, deep])
    sum(client.gather(list(as_completed(client.map(abs, range(30))))))


def test_no_record_is_left_of_what_was_used_and_dropped(client: Client) -> None:
    everything(client, 0)
    client.submit(abs, -1).result()
    before = regions(client)
    for number in range(1, 100):
        everything(client, number)

    def left() -> Counter[int]:
        client.host.settle()
        return regions(client) - before

    assert eventually(lambda: sum(left().values()) < 5), left()
    assert soon_empty(client)


def test_thousands_of_subscriptions_dropped_at_once_go_in_portions(hall: Hall) -> None:
    subs = [Sub(number + 1, hall=hall) for number in range(60_000)]
    del subs
    Variable("v", hall=hall).set(1)
    assert Variable("v", hall=hall).get() == 1
    hall.host.settle()
    assert not hall.host._deferred


def test_closing_a_subscription_ends_the_wait_of_another_thread(hall: Hall) -> None:
    sub, ended = Sub("s", hall=hall), []

    def get() -> None:
        with suppress(Misuse):
            sub.get(timeout=30)
        ended.append(True)

    thread = threading.Thread(target=get)
    thread.start()
    time.sleep(0.1)
    sub.close()
    thread.join(10)
    assert ended


def test_a_large_function_goes_with_its_task(client: Client) -> None:
    def pages() -> int:
        return sum(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("Shmem:"))

    before = pages()
    for number in range(10):
        array = np.full(5_000_000, number)
        assert client.submit(lambda array=array: int(array[-1])).result() == number
    assert soon_empty(client)
    assert eventually(lambda: pages() - before < 200_000), "of 400 MB"


def test_futures_that_outlive_the_interpreter_say_nothing(tmp_path: Path) -> None:
    """They are let go when the globals of modules are gone: as those that a script keeps in a circle are."""
    lines = """
import dask.array as da
import guildhall

client = guildhall.Client(n_workers=2)
kept = client.persist(da.ones((100, 1000), chunks=50))
assert kept.sum().compute(scheduler=client) == 100_000
print("done")
"""
    out, err = script(lines, tmp_path).communicate(timeout=60)
    assert (out, err) == ("done\n", "")


def test_a_subscription_that_outlives_the_interpreter_says_nothing(tmp_path: Path) -> None:
    lines = """
import os
import guildhall

client = guildhall.Client(n_workers=1)
os.kept = guildhall.Sub("news")
print("done")
"""
    out, err = script(lines, tmp_path).communicate(timeout=60)
    assert (out, err) == ("done\n", "")
