"""Many processes in one, a step at a time: any interleaving, any death, any pause, any time, all by one seed's dice.

    def work(life):
        with Lock("l", hall=life):
            Counter("c", hall=life).add(1)

    sim = Simulation(seed=1, chances=Chances(kill=0.01))
    sim.run([work, work])

Each process is a thread, and only the one that has the baton runs. It may hand the baton on, be stopped for a while,
die, or hear Ctrl-C, wherever it reads or commits: just before, inside of the transaction, behind the commit before
anybody was rung, and behind that. It may also die while it sleeps or is stopped. Rings may come late or never. Time is
a number that goes on with each step, and jumps when all sleep. What is tested is real: ops, handles, the waiting loop,
and the memory store or LMDB; only sleeping, ringing, death and the clock are played.

A seed's run is the same whenever it runs, if what the processes do depends on nothing else: no clock but `sim.now_ns`,
no dice but `sim.dice`, no threads, no other state than the store's.
"""

from __future__ import annotations

import itertools
import random
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from .. import deadline
from ..client import agents
from ..engine.local import inbox
from ..errors import Misuse, StoreFull
from ..hosts import current
from ..hosts.embedded import LOOK_AGAIN_S, EmbeddedHost
from ..hosts.marks import Lane
from ..hosts.seats import private as private_seats
from ..primitives import sessions
from ..store.memory import MemoryStore
from ..store.transaction import Waiter
from .baton import STEPS, Baton, Bell, Over, Runner
from .clock import turned_by_hand
from .recorder import History, Log, assemble, burials

_ESTATES = (inbox.bury_worker,)
"""What dead processes may leave that is not a primitive's: tasks, if they worked."""
HEARING = 0.4
"""How often a sleeper is told of a death at once; else it finds it when it looks by itself."""
PROMPT_NS = int(LOOK_AGAIN_S * 1e9) // 2
"""Who is woken by a ring that is not lost is awake so soon."""
PAUSES_NS = (10**6, 20 * 10**6, 300 * 10**6, 3 * 10**9)
DELAY_NS = 50 * 10**6
"""A ring that is delayed is so by up to this."""


class Killed(Over):
    """This process is dead."""


@dataclass(frozen=True)
class Chances:
    """How likely each trouble is. Of `switch`, `kill`, `pause`: at each step; of `interrupt`: at each step of a call
    that may be; of `drop`, `delay`: for each ring; of `full`: that there is no room for what a transaction adds; of
    `stuck`: that nothing can be written, not even by who gives something back."""

    switch: float = 0.3
    kill: float = 0.0
    interrupt: float = 0.0
    pause: float = 0.0
    drop: float = 0.0
    delay: float = 0.0
    full: float = 0.0
    stuck: float = 0.0


QUIET = Chances(switch=0.0)
ROUGH = Chances(switch=0.3, kill=0.01, pause=0.005, drop=0.05, delay=0.1)
"""A little of everything but Ctrl-C, which only comes where a program says that it may."""
SHOWN = 200
"""So many lines of a history are in an error; all are in its `history`."""


class Failed(AssertionError):
    """A program that does not do with some seed what it must. It does so again with that seed."""

    def __init__(self, seed: int, error: BaseException, history: History) -> None:
        self.seed, self.history = seed, history
        lines = str(history).splitlines()
        left_out = [f"({len(lines) - SHOWN} lines before)"] if len(lines) > SHOWN else []
        story = "\n".join([*left_out, *lines[-SHOWN:]])
        super().__init__(f"seed {seed}: {type(error).__name__}: {error}\n{story}")


@dataclass
class Explored:
    """What was played."""

    seeds: int = 0
    steps: int = 0
    kills: int = 0
    pauses: int = 0


def explore(program: Callable[[Simulation], object], seeds: Iterable[int], chances: Chances = ROUGH) -> Explored:
    """Run a program with each seed: it gets a simulation, lets processes play in it, and asserts what must be so.

    Raises Failed for the first seed with which it raises, with all that happened.
    """
    played = Explored()
    for seed in seeds:
        sim = Simulation(seed, chances)
        try:
            program(sim)
        except Exception as error:
            raise Failed(seed, error, sim.history()) from error
        played.seeds += 1
        played.steps += sim.steps
        played.kills += sim.kills
        played.pauses += len(sim.pauses)
    return played


