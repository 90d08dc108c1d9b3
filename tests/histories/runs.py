"""Running programs, simulated or in real processes, and checking what came of them."""

from __future__ import annotations

import os
import random
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from checker import calls_of, check, mutex, register, search
from programs import PLAYERS, Player

import guildhall
from guildhall.engine.local import tasks
from guildhall.hosts.embedded import LOOK_AGAIN_S
from guildhall.primitives import (
    barrier,
    counter,
    event,
    latch,
    limiter,
    queue,
    semaphore,
    sessions,
    variable,
)
from guildhall.store.keys import pack_id
from guildhall.store.lmdb import LmdbStore
from guildhall.store.memory import MemoryStore
from guildhall.testing.recorder import Files, History, recorded
from guildhall.testing.simulation import PROMPT_NS, Chances, SimHost, Simulation

OF_VALUES = (
    b"\x01", variable.VARIABLES, variable.MARKS, counter.COUNTERS, queue.QUEUES, queue.ITEMS, event.EVENTS,
    latch.LATCHES, barrier.BARRIERS, semaphore.SEMAPHORES, limiter.LIMITS, limiter.LOGS, tasks.READY_COUNT,
)  # fmt: skip
"""Regions of the store in which something stays when all processes are gone; in all others nothing does."""
NAME = "it"
LEAST_KILLS, LEAST_BYTES = 5, 50_000
"""What a storm must have brought: so many deaths, and so much written in the logs."""
PROGRAMS = 5_000
"""How many random programs the tests run, of all kinds together; `make simulate` runs 10 000."""


def left_behind(txn: Any) -> list[bytes]:
    """What dead processes left in the store."""
    return [key for key, _ in txn.scan(b"") if not key.startswith(OF_VALUES)]


# -- simulated --------------------------------------------------------------------------------------------------------


def simulated(kind: str, seed: int, store: LmdbStore | None = None, *, is_cross_checked: bool = False) -> History:
    """Run one random program and check its history. Everything in it follows from the kind and the seed."""
    program = Program(kind, seed, store)
    program.run()
    program.check()
    if is_cross_checked:
        cross_check(kind, program.terms, program.history)
    return program.history


class Program:
    """A random program of one kind: terms, troubles and processes of its own. What came of it is there after `run`,
    also if it raised."""

    def __init__(self, kind: str, seed: int, store: LmdbStore | None = None) -> None:
        self.kind, self.seed = kind, seed
        self.dice = dice = random.Random(f"{kind} {seed}")
        self.player = PLAYERS[kind]
        self.terms = self.player.draw(dice)
        self.name = NAME if store is None else f"{NAME} {seed} {time.monotonic_ns()}"
        used: Any = MemoryStore() if store is None else store
        chances = draw(dice)
        if store is not None:  # Which has its own ways to be full.
            chances = replace(chances, full=0.0)
        self.sim = Simulation(dice.randrange(1 << 30), chances, store=used)
        used._ring = self.sim.ring
        self.first: int = used.revision + 1 if store is None else used.transact(lambda txn: txn.revision)

    @property
    def history(self) -> History:
        return self.sim.history()

    def run(self) -> None:
        dice, sim = self.dice, self.sim
        parts = dice.choice((2, 3, 3))
        sim.run([_Part(self.player, self.name, self.terms, dice.randrange(2, 5)).play for _ in range(parts)])
        with sim.afterwards() as life:
            self.player(self.name, life, life.log, sim.dice, self.terms).audit()

    def check(self) -> None:
        """Raise Wrong unless it came to what the model says, and nothing is left of the processes."""
        sim = self.sim
        prompt_ns = PROMPT_NS + (int(LOOK_AGAIN_S * 1e9) if sim.chances.drop else 0)
        model = self.player.model(self.terms)
        model.slack_ns = sum(until - since for _, since, until in sim.pauses)
        check(self.history, {(self.kind, self.name): model}, self.first, prompt_ns, sim.pauses)
        left = sim.store.read(left_behind)
        assert not left, f"left behind: {left}"


def draw(dice: random.Random) -> Chances:
    """How much goes wrong in a program: in some nothing, so that what needs no trouble is found, too."""
    kill, interrupt = dice.choice((0, 0.003, 0.02)), dice.choice((0, 0.05))
    pause, drop, delay = dice.choice((0, 0, 0.01)), dice.choice((0, 0, 0.2)), dice.choice((0, 0.3))
    return Chances(0.3, kill, interrupt, pause, drop, delay, dice.choice((0, 0, 0.05)))


