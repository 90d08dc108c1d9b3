"""Conditions with each kind of lock: threads, processes that are stopped and killed, Ctrl-C, coroutines."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from faults import Child, eventually, pressed_everywhere
from test_ctrl_c import interrupted, pestered
from test_sync import Call, in_child, left_behind

import guildhall
from guildhall import Client, Condition, Hall, Lock, LockLost, NotHeld, RLock, Variable, aio
from guildhall.hosts import current
from guildhall.primitives import condition, rlock
from guildhall.primitives import lock as locks


@pytest.fixture
def hall(hall: Hall) -> Iterator[Hall]:
    """The current hall of the test."""
    current.add_default(hall.host)
    yield hall
    current.remove_default(hall.host)


def leased(name: Any) -> Lock:
    return Lock(name, lease_s=30)


KINDS = {"rlock": RLock, "lock": Lock, "leased": leased}
kinds = pytest.mark.parametrize("kind", list(KINDS))


# What it holds again


def test_the_lock_comes_back_as_often_as_it_was_held(hall: Hall) -> None:
    changed = Condition("c")
    seen: list[int] = []

    def wait() -> None:
        with changed, changed, RLock("c"):
            assert changed.wait(5)
            seen.append(changed.lock.count)
            assert not changed.wait(0.01)
            seen.append(changed.lock.count)

    call = Call(wait)
    assert eventually(lambda: len(changed.statistics().waiting) == 1)
    assert not changed.locked(), "it is released wholly"
    with changed, changed:
        changed.notify()
        assert changed.lock.count == 2
    assert call.result() is None
    assert seen == [3, 3]
    assert not changed.locked()
    assert left_behind(hall) == 0


def test_it_has_the_lock_that_threading_has_and_locks_of_one_name_are_one(hall: Hall) -> None:
    assert isinstance(Condition("c").lock, RLock)
    assert isinstance(aio.Condition("c").lock, aio.RLock)
    lock = Lock("l")
    for changed in (Condition(lock), Condition(lock=lock), Condition(None, lock)):
        assert (changed.name, changed.lock) == ("l", lock)
    assert Condition().name != Condition().name


def test_another_thread_cannot_wait_or_notify_while_one_owns_the_lock(hall: Hall) -> None:
    changed = Condition("c")
    with changed:
        for call in (changed.notify, lambda: changed.wait(0), changed.release):
            assert isinstance(Call(call).result(), NotHeld)


def test_a_lease_is_a_new_one_when_the_lock_comes_back(hall: Hall) -> None:
    changed = Condition("c", Lock("l", lease_s=0.3))
    with changed:
        token = changed.lock.fencing_token
        assert not changed.wait(0.6)
        changed.lock.ensure_held()
        assert changed.lock.fencing_token != token
        time.sleep(0.2)
        changed.lock.ensure_held()
        changed.notify()


def test_an_error_in_the_body_is_not_masked_by_a_lock_that_was_lost(hall: Hall) -> None:
    changed, other = Condition("c", Lock("l", lease_s=0.01)), Lock("l")

    def body() -> None:
        with changed:
            assert other.acquire(timeout=5)
            raise ValueError("of the body")

    with pytest.raises(ValueError, match="of the body") as caught:
        body()
    assert "LockLost" in "".join(caught.value.__notes__)


def test_a_grant_that_another_thread_lost_does_not_count_for_the_object(hall: Hall) -> None:
    """The handle holds the lock again, by another grant than the one that was lost."""
    changed, other = Condition("c", Lock("l", lease_s=0.01)), Lock("l")
    changed.acquire()
    lost = changed.lock._guard(hall.host)
    assert other.acquire(timeout=5)
    assert other.release()
    changed.acquire()
    for op, what in ((condition.wait, guildhall.store.transaction.Waiter(1, 1, 0)), (condition.notify, 1)):
        with pytest.raises(LockLost):
            hall.host.transact(op, changed._key, lost, what, time.monotonic())


def test_who_lost_its_lease_can_neither_wait_nor_notify(hall: Hall) -> None:
    for use in (lambda c: c.wait(0), lambda c: c.notify()):
        changed = Condition("c", Lock("l", lease_s=0.01))
        other = Lock("l")
        changed.acquire()
        assert other.acquire(timeout=5)
        with pytest.raises(LockLost, match="another took over"):
            use(changed)
        with pytest.raises((LockLost, NotHeld)):
            changed.release()
        other.release()
    assert left_behind(hall) == 0


def test_a_waiter_takes_over_from_a_notifier_that_is_stuck(hall: Hall) -> None:
    changed = Condition("c", Lock("l", lease_s=0.3))

    def wait() -> bool:
        with Condition("c", Lock("l")) as mine:
            return mine.wait(10) and mine.lock.took_over

    waiter = Call(wait)
    assert eventually(lambda: len(changed.statistics().waiting) == 1)
    changed.acquire()
    changed.notify()
    began = time.monotonic()
    assert waiter.result() is True
    assert 0.1 < time.monotonic() - began < 0.8
    with pytest.raises(LockLost):
        changed.release()
    assert left_behind(hall) == 0


def test_what_happens_while_a_waiter_hangs_its_bell_is_not_slept_over(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The waiter is put into the line of a leased lock when it has looked for the last time and cannot be rung yet."""
    changed, told = Condition("c", Lock("l", lease_s=0.1)), []
    look = type(hall.host).look

    def slow_look(host: Any, *given: Any) -> bool:
        found = look(host, *given)
        if not told:
            told.append(time.monotonic())
            changed.acquire()
            changed.notify()
        return found

    monkeypatch.setattr(type(hall.host), "look", slow_look)
    with Condition("c", Lock("l")) as mine:
        assert mine.wait(10)
    assert time.monotonic() - told[0] < 0.5


