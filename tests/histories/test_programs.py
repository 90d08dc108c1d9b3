"""Thousands of random programs, each of up to three processes that a seed lets meet, stop, die, hear Ctrl-C anywhere.

`make simulate` runs 10 000, and one that failed again: `make simulate SEED=4711 KIND=lock PROGRAMS=1`.
"""

from __future__ import annotations

import functools
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from checker import check
from programs import PLAYERS
from runs import PROGRAMS, Program, simulated
from simulate import simulate

import guildhall
from guildhall import Counter, Event, Lock, RWLock, StoreFull
from guildhall.primitives import pool
from guildhall.testing.recorder import recorded
from guildhall.testing.simulation import Chances, Simulation


@pytest.mark.parametrize("kind", list(PLAYERS))
def test_random_programs_come_to_what_the_model_says(kind: str) -> None:
    simulate(random.randrange(1 << 30), steps=0, programs=PROGRAMS // len(PLAYERS), minutes=0, kinds=[kind])


HELD = ("lock", "rlock", "semaphore", "rwlock", "multilock", "election", "circles")


@pytest.mark.parametrize("kind", HELD)
def test_programs_come_to_it_also_if_there_is_no_room_to_give_back(kind: str) -> None:
    """A line is left, and what was granted meanwhile given back, when there is room again; who could not release holds
    on, and is not told of a circle that there is not."""
    put_off = 0
    for seed in range(120):
        program = Program(kind, seed)
        program.sim.chances = replace(program.sim.chances, stuck=0.1)
        program.run()
        program.check()
        put_off += sum(call.is_put_off for call in program.history.calls)
    assert put_off, "it never happened"


def test_what_a_real_process_put_off_belongs_to_the_call_that_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is done with what is asked for next."""
    with guildhall.open(tmp_path / "hall") as hall:
        first = hall.host.transact(lambda txn: txn.revision)
        has_room: list[bool] = []
        (tmp_path / "logs").mkdir()

        def leave(*args: Any) -> bool:
            if not has_room:
                raise StoreFull("no room")
            return bool(plain(*args))

        plain = pool.leave
        monkeypatch.setattr(pool, "leave", functools.wraps(plain)(leave))
        with recorded(hall.host, tmp_path / "logs") as files:
            writer, reader = RWLock("it", hall=hall), RWLock("it", hall=hall)
            call = functools.partial(files.log.call, hall.host.session, "rwlock", "it")
            call("acquire_write", (), writer.acquire_write)
            assert call("acquire_read", (), lambda: reader.acquire_read(timeout=0.01)) == "StoreFull"
            assert hall.host.is_behind
            has_room.append(True)
            call("release_write", (), writer.release_write)
            assert not hall.host.is_behind
            assert not call("locked", (), writer.locked)
            history = files.history()
    assert [call.is_put_off for call in history.calls] == [False, True, False, False]
    check(history, {("rwlock", "it"): PLAYERS["rwlock"].model({})}, first)


# -- the simulation itself --------------------------------------------------------------------------------------------


def simulation(seed: int, chances: Chances) -> Simulation:
    return Simulation(seed, chances)


def test_a_program_is_the_same_whenever_it_runs() -> None:
    def trail() -> list[str]:
        history = simulated("condition", 4711)
        return [f"{call}" for call in history.calls] + [f"{c} {c.inside}" for c in history.commits]

    once = trail()
    assert len(once) > 20
    assert trail() == once


def test_what_can_go_on_for_ever_is_told_and_not_waited_for() -> None:
    sim = simulation(1, Chances())

    def wait(life: Any) -> None:
        Event("e", hall=life).wait()

    with pytest.raises(TimeoutError, match="hangs"):
        sim.run([wait, wait])


def test_an_error_of_a_process_ends_the_program() -> None:
    sim = simulation(1, Chances())

    def err(life: Any) -> None:
        Counter("c", hall=life).add(1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sim.run([lambda life: Event("e", hall=life).wait(), err])


def test_deaths_come_before_in_and_behind_commits() -> None:
    """Of a hundred lives that each take a lock and die somewhere, some took it, some did not, and none keeps it."""
    sim = simulation(3, Chances(0.3, kill=0.02))
    lives, taken = [], []

    def live(life: Any) -> None:
        lives.append(life.session)
        if len(lives) < 100:
            Lock("l", hall=life).acquire()
            taken.append(life.session)
            while True:
                life.step()

    sim.run([live, live])
    assert 5 < len(taken) < 95
    history = sim.history()
    granted = [c for c in history.commits if c.op == "lock.acquire" and c.answer == "yes"]
    assert granted
    assert history.doubtful > 5
    with sim.afterwards() as life:
        assert Lock("l", hall=life).acquire(timeout=0)