def _nothing_to_do() -> None: ...


class SimHost(EmbeddedHost):
    """One life of a process: a session in the store, as handles need it. It may be given as `hall=`."""

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim
        self.directory = f"(simulated, seed {sim.seed})"
        self.role, self.is_private, self.is_durable = "process", True, False
        self._mark = b"\1"  # It has joined, and is nobody's forked child.
        self._pid = 0
        self.is_dead = False
        self.may_interrupt = False
        # No task runs here, and nothing large is let go.
        self.give_way = self.nudge = self.run_awaited = None
        self.lend_hand = _nothing_to_do
        self.before_leaving = []
        self.asleep: dict[int, int] = {}
        self.seats = sim.seats
        self.once = threading.RLock()
        self.bells: dict[int, Bell] = {}
        self._numbers = itertools.count(1)
        self._errands: deque[Iterable[Any]] = deque()
        self.errand = self._errands.append
        self._belongs: dict[int, Any] = {}
        """Of errands that were put off: the calls that they belong to."""
        self.words = [0]
        """What the process has received, in memory that outlives it."""
        self.log = Log(sim.log_of_life(), sim.tick)
        self.log.in_transaction = self._in_transaction
        self._has_joined = self._insists = False
        self._session = self.log.session = self._commit(sessions.number)
        self._commit(sessions.join, sessions.Session(self._session, 0, "process"))
        self._lane, self._no_lane = Lane(self._session, self.words, 0, deque()), Lane(self._session, [0], 0, None)
        sim.lives[self._session] = self
        self._has_joined = True

    @property
    def session(self) -> int:
        return self._session

    @property
    def host(self) -> SimHost:
        return self

    def __repr__(self) -> str:
        return f"<SimHost session {self._session} {'dead' if self.is_dead else 'alive'}>"

    # -- ops ----------------------------------------------------------------------------------------------------------

    def _commit(self, op: Callable[..., Any], *args: Any) -> Any:
        """Without trouble."""
        self.sim.acts = self
        return self.log.transact(self.sim.store.transact, op, args)

    def transact(self, op: Callable[..., Any], *args: Any) -> Any:
        self.flush()
        return self._troubled(op, *args)

    def _troubled(self, op: Callable[..., Any], *args: Any) -> Any:
        self.step()
        self.sim.acts = self
        result = self.log.transact(self._transact, op, args)
        self.step()
        return result

    def _transact(self, op: Callable[..., Any], *args: Any) -> Any:
        if self._is_stuck():
            op = self._refused(op, None)
        elif self._finds_no_room():
            op = self._refused(op, 0)
        result = self.sim.store.transact(op, *args)
        self.trouble()  # The commit is made, and nobody wrote that down.
        return result

    def insist(self, op: Callable[..., Any], *args: Any) -> Any:
        """As `transact`, and there is room for it."""
        before, self._insists = self._insists, True
        try:
            return self.transact(op, *args)
        finally:
            self._insists = before

    def _finds_no_room(self) -> bool:
        chances = self.sim.chances
        return (
            bool(chances.full and self.sim.is_running and not self._insists) and self.sim.dice.random() < chances.full
        )

    def _is_stuck(self) -> bool:
        chances = self.sim.chances
        return bool(chances.stuck and self.sim.is_running and self._has_joined) and (
            self.sim.dice.random() < chances.stuck
        )

    def _refused(self, op: Callable[..., Any], most: int | None) -> Callable[..., Any]:
        """The op in a store that is full: what makes that larger by no more than so much goes on; None: what writes
        nothing."""
        store = self.sim.store

        def run(txn: Any, *args: Any) -> Any:
            before = store.size
            result = op(txn, *args)
            if txn.undo if most is None else store.size > before + most:
                raise StoreFull("the simulated store is full")
            return result

        return run

    def read(self, op: Callable[..., Any], *args: Any) -> Any:
        self.step()
        return self.sim.store.read(op, *args)

    def flush(self) -> None:
        """Run what was deferred; what a Ctrl-C or an end of all leaves undone, burying does."""
        while self._errands:
            errand = self._errands[0]
            op, *args = errand
            try:
                with self.log.within(self._belongs.get(id(errand))):
                    self._troubled(op, *args)
            except StoreFull:
                return
            with suppress(ValueError):
                self._errands.remove(errand)

    settle = flush

    def defer(self, op: Callable[..., Any], *args: Any) -> None:
        """Run the op with this process's next one."""
        self._errands.append((op, *args))

    @property
    def is_behind(self) -> bool:
        return bool(self._errands)

    def put_off(self, op: Callable[..., Any], *args: Any) -> None:
        self.defer(op, *args)
        self._belongs[id(self._errands[-1])] = self.log.put_off()

    def drop(self, oid: bytes) -> None:
        """Of an object: there is none without a blob, and no blob here."""

    def hurry(self) -> None: ...

    def lane(self) -> Lane:
        lane = self._lane
        return lane if lane.number == lane.words[lane.index] else self._no_lane

    # -- trouble ------------------------------------------------------------------------------------------------------

    def step(self) -> None:
        self.sim.turn()
        self.trouble()

    def _in_transaction(self) -> None:
        if self._has_joined:
            self.trouble(in_transaction=True)

    def trouble(self, *, in_transaction: bool = False) -> None:
        """Die, be stopped or hear Ctrl-C, by the dice. Who is dead does nothing more; outside of a run all is well."""
        if self.is_dead:
            raise Killed
        sim = self.sim
        if not sim.is_running:
            return
        dice, chances = sim.dice, sim.chances
        if chances.kill and dice.random() < chances.kill:
            sim.kill(self)
            raise Killed
        if chances.pause and dice.random() < chances.pause:
            sim.pause(self, dice.choice(PAUSES_NS), in_transaction)
            if self.is_dead:  # It was killed while it was stopped.
                raise Killed
        if self.may_interrupt and dice.random() < chances.interrupt:
            self.may_interrupt = False  # Once in a call: what handlers do then is not interrupted again.
            raise KeyboardInterrupt

    def kill(self) -> None:
        """This process is dead, from outside: it does nothing more, and others find out."""
        self.sim.kill(self)

    # -- waiting ------------------------------------------------------------------------------------------------------

    def bell(self) -> Any:
        number = len(self.bells) + 1
        self.bells[number] = bell = Bell(number)
        return bell

    def done(self, bell: Any) -> None: ...

    def ring(self, waiter: Waiter) -> None:
        self.sim.ring(waiter)

    def follow(self) -> None: ...

    def stay_awake(self, left_s: float, op: Callable[..., bool], *args: Any) -> bool:
        until = deadline.now() + left_s
        while not self.read(op, *args):
            if deadline.now() >= until:
                return False
            self.relax()
        return True

    def relax(self) -> None:
        self.step()
        self.sim.advance(self.look_s(None) / 4)

    def look(self, left_s: float | None, op: Callable[..., bool], *args: Any) -> bool:
        return bool(self.read(op, *args))

    def sleep(self, bell: Any, timeout_s: float | None) -> None:
        limit_s = LOOK_AGAIN_S if timeout_s is None else min(timeout_s, LOOK_AGAIN_S)
        has_died = self.sim.sleep(bell, limit_s)
        self.trouble()
        if has_died or limit_s == LOOK_AGAIN_S:
            self.bury_dead()

    def is_alive(self, session: int) -> bool:
        life = self.sim.lives.get(session)
        return life is not None and not life.is_dead

    def bury_dead(self) -> list[int]:
        dead = [life for life in self.sim.lives.values() if life.is_dead and not self.sim.is_buried(life)]
        for life in dead:
            self.transact(sessions.bury, life._session, 0, _ESTATES, deadline.now(), tuple(life.words))
        return [life._session for life in dead]

    def close(self) -> None:
        """Leave, giving back what it has."""
        if not self.is_dead:
            self.transact(sessions.bury, self._session, 0, _ESTATES, deadline.now(), tuple(self.words))
            self.is_dead = True

    # -- what is not played -------------------------------------------------------------------------------------------

    @property
    def watch(self) -> Any:  # type: ignore[override]
        raise Misuse("a simulated hall has no event loops: use the handles that block, not those of guildhall.aio")

    def blob_path(self, blob: str) -> str:
        raise Misuse("a simulated hall has no large values: use such as are stored inline (up to 64 KiB)")

    def remove_blob(self, blob: str) -> None:
        """There is none."""

    def _opened(self) -> Any:
        raise Misuse("a simulated hall has no file that could be looked into")


