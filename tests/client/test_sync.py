"""Barrier, Latch, Condition, Election and RateLimiter among threads, processes that are killed, and coroutines."""

from __future__ import annotations

import asyncio
import os
import pickle
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from faults import Child, eventually
from test_ctrl_c import interrupted, pestered, records

from guildhall import (
    Barrier,
    BrokenBarrier,
    Client,
    Condition,
    Election,
    Event,
    Hall,
    Latch,
    Lock,
    Misuse,
    NotHeld,
    RateLimiter,
    RWLock,
    TimedOut,
    Variable,
    aio,
)
from guildhall.client.handles.statistics import LatchStatistics, RateLimiterStatistics
from guildhall.hosts import current
from guildhall.primitives.condition import NOTIFIED


@pytest.fixture
def hall(hall: Hall) -> Iterator[Hall]:
    """The current hall of the test."""
    current.add_default(hall.host)
    yield hall
    current.remove_default(hall.host)


def left_behind(hall: Hall) -> int:
    """Waits, and notifications that nobody returned with."""
    return records(hall) + int(hall.host.read(lambda txn: len(list(txn.scan(NOTIFIED)))))


class Call:
    """A call in a thread of its own."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.answer: Any = None
        self._thread = threading.Thread(target=self._run, args=(function, *args), daemon=True)
        self._thread.start()

    def _run(self, function: Callable[..., Any], *args: Any) -> None:
        try:
            self.answer = function(*args)
        except BaseException as error:
            self.answer = error

    def done(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> Any:
        self._thread.join(10)
        assert self.done(), "the call hangs"
        return self.answer


# Beside threading


class Field:
    """One random program, run once on threading's object and once on ours; what every call came to."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.waiting = waiting
        self.calls: list[Call] = []

    def start(self, function: Callable[..., Any]) -> None:
        """Start a call, and go on when it has ended or waits, and whoever it let go has ended."""
        self.calls.append(Call(function))
        self.settle()

    def settle(self) -> None:
        assert eventually(lambda: sum(not call.done() for call in self.calls) == self.waiting(), 10), "it hangs"

    def outcomes(self) -> list[Any]:
        """What each call came to; exceptions by the kind that both share."""
        return [
            "broken" if isinstance(call.answer, threading.BrokenBarrierError) else call.answer for call in self.calls
        ]


def barrier_program(barrier: Any, seed: int) -> list[Any]:
    dice = random.Random(seed)
    field = Field(lambda: barrier.n_waiting)
    trail = []
    for _ in range(14):
        step = dice.choice(("wait", "wait", "wait", "wait", "reset", "abort", "try"))
        if step == "wait":
            field.start(barrier.wait)
        elif step == "try":
            field.start(lambda: barrier.wait(0))
        else:
            getattr(barrier, step)()
            field.settle()
        trail.append((step, barrier.n_waiting, barrier.broken))
    barrier.abort()
    field.settle()
    return [trail, field.outcomes()]


def test_a_barrier_does_what_that_of_threading_does(hall: Hall) -> None:
    base = random.randrange(1 << 30)
    for seed in range(base, base + 60):
        parties = seed % 4 + 1
        expected = barrier_program(threading.Barrier(parties), seed)
        assert barrier_program(Barrier(seed, parties), seed) == expected, f"seed {seed}"
    assert left_behind(hall) == 0


def condition_program(condition: Any, waiting: Callable[[], int], seed: int) -> list[Any]:
    dice = random.Random(seed)
    field = Field(waiting)
    woken: list[int] = []

    def wait(number: int) -> bool:
        with condition if isinstance(condition, threading.Condition) else Condition(condition.name) as mine:
            mine = mine if isinstance(mine, Condition) else condition
            answer = mine.wait(10)
            woken.append(number)
            return answer

    trail: list[Any] = []
    for number in range(14):
        step = dice.choice(("wait", "wait", "notify", "all", "late"))
        if step == "wait":
            field.start(lambda number=number: wait(number))
        elif step == "late":
            with condition:
                assert condition.wait(0) is False
        else:
            with condition:
                condition.notify(dice.randint(1, 3)) if step == "notify" else condition.notify_all()
            field.settle()
        trail.append((step, sorted(woken), waiting()))
    with condition:
        condition.notify_all()
    field.settle()
    return [trail, field.outcomes()]


