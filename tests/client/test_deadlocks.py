"""Circles of waits on real halls, of threads, processes, tasks and coroutines: who is told, and who is let be."""

from __future__ import annotations

import asyncio
import gc
import mmap
import os
import random
import signal
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest
from faults import Child, eventually
from test_ctrl_c import records

import guildhall
from guildhall import (
    Client,
    Condition,
    DeadlockError,
    Election,
    Event,
    Future,
    Hall,
    Lock,
    MultiLock,
    Queue,
    RLock,
    RWLock,
    Semaphore,
    Variable,
    aio,
    as_completed,
)
from guildhall.client import agents
from guildhall.hosts import current
from guildhall.primitives import multilock, pool, sessions, waiters

Outcome = DeadlockError | str


@pytest.fixture
def hall(hall: Hall) -> Iterator[Hall]:
    """The current hall of the test: handles are used without naming it."""
    current.add_default(hall.host)
    yield hall
    current.remove_default(hall.host)


def is_clean(hall: Any) -> bool:
    """Nobody waits, and so on."""
    return holds_nothing(hall) and records(hall) == 0 and not agents.entered


def holds_nothing(hall: Any) -> bool:
    """Nobody holds anything, asks for several names, or states anything."""
    regions = (
        b"\x32",
        b"\x5f",
        b"\x54",
        b"\x55",
        multilock.MULTILOCKS,
        multilock.REQUESTED,
        pool.LEASES,
        waiters.STATEMENTS,
    )
    return not hall.host.read(lambda txn: [key for region in regions for key, _ in txn.scan(region)])


class Gate:
    """Where processes and threads meet: all leave together, and nothing of the hall is used for that."""

    def __init__(self, parties: int) -> None:
        self._memory = mmap.mmap(-1, 8 * parties)
        self._at = memoryview(self._memory).cast("q")
        self._parties = parties

    def meet(self, party: int, meeting: int) -> None:
        self._at[party] = meeting
        while min(self._at[: self._parties]) < meeting:
            os.sched_yield()

    def close(self) -> None:
        self._at.release()
        self._memory.close()


