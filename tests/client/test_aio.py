"""asyncio: cancelled at any moment, nothing is lost, nobody is stuck."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

import guildhall
from guildhall import Hall, Misuse, TimedOut, aio, deadline
from guildhall.hosts import current
from guildhall.primitives.waiters import LINES, WAITS


@pytest.fixture
def hall(hall: Hall) -> Iterator[Hall]:
    """The current hall of the test: the handles of `aio` are used without naming it."""
    current.add_default(hall.host)
    yield hall
    current.remove_default(hall.host)


def records(hall: Hall) -> int:
    return int(hall.host.read(lambda txn: len(list(txn.scan(LINES))) + len(list(txn.scan(WAITS)))))


async def cancelled_at_random(call: Callable[[], Awaitable[Any]], dice: random.Random) -> Any:
    """Start the call and cancel it after a random moment. What it returned, or CancelledError."""
    task = asyncio.ensure_future(call())
    for _ in range(dice.randrange(4)):
        await asyncio.sleep(0)
    if dice.random() < 0.7:
        await asyncio.sleep(dice.random() * 0.002)
    task.cancel()
    try:
        return await task
    except asyncio.CancelledError:
        return asyncio.CancelledError


def test_a_lock_survives_cancellation_at_any_moment(hall: Hall) -> None:
    seed = random.randrange(1 << 30)
    dice = random.Random(seed)

    async def hold_and_pass() -> None:
        held = 0
        for _ in range(150):
            holder = aio.Lock("l")
            assert await holder.acquire(timeout=5), f"stuck, seed {seed}"
            locks = [aio.Lock("l") for _ in range(3)]
            waits = [asyncio.ensure_future(cancelled_at_random(lock.acquire, dice)) for lock in locks]
            await asyncio.sleep(dice.random() * 0.002)
            await holder.release()
            for lock, got in zip(locks, await asyncio.gather(*waits)):
                if got is True:
                    held += 1
                    await lock.release()
            assert not holder.locked(), f"held by nobody, seed {seed}"
        assert records(hall) == 0
        print(f"{held} of 450 got it")

    asyncio.run(hold_and_pass())


def test_items_survive_cancelled_gets_and_puts(hall: Hall) -> None:
    seed = random.randrange(1 << 30)
    dice = random.Random(seed)

    async def pass_on() -> None:
        queue, narrow = aio.Queue("q"), aio.Queue("narrow", 1)
        got: list[int] = []
        for number in range(300):
            gets = [asyncio.ensure_future(cancelled_at_random(queue.get, dice)) for _ in range(2)]
            await asyncio.sleep(dice.random() * 0.001)
            await queue.put(number)
            got += [item for item in await asyncio.gather(*gets) if item is not asyncio.CancelledError]
        got += await queue.get(batch=True)
        assert sorted(got) == list(range(300)), f"seed {seed}"
        there: list[int] = []
        done = []
        for number in range(200):
            await narrow.put(-1)
            put = asyncio.ensure_future(cancelled_at_random(lambda n=number: narrow.put(n), dice))
            await asyncio.sleep(dice.random() * 0.001)
            assert await narrow.get(timeout=5) == -1
            if await put is None:
                done.append(number)
            there += await narrow.get(batch=True)
        assert set(done) <= set(there), f"seed {seed}"
        assert len(set(there)) == len(there)
        assert records(hall) == 0

    asyncio.run(pass_on())


def test_event_variable_and_sub_survive_cancelled_waits(hall: Hall) -> None:
    seed = random.randrange(1 << 30)
    dice = random.Random(seed)

    async def wait_and_wake() -> None:
        got: list[int] = []
        sub, pub = aio.Sub("t"), aio.Pub("t")
        for number in range(100):
            event, variable = aio.Event(f"e{number}"), aio.Variable(f"v{number}")
            calls = (event.wait, variable.get, sub.get)
            waits = [asyncio.ensure_future(cancelled_at_random(call, dice)) for call in calls]
            await asyncio.sleep(dice.random() * 0.001)
            await event.set()
            await variable.set(number)
            await pub.put(number)
            heard = (await asyncio.gather(*waits))[2]
            if heard is not asyncio.CancelledError:
                got.append(heard)
            assert await event.wait(5)
            assert await variable.get(5) == number
        while len(got) < 100:
            got.append(await sub.get(timeout=5))
        assert got == list(range(100)), f"seed {seed}"
        assert records(hall) == 0

    asyncio.run(wait_and_wake())


def test_a_lock_as_a_context_excludes_coroutines_and_is_freed_by_an_error(hall: Hall) -> None:
    async def main() -> int:
        count = aio.Variable("n")
        await count.set(0)

        async def add() -> None:
            for _ in range(10):
                async with aio.Lock("l"):
                    before = await count.get()
                    await asyncio.sleep(0)
                    await count.set(before + 1)

        await asyncio.gather(*(add() for _ in range(8)))
        lock = aio.Lock("l")

        async def fail_holding_it() -> None:
            async with lock as same:
                assert same is lock
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail_holding_it()
        assert not lock.locked()
        return int(await count.get())

    assert asyncio.run(main()) == 80


def test_a_sub_is_iterated(hall: Hall) -> None:
    async def main() -> list[int]:
        sub, got = aio.Sub("t"), []
        for number in range(5):
            await aio.Pub("t").put(number)
        async for message in sub:
            got.append(message)
            if message == 4:
                return got
        return []

    assert asyncio.run(main()) == list(range(5))


def test_coroutines_that_share_a_sub_get_each_message_once(hall: Hall) -> None:
    async def main() -> list[int]:
        sub = aio.Sub("t")

        async def take() -> list[int]:
            return [await sub.get(timeout=10) for _ in range(10)]

        takers = [asyncio.ensure_future(take()) for _ in range(10)]
        await asyncio.sleep(0.05)
        for number in range(100):
            await aio.Pub("t").put(number)
        got = [n for some in await asyncio.gather(*takers) for n in some]
        slow = asyncio.ensure_future(sub.get(timeout=10))
        await asyncio.sleep(0.02)
        with pytest.raises(TimedOut):
            await sub.get(timeout=0.05)
        await aio.Pub("t").put(100)
        return [*got, await slow]

    assert sorted(asyncio.run(main())) == list(range(101))
    assert asyncio.run(_once(lambda: aio.Sub("t").get(timeout=0.01))) is TimedOut


async def _once(call: Callable[[], Awaitable[Any]]) -> Any:
    try:
        return await call()
    except guildhall.GuildhallError as error:
        return type(error)


def test_timeouts_are_as_in_the_synchronous_calls(hall: Hall) -> None:
    async def main() -> list[Any]:
        lock, full = aio.Lock("l"), aio.Queue("full", 1)
        await lock.acquire()
        await full.put(1)
        began = deadline.now()
        answers = [
            await _once(lambda: aio.Lock("l").acquire(timeout=0.02)),
            await _once(lambda: aio.Lock("l").acquire(blocking=False)),
            await _once(lambda: aio.Event("e").wait(timeout="20ms")),
            await _once(lambda: aio.Queue("q").get(timeout=0.02)),
            await _once(lambda: full.put(2, timeout=0.02)),
            await _once(lambda: aio.Variable("v").get(timeout=0.02)),
            await _once(lambda: aio.Sub("t").get(timeout=0)),
        ]
        assert deadline.now() - began < 2
        return answers

    assert asyncio.run(main()) == [False, False, False, TimedOut, TimedOut, TimedOut, TimedOut]


@pytest.mark.parametrize(
    "call",
    [
        lambda: aio.Lock("l").acquire(blocking=False, timeout=1),
        lambda: aio.Lock("l").acquire(timeout=-1),
        lambda: aio.Queue("q").get(batch=-1),
        lambda: aio.Queue("q").get(batch=1.5),
        lambda: aio.Queue("q").get(timeout=float("nan")),
        lambda: aio.Queue("q").put(1, timeout="soon"),
        lambda: aio.Event("e").wait(-0.5),
        lambda: aio.Variable("v").get("1 fortnight"),
        lambda: aio.Sub("t").get(-1),
    ],
)
def test_what_the_synchronous_calls_refuse_is_refused(hall: Hall, call: Any) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match=r"timeout|batch"):
            await call()

    asyncio.run(main())
    assert issubclass(Misuse, ValueError)


def test_a_variable_deleted_while_it_is_awaited_does_not_block_the_loop(hall: Hall) -> None:
    async def main() -> Any:
        variable = aio.Variable("v")
        waiting = asyncio.ensure_future(variable.get(timeout=5))
        await asyncio.sleep(0.02)
        guildhall.Variable("v").set(1)
        guildhall.Variable("v").delete()
        ticks = 0
        for _ in range(20):
            await asyncio.sleep(0.005)
            ticks += 1
        assert not waiting.done()
        guildhall.Variable("v").set(ticks)
        return await waiting

    assert asyncio.run(main()) == 20


def test_a_loop_that_is_closed_amid_waits_leaves_nobody_in_line(hall: Hall) -> None:
    async def main() -> None:
        calls = (aio.Queue("q").get, aio.Event("e").wait, aio.Variable("v").get, aio.Sub("t").get)
        left = [asyncio.ensure_future(call()) for call in calls]
        assert len(left) == 4
        await asyncio.sleep(0.02)
        assert records(hall) > 0

    asyncio.run(main())
    assert records(hall) == 0


def test_wait_for_and_timeout_cancel_cleanly(hall: Hall) -> None:
    async def main() -> None:
        queue = aio.Queue("q")
        for number in range(30):
            with suppress(TimeoutError):
                await asyncio.wait_for(queue.get(), 0.001)
            with suppress(TimeoutError):
                async with asyncio.timeout(0.001):
                    await aio.Lock("held").acquire()
            await queue.put(number)
            assert await queue.get(timeout=5) == number
            if number == 0:
                await aio.Lock("held").acquire(timeout=0)
        assert records(hall) == 0

    asyncio.run(main())