def test_a_condition_does_what_that_of_threading_does(hall: Hall) -> None:
    base = random.randrange(1 << 30)
    for seed in range(base, base + 40):
        theirs = threading.Condition(threading.Lock())
        ours = Condition(seed)
        expected = condition_program(theirs, lambda c=theirs: len(c._waiters), seed)  # type: ignore[misc]
        got = condition_program(ours, lambda c=ours: len(c.statistics().waiting), seed)  # type: ignore[misc]
        assert got == expected, f"seed {seed}"
    assert left_behind(hall) == 0
    for misuse in (lambda c: c.wait(0), lambda c: c.notify(), lambda c: c.notify_all()):
        for condition in (threading.Condition(threading.Lock()), Condition("c")):
            with pytest.raises(RuntimeError):
                misuse(condition)


# Among processes


def test_parties_of_several_processes_go_round_after_round(hall: Hall) -> None:
    rounds = 100

    def go_round() -> list[int]:
        barrier, table = Barrier("b", 3), Variable(f"at {os.getpid()}")
        indices = []
        for number in range(rounds):
            table.set(number)
            indices.append(barrier.wait(10))
        return indices

    indices = [child.result() for child in [Child(go_round) for _ in range(3)]]
    assert all(sorted(three) == [0, 1, 2] for three in zip(*indices))
    assert Barrier("b", 3).statistics().trips == rounds
    assert left_behind(hall) == 0


def test_a_killed_party_breaks_the_barrier_at_once_for_all_others(hall: Hall) -> None:
    for _ in range(4):
        barrier = Barrier("b", 4)
        barrier.reset()
        others = [Child(_wait_broken, barrier) for _ in range(2)]
        victim = Child(barrier.wait)
        assert eventually(lambda b=barrier: b.n_waiting == 3)
        killed = time.monotonic()
        os.kill(victim.pid, signal.SIGKILL)
        for other in others:
            at, why = other.result()
            assert at - killed < 2
            assert "died while it waited" in why
        victim.kill()
        assert barrier.broken
        with pytest.raises(threading.BrokenBarrierError, match="reset"):
            barrier.wait()
    assert left_behind(hall) == 0


def _wait_broken(barrier: Barrier) -> tuple[float, str]:
    try:
        barrier.wait(10)
    except BrokenBarrier as error:
        return time.monotonic(), str(pickle.loads(pickle.dumps(error)))
    raise AssertionError("it is not broken")


def test_a_barrier_whose_time_is_up_is_broken_for_all(hall: Hall) -> None:
    barrier = Barrier("b", 3, timeout=0.1)
    other = Call(lambda: Barrier("b", 3).wait(10))
    assert eventually(lambda: barrier.n_waiting == 1)
    with pytest.raises(BrokenBarrier, match=r"not all 3 parties came within 0.1 s"):
        barrier.wait()
    assert isinstance(other.result(), BrokenBarrier)


def test_a_latch_is_counted_down_by_processes_that_come_and_go(hall: Hall) -> None:
    latch = Latch("l", 4)
    waiters = [Child(latch.wait, 10) for _ in range(2)]
    assert not latch.wait(0.01)
    for left in (3, 2, 1, 0):
        assert Child(latch.count_down).result() == left
    assert [child.result() for child in waiters] == [True, True]
    assert latch.wait(0)
    assert latch.statistics() == LatchStatistics("l", 4, 0, ())


