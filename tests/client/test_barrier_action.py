"""Barriers with an action, beside `threading.Barrier` and among processes that die; and barriers of fixed parties."""

from __future__ import annotations

import asyncio
import os
import pickle
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from faults import Child, eventually
from test_ctrl_c import records
from test_sync import Call, Field

from guildhall import Barrier, BrokenBarrier, Client, Counter, Hall, Misuse, Variable, aio
from guildhall.hosts import current


@pytest.fixture
def hall(hall: Hall) -> Iterator[Hall]:
    """The current hall of the test."""
    current.add_default(hall.host)
    yield hall
    current.remove_default(hall.host)


def action_program(make: Callable[[Callable[[], None]], Any], seed: int) -> list[Any]:
    dice = random.Random(seed)
    acts: list[int] = []

    def act() -> None:
        acts.append(barrier.n_waiting)
        if dice.random() < 0.3:
            raise KeyError(len(acts))

    barrier = make(act)
    field = Field(lambda: barrier.n_waiting)
    trail = []
    for _ in range(14):
        step = dice.choice(("wait", "wait", "wait", "wait", "wait", "reset", "abort"))
        if step == "wait":
            field.start(barrier.wait)
        else:
            getattr(barrier, step)()
            field.settle()
        trail.append((step, barrier.n_waiting, barrier.broken, len(acts)))
    barrier.abort()
    field.settle()
    return [trail, [repr(outcome) for outcome in field.outcomes()]]


def test_an_action_is_run_as_that_of_threading_is(hall: Hall) -> None:
    base = random.randrange(1 << 30)
    for seed in range(base, base + 60):
        parties = seed % 4 + 1
        expected = action_program(partial(threading.Barrier, parties), seed)
        assert action_program(lambda act, n=parties, s=seed: Barrier(s, n, act), seed) == expected, f"seed {seed}"
    assert records(hall) == 0


def test_each_round_has_one_action_which_ends_before_anybody_goes_on(hall: Hall) -> None:
    rounds, before = Counter("rounds"), Variable("before")
    before.set(0)

    def act() -> None:
        before.set(before.get() + 1)
        time.sleep(0.0005)
        rounds.add(1)

    def go_round() -> list[int]:
        seen = []
        barrier = Barrier("b", 3, act, timeout=20)
        for _ in range(60):
            barrier.wait()
            seen.append(rounds.get())
        return seen

    for child in [Child(go_round) for _ in range(3)]:
        for number, seen in enumerate(child.result(), start=1):
            assert number <= seen <= number + 1, "one round more at most has begun"
    assert rounds.get() == before.get() == 60
    assert records(hall) == 0


def test_more_threads_than_parties_go_in_rounds_with_an_action_each(hall: Hall) -> None:
    acts: list[int] = []
    barrier = Barrier("b", 3, lambda: (time.sleep(0.01), acts.append(barrier.n_waiting))[0])
    calls = [Call(barrier.wait, 20) for _ in range(30)]
    assert sorted(call.result() for call in calls) == sorted([0, 1, 2] * 10)
    assert len(acts) == 10
    assert records(hall) == 0


def test_a_round_that_was_full_when_the_action_of_the_one_before_was_done_wakes_one_to_act(hall: Hall) -> None:
    go_on, acts = threading.Event(), Counter("acts")
    barrier = Barrier("b", 2, lambda: (acts.add(1), go_on.wait(10))[0])
    first = [Call(barrier.wait) for _ in range(2)]
    assert eventually(lambda: acts.get() == 1)
    second = [Child(Barrier("b", 2, partial(acts.add, 1)).wait) for _ in range(2)]
    assert eventually(lambda: barrier.n_waiting == 2)
    time.sleep(0.05)  # They are asleep.
    go_on.set()
    assert sorted(call.result() for call in first) == [0, 1]
    assert sorted(child.result() for child in second) == [0, 1]
    assert acts.get() == 2


def test_an_action_that_raises_breaks_the_barrier_and_its_party_raises_that(hall: Hall) -> None:
    def fail() -> None:
        raise LookupError("nothing there")

    other = Call(Barrier("b", 2).wait)
    assert eventually(lambda: Barrier("b", 2).n_waiting == 1)
    with pytest.raises(LookupError, match="nothing there"):
        Barrier("b", 2, fail).wait(0)
    assert isinstance(other.result(), BrokenBarrier)
    assert "raised LookupError: nothing there; reset()" in str(other.result())
    assert Barrier("b", 2).broken
    assert records(hall) == 0


def test_a_party_that_is_killed_in_the_action_breaks_the_barrier(hall: Hall) -> None:
    barrier = Barrier("b", 2, lambda: time.sleep(60))
    other = Call(Barrier("b", 2).wait, 20)
    assert eventually(lambda: barrier.n_waiting == 1)
    victim = Child(barrier.wait)
    assert eventually(lambda: barrier.n_waiting == 0)
    killed = time.monotonic()
    victim.kill()
    assert "died while it ran the action" in str(other.result())
    assert time.monotonic() - killed < 2
    assert records(hall) == 0