# Ctrl-C


@kinds
def test_ctrl_c_in_a_wait_comes_back_with_the_lock_and_a_second_one_without(hall: Hall, kind: str) -> None:
    def child() -> None:
        changed, seen = Condition("c", KINDS[kind]("l")), []

        def wait() -> None:
            with changed:
                try:
                    changed.wait()
                finally:
                    try:
                        changed.notify()
                        seen.append(True)
                    except NotHeld:
                        seen.append(False)

        assert interrupted(wait) < 1
        holder = KINDS[kind]("l")

        def hold() -> None:
            time.sleep(0.05)
            holder.acquire()
            time.sleep(0.6)
            holder.release()

        keeper = Call(hold)
        again = threading.Timer(0.4, lambda: os.kill(os.getpid(), signal.SIGINT))
        again.start()
        interrupted(wait)
        assert not keeper.done()
        assert seen == [True, False]
        assert keeper.result() is None
        assert not changed.locked()
        assert left_behind(hall) == 0
        with changed:
            assert not changed.wait(0)
        assert not changed.locked()

    in_child(child)


def test_a_thread_that_left_without_the_shared_lock_releases_it_for_nobody(hall: Hall) -> None:
    def child() -> None:
        changed = Condition("c", Lock("l"))
        presses = [threading.Timer(at, lambda: os.kill(os.getpid(), signal.SIGINT)) for at in (0.2, 0.5)]

        def hold() -> bool:
            time.sleep(0.05)
            with changed:
                time.sleep(0.8)
                changed.lock.ensure_held()
            return True

        keeper = Call(hold)
        for press in presses:
            press.start()
        with suppress(KeyboardInterrupt), changed:
            changed.wait()
        assert not keeper.done()
        assert keeper.result() is True

    in_child(child)


@kinds
def test_ctrl_c_at_any_moment_leaves_nobody_in_line_and_the_lock_free(hall: Hall, kind: str) -> None:
    seed = random.randrange(1 << 30)

    def child() -> None:
        changed = Condition("c", KINDS[kind]("l"))

        def step() -> None:
            with changed:
                changed.notify()
                changed.wait(0.0002)
                with suppress(NotHeld):
                    changed.wait(0)

        def check(place: str) -> None:
            if place in ("step", "__exit__"):  # Before the first line of our `__exit__` nothing can be done.
                with suppress(NotHeld):
                    changed.release()
            assert not changed.locked(), f"the lock is held, pressed in {place}, seed {seed}"
            assert left_behind(hall) == 0, f"somebody is in line, pressed in {place}, seed {seed}"
            with changed:
                pass

        pestered(step, check, 400, seed)

    Child(child).result()