def test_the_next_candidate_leads_when_the_leader_is_killed_and_terms_grow(hall: Hall) -> None:
    seed = random.randrange(1 << 30)
    dice = random.Random(seed)
    observer = Election("e")

    def lead(number: int) -> None:
        election = Election("e")
        while True:
            election.campaign(number)
            assert election.is_leader
            time.sleep(0.01)
            election.resign()

    children = {number: Child(lead, number) for number in range(3)}
    terms = []
    try:
        for step in range(30):
            number = observer.leader(timeout=5)
            terms.append(observer.statistics().term or 0)
            victim = number if dice.random() < 0.7 else dice.choice(list(children))
            children.pop(victim).kill()
            children[number + 3 if victim == number else victim] = Child(
                lead, number + 3 if victim == number else victim
            )
            watch = observer.watch(timeout=5)
            seen = [leader for leader, _ in zip(watch, range(3))]
            grown = [leader.term for leader in seen if leader is not None]
            assert grown == sorted(set(grown)), f"terms do not grow, seed {seed}, step {step}"
    finally:
        for child in children.values():
            child.kill()
    real = [term for term in terms if term]
    assert real == sorted(real)
    hall.host.bury_dead()
    assert observer.leader() is None
    assert left_behind(hall) == 0


def test_an_election_tells_its_value_and_only_its_leader_resigns(hall: Hall) -> None:
    one, two = Election("e"), Election("e")
    assert one.leader() is None
    with pytest.raises(TimedOut, match=r"nobody led within 0\.01 s"):
        one.leader(timeout=0.01)
    assert one.campaign({"address": "here"})
    assert not two.campaign("there", timeout=0.01)
    assert (two.leader(), one.is_leader, two.is_leader, two.term) == ({"address": "here"}, True, False, None)
    with pytest.raises(NotHeld, match="only its leader can resign"):
        two.resign()
    candidate = Call(two.campaign, "there")
    assert eventually(lambda: one.statistics().candidates == 1)
    before = one.term
    assert one.campaign("moved")
    assert (one.term, two.leader()) == (before, "moved")
    one.resign()
    assert candidate.result() is True
    assert one.leader(timeout=5) == "there"
    assert before is not None
    assert two.term is not None
    assert two.term > before
    two.resign()
    with Election("e") as three:
        assert three.is_leader
    assert not three.is_leader
    assert left_behind(hall) == 0


def test_a_leader_that_gives_no_value_is_known_by_its_process(hall: Hall) -> None:
    election = Election("e")

    def lead() -> int:
        other = Election("e")
        assert election.leader() is None
        with other:
            assert election.statistics().pid == os.getpid()
            found = next(election.watch())
            assert found is not None
            assert (found.term, found.session) == (other.term, hall.host.session)
            return int(election.leader())

    child = Child(lead)
    assert child.result() == child.pid


def test_an_error_in_the_body_is_not_masked_by_a_lead_that_is_not_held(hall: Hall) -> None:
    election = Election("e")

    def body() -> None:
        with election:
            election.resign()
            raise KeyError("of the body")

    with pytest.raises(KeyError, match="of the body") as caught:
        body()
    assert "only its leader can resign" in caught.value.__notes__[0]


def test_a_forked_child_does_not_lead_for_its_parent(hall: Hall) -> None:
    with Election("e") as election:

        def child() -> tuple[Any, ...]:
            with pytest.raises(NotHeld):
                election.resign()
            return election.is_leader, election.term

        assert Child(child).result() == (False, None)
        assert election.is_leader
        assert election.term is not None


def test_without_a_name_each_is_a_new_one(hall: Hall) -> None:
    for make in (
        lambda: Barrier(parties=2),
        lambda: Latch(count=2),
        lambda: RateLimiter(rate=2),
        lambda: Condition(),
        lambda: Election(),
    ):
        one, other = make(), make()  # type: ignore[no-untyped-call]
        assert one.name != other.name
        assert pickle.loads(pickle.dumps(one)).name == one.name


def test_an_event_says_who_waits(hall: Hall) -> None:
    event = Event("e")
    child = Child(event.wait, 10)
    assert eventually(lambda: len(event.statistics().waiting) == 1)
    assert event.statistics().is_set is False
    event.set()
    assert child.result() is True
    assert (event.statistics().is_set, event.statistics().waiting) == (True, ())