def threads(*calls: Callable[[], Any], within_s: float = 20) -> list[Any]:
    """What each call returned, or the DeadlockError that it raised; what else it raised, as text. Each runs in a
    thread."""
    found: list[Any] = ["hangs"] * len(calls)

    def run(place: int, call: Callable[[], Any]) -> None:
        try:
            found[place] = call()
        except DeadlockError as error:
            found[place] = error
        except Exception:
            found[place] = traceback.format_exc()

    running = [threading.Thread(target=run, args=pair, daemon=True) for pair in enumerate(calls)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(within_s)
    return found


def told(found: list[Any]) -> list[DeadlockError]:
    """Those who were told; all others must have gone on."""
    assert "hangs" not in found
    return [one for one in found if isinstance(one, DeadlockError)]


# -- circles that must close ------------------------------------------------------------------------------------------

PAIRS: dict[str, Callable[[str], Any]] = {
    "lock": Lock,
    "rlock": RLock,
    "semaphore": Semaphore,
    "read-write": lambda name: RWLock(name).write(),
    "multilock": lambda name: MultiLock([name]),
    "election": Election,
    "condition": lambda name: Condition(name, Lock(name)),
}


def crossing(mine: Any, next_up: Any, meet: Callable[[], Any]) -> str:
    with mine:
        meet()
        with next_up:
            return "went on"


@pytest.mark.alone
@pytest.mark.parametrize("kind", PAIRS)
def test_of_threads_that_cross_one_is_told_and_the_others_go_on(hall: Hall, kind: str) -> None:
    made = PAIRS[kind]
    for count in (2, 3, 4):
        meeting = threading.Barrier(count)
        calls = [
            lambda n=n, count=count, meeting=meeting: crossing(
                made(f"{n}"), made(f"{(n + 1) % count}"), lambda: meeting.wait(10)
            )
            for n in range(count)
        ]
        found = threads(*calls)
        errors = told(found)
        assert len(errors) == 1
        assert len(errors[0].circle) == count
        assert len({link.agent for link in errors[0].circle}) == count
        assert errors[0].circle[0].agent.startswith("thread Thread-")
        for link in errors[0].circle:
            assert link.waits_for in str(errors[0])
    assert is_clean(hall)


@pytest.mark.alone
def test_threads_that_share_the_objects_cross_as_well(hall: Hall) -> None:
    for made in (Lock, Semaphore, RLock):
        one, two = made("one"), made("two")
        for _ in range(20):
            meeting = threading.Barrier(2)
            found = threads(
                lambda meeting=meeting, one=one, two=two: crossing(one, two, meeting.wait),
                lambda meeting=meeting, one=one, two=two: crossing(two, one, meeting.wait),
            )
            assert len(told(found)) == 1
    assert is_clean(hall)


def _rounds(gate: Gate, party: int, parties: int, rounds: int, kind: str, seed: int, *, is_plain: bool) -> list[str]:
    """Cross with the others again and again. What came of each time."""
    dice, said = random.Random(seed * 10 + party), []
    for number in range(rounds):
        mine = PAIRS[kind](f"{number} {party}")
        next_up = PAIRS[kind](f"{number} {(party + 1) % parties}")

        def meet(number: int = number) -> None:
            gate.meet(party, number + 1)
            time.sleep(dice.choice((0, 0, 0.0001, 0.0005)))

        try:
            if is_plain:
                mine.acquire()
                try:
                    meet()
                    next_up.acquire()
                    next_up.release()
                finally:
                    mine.release()
            else:
                crossing(mine, next_up, meet)
            said.append("went on")
        except DeadlockError as error:
            said.append(f"told of {len(error.circle)}")
    return said


@pytest.mark.alone
@pytest.mark.parametrize(
    ("kind", "parties", "is_plain"),
    [
        ("lock", 2, False), ("lock", 2, True), ("lock", 3, False), ("lock", 3, True),
        ("rlock", 2, True), ("rlock", 3, False), ("semaphore", 2, False), ("semaphore", 2, True),
        ("read-write", 3, False), ("multilock", 3, False), ("multilock", 2, True),
    ],
)  # fmt: skip
def test_of_processes_that_cross_exactly_one_is_told_each_time(
    hall: Hall, kind: str, parties: int, is_plain: bool
) -> None:
    seed, rounds, gate = random.randrange(1 << 20), 60, Gate(parties)
    children = [Child(_play, gate, party, parties, rounds, kind, seed, is_plain) for party in range(parties)]
    found = [child.result() for child in children]
    gate.close()
    for number, outcomes in enumerate(zip(*found, strict=True)):
        assert sorted(outcomes) == [f"told of {parties}", *["went on"] * (parties - 1)], f"round {number}, seed {seed}"
    assert is_clean(hall)


def _play(gate: Gate, party: int, parties: int, rounds: int, kind: str, seed: int, is_plain: bool) -> list[str]:
    return _rounds(gate, party, parties, rounds, kind, seed, is_plain=is_plain)


@pytest.mark.alone
def test_processes_that_only_opened_a_hall_by_name(hall_name: str) -> None:
    gate = Gate(2)

    def cross(party: int) -> str:
        with guildhall.open(hall_name) as mine:
            names = ["a", "b"] if party else ["b", "a"]
            try:
                return crossing(Lock(names[0], hall=mine), Lock(names[1], hall=mine), lambda: gate.meet(party, 1))
            except DeadlockError as error:
                return str(error)

    outcomes = [child.result() for child in [Child(cross, 0), Child(cross, 1)]]
    gate.close()
    assert "went on" in outcomes
    assert any("which waits for lock" in outcome for outcome in outcomes)


@pytest.mark.alone
@pytest.mark.parametrize("kind", ["lock", "read-write", "semaphore", "multilock"])
def test_who_takes_the_same_again_waits_for_itself(hall: Hall, kind: str) -> None:
    for is_plain in (False, True):
        began = time.monotonic()
        with pytest.raises(DeadlockError, match=r"held by session .* thread .*, which asked for it"):
            _take_twice(PAIRS[kind], is_plain)
        assert time.monotonic() - began < 1
        assert is_clean(hall)


def _take_twice(made: Callable[[str], Any], is_plain: bool) -> None:
    if not is_plain or not hasattr(made("x"), "acquire"):
        with made("x"), made("x"):
            return
    held = made("x")
    held.acquire()
    try:
        made("x").acquire()
    finally:
        held.release()


@pytest.mark.alone
def test_a_reader_that_wants_to_write_and_a_reader_behind_a_writer(hall: Hall) -> None:
    with RWLock("w").read():
        with pytest.raises(DeadlockError, match="to write"):
            RWLock("w").acquire_write()
        got: list[Any] = []
        writer = threading.Thread(target=lambda: got.append(RWLock("w").acquire_write()), daemon=True)
        writer.start()
        assert eventually(lambda: RWLock("w").statistics().waiting)
        assert eventually(lambda: any(one.bell for one, _ in hall.host.read(waiters.line, RWLock("w")._place)))
        with pytest.raises(DeadlockError, match=r"\(to read\): behind session"):
            RWLock("w").acquire_read()
    writer.join(5)
    assert got == [True]


@pytest.mark.alone
def test_two_readers_that_want_to_write_are_both_told(hall: Hall) -> None:
    gate = Gate(2)

    def upgrade(party: int) -> str:
        try:
            with RWLock("w").read():
                gate.meet(party, 1)
                with RWLock("w").write():
                    return "wrote"
        except DeadlockError:
            return "told"

    outcomes = [child.result() for child in [Child(upgrade, 0), Child(upgrade, 1)]]
    gate.close()
    assert "told" in outcomes
    assert is_clean(hall)


@pytest.mark.alone
def test_a_circle_through_the_end_of_a_thread_is_found_within_seconds(hall: Hall) -> None:
    found: list[Any] = []

    def take() -> None:
        try:
            with Lock("a"):
                found.append("went on")
        except DeadlockError as error:
            found.append(error)

    thread = threading.Thread(target=take, daemon=True)
    with Lock("a"):
        thread.start()
        thread.join()  # Which is no operation of the hall's.
    assert len(told(found)) == 1
    assert is_clean(hall)


@pytest.mark.alone
def test_plain_holds_of_threads_are_stuck_when_no_thread_can_act(hall: Hall) -> None:
    """In a process of its own, for here other threads may run."""

    def both() -> list[str]:
        meeting, said = threading.Barrier(2), []

        def cross(first: str, second: str) -> None:
            mine, next_up = Lock(first), Lock(second)
            mine.acquire()
            try:
                meeting.wait()
                next_up.acquire()
                next_up.release()
                said.append("went on")
            except DeadlockError:
                said.append("told")
            finally:
                mine.release()

        running = [threading.Thread(target=cross, args=pair) for pair in (("a", "b"), ("b", "a"))]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        return sorted(said)

    assert Child(both).result() == ["told", "went on"]
    assert is_clean(hall)


@pytest.mark.alone
def test_a_thread_that_ends_leaves_the_others_in_a_circle(hall: Hall) -> None:
    """Whoever could have released the lock is gone: nobody waits at that moment, and still it is found."""

    def alone() -> str:
        Lock("a").acquire()
        threading.Timer(0.3, lambda: None).start()
        began = time.monotonic()
        try:
            Lock("a").acquire()
        except DeadlockError:
            return "told late" if time.monotonic() - began > 0.25 else "told while it could have been released"
        return "went on"

    assert Child(alone).result() == "told late"
    hall.host.bury_dead()


# -- tasks ------------------------------------------------------------------------------------------------------------


def test_a_task_that_waits_for_itself(client: Client) -> None:
    def wait_for_myself() -> Any:
        return Variable("myself").get(10).result()

    future = client.submit(wait_for_myself)
    Variable("myself").set(future)
    with pytest.raises(
        DeadlockError, match=r"task wait_for_myself-\w+: run by session .*, which asked for it"
    ) as error:
        future.result(20)
    assert error.value.circle[0].agent == error.value.circle[0].waits_for == f"task {future.key}"
    Variable("myself").delete()


def test_tasks_that_wait_for_each_other_by_futures_in_variables(client: Client) -> None:
    def wait_for(name: str) -> str:
        found: Future = Variable(name).get(10)
        try:
            found.result()
        except DeadlockError:
            return f"saw that {name} was told"
        return f"{name} went on"

    for count in (2, 3, 5):
        futures = [client.submit(wait_for, f"{count} {(n + 1) % count}") for n in range(count)]
        for number, future in enumerate(futures):
            Variable(f"{count} {number}").set(future)
        outcomes = client.gather(futures)
        assert sum("was told" in outcome for outcome in outcomes) == 1, outcomes
        for number in range(count):
            Variable(f"{count} {number}").delete()


def test_any_of_several_tasks_is_waited_for_in_vain_only_if_all_are(client: Client) -> None:
    def wait_for_any(others: int) -> Any:
        mine = Variable(f"any, {others} others").get(10)
        futures = [mine, *guildhall.get_client().map(time.sleep, [0.2] * others)]
        return [future.key for future in as_completed(futures)].index(mine.key)

    alone = client.submit(wait_for_any, 0)
    Variable("any, 0 others").set(alone)
    with pytest.raises(DeadlockError):
        alone.result(20)
    several = client.submit(wait_for_any, 2)
    Variable("any, 2 others").set(several)
    with pytest.raises(DeadlockError):  # When the others have ended.
        several.result(20)
    for others in (0, 2):
        Variable(f"any, {others} others").delete()


def test_a_lock_and_a_result_in_one_circle(client: Client) -> None:
    def take(name: str) -> str:
        with Lock(name):
            return "had it"

    for _ in range(5):
        with pytest.raises(DeadlockError) as error, Lock("mine"):
            client.submit(take, "mine").result()
        assert {link.agent.partition("-")[0] for link in error.value.circle} == {"thread MainThread", "task take"}
        assert client.submit(take, "mine").result(20) == "had it"


def test_tasks_that_cross_in_workers_and_helper_threads() -> None:
    def cross(mine: str, next_up: str, is_plain: bool) -> str:
        Event(f"{mine} has").clear()
        lock = Lock(mine)
        lock.acquire() if is_plain else lock.__enter__()
        try:
            Event(f"{mine} has").set()
            Event(f"{next_up} has").wait()
            with Lock(next_up):
                return "went on"
        except DeadlockError as error:
            return "told of " + " and ".join(sorted(link.agent.partition("-")[0] for link in error.circle))
        finally:
            lock.release() if is_plain else lock.__exit__(None, None, None)

    for workers in (1, 2):
        with Client(n_workers=workers) as client:
            for is_plain in (True, False):
                for number in range(6):
                    pair = f"a {is_plain} {number}", f"b {is_plain} {number}"
                    calls = client.map(cross, pair, pair[::-1], [is_plain] * 2)
                    assert sorted(call.result(20) for call in calls) == [
                        "told of task cross and task cross", "went on",
                    ]  # fmt: skip
            assert holds_nothing(client)


@pytest.mark.parametrize("options", [{"processes": False}, {"threads_per_worker": 2}])
def test_tasks_that_cross_in_threads(options: dict[str, Any]) -> None:
    def cross(mine: str, next_up: str, is_plain: bool) -> str:
        lock = Lock(mine)
        lock.acquire() if is_plain else lock.__enter__()
        try:
            Event(f"{mine} is held").set()
            Event(f"{next_up} is held").wait()
            with Lock(next_up):
                return "went on"
        except DeadlockError:
            return "told"
        finally:
            lock.release() if is_plain else lock.__exit__(None, None, None)

    with Client(n_workers=1, **options) as client:
        for number in range(4):
            pair = f"a {number}", f"b {number}"
            is_plain = number % 2 == 1 and "processes" not in options  # There the test's own thread could release it.
            calls = client.map(cross, pair, pair[::-1], [is_plain] * 2)
            assert sorted(call.result(20) for call in calls) == ["told", "went on"]
        assert holds_nothing(client)


class Keeper:
    """An actor that holds a lock from one call to another."""

    def __init__(self) -> None:
        self._lock = Lock("kept")

    def take(self) -> str:
        self._lock.acquire()
        return "held"

    def give_back(self) -> str:
        self._lock.release()
        return "free"

    def take_and_give(self) -> str:
        with Lock("the caller's"):
            return "had it"


def test_a_call_of_an_actor_is_in_the_circle() -> None:
    with Client(n_workers=1) as client:
        actor = client.submit(Keeper, actor=True).result()
        with Lock("the caller's"), pytest.raises(DeadlockError, match=r"Keeper\.take_and_give"):
            actor.take_and_give().result()
        assert actor.take_and_give().result(20) == "had it"


def _take_kept() -> str:
    with Lock("kept"):
        return "had it"


def test_what_an_actor_keeps_it_may_give_back() -> None:
    with Client(n_workers=1) as client:
        actor = client.submit(Keeper, actor=True).result()
        assert actor.take().result(20) == "held"
        waiting = client.submit(_take_kept)
        time.sleep(1.3)
        assert not waiting.done()
        assert actor.give_back().result(20) == "free"
        assert waiting.result(20) == "had it"


def test_what_a_function_beside_the_tasks_took_another_may_give_back() -> None:
    def take() -> None:
        guildhall.kept = Lock("kept")  # type: ignore[attr-defined]
        guildhall.kept.acquire()  # type: ignore[attr-defined]

    def give_back() -> None:
        guildhall.kept.release()  # type: ignore[attr-defined]

    with Client(n_workers=1) as client:
        client.run(take)
        waiting = client.submit(_take_kept)
        time.sleep(1.3)
        assert not waiting.done()
        client.run(give_back)
        assert waiting.result(20) == "had it"


def test_nested_tasks_and_what_they_were_started_under(client: Client) -> None:
    def inner() -> str:
        with Lock("outer's"):
            return "had it"

    def outer(how: str) -> str:
        with Lock("outer's"):
            future = guildhall.get_client().submit(inner)
            if how == "wait":
                return str(future.result())
        return str(future.result())

    with pytest.raises(DeadlockError):
        client.submit(outer, "wait").result(20)
    assert client.submit(outer, "let go first").result(20) == "had it"


def test_a_forked_child_of_a_task_is_not_the_task(client: Client) -> None:
    def fork_and_wait() -> str:
        me = Variable("parent").get(10)
        with Lock("parent's"):
            pid = os.fork()
            if not pid:
                status = 1
                with suppress(BaseException):
                    got = Lock("parent's").acquire(timeout=0.05)
                    status = int(got)
                    status += 2 * bool(me.result() != "ended")
                os._exit(status)
        return "ended"

    future = client.submit(fork_and_wait)
    Variable("parent").set(future)
    assert future.result(20) == "ended"
    Variable("parent").delete()


# -- coroutines -------------------------------------------------------------------------------------------------------

ASYNC: dict[str, Callable[[str], Any]] = {
    "lock": aio.Lock,
    "rlock": aio.RLock,
    "semaphore": aio.Semaphore,
    "read-write": lambda name: aio.RWLock(name).write(),
    "multilock": lambda name: aio.MultiLock([name]),
    "election": aio.Election,
    "condition": lambda name: aio.Condition(name, aio.Lock(name)),
}


@pytest.mark.alone
@pytest.mark.parametrize("kind", ASYNC)
def test_of_coroutines_that_cross_one_is_told(hall: Hall, kind: str) -> None:
    made = ASYNC[kind]

    async def cross(mine: str, next_up: str, meeting: asyncio.Barrier) -> str:
        async with made(mine):
            await meeting.wait()
            async with made(next_up):
                return "went on"

    async def main() -> None:
        for count in (1, 2, 3):
            if count == 1 and kind == "rlock":
                continue
            meeting = asyncio.Barrier(count)
            calls = [cross(f"{n}", f"{(n + 1) % count}", meeting) for n in range(count)]
            found = await asyncio.gather(*calls, return_exceptions=True)
            errors = [one for one in found if one != "went on"]
            assert len(errors) == 1
            assert isinstance(errors[0], DeadlockError)
            assert all(link.agent.startswith("asyncio task Task-") for link in errors[0].circle)

    asyncio.run(asyncio.wait_for(main(), 20))
    assert is_clean(hall)


@pytest.mark.alone
def test_a_coroutine_and_a_thread_cross(hall: Hall) -> None:
    held = {name: threading.Event() for name in "ab"}

    async def cross() -> str:
        async with aio.Lock("a"):
            held["a"].set()
            while not held["b"].is_set():
                await asyncio.sleep(0.001)
            async with aio.Lock("b"):
                return "went on"

    def meet() -> None:
        held["b"].set()
        held["a"].wait(10)

    found = threads(lambda: asyncio.run(cross()), lambda: crossing(Lock("b"), Lock("a"), meet))
    errors = told(found)
    assert len(errors) == 1
    assert sorted(link.agent.split()[0] for link in errors[0].circle) == ["asyncio", "thread"]
    assert is_clean(hall)


def test_a_coroutine_of_a_task_awaits_its_own_task(client: Client) -> None:
    async def wait_for_myself() -> Any:
        return await Variable("coroutine").get(10)

    future = client.submit(wait_for_myself)
    Variable("coroutine").set(future)
    with pytest.raises(DeadlockError, match="task wait_for_myself"):
        future.result(20)
    Variable("coroutine").delete()


@pytest.mark.alone
def test_a_timeout_of_asyncio_ends_by_itself(hall: Hall) -> None:
    async def main() -> str:
        async with aio.Lock("a"):
            try:
                async with asyncio.timeout(0.2):
                    await aio.Lock("a").acquire()
            except TimeoutError:
                return "late"
        return "had it"

    assert asyncio.run(main()) == "late"
    assert is_clean(hall)


# -- waits that must be let be ----------------------------------------------------------------------------------------


@pytest.mark.alone
def test_a_wait_with_a_timeout_ends_by_itself(hall: Hall) -> None:
    def cross(mine: str, next_up: str, meeting: threading.Barrier) -> bool:
        with Lock(mine):
            meeting.wait()
            return Lock(next_up).acquire(timeout=0.2)

    meeting = threading.Barrier(2)
    found = threads(lambda: cross("a", "b", meeting), lambda: cross("b", "a", meeting))
    assert not told(found)
    assert found.count(False) >= 1
    with Lock("c"):
        assert Lock("c").acquire(timeout=0.05) is False
        assert Lock("c").acquire(blocking=False) is False


@pytest.mark.alone
def test_a_block_of_a_condition_that_waits_for_news_holds_nothing(hall: Hall) -> None:
    """Its lock is another's, though by the same object, until it has it again."""
    changed, done = Condition("c", Lock("c")), Event("done")

    def wait_for_news() -> str:
        with changed:
            return str(changed.wait(20))

    def hold_meanwhile() -> str:
        changed.acquire()
        agents_holds = [key for key in agents.entered if type(key) is tuple]
        assert [key[0].holds(hall.host) for key in agents_holds] == [()]
        with Lock("other"):
            changed.notify()
            changed.release()
        done.set()
        return "went on"

    waiting = threading.Thread(target=lambda: found.append(wait_for_news()))
    found: list[str] = []
    waiting.start()
    assert eventually(lambda: len(changed.statistics().waiting) == 1)
    assert threads(hold_meanwhile) == ["went on"]
    waiting.join(10)
    assert found == ["True"]
    assert is_clean(hall)


@pytest.mark.alone
def test_a_lock_that_another_thread_releases_is_no_circle(hall: Hall) -> None:
    """Whatever is taken by a plain acquire, any thread may give back through the same object."""
    for made in (Lock, Semaphore, lambda name: MultiLock([name])):
        held: Any = made("x")
        held.acquire()
        threading.Timer(0.15, held.release).start()
        assert made("x").acquire()
        for one in (made("x"),):
            assert not one.acquire(blocking=False)
        hall.host.transact(lambda txn: [txn.delete(key) for region in _HELD for key, _ in txn.scan(region)])


_HELD = (b"\x32", multilock.MULTILOCKS, pool.LEASES, b"\x59")


def test_garbage_that_comes_while_threads_are_looked_at_stops_nobody() -> None:
    """Until Python 3.11.9 a thread-local value that was collected inside of `sys._current_frames` waited for it."""

    def look() -> None:
        signal.alarm(30)
        for threshold in range(1, 80):  # One of them is reached inside.
            gc.set_threshold(threshold)
            for _ in range(100):
                local = threading.local()
                local.me = local
                del local
                agents.stacks_of_process()
        assert gc.isenabled()

    Child(look).result()


@pytest.mark.alone
def test_a_bounded_pool_of_threads_that_releases_for_the_one_who_submits(hall: Hall) -> None:
    room, done = Semaphore("room", 3), []

    def work(number: int) -> None:
        time.sleep(0.01)
        done.append(number)
        room.release()

    with ThreadPoolExecutor(3) as executor:
        for number in range(40):
            room.acquire()
            executor.submit(work, number)
    assert sorted(done) == list(range(40))
    assert is_clean(hall)


def test_a_bound_that_callbacks_of_futures_give_back(client: Client) -> None:
    room = Semaphore("futures", 2)
    futures = []
    for _ in range(12):
        room.acquire()
        futures.append(client.submit(time.sleep, 0.02))
        futures[-1].add_done_callback(lambda future: room.release())
    client.gather(futures)
    assert eventually(lambda: room.get_value() == 0)


@contextmanager
def locked(name: str) -> Iterator[None]:
    with Lock(name):
        yield


@pytest.mark.alone
def test_a_block_that_another_thread_leaves_is_not_its_enterers(hall: Hall) -> None:
    """Frameworks enter generators in one thread of a pool and leave them in another."""
    block = locked("request")
    meeting = threading.Barrier(2)

    def enter_and_serve_another() -> str:
        block.__enter__()
        with Lock("other"):
            meeting.wait()
            with Lock("third"):
                return "went on"

    def hold_third() -> str:
        with Lock("third"):
            meeting.wait()
            with Lock("request"):
                return "went on"

    def leave() -> str:
        time.sleep(0.4)
        block.__exit__(None, None, None)
        return "left"

    assert threads(enter_and_serve_another, hold_third, leave) == ["went on", "went on", "left"]
    assert is_clean(hall)


@pytest.mark.alone
def test_blocks_of_exit_stacks_leave_no_note(hall: Hall) -> None:
    for made in (Lock, Semaphore, lambda name: RWLock(name).read(), lambda name: MultiLock([name])):
        with ExitStack() as stack:
            stack.enter_context(made("x"))
            stack.enter_context(locked("y"))
    with Semaphore("s", 4) as one, one, one:
        pass
    assert is_clean(hall)


@pytest.mark.alone
def test_what_anybody_can_bring_is_no_circle(hall: Hall) -> None:
    def consumer() -> str:
        with Lock("a"):
            return str(Queue("q").get())

    def producer() -> str:
        time.sleep(0.2)
        Queue("q").put("item")
        with Lock("a"):
            return "went on"

    assert threads(consumer, producer) == ["item", "went on"]


@pytest.mark.alone
def test_who_waits_for_one_that_runs_is_let_be(hall: Hall) -> None:
    def hold() -> str:
        with Lock("a"):
            time.sleep(1.5)  # Longer than it takes to look again.
            with Lock("b"):
                return "went on"

    def wait() -> str:
        time.sleep(0.1)
        with Lock("c"), Lock("a"):
            return "went on"

    assert threads(hold, wait) == ["went on", "went on"]


@pytest.mark.alone
def test_what_a_long_wait_looked_at_is_let_go_at_its_end(hall: Hall) -> None:
    class Thing:
        pass

    things: list[weakref.ref[Thing]] = []

    def wait() -> None:
        thing = Thing()
        things.append(weakref.ref(thing))
        Lock("a").acquire()

    leased = Lock("a", lease_s=1.3)
    leased.acquire()
    gc.collect()
    gc.disable()
    try:
        wait()  # Long enough to look again.
        assert things[0]() is None
    finally:
        gc.enable()
    hall.host.transact(lambda txn: [txn.delete(key) for region in _HELD for key, _ in txn.scan(region)])


def test_a_killed_holder_opens_the_circle(hall: Hall) -> None:
    """One waits for what the dead one held, and may have it; nobody is told."""
    with Lock("ready"):
        pass

    def hold() -> None:
        with Lock("b"):
            Event("held").set()
            with Lock("c"):
                time.sleep(60)

    def asleep(names: int) -> bool:
        return len(hall.host.read(waiters.line, b"")) == names

    with Lock("c"):
        holder = Child(hold)
        assert Event("held").wait(10)
        assert eventually(lambda: asleep(1))
        got = threading.Thread(target=lambda: crossing(Lock("d"), Lock("b"), lambda: None), daemon=True)
        got.start()
        assert eventually(lambda: asleep(2))
        holder.kill()
        got.join(5)
        assert not got.is_alive()
        with Lock("b"), Lock("d"):  # Would have been a circle with the two.
            pass
    assert eventually(lambda: len(hall.host.read(sessions.everybody)) == 1)
    assert is_clean(hall)


@pytest.mark.alone
def test_members_of_circles_that_are_killed_at_random_moments(hall: Hall) -> None:
    """Whoever is left must go on: granted, or told."""
    seed = random.randrange(1 << 30)
    dice = random.Random(seed)
    for number in range(25):
        names = [f"{number} {n}" for n in range(3)]

        def cross(party: int, names: list[str] = names) -> str:
            with suppress(DeadlockError), Lock(names[party]):
                time.sleep(0.002)
                with Lock(names[(party + 1) % 3]):
                    pass
            return "over"

        children = [Child(cross, party) for party in range(3)]
        time.sleep(dice.random() * 0.03)
        children.pop(dice.randrange(3)).kill()
        assert [child.result() for child in children] == ["over", "over"], f"seed {seed}"
    hall.host.bury_dead()
    assert is_clean(hall)


# -- random programs --------------------------------------------------------------------------------------------------


def _things() -> list[Any]:
    """In this order they can be nested by all without a circle."""
    rw = RWLock("4")
    return [Lock("1"), RLock("2"), Semaphore("3", 2), rw.read(), MultiLock(["5", "6"]), Lock("7"), Semaphore("8")]


def _nest(dice: random.Random, places: list[int], things: list[Any]) -> None:
    if places:
        with things[places[0]]:
            if dice.random() < 0.1:
                time.sleep(dice.random() * 0.0005)
            _nest(dice, places[1:], things)


def _orderly(seed: int, times: int) -> int:
    """Nest some, always in their order: never told."""
    dice = random.Random(seed)
    for _ in range(times):
        places = sorted(dice.sample(range(7), dice.choice((1, 2, 3))))
        _nest(dice, places, _things())
    return times


def _unruly(seed: int, times: int) -> int:
    """Nest some in any order: told at times, and never stuck."""
    dice, told_times = random.Random(seed), 0
    for _ in range(times):
        places = dice.sample(range(7), dice.choice((1, 2, 3)))
        try:
            _nest(dice, places, _things())
        except DeadlockError:
            told_times += 1
    return told_times


@pytest.mark.alone
@pytest.mark.parametrize("where", ["threads", "processes"])
def test_who_keeps_an_order_is_never_told(hall: Hall, where: str) -> None:
    seed = random.randrange(1 << 30)
    if where == "threads":
        found = threads(*(lambda n=n: _orderly(seed + n, 500) for n in range(4)), within_s=100)
    else:
        found = [child.result() for child in [Child(_orderly, seed + n, 700) for n in range(3)]]
    assert set(found) <= {500, 700}, f"seed {seed}: {found}"
    assert is_clean(hall)


@pytest.mark.alone
@pytest.mark.parametrize("where", ["threads", "processes"])
def test_who_keeps_no_order_is_told_at_times_and_never_stuck(hall: Hall, where: str) -> None:
    seed = random.randrange(1 << 30)
    if where == "threads":
        found = threads(*(lambda n=n: _unruly(seed + n, 300) for n in range(4)), within_s=100)
    else:
        found = [child.result() for child in [Child(_unruly, seed + n, 400) for n in range(3)]]
    assert "hangs" not in found, f"seed {seed}"
    assert not told(found)
    assert sum(found) > 0, f"nobody was ever told, seed {seed}"
    assert is_clean(hall)