@kinds
def test_ctrl_c_at_every_place_of_leaving_leaves_an_object_that_knows_it_holds_nothing(hall: Hall, kind: str) -> None:
    def child() -> int:
        def case() -> tuple[Callable[[], Any], Callable[[str], None]]:
            changed = Condition("c", KINDS[kind]("l"))

            def call() -> None:
                with changed:
                    changed.notify()

            def check(place: str) -> None:
                if place.startswith(
                    "call  in Condition.__exit__"
                ):  # Before the first line of our `__exit__` nothing can be done.
                    with suppress(NotHeld):
                        changed.release()
                assert not changed.locked(), f"the lock is held; Ctrl-C came at {place}"
                assert changed.lock.fencing_token is None, f"it believes that it holds the lock; Ctrl-C came at {place}"

            return call, check

        return pressed_everywhere(case)

    assert Child(child).result() > 20


# Kills


def is_inside(hall: Hall, pid: int) -> bool:
    """Whether the process holds the lock and has returned from its wait, so that its news is its own."""

    def look(txn: Any) -> bool:
        held = locks.look(txn, Lock("l")._key) or rlock.look(txn, RLock("l")._key)
        session = None if held is None else held.session
        pids = {s.number: s.pid for s in guildhall.primitives.sessions.everybody(txn)}
        told = condition.NOTIFIED + guildhall.store.keys.pack_id(session or 0)
        return session is not None and pids.get(session) == pid and txn.first(told) is None

    return bool(hall.host.read(look))


def kill_stopped(hall: Hall, child: Child) -> bool:
    """Kill the process. Whether it died inside."""
    os.kill(child.pid, signal.SIGSTOP)
    os.waitpid(child.pid, os.WUNTRACED)
    inside = is_inside(hall, child.pid)
    child.kill()
    return inside


class Shop:
    """Stock that is told of once for each piece, and consumers and holders of the lock that are killed.

    A consumer that dies between its wait and its commit has news that nobody else will have: the shop tells it again.
    Whatever else happens, each piece is consumed.
    """

    def __init__(self, hall: Hall, kind: str, seed: int) -> None:
        self.hall, self.kind, self.dice = hall, kind, random.Random(seed)
        self.changed, self.stock = self.condition(), Variable("stock")
        self.stock.set(0)
        self.consumers: list[Child] = []
        self.holders: list[Child] = []

    def condition(self) -> Condition:
        return Condition("c", KINDS[self.kind]("l"))

    def consume(self) -> None:
        changed, stock = self.condition(), Variable("stock")
        timeouts = random.Random(os.getpid())
        while True:
            with changed:
                while not stock.get():
                    changed.wait(timeouts.choice((None, 0.001, 0.02)))
                stock.set(stock.get() - 1)

    def hold(self) -> None:
        lock = KINDS[self.kind]("l")
        while True:
            with lock:
                time.sleep(0.0005)
            time.sleep(0.0005)

    def supply(self) -> None:
        with self.changed:
            self.stock.set(self.stock.get() + 1)
            self.changed.notify()

    def kill_one(self) -> None:
        while len(self.consumers) < 3:
            self.consumers.append(Child(self.consume))
        while len(self.holders) < 1:
            self.holders.append(Child(self.hold))
        for _ in range(self.dice.randint(1, 6)):
            self.supply()
        time.sleep(self.dice.random() ** 2 * 0.004)
        some = self.holders if self.dice.random() < 0.2 else self.consumers
        if kill_stopped(self.hall, some.pop(self.dice.randrange(len(some)))):
            with self.changed:
                self.changed.notify()
        assert eventually(lambda: self.stock.get() == 0, 5), "a notification was lost"

    def close(self) -> None:
        for child in self.consumers + self.holders:
            child.kill()