class Simulation:
    """A store, a clock, and processes that play by the dice of one seed."""

    def __init__(
        self,
        seed: int = 0,
        chances: Chances = QUIET,
        *,
        store: Any = None,
        now_ns: int = 10**12,
        steps: int = STEPS,
    ) -> None:
        self.seed = seed
        self.dice = random.Random(seed)
        self.store: Any = MemoryStore(ring=self.ring) if store is None else store
        self.chances = chances
        self.seats = private_seats()
        self.lives: dict[int, SimHost] = {}
        """All that there were, by session."""
        self.acts: SimHost | None = None
        """Whose transaction was the last."""
        self.kills = 0
        self.pauses: list[tuple[int, int, int]] = []
        """(session, from, until); session 0 for what stopped everybody: one that was stopped in a transaction."""
        self._baton = Baton(self.dice, chances.switch, now_ns, steps)
        self._baton.before_next = self._perhaps_kill_one_who_waits
        self._logs: list[list[tuple[Any, ...]]] = []
        self._of_runner: dict[Runner, SimHost] = {}

    # -- what there is ------------------------------------------------------------------------------------------------

    @property
    def now_ns(self) -> int:
        return self._baton.now_ns

    @property
    def steps(self) -> int:
        """So many were made."""
        return self._baton.steps

    @property
    def is_running(self) -> bool:
        return self._baton.mine is not None

    def tick(self) -> int:
        """The time, never the same twice."""
        self._baton.now_ns += 1
        return self._baton.now_ns

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._baton.now_ns += round(seconds * 1e9)

    def log_of_life(self) -> Callable[[tuple[Any, ...]], None]:
        records: list[tuple[Any, ...]] = []
        self._logs.append(records)
        return records.append

    def history(self) -> History:
        """All that happened so far. Public calls are in it if they were made with `life.log.call`; commits are."""
        return assemble(self._logs)

    # -- running ------------------------------------------------------------------------------------------------------

    @contextmanager
    def time(self) -> Iterator[None]:
        """Until the end of this, it is this simulation's time in the whole package."""
        with turned_by_hand(lambda: self.now_ns), burials(lambda: self._acting().log), _one_thread_each():
            yield

    def _acting(self) -> SimHost:
        assert self.acts is not None, "who buries has joined"
        return self.acts

    def join(self) -> SimHost:
        """A process that is played by whoever called this, outside of `run` and inside of `time`."""
        return SimHost(self)

    def run(self, plays: Sequence[Callable[[SimHost], object]], *, restarts: bool = True) -> None:
        """Let processes play until all have come to their end; each play is called again after a death, or not.

        Where a handle is given no hall, it is that of the process that runs. Raises what went wrong in any, or
        TimeoutError if they hang.
        """
        before, self._of_runner = current.now, {}
        try:
            with self.time():
                self._baton.run([_Play(self, play, restarts) for play in plays])
        finally:
            current.now = before

    def live(self, runner: Runner, play: Callable[[SimHost], object]) -> bool:
        """One life. Whether it came to its end, or dies."""
        life = None
        runner.is_dead, runner.stopped_until_ns = False, 0
        try:
            life = SimHost(self)
            self._of_runner[runner] = life
            current.now = life
            play(life)
        except Killed:
            return False
        except Over:
            pass
        finally:
            if life is not None:
                self._end(life)
            runner.is_dead = False
        return True

    def turn(self) -> None:
        self._baton.turn()
        self._enter()

    def _enter(self) -> None:
        if (me := self._baton.mine) is not None and me in self._of_runner:
            current.now = self._of_runner[me]

    def pause(self, life: SimHost, for_ns: int, in_transaction: bool) -> None:
        """It is stopped. In a transaction nobody else can go on either, so only time does."""
        began = self.now_ns
        self.pauses.append((0 if in_transaction else life._session, began, began + for_ns))
        if in_transaction:
            self._baton.now_ns += for_ns
        else:
            self._baton.stop(for_ns)
            self._enter()

    def sleep(self, bell: Bell, limit_s: float) -> bool:
        """Until rung, somebody died, or it is time. Whether somebody died."""
        was_roused = self._baton.sleep(bell, self.now_ns + 1 + int(limit_s * 1e9))
        self._enter()
        return was_roused

    def ring(self, waiter: Waiter) -> None:
        """Called by the store behind a commit. A ringer that dies there rings no more."""
        chances, dice = self.chances if self.is_running else QUIET, self.dice
        if chances.kill and dice.random() < chances.kill:
            self.kill(self._acting())
            raise Killed
        life = self.lives.get(waiter.session)
        if life is None or waiter.bell not in life.bells or (chances.drop and dice.random() < chances.drop):
            return
        is_late = chances.delay and dice.random() < chances.delay
        self._baton.ring(life.bells[waiter.bell], dice.randrange(1, DELAY_NS) if is_late else 0)

    # -- dying --------------------------------------------------------------------------------------------------------

    def kill(self, life: SimHost) -> None:
        """It is dead, whatever it was doing."""
        if not life.is_dead:
            self.kills += 1
            self._end(life)

    def _end(self, life: SimHost) -> None:
        """Who sleeps hears of it, or not."""
        if not life.is_dead:
            life.is_dead = True
            for runner in self._baton.runners:
                runner.is_dead |= self._of_runner.get(runner) is life
                runner.is_roused |= self.dice.random() < HEARING

    def _perhaps_kill_one_who_waits(self) -> None:
        if not self.chances.kill or self.dice.random() >= self.chances.kill:
            return
        waiting = [
            life
            for runner, life in self._of_runner.items()
            if runner is not self._baton.mine and runner in self._baton.runners and not life.is_dead
        ]
        if waiting:
            self.kill(self.dice.choice(waiting))

    def is_buried(self, life: SimHost) -> bool:
        return self.store.read(sessions.look, life._session) is None

    # -- the end ------------------------------------------------------------------------------------------------------

    @contextmanager
    def afterwards(self) -> Iterator[SimHost]:
        """A life after all others, to look at what is left: all are dead and buried, and nothing happens to it."""
        chances, self.chances = self.chances, QUIET
        before = current.now
        try:
            with self.time():
                current.now = life = SimHost(self)
                life.bury_dead()
                yield life
                life.flush()
                life._commit(sessions.bury, life._session, 0, _ESTATES, deadline.now(), tuple(life.words))
        finally:
            self.chances, current.now = chances, before


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Until the end of this, the threads of this process are processes: none sees the others beside itself."""
    plain = agents.threads_of_process, agents.stacks_of_process
    agents.threads_of_process = lambda: [threading.current_thread()]
    agents.stacks_of_process = lambda: {threading.get_ident(): sys._getframe(1)}
    try:
        yield
    finally:
        agents.threads_of_process, agents.stacks_of_process = plain


class _Play:
    """What one process does, life after life."""

    def __init__(self, sim: Simulation, play: Callable[[SimHost], object], restarts: bool) -> None:
        self._sim, self._play, self._restarts = sim, play, restarts

    def __call__(self, runner: Runner) -> None:
        while not self._sim.live(runner, self._play) and self._restarts:
            pass
