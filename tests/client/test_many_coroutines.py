"""Thousands of coroutines that wait cost one socket."""

from __future__ import annotations

import asyncio
import os
import time

from guildhall import Client, Event, aio
from guildhall.client.lounge import lounge_of


def sockets() -> int:
    links = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
    return sum(os.readlink(link).startswith("socket:") for link in links if os.path.islink(link))


def test_thousands_of_coroutines_wait_with_one_socket(client: Client) -> None:
    event = aio.Event("many")

    async def main() -> list[bool]:
        waiting = [asyncio.create_task(event.wait(30)) for _ in range(3000)]
        await asyncio.sleep(0.5)
        before = sockets()
        more = [asyncio.create_task(event.wait(30)) for _ in range(500)]
        await asyncio.sleep(0.2)
        assert sockets() == before
        await asyncio.to_thread(Event("many").set)
        return await asyncio.gather(*waiting, *more)

    assert all(asyncio.run(main()))


def test_thousands_of_futures_are_awaited(client: Client) -> None:
    def slow(x: int) -> int:
        time.sleep(0.05)
        return x

    async def main() -> list[int]:
        slow_ones = client.map(slow, range(10))
        futures = client.map(abs, range(2000))
        return await asyncio.gather(*slow_ones, *futures)

    assert asyncio.run(main()) == [*range(10), *range(2000)]


def test_a_coroutine_whose_time_is_up_leaves_the_others_waiting(client: Client) -> None:
    queue = aio.Queue("apart")

    async def get(timeout: float) -> object:
        try:
            return await queue.get(timeout=timeout)
        except TimeoutError:
            return "late"

    async def main() -> list[object]:
        waiting = [asyncio.create_task(get(0.05 if n % 2 else 20)) for n in range(20)]
        await asyncio.sleep(0.3)
        for n in range(10):
            await queue.put(n)
        return await asyncio.gather(*waiting)

    got = asyncio.run(main())
    assert got[1::2] == ["late"] * 10
    assert sorted(got[::2]) == list(range(10))  # type: ignore[type-var]


def test_a_wait_that_is_granted_before_it_sleeps_leaves_no_bell(client: Client) -> None:
    async def main() -> None:
        lounge = lounge_of(client.host)
        assert not lounge.arm(client.host.waiter())
        assert lounge._bell is None

    asyncio.run(main())