def kill_consumers(hall: Hall, kind: str, kills: int) -> None:
    seed = random.randrange(1 << 30)
    shop = Shop(hall, kind, seed)
    try:
        for _ in range(kills):
            shop.kill_one()
    except AssertionError as error:
        raise AssertionError(f"{error}, seed {seed}") from None
    finally:
        shop.close()
    hall.host.bury_dead()
    assert left_behind(hall) == 0
    assert not shop.changed.locked()


@kinds
def test_no_notification_is_lost_when_waiters_and_holders_are_killed(hall: Hall, kind: str) -> None:
    kill_consumers(hall, kind, 50)


@pytest.mark.chaos
@kinds
def test_no_notification_is_lost_in_thousands_of_kills(hall: Hall, kind: str) -> None:
    kill_consumers(hall, kind, 2000)


def trade(kind: str, is_nested: bool, seed: int) -> None:
    """Notify, wait and hold for ever; who comes in finds nobody inside who is alive."""
    dice, pid = random.Random(seed), os.getpid()
    changed, inside = Condition("c", KINDS[kind]("l")), Variable("inside")

    def enter() -> None:
        other = inside.get()
        if other not in (None, pid) and not is_ending(other):
            Variable("wrong").set((pid, other))
        inside.set(pid)

    def turn() -> None:
        enter()
        if dice.random() < 0.5:
            changed.notify(dice.randint(1, 3))
        else:
            inside.set(None)
            changed.wait(dice.choice((0, 0.001, 0.05)))
            enter()
        inside.set(None)

    while True:
        with changed:
            if is_nested:
                with changed:
                    turn()
            else:
                turn()


EXITING = 0x4
"""Of the flags in `/proc/PID/stat`: the kernel is taking the process apart. Its sockets are closed then, already."""