def test_a_leader_may_give_a_large_value(hall: Hall) -> None:
    election, other = Election("e"), Election("e")
    assert election.campaign(b"x" * 200_000)
    assert not other.campaign(b"y" * 200_000, timeout=0.01)
    assert other.leader() == b"x" * 200_000
    election.resign()
    Variable("flush").set(1)
    assert os.listdir(os.path.join(hall.path, "blobs")) == []


@pytest.mark.parametrize(
    ("terms", "most"), [((200, 1, 1), lambda s: 1 + s * 200), ((20, 0.1), lambda s: 20 * (1 + s // 0.1))]
)
def test_a_limit_holds_over_processes_that_are_killed(
    hall: Hall, terms: tuple[Any, ...], most: Callable[[float], float]
) -> None:
    limit = RateLimiter("r", *terms)

    def run() -> None:
        mine = RateLimiter("r", *terms)
        while True:
            mine.acquire()

    began = time.monotonic()
    limit.acquire()
    children = [Child(run) for _ in range(3)]
    for number in range(8):
        time.sleep(0.1)
        children.pop(0).kill()
        if number < 6:
            children.append(Child(run))
    for child in children:
        child.kill()
    hall.host.bury_dead()
    elapsed = time.monotonic() - began
    gone = limit.statistics().gone
    assert gone <= most(elapsed)
    assert gone >= 8, "whoever was killed kept no other from going on"
    assert limit.acquire(timeout=10)
    assert limit.statistics().queued == 0
    assert limit.acquire(timeout=5)
    assert left_behind(hall) == 0


def test_so_many_as_the_rate_go_at_once_and_the_next_a_period_later(hall: Hall) -> None:
    limit = RateLimiter("r", 5, per_s=0.4)
    began = time.monotonic()
    assert [limit.acquire(timeout=0) for _ in range(6)] == [True] * 5 + [False]
    with RateLimiter("r", 5, 0.4):
        assert time.monotonic() - began >= 0.4
    assert limit.acquire(3, timeout=0)
    assert not limit.try_acquire(2)
    assert limit.statistics() == RateLimiterStatistics("r", 5, 0.4, None, 9, 0, ())


def test_nobody_overtakes_and_no_period_has_more_than_the_rate(hall: Hall) -> None:
    """Each of several processes says when its units went; those that waited before others went before them."""

    def run() -> list[tuple[float, float]]:
        limit, went = RateLimiter("r", 20, per_s=0.2), []
        for _ in range(20):
            asked = time.monotonic()
            assert limit.acquire(timeout=30)
            went.append((asked, time.monotonic()))
        return went

    all_of_them = [one for child in [Child(run) for _ in range(4)] for one in child.result()]
    at = sorted(one for _, one in all_of_them)
    first = min(asked for asked, _ in all_of_them)
    assert all(moment - first >= 0.2 * (number // 20) for number, moment in enumerate(at))
    assert at[-1] - at[0] < 0.2 * 3 + 2
    longest = max(went - asked for asked, went in all_of_them)
    assert longest < 0.2 * 2 + 1, "somebody was overtaken again and again"


def test_a_waiter_that_gives_up_lets_those_behind_it_go_earlier(hall: Hall) -> None:
    limit = RateLimiter("r", 1, per_s=1, burst=2)
    assert limit.acquire(2)
    assert not limit.try_acquire()
    gives_up = Call(lambda: limit.acquire(2, timeout=0.2))
    assert eventually(lambda: len(limit.statistics().waiting) == 1)
    began = time.monotonic()
    assert limit.acquire(timeout=10)
    assert time.monotonic() - began < 2.5, "it waited for units that nobody wants"
    assert gives_up.result() is False


def test_all_of_them_travel_into_tasks_by_name(client: Client) -> None:
    barrier, latch, changed = Barrier("b", 2), Latch("l", 2), Condition("c")
    election, limit = Election("e"), RateLimiter("r", 1000, burst=10)

    def work(*given: Any) -> tuple[Any, ...]:
        barrier, latch, changed, election, limit = given
        index = barrier.wait(20)
        latch.count_down()
        with changed:
            changed.notify_all()
        return index, latch.wait(20), election.leader(timeout=20), limit.acquire(5)

    election.campaign("me")
    done = [client.submit(work, barrier, latch, changed, election, limit) for _ in range(2)]
    assert latch.wait(20)
    assert sorted(future.result(20) for future in done) == [(0, True, "me", True), (1, True, "me", True)]
    election.resign()


# Ctrl-C


def in_child(body: Callable[[], Any]) -> Any:
    def child() -> Any:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return body()

    return Child(child).result()


def _wait_condition() -> None:
    changed = Condition("c")
    with changed:
        changed.wait()


def _wait_rate() -> None:
    RateLimiter("r", 1, per_s=100).acquire()


@pytest.mark.parametrize(
    "wait",
    [
        lambda: Barrier("b", 2).wait(),
        lambda: Latch("l", 1).wait(),
        _wait_condition,
        lambda: Election("e").campaign(),
        lambda: Election("nobody").leader(timeout=None),
        _wait_rate,
    ],
    ids=["barrier", "latch", "condition", "campaign", "leader", "rate"],
)
def test_ctrl_c_ends_a_wait_and_leaves_nobody_in_line(hall: Hall, wait: Callable[[], Any]) -> None:
    holder = Election("e")
    holder.campaign()
    assert RateLimiter("r", 1, per_s=100).acquire()

    def child() -> None:
        for _ in range(2):
            assert interrupted(wait) < 1
            assert left_behind(hall) == 0

    in_child(child)
    assert not Barrier("b", 2).broken
    assert not Condition("c").locked()
    assert holder.is_leader


def test_ctrl_c_at_any_moment_leaves_nothing_held_and_nobody_in_line(hall: Hall) -> None:
    seed = random.randrange(1 << 30)

    def child() -> None:
        barrier, latch, changed = Barrier("b", 2), Latch("l", 1), Condition("c")
        election, other, limit = Election("e"), Election("o"), RateLimiter("r", 10_000, burst=2)
        Election("o").campaign()

        def step() -> None:
            with suppress(BrokenBarrier):
                barrier.wait(0.0002)
            latch.wait(0.0002)
            other.campaign(timeout=0.0002)
            limit.acquire(2, timeout=0.0002)
            with election:
                pass
            with changed:
                changed.wait(0.0002)
                changed.notify()

        def check(place: str) -> None:
            if place in ("step", "__exit__"):  # Before the first line of our `__exit__` nothing can be done.
                for undo in (election.resign, changed.release):
                    with suppress(NotHeld):
                        undo()
            assert election.statistics().term is None, f"it still leads, pressed in {place}, seed {seed}"
            assert not changed.locked(), f"the lock is held, pressed in {place}, seed {seed}"
            assert left_behind(hall) == 0, f"somebody is in line, pressed in {place}, seed {seed}"
            assert barrier.n_waiting == 0
            barrier.reset()

        pestered(step, check, 500, seed)

    Child(child).result()


# Coroutines


def test_coroutines_use_all_of_them(hall: Hall) -> None:
    async def main() -> None:
        barrier, latch = aio.Barrier("b", 3), aio.Latch("l", 2)
        assert sorted(await asyncio.gather(*(barrier.wait(5) for _ in range(3)))) == [0, 1, 2]
        waits = asyncio.gather(latch.wait(5), latch.wait(5))
        await latch.count_down(2)
        assert await waits == [True, True]

        stock: list[int] = []

        async def take() -> int:
            async with aio.Condition("c") as changed:
                await changed.wait_for(lambda: len(stock) > 0, timeout=5)
                return stock.pop()

        takers = [asyncio.ensure_future(take()) for _ in range(3)]
        for number in range(3):
            await asyncio.sleep(0.01)
            async with aio.Condition("c") as changed:
                stock.append(number)
                await changed.notify()
        assert sorted(await asyncio.gather(*takers)) == [0, 1, 2]

        election, seen = aio.Election("e"), []

        async def follow() -> None:
            async for leader in aio.Election("e").watch(timeout=5):
                seen.append(leader and leader.value)
                if seen[-1] == "last":
                    return

        following = asyncio.ensure_future(follow())
        for value in ("first", "last"):
            await asyncio.sleep(0.02)
            assert await election.campaign(value)
        await following
        assert seen == [None, "first", "last"]
        assert await aio.Election("e").leader(timeout=1) == "last"
        await election.resign()
        limit = aio.RateLimiter("r", 100, burst=1)
        assert await asyncio.gather(*(limit.acquire(timeout=5) for _ in range(5))) == [True] * 5
        rare = aio.RateLimiter("rare", 1, per_s=600)
        assert await rare.acquire()
        assert not await rare.acquire(timeout=0)
        async with aio.RateLimiter("fast", 100):
            assert aio.RateLimiter("fast", 100).statistics().gone == 1
        with pytest.raises(Misuse, match="async with"), aio.Condition("c"):
            pass

    asyncio.run(main())
    assert left_behind(hall) == 0


def test_all_survive_cancellation_at_any_moment(hall: Hall) -> None:
    seed = random.randrange(1 << 30)
    dice = random.Random(seed)

    async def main() -> None:
        told = 0

        async def wait_condition() -> None:
            nonlocal told
            async with aio.Condition("c") as changed:
                await changed.wait()
                told += 1

        async def lead() -> None:
            async with aio.Election("e"):
                await asyncio.sleep(0)

        limit = aio.RateLimiter("r", *random.Random(seed).choice(((2000, 1, 1), (20, 0.01))))
        for number in range(60):
            barrier, latch = aio.Barrier(f"b{number}", 3), aio.Latch(f"l{number}", 1)
            calls = [
                barrier.wait,
                latch.wait,
                lead,
                lead,
                limit.acquire,
                wait_condition,
                wait_condition,
                wait_condition,
            ]
            tasks = [asyncio.ensure_future(call()) for call in calls]  # type: ignore[operator]
            for _ in range(dice.randrange(4)):
                await asyncio.sleep(dice.random() * 0.001)
            for task in tasks:
                if dice.random() < 0.4:
                    task.cancel()
            async with aio.Condition("c") as changed:
                before, waiting = told, len(changed.statistics().waiting)
                await changed.notify()
            await asyncio.sleep(dice.random() * 0.001)
            for task in dice.sample(tasks, 3):
                task.cancel()
            if not barrier.statistics().trips:
                assert not barrier.broken, f"cancelling broke it, seed {seed}"
            await barrier.abort()
            await latch.count_down()
            async with aio.Condition("c") as changed:
                await changed.notify_all()
            _, pending = await asyncio.wait(tasks, timeout=1)
            for task in pending:  # A condition that was not waited for when all were told.
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert told - before <= waiting + 3
            assert not changed.locked(), f"seed {seed}"
            assert aio.Election("e").statistics().term is None, f"seed {seed}"
            assert left_behind(hall) == 0, f"seed {seed}"

    asyncio.run(main())


def test_a_notification_to_a_cancelled_coroutine_is_passed_on(hall: Hall) -> None:
    async def main() -> None:
        async def wait() -> bool:
            async with aio.Condition("c") as changed:
                return await changed.wait(timeout=5)

        for _ in range(10):
            first, second = asyncio.ensure_future(wait()), asyncio.ensure_future(wait())
            while len(Condition("c").statistics().waiting) < 2:
                await asyncio.sleep(0.001)
            async with aio.Condition("c") as changed:
                await changed.notify()
                first.cancel()
                await asyncio.sleep(0)
            assert await second is True
            with pytest.raises(asyncio.CancelledError):
                await first

    asyncio.run(main())
    assert left_behind(hall) == 0


# Bad input


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: Barrier("b", 0), ValueError, "parties 0: expected 1 to"),
        (lambda: Barrier("b", 2.0), TypeError, "parties 2.0: expected a whole number, got float"),
        (lambda: Barrier("b", True), TypeError, "got bool"),
        (lambda: Barrier("b", 2, timeout=-1), ValueError, "timeout"),
        (lambda: Barrier("b", 2).wait("soon"), ValueError, "timeout"),
        (lambda: Barrier({1: 2}, 2), TypeError, "barrier name"),
        (lambda: Latch("l", -1), ValueError, "count -1: expected 0 to"),
        (lambda: Latch("l", None), TypeError, "got NoneType"),
        (lambda: Latch("l", 1).count_down(0), ValueError, "n 0: expected 1 to"),
        (lambda: Latch("l", 1).wait(float("nan")), ValueError, "timeout"),
        (lambda: Condition("c", "lock"), TypeError, r"expected a \S+\.RLock or \S+\.Lock, got 'lock'"),
        (lambda: Condition("c", aio.Lock("l")), TypeError, r"expected a guildhall\.client\.\S+RLock or"),
        (lambda: Condition("c", RWLock("l")), TypeError, "condition 'c': lock: expected a"),
        (lambda: Condition(Lock("a"), Lock("b")), TypeError, "two locks"),
        (lambda: aio.Condition("c", Lock("a")), TypeError, r"expected a guildhall\.aio\.RLock or guildhall\.aio\.Lock"),
        (lambda: Condition("c").notify(0), ValueError, "n 0: expected 1 to"),
        (lambda: Condition("c").notify("1"), TypeError, "whole number"),
        (lambda: Condition("c").wait(-1), ValueError, "timeout"),
        (lambda: Condition("c").wait(), RuntimeError, "only the holder of its rlock 'c' can wait; acquire it first"),
        (lambda: Condition("c").notify(), NotHeld, "can notify"),
        (lambda: Condition("c").release(), NotHeld, "nobody holds it"),
        (lambda: Election("e").campaign(timeout=-1), ValueError, "timeout"),
        (lambda: Election("e").campaign(threading.Lock()), TypeError, "election 'e': the value"),
        (lambda: Election("e").resign(), NotHeld, "nobody leads"),
        (lambda: RateLimiter("r", 0), ValueError, "rate 0: expected 1 to"),
        (lambda: RateLimiter("r", 0.5), TypeError, "rate 0.5: expected a whole number"),
        (lambda: RateLimiter("r", 1, per_s=0), ValueError, "per_s 0: expected seconds"),
        (lambda: RateLimiter("r", 1, per_s=float("inf")), ValueError, "per_s"),
        (lambda: RateLimiter("r", 1, burst=0), ValueError, "burst 0"),
        (lambda: RateLimiter("r", 10).acquire(11), ValueError, "n 11: expected 1 to 10; give a larger rate"),
        (lambda: RateLimiter("r", 10, burst=1).acquire(2), ValueError, "n 2: expected 1 to 1; give a larger burst"),
        (lambda: RateLimiter("r", 10, burst=5).try_acquire(0), ValueError, "n 0: expected 1 to 5"),
        (lambda: RateLimiter("r", 10).acquire(timeout=-1), ValueError, "timeout"),
    ],
)
def test_what_makes_no_sense_is_refused(hall: Hall, call: Callable[[], Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        call()
    assert left_behind(hall) == 0


def test_handles_that_disagree_are_refused(hall: Hall) -> None:
    first: list[Callable[[], Any]] = [Barrier("b", 2).abort, Latch("l", 2).count_down, RateLimiter("r", 1).try_acquire]
    for call in first:
        call()
    for other in (Barrier("b", 3).abort, Latch("l", 3).count_down, RateLimiter("r", 1, burst=2).try_acquire):
        with pytest.raises(Misuse, match="give all its handles the same"):
            other()


def test_a_wait_of_two_threads_that_share_a_condition_comes_back_with_its_own_lock(hall: Hall) -> None:
    changed = Condition("c")
    inside: list[str] = []

    def wait() -> bool:
        with changed:
            answer = changed.wait(5)
            inside.append("in")
            time.sleep(0.002)
            assert inside.pop() == "in"
            assert not inside, "two threads are in"
            return answer

    calls = [Call(wait) for _ in range(4)]
    assert eventually(lambda: len(changed.statistics().waiting) == 4)
    with changed:
        changed.notify_all()
    assert [call.result() for call in calls] == [True] * 4
    assert not changed.locked()
    assert left_behind(hall) == 0
