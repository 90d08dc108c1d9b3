"""Actors: one object in one worker, called in order, alive as long as somebody refers to it."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from faults import eventually

from guildhall import Actor, ActorLost, Client, Event, TimedOut, Variable, as_completed
from guildhall.engine.local.actors import CALLS, HOMES, TENANTS


@pytest.fixture
def name() -> str:
    return os.urandom(4).hex()


@pytest.fixture
def own() -> Iterator[Client]:
    """A client whose workers a test may kill."""
    with Client(n_workers=2) as made:
        yield made


class Counter:
    """Counts; and misbehaves on request."""

    step = 1

    def __init__(self, start: int = 0) -> None:
        self.n = start
        self.seen: list[Any] = []

    def add(self, k: int = 1) -> int:
        self.n += k * self.step
        return self.n

    def note(self, what: Any) -> list[Any]:
        self.seen.append(what)
        return self.seen

    def pid(self) -> int:
        return os.getpid()

    def fail(self) -> None:
        raise LookupError("nothing there")

    def unpicklable(self) -> Any:
        return threading.Lock()

    def die(self) -> None:
        os._exit(3)

    def wait(self, name: str) -> bool:
        return Event(name).wait(20)

    async def pause(self, seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds

    async def fail_later(self) -> None:
        await asyncio.sleep(0.01)
        raise LookupError("nothing there, later")


def left(client: Client) -> int:
    return int(client.host.read(lambda txn: sum(len(list(txn.scan(region))) for region in (HOMES, TENANTS, CALLS))))


def test_an_actor_keeps_its_state_and_answers_in_order(client: Client) -> None:
    actor = client.submit(Counter, 10, actor=True).result()
    assert isinstance(actor, Actor)
    answers = [actor.add(k) for k in range(50)]
    assert [answer.result() for answer in answers] == [10 + sum(range(k + 1)) for k in range(50)]
    assert (actor.n, actor.step) == (10 + sum(range(50)), 1)
    with pytest.raises(AttributeError, match="absent"):
        _ = actor.absent
    with pytest.raises(AttributeError, match="its own affair"):
        _ = actor._private
    assert "add" in dir(actor)


def test_calls_of_several_callers_each_keep_their_order(client: Client) -> None:
    actor = client.submit(Counter, actor=True).result()

    def call(who: int, counter: Any) -> None:
        for n in range(30):
            last = counter.note((who, n))
        last.result()

    client.gather([client.submit(call, who, actor) for who in range(4)])
    seen = actor.seen
    assert len(seen) == 120
    for who in range(4):
        assert [n for one, n in seen if one == who] == list(range(30))


def test_a_busy_worker_still_answers(client: Client, name: str) -> None:
    actors = [client.submit(Counter, actor=True).result() for _ in range(2)]
    busy = client.map(Event(name).wait, [30] * 2)
    time.sleep(0.05)
    assert [actor.add().result(timeout=10) for actor in actors] == [1, 1]
    Event(name).set()
    client.gather(busy)


def test_an_actor_may_wait_in_guildhall_and_coroutines_interleave(client: Client, name: str) -> None:
    actor = client.submit(Counter, actor=True).result()
    waiting = actor.wait(name)
    behind = actor.add()
    with pytest.raises(TimedOut):
        behind.result(timeout=0.1)
    Event(name).set()
    assert (waiting.result(), behind.result()) == (True, 1)
    began = time.monotonic()
    pauses = [actor.pause(0.3) for _ in range(10)]
    assert actor.add().result() == 2
    assert [pause.result() for pause in pauses] == [0.3] * 10
    assert time.monotonic() - began < 2


def test_what_a_call_raises_arrives_and_the_actor_goes_on(client: Client) -> None:
    actor = client.submit(Counter, actor=True).result()
    with pytest.raises(LookupError, match=r"nothing there$"):
        actor.fail().result()
    with pytest.raises(LookupError, match="later"):
        actor.fail_later().result()
    with pytest.raises(TypeError, match="cannot be pickled"):
        actor.unpicklable().result()
    with pytest.raises(TypeError):
        actor.add(1, 2, 3).result()
    assert actor.add().result() == 1
    with pytest.raises(ZeroDivisionError):
        client.submit(type("Broken", (), {"__init__": lambda self: 1 / 0}), actor=True).result()
    with pytest.raises(TypeError, match="expected a class"):
        client.submit(abs, 1, actor=True)


def test_answers_are_futures_that_can_be_awaited_and_completed(client: Client) -> None:
    actor = client.submit(Counter, actor=True).result()

    async def three() -> list[int]:
        return [await actor.add() for _ in range(3)]

    assert asyncio.run(three()) == [1, 2, 3]
    assert sorted(answer.result() for answer in as_completed([actor.add() for _ in range(3)])) == [4, 5, 6]
    assert client.gather([actor.add(), actor.add()]) == [7, 8]


def test_large_arguments_and_answers_travel_as_blobs_and_go(client: Client) -> None:
    actor = client.submit(Counter, actor=True).result()
    assert actor.note(np.arange(50_000)).result()[0][-1] == 49_999
    del actor
    assert eventually(lambda: not os.listdir(client.host.blob_path("")) and not left(client), 10)


def test_an_actor_travels_through_a_variable_and_lives_as_long_as_that(client: Client, name: str) -> None:
    actor = client.submit(Counter, 5, actor=True).result()
    Variable(name).set(actor)
    del actor
    time.sleep(0.2)
    assert Variable(name).get().add().result() == 6
    assert client.submit(lambda: Variable(name).get().add().result()).result() == 7
    Variable(name).delete()
    assert eventually(lambda: not left(client), 10)
    threads = client.run(lambda: [t.name for t in threading.enumerate() if "actor" in t.name])
    assert not any(threads.values())


def test_an_actor_dies_with_its_worker_and_says_so(own: Client) -> None:
    actor = own.submit(Counter, actor=True).result()
    answers = [actor.add(), actor.die(), actor.add()]
    assert answers[0].result() == 1
    for lost in answers[1:]:
        with pytest.raises(ActorLost, match="restart=True"):
            lost.result(timeout=10)
    with pytest.raises(RuntimeError):
        actor.add().result(timeout=10)
    assert eventually(lambda: not left(own), 10)


def test_an_actor_that_restarts_is_made_anew_and_answers_what_had_not_begun(own: Client) -> None:
    actor = own.submit(Counter, np.int64(100), actor=True, restart=True).result()
    assert actor.add().result() == 101
    first = actor.pid().result()
    dying = actor.die()
    behind = [actor.add() for _ in range(3)]
    with pytest.raises(ActorLost):
        dying.result(timeout=10)
    assert [answer.result(timeout=10) for answer in behind] == [101, 102, 103]
    assert actor.pid().result() != first
    del actor, behind, dying
    assert eventually(lambda: not left(own), 10)


def test_actors_that_are_killed_again_and_again_lose_no_call_that_had_not_begun(own: Client) -> None:
    actor = own.submit(Counter, actor=True, restart=True).result()
    answered = lost = 0
    for number in range(15):
        calls = [actor.add() for _ in range(20)]
        if number % 3 == 0:
            os.kill(actor.pid().result(timeout=10), 9)
        for call in calls:
            try:
                call.result(timeout=20)
                answered += 1
            except ActorLost:
                lost += 1
    assert answered + lost == 300
    assert lost <= 5