def is_ending(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            state, *numbers = file.read().rpartition(")")[2].split()
    except OSError:
        return True
    return state in "ZX" or bool(int(numbers[5]) & EXITING)


def kill_traders(hall: Hall, kind: str, kills: int) -> None:
    seed = random.randrange(1 << 30)
    dice = random.Random(seed)
    changed, wrong = Condition("c", KINDS[kind]("l")), Variable("wrong")
    wrong.set(None)
    Variable("inside").set(None)
    traders: list[Child] = []
    for _ in range(kills):
        while len(traders) < 4:
            traders.append(Child(trade, kind, kind == "rlock", dice.randrange(1 << 30)))
        time.sleep(dice.random() ** 2 * 0.01)
        traders.pop(dice.randrange(4)).kill()
        assert wrong.get() is None, f"two were inside, seed {seed}"
        assert changed.acquire(timeout=5), f"nobody gets the lock, seed {seed}"
        changed.release()
    for trader in traders:
        trader.kill()
    hall.host.bury_dead()
    assert left_behind(hall) == 0
    assert not changed.locked()


@kinds
def test_the_lock_stays_exclusive_and_goes_round_when_anybody_is_killed(hall: Hall, kind: str) -> None:
    kill_traders(hall, kind, 50)


@pytest.mark.chaos
@kinds
def test_the_lock_goes_round_in_thousands_of_kills(hall: Hall, kind: str) -> None:
    kill_traders(hall, kind, 2000)


def test_a_stopped_holder_of_a_lease_keeps_nobody_from_what_it_was_told(hall: Hall) -> None:
    """The waiter that was notified is stopped before it returns: its lease runs out, it waits for the lock again."""
    changed = Condition("c", Lock("l", lease_s=0.2))
    seen = Variable("seen")

    def wait() -> bool:
        with Condition("c", Lock("l", lease_s=0.2)) as mine:
            told = mine.wait(20)
            mine.lock.ensure_held()
            seen.set(seen.get() + 1)
            return told

    seen.set(0)
    children = [Child(wait) for _ in range(2)]
    assert eventually(lambda: len(changed.statistics().waiting) == 2)
    for child in children:
        os.kill(child.pid, signal.SIGSTOP)
    with changed:
        changed.notify_all()
    time.sleep(0.3)
    with changed:  # Taken over, twice.
        assert seen.get() == 0
    for child in children:
        os.kill(child.pid, signal.SIGCONT)
    assert [child.result() for child in children] == [True, True]
    assert seen.get() == 2
    assert left_behind(hall) == 0


# Forks, tasks, coroutines


def test_a_forked_child_holds_nothing_of_its_parent(hall: Hall) -> None:
    for changed in (Condition("c"), Condition("d", Lock("d"))):
        with changed:

            def child(changed: Condition = changed) -> list[str]:
                said = []
                for call in (changed.notify, lambda: changed.wait(0), changed.release):
                    with pytest.raises(NotHeld) as caught:
                        call()
                    said.append(str(caught.value))
                return said

            assert len(Child(child).result()) == 3
            changed.notify()


def test_tasks_wait_at_a_condition_more_than_there_are_workers(client: Client) -> None:
    def wait(number: int) -> int:
        with Condition("c") as changed:
            changed.wait_for(lambda: Variable("turn").get() == number, timeout=30)
            Variable("turn").set(number + 1)
            changed.notify_all()
        return number

    Variable("turn").set(-1)
    futures = [client.submit(wait, number) for number in reversed(range(12))]
    with Condition("c") as changed:
        Variable("turn").set(0)
        changed.notify_all()
    assert [future.result(30) for future in futures] == list(reversed(range(12)))


def test_coroutines_wait_with_each_kind_of_lock(hall: Hall) -> None:
    async def main(lock: Any) -> None:
        changed, order = aio.Condition("c", lock), []

        async def wait(number: int) -> None:
            async with changed:
                assert await changed.wait(5)
                order.append(number)

        waits = []
        for number in range(5):
            waits.append(asyncio.ensure_future(wait(number)))
            while len(changed.statistics().waiting) <= number:
                await asyncio.sleep(0.001)
        async with changed:
            await changed.notify(2)
        async with changed:
            await changed.notify_all()
            with pytest.raises(NotHeld):
                await asyncio.ensure_future(aio.Condition("c", type(lock)(lock.name)).notify())
        await asyncio.gather(*waits)
        assert order == list(range(5))
        assert not changed.locked()

    for lock in (aio.RLock("r"), aio.Lock("l"), aio.Lock("leased", lease_s=30)):
        asyncio.run(main(lock))
    assert left_behind(hall) == 0


def test_a_coroutine_cancelled_twice_has_no_lock_and_releases_it_for_nobody(hall: Hall) -> None:
    async def main(lock: Any) -> None:
        changed = aio.Condition("c", lock)

        async def wait() -> None:
            async with changed:
                await changed.wait()

        waiting = asyncio.ensure_future(wait())
        while not changed.statistics().waiting:
            await asyncio.sleep(0.001)
        async with changed:
            for _ in range(2):
                waiting.cancel()
                await asyncio.sleep(0.02)
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await changed.notify()
        assert not changed.locked()

    for lock in (aio.RLock("r"), aio.Lock("l")):
        asyncio.run(main(lock))
    assert left_behind(hall) == 0


def test_a_wait_that_is_closed_with_its_loop_leaves_nothing(hall: Hall) -> None:
    async def wait() -> None:
        async with aio.Condition("c") as changed:
            await changed.wait()

    loop = asyncio.new_event_loop()
    waiting = wait()

    async def start() -> None:
        task = asyncio.get_running_loop().create_task(waiting)
        while not Condition("c").statistics().waiting:
            await asyncio.sleep(0.001)
        task._log_destroy_pending = False  # type: ignore[attr-defined]

    loop.run_until_complete(start())
    loop.close()
    del loop
    gc.collect()
    with suppress(RuntimeError):
        waiting.close()
    gc.collect()
    assert left_behind(hall) == 0
    assert not Condition("c").locked()


def test_a_coroutine_that_waited_for_long_is_woken_at_once(hall: Hall) -> None:
    async def wait() -> float:
        async with aio.Condition("c") as changed:
            await changed.wait(10)
            return time.monotonic()

    async def main() -> float:
        waiting = asyncio.ensure_future(wait())
        await asyncio.sleep(1.2)
        told = await asyncio.to_thread(tell)
        return await waiting - told

    def tell() -> float:
        with Condition("c") as changed:
            changed.notify()
        return time.monotonic()

    assert asyncio.run(main()) < 0.2