def test_a_timeout_counts_while_the_action_runs(hall: Hall) -> None:
    go_on = threading.Event()
    late = Call(Barrier("b", 2).wait, 0.2)
    assert eventually(lambda: Barrier("b", 2).n_waiting == 1)
    acting = Call(Barrier("b", 2, lambda: go_on.wait(10)).wait)
    assert isinstance(late.result(), BrokenBarrier)
    go_on.set()
    assert isinstance(acting.result(), BrokenBarrier)
    assert records(hall) == 0


def test_ctrl_c_in_the_action_breaks_the_barrier(hall: Hall) -> None:
    other = Call(Barrier("b", 2).wait)

    def act() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    assert eventually(lambda: Barrier("b", 2).n_waiting == 1)
    with pytest.raises(KeyboardInterrupt):
        Barrier("b", 2, act).wait()
    assert "raised KeyboardInterrupt" in str(other.result())
    assert records(hall) == 0


def test_a_barrier_travels_with_its_action(client: Client) -> None:
    rounds = Counter("rounds")
    barrier = Barrier("b", 2, partial(rounds.add, 1), timeout=20, fixed=True)
    again = pickle.loads(pickle.dumps(barrier))
    assert (again.name, again.parties, again._timeout_s, again._is_fixed) == ("b", 2, 20.0, True)
    future = client.submit(barrier.wait)
    assert {again.wait(), future.result()} == {0, 1}
    assert rounds.get() == 1


def test_coroutines_meet_and_one_of_them_acts(hall: Hall) -> None:
    acts: list[int] = []

    async def main() -> None:
        barrier = aio.Barrier("b", 3, action=lambda: acts.append(1), timeout=10)
        for _ in range(3):
            assert sorted(await asyncio.gather(*(barrier.wait() for _ in range(3)))) == [0, 1, 2]
        cancelled = asyncio.create_task(barrier.wait())
        await asyncio.sleep(0.01)
        cancelled.cancel()
        assert sorted(await asyncio.gather(*(barrier.wait() for _ in range(3)))) == [0, 1, 2]
        await barrier.delete()

    asyncio.run(main())
    assert len(acts) == 4
    assert records(hall) == 0


# Fixed parties


def wait_often(barrier: Barrier, rounds: int) -> str:
    try:
        for _ in range(rounds):
            barrier.wait(20)
    except BrokenBarrier as error:
        return str(error)
    return "whole"


def test_of_fixed_parties_one_that_is_killed_between_two_rounds_is_missed_at_once(hall: Hall) -> None:
    barrier = Barrier("b", 3, fixed=True)

    def die_after_one() -> None:
        barrier.wait(20)
        os.kill(os.getpid(), signal.SIGKILL)

    others = [Child(wait_often, barrier, 2) for _ in range(2)]
    began = time.monotonic()
    with pytest.raises(AssertionError, match="ended with -9"):
        Child(die_after_one).result()
    for other in others:
        assert "a party of the last round (session" in other.result()
    assert time.monotonic() - began < 5
    hall.host.bury_dead()
    assert Barrier("b", 2).broken is False, "when the last of them is gone it is as new"
    assert records(hall) == 0


def test_without_fixed_parties_one_that_ends_may_be_replaced(hall: Hall) -> None:
    barrier = Barrier("b", 2)
    for _ in range(5):
        child = Child(barrier.wait, 20)
        assert barrier.wait(20) + child.result() == 1


def test_what_a_reset_makes_anew_may_have_other_fixed_parties(hall: Hall) -> None:
    barrier = Barrier("b", 2, fixed=True)
    child = Child(barrier.wait, 20)
    barrier.wait(20)
    child.result()
    with pytest.raises(BrokenBarrier, match="is gone"):
        barrier.wait(20)
    barrier.reset()
    child = Child(barrier.wait, 20)
    assert barrier.wait(20) + child.result() == 1


# Deleting, and bad input


def test_a_deleted_barrier_may_have_other_parties(hall: Hall) -> None:
    waiting = Call(Barrier("b", 2).wait)
    assert eventually(lambda: Barrier("b", 2).n_waiting == 1)
    with pytest.raises(Misuse, match="made for 2 parties"):
        Barrier("b", 3).wait(0)
    Barrier("b", 7).delete()
    assert "it was deleted" in str(waiting.result())
    assert Barrier("b", 1).wait(0) == 0
    Barrier("b", 1).delete()
    Barrier("b", 1).delete()
    assert "barrier" not in hall.snapshot().things


async def act_later() -> None: ...


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: Barrier("b", 2, 5), "action 5: expected a function or None, got int; a timeout is timeout="),
        (lambda: Barrier("b", 2, act_later), "expected a plain function, got an async one"),
        (lambda: aio.Barrier("b", 2, act_later), "expected a plain function, got an async one"),
        (lambda: Barrier(2), r"write Barrier\(parties=2\) or Barrier\('some name', parties=2\)"),
        (lambda: Barrier(2, print), "parties <built-in function print>: expected a whole number"),
    ],
)
def test_what_is_no_action_is_refused(hall: Hall, call: Callable[[], Any], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        call()