class _Part:
    """So many steps of one process after the other."""

    def __init__(self, player: type[Player], name: str, terms: dict[str, Any], steps: int) -> None:
        self._player, self._name, self._terms, self._steps = player, name, terms, steps

    def play(self, life: SimHost) -> None:
        player = self._player(self._name, life, life.log, life.sim.dice, self._terms)
        while self._steps > 0:
            self._steps -= 1
            player.step()


def cross_check(kind: str, terms: dict[str, Any], history: History) -> None:
    """By search, if it is something that the search knows."""
    if kind == "variable" and terms["is_plain"]:
        search(history.calls, register)
    elif kind == "lock":
        search([call for call in calls_of(history) if call.method != "locked"], mutex)


# -- real -------------------------------------------------------------------------------------------------------------


def storm(kind: str, seconds: float, seed: int, directory: Path, processes: int = 4) -> tuple[History, int]:
    """Let real processes use one thing while they are killed, stopped and made anew; check what they did.

    Returns the history and how many were killed.
    """
    dice = random.Random(f"{kind} {seed}")
    player = PLAYERS[kind]
    terms = player.draw(dice) | player.in_a_storm
    logs = directory / "logs"
    logs.mkdir(parents=True)
    with guildhall.open() as hall:
        first = hall.host.transact(lambda txn: txn.revision)
        with recorded(hall.host, logs) as files:
            with _Crowd(hall, files, player, terms, dice, directory / "errors") as crowd:
                kills = crowd.live(seconds, processes)
            hall.host.bury_dead()
            player(NAME, hall, files.log, dice, terms).audit()
            mine = (sessions.SESSIONS, queue.HANDS + pack_id(hall.host.session))  # This process is there still.
            left = [key for key in hall.host.read(left_behind) if not key.startswith(mine)]
            history = files.history()
    errors = directory / "errors"
    assert not errors.exists(), errors.read_text()
    model = player.model(terms)
    model.may_die_unseen = True
    check(history, {(kind, NAME): model}, first)
    assert not left, f"left behind: {left}"
    return history, kills


class _Crowd:
    """Forked processes, and the hand that kills and stops them."""

    def __init__(
        self, hall: Any, files: Files, player: type[Player], terms: dict[str, Any], dice: random.Random, errors: Path
    ) -> None:
        self._hall, self._files, self._player, self._terms = hall, files, player, terms
        self._dice, self._errors = dice, errors
        self._pids: list[int] = []

    def __enter__(self) -> _Crowd:
        return self

    def __exit__(self, *exc: object) -> None:
        while self._pids:
            self._kill(self._pids[0])

    def live(self, seconds: float, processes: int) -> int:
        """For so long, and until there is something to check, however busy the machine is. Returns how many were
        killed."""
        began, kills = time.monotonic(), 0
        while time.monotonic() < began + seconds or kills < LEAST_KILLS or self._files.size_bytes() < LEAST_BYTES:
            assert time.monotonic() < began + seconds + 30, f"they do nothing: {kills} kills"
            while len(self._pids) < processes:
                self._fork()
            time.sleep(self._dice.uniform(0.001, 0.03))
            pid = self._dice.choice(self._pids)
            if self._dice.random() < 0.5:
                self._kill(pid)
                kills += 1
            else:
                with stopped(pid):
                    time.sleep(self._dice.uniform(0.0, 0.02))
        return kills

    def _fork(self) -> None:
        seed = self._dice.randrange(1 << 30)
        pid = os.fork()
        if pid:
            self._pids.append(pid)
            return
        try:
            self._play(random.Random(seed))
        except BaseException:
            with self._errors.open("a") as file:
                file.write(traceback.format_exc())
        finally:
            os._exit(1)

    def _play(self, dice: random.Random) -> None:
        player = self._player(NAME, self._hall, self._files.log, dice, self._terms)
        player.long_s = 0.1
        while True:
            player.step()
            if dice.random() < 0.3:
                time.sleep(dice.uniform(0, 0.001))

    def _kill(self, pid: int) -> None:
        self._pids.remove(pid)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
