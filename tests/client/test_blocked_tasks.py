"""As many blocked tasks as there are slots, and more, and then the one that frees them: nobody starves."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults import eventually

from guildhall import Client, Event, KilledWorker, Lock, Pub, Queue, Sub, Variable, aio, as_completed, get_client, wait
from guildhall.primitives.waiters import LINES, WAITS

BLOCKED = 5
"""On two workers of one slot each."""


def parked(client: Client) -> int:
    """How many waits are in line: idle workers stand in one too."""
    return int(client.host.read(lambda txn: len(list(txn.scan(WAITS)))))


def block_on_lock(name: str) -> Any:
    with Lock(name):
        return "held"


def block_on_get(name: str) -> Any:
    return Queue(name).get(timeout=60)


def block_on_batch(name: str) -> Any:
    return Queue(name).get(timeout=60, batch=2)


def block_on_put(name: str) -> Any:
    return Queue(name, 1).put(name, timeout=60)


def block_on_event(name: str) -> Any:
    return Event(name).wait(60)


def block_on_variable(name: str) -> Any:
    return Variable(name).get(timeout=60)


def block_on_sub(name: str) -> Any:
    sub = Sub(name)
    Queue(f"{name} subscribed").put(1)
    return sub.get(timeout=60)


def block_on_future(name: str) -> Any:
    return get_client().submit(wait_for_event, name).result(timeout=60)


def block_on_wait(name: str) -> Any:
    futures = get_client().map(wait_for_event, [name])
    wait(futures, timeout=60)
    return next(as_completed(futures, timeout=60)).result()


def wait_for_event(name: str) -> Any:
    return Event(name).wait(60)


CASES: dict[str, tuple[Callable[[str], Any], Callable[[str], Any]]] = {
    "queue get": (block_on_get, lambda name: Queue(name).put_many([1] * BLOCKED)),
    "queue batch": (block_on_batch, lambda name: Queue(name).put_many([1] * 2 * BLOCKED)),
    "queue put": (block_on_put, lambda name: [Queue(name).get(timeout=20) for _ in range(BLOCKED + 1)][:1]),
    "event": (block_on_event, lambda name: Event(name).set()),
    "variable": (block_on_variable, lambda name: Variable(name).set(1)),
    "sub": (block_on_sub, lambda name: Pub(name).put(1)),
    "future": (block_on_future, lambda name: Event(name).set()),
    "wait and as_completed": (block_on_wait, lambda name: Event(name).set()),
}


@pytest.mark.parametrize("what", CASES)
def test_the_task_that_frees_blocked_tasks_runs(client: Client, what: str) -> None:
    block, free = CASES[what]
    name = f"case {what}"
    if what == "queue put":
        Queue(name, 1).put("first")
    blocked = [client.submit(block, name) for _ in range(BLOCKED)]
    if what == "sub":
        Queue(f"{name} subscribed").get(timeout=30, batch=BLOCKED)
    assert eventually(lambda: parked(client) >= BLOCKED, 20)
    freeing = client.submit(free, name)
    client.gather(blocked)
    freeing.result(timeout=20)
    assert client.gather(client.map(str, range(20))) == [str(n) for n in range(20)]


def test_the_task_that_releases_the_lock_runs(client: Client) -> None:
    def hold_until(name: str) -> str:
        with Lock(name):
            Event(f"{name} is held").set()
            Event(name).wait(60)
        return "released"

    holding = client.submit(hold_until, "locked")
    assert Event("locked is held").wait(20)
    blocked = [client.submit(block_on_lock, "locked") for _ in range(BLOCKED)]
    assert eventually(lambda: client.host.read(lambda txn: len(list(txn.scan(LINES)))) > BLOCKED, 20)
    client.submit(lambda: Event("locked").set()).result(timeout=30)
    assert client.gather(blocked) == ["held"] * BLOCKED
    assert holding.result(timeout=20) == "released"


def test_tasks_that_wait_for_tasks_go_as_deep_as_asked(client: Client) -> None:
    def down(depth: int) -> int:
        return 0 if depth == 0 else 1 + get_client().submit(down, depth - 1).result(timeout=60)

    assert client.submit(down, 25).result(timeout=60) == 25


def test_a_chain_of_blocked_tasks_unwinds(client: Client) -> None:
    """Task n waits for what task n + 1 puts; only the last one needs nobody."""

    def link(number: int) -> int:
        if number < 12:
            Queue(f"link {number + 1}").get(timeout=60)
        Queue(f"link {number}").put(number)
        return number

    assert client.gather(client.map(link, range(13))) == list(range(13))


def test_a_blocked_worker_that_is_killed_lets_its_task_run_again(client: Client, tmp_path: Any) -> None:
    def block(path: str) -> str:
        with open(path, "a") as file:
            file.write(f"{os.getpid()}\n")
        Event("wake up").wait(60)
        return "done"

    path = tmp_path / "pids"
    future = client.submit(block, str(path))
    assert eventually(path.exists, 20)
    assert eventually(lambda: path.read_text().endswith("\n"), 20)
    os.kill(int(path.read_text()), signal.SIGKILL)
    assert eventually(lambda: len(path.read_text().split()) == 2, 30)
    Event("wake up").set()
    assert future.result(timeout=30) == "done"


def test_quick_tasks_claimed_with_a_slow_one_do_not_wait_for_it() -> None:
    """In a stream of quick tasks workers claim several at a time: neither results nor tasks stay behind a slow one."""
    with Client(n_workers=2) as client:
        for _ in range(4):
            quick = client.map(str, range(1500))
            slow = client.submit(time.sleep, 1.5)
            quick += client.map(str, range(200))
            began = time.monotonic()
            client.gather(quick)
            assert time.monotonic() - began < 1.2
            slow.cancel()
            wait(client.map(time.sleep, [1.5 - (time.monotonic() - began)]))


def test_finished_tasks_do_not_run_again_when_the_next_one_kills_the_worker(tmp_path: Path) -> None:
    def note(number: int) -> None:
        with open(tmp_path / "ran", "a") as file:
            file.write(f"{number}\n")

    def die() -> None:
        time.sleep(0.1)
        os._exit(1)

    with Client(n_workers=1) as client:
        noted = client.map(note, range(300))
        killer = client.submit(die)
        noted += client.map(note, range(300, 350))
        assert isinstance(killer.exception(timeout=60), KilledWorker)
        client.gather(noted)
    ran = [int(line) for line in (tmp_path / "ran").read_text().split()]
    assert sorted(ran) == list(range(350))


async def await_event(name: str) -> bool:
    """Twice at a time: it is still one task that waits."""
    both = await asyncio.gather(*(aio.Event(name).wait(30) for _ in range(2)))
    return all(both)


def test_coroutines_that_wait_do_not_starve_the_task_that_frees_them(client: Client) -> None:
    blocked = [client.submit(await_event, "awaited") for _ in range(BLOCKED)]
    time.sleep(0.1)
    client.submit(Event("awaited").set).result(timeout=20)
    assert client.gather(blocked) == [True] * BLOCKED
    assert client.gather(client.map(abs, range(-100, 0))) == list(range(100, 0, -1))
