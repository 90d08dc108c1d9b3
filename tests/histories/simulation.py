"""Several processes in one, a step at a time: any interleaving, any death, any time, all by the throw of one seed.

Each process is a thread, and only the one that has the baton runs. It may hand the baton on, die, or hear Ctrl-C,
wherever it reads or commits: just before, inside of the transaction, behind the commit before anybody was rung, and
behind that. Time is a number that goes on with each step, and jumps when all sleep. What is tested is real: ops,
handles, the waiting loop, and the memory store or LMDB; only sleeping, ringing, death and the clock are played.
"""

from __future__ import annotations

import functools
import itertools
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from recorder import History, Log, assemble, burials

from guildhall import deadline
from guildhall.hosts.embedded import LOOK_AGAIN_S, EmbeddedHost
from guildhall.hosts.marks import Lane
from guildhall.hosts.seats import private
from guildhall.primitives import sessions
from guildhall.store.transaction import Waiter

LIMIT_NS, STEPS = 600 * 10**9, 100_000
"""A program that lasts longer hangs."""
HEARING = 0.4
"""How often a sleeper is told of a death at once; else it finds it when it looks by itself."""
PROMPT_NS = int(LOOK_AGAIN_S * 1e9) // 2


class Killed(BaseException):
    """This process is dead: no handler of it can do anything any more."""


class Chances:
    """How likely each trouble is, at each step."""

    def __init__(self, switch: float = 0.3, kill: float = 0.0, interrupt: float = 0.0) -> None:
        self.switch, self.kill, self.interrupt = switch, kill, interrupt


class _Bell:
    def __init__(self, number: int) -> None:
        self.number = number
        self.is_rung = False


def _nothing_to_do() -> None: ...


class SimHost(EmbeddedHost):
    """One life of a process: a session in the store, as handles need it."""

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim
        self.seats = sim.seats
        self.give_way = self.nudge = self.run_awaited = None  # No task runs here, and nothing large is let go.
        self.lend_hand = lambda: None
        self._mark = b"\1"  # It has joined, and is nobody's forked child.
        self.is_dead = False
        self.may_interrupt = False
        self.nudge = None
        self.role = "process"
        self.lend_hand, self.run_awaited = _nothing_to_do, None
        self.asleep: dict[int, int] = {}
        self.once = threading.RLock()
        self._no_lane = Lane(0, [0], 0, None)
        self.bells: dict[int, _Bell] = {}
        self._numbers = itertools.count(1)
        self.log = Log(sim.log_of_life(), sim.clock)
        self.log.in_transaction = self._in_transaction
        self._has_joined = False
        self._session = self._commit(sessions.number)
        self._commit(sessions.join, sessions.Session(self._session, 0, "process"))
        sim.lives[self._session] = self
        self._has_joined = True

    @property
    def session(self) -> int:
        return self._session

    @property
    def host(self) -> SimHost:
        """So that it may be given as `hall=`."""
        return self

    def _commit(self, op: Callable[..., Any], *args: Any) -> Any:
        """Without trouble."""
        self.sim.log_in_use = self.log
        return self.log.transact(self.sim.store.transact, op, args)

    def transact(self, op: Callable[..., Any], *args: Any) -> Any:
        self.step()
        self.sim.log_in_use = self.log
        result = self.log.transact(self._transact, op, args)
        self.step()
        return result

    def _transact(self, op: Callable[..., Any], *args: Any) -> Any:
        result = self.sim.store.transact(op, *args)
        self.trouble()  # The commit is made, and nobody wrote that down.
        return result

    insist = transact

    def read(self, op: Callable[..., Any], *args: Any) -> Any:
        self.step()
        return self.sim.store.read(op, *args)

    def _in_transaction(self) -> None:
        if self.sim.mine is not None and self._has_joined:
            self.trouble()

    # -- trouble ------------------------------------------------------------------------------------------------------

    def step(self) -> None:
        self.sim.turn()
        self.trouble()

    def trouble(self) -> None:
        """Die or hear Ctrl-C, by the dice. Who is dead does nothing more."""
        if self.is_dead:
            raise Killed
        dice, chances = self.sim.dice, self.sim.chances
        if chances.kill and dice.random() < chances.kill:
            self.sim.kill(self)
            raise Killed
        if self.may_interrupt and dice.random() < chances.interrupt:
            self.may_interrupt = False  # Once in a call: what handlers do then is not interrupted again.
            raise KeyboardInterrupt

    # -- waiting ------------------------------------------------------------------------------------------------------

    def bell(self) -> Any:
        bell = self.bells[len(self.bells) + 1] = _Bell(len(self.bells) + 1)
        return bell

    def done(self, bell: Any) -> None: ...

    def follow(self) -> None: ...

    def flush(self) -> None: ...

    def errand(self, errand: Any) -> None:
        """As `defer`."""

    def hurry(self) -> None: ...

    def lane(self) -> Lane:
        return self._no_lane

    def defer(self, op: Callable[..., Any], *args: Any) -> None:
        """A finalizer may call this anywhere: it is done by who notices that the session is dead."""

    def drop(self, oid: bytes) -> None: ...

    def relax(self) -> None:
        self.step()

    def look(self, left_s: float | None, op: Callable[..., bool], *args: Any) -> bool:
        return bool(self.read(op, *args))

    def sleep(self, bell: Any, timeout_s: float | None) -> None:
        limit_s = LOOK_AGAIN_S if timeout_s is None else min(timeout_s, LOOK_AGAIN_S)
        has_died = self.sim.sleep(bell, self.sim.now_ns + int(limit_s * 1e9))
        self.trouble()
        if has_died or limit_s == LOOK_AGAIN_S:
            self.bury_dead()

    def bury_dead(self) -> list[int]:
        dead = [life._session for life in self.sim.lives.values() if life.is_dead and not life.sim.is_buried(life)]
        for session in dead:
            self.transact(sessions.bury, session, 0, (), deadline.now())
        return dead


class _Process:
    """A thread that plays one process after the other."""

    def __init__(self) -> None:
        self.go = threading.Lock()
        self.go.acquire()
        self.bell: _Bell | None = None
        self.wakes_ns: int | None = None
        self.hears_of_death = False
        self.stopped_until_ns = 0


class Simulation:
    """A store, a clock, and processes. `play(life)` is what a process does; it is called again after a death."""

    def __init__(self, seed: int, store: Any, chances: Chances, now_ns: int = 10**12) -> None:
        self.dice = random.Random(seed)
        self.store = store
        self.chances = chances
        self.start_ns = self.now_ns = now_ns
        self.lives: dict[int, SimHost] = {}
        self.mine: _Process | None = None
        """Who has the baton; None outside of a run."""
        self.error: BaseException | None = None
        self._steps = 0
        self.log_in_use: Log | None = None
        self.seats = private()
        self._logs: list[list[tuple[Any, ...]]] = []
        self._processes: list[_Process] = []
        self._ended = threading.Lock()

    # -- the record ---------------------------------------------------------------------------------------------------

    def clock(self) -> int:
        self.now_ns += 1
        return self.now_ns

    def log_of_life(self) -> Callable[[tuple[Any, ...]], None]:
        records: list[tuple[Any, ...]] = []
        self._logs.append(records)
        return records.append

    def history(self) -> History:
        return assemble(self._logs)

    # -- the baton ----------------------------------------------------------------------------------------------------

    def run(self, plays: list[Callable[[SimHost], Any]]) -> None:
        """Until all have played to their end. Raises what went wrong in any, or TimeoutError if they hang."""
        self._processes = [_Process() for _ in plays]
        threads = [threading.Thread(target=self._run, args=pair, daemon=True) for pair in zip(self._processes, plays)]
        with turned_by_hand(self), burials(lambda: self.log_in_use):  # type: ignore[arg-type,return-value]
            self._ended.acquire()
            for thread in threads:
                thread.start()
            self.mine = self._processes[0]
            self.mine.go.release()
            self._ended.acquire()
            self._ended.release()
            self.mine = None
            for thread in threads:
                thread.join()
        if self.error is not None:
            raise self.error

    def _run(self, process: _Process, play: Callable[[SimHost], Any]) -> None:
        process.go.acquire()
        try:
            while self.error is None:
                life = None
                try:
                    life = SimHost(self)
                    play(life)
                    break
                except Killed:
                    continue
                finally:
                    if life is not None:
                        self.kill(life)
        except Exception as error:
            self.error = self.error or error
        except BaseException as error:  # A Ctrl-C that left its call must not look like one of our own.
            self.error = self.error or RuntimeError(f"{type(error).__name__} came out of a process")
        self._processes.remove(process)
        if self._processes:
            self._hand_on(self._next())
        else:
            self._ended.release()

    def _hand_on(self, process: _Process) -> None:
        self.mine = process
        process.go.release()

    def turn(self) -> None:
        """A step: time goes on, and perhaps somebody else does."""
        me = self.mine
        self._steps += 1
        if self._steps > STEPS or self.now_ns - self.start_ns > LIMIT_NS:
            self.error = self.error or TimeoutError("it hangs: nobody comes to an end")
        if me is None:
            if self.error is not None:
                raise self.error
            return
        if self.error is not None:
            raise Killed
        self.now_ns += int(self.dice.random() * 200_000)
        if self.dice.random() < self.chances.switch:
            self._pass(me)

    def _pass(self, me: _Process) -> None:
        following = self._next()
        if following is not me:
            self._hand_on(following)
            me.go.acquire()

    def _next(self) -> _Process:
        """One of those who can go on; if all sleep, time jumps."""
        while True:
            ready = [one for one in self._processes if self._is_ready(one)]
            if ready:
                return ready[self.dice.randrange(len(ready))]
            self.now_ns = min(one.wakes_ns for one in self._processes if one.wakes_ns is not None)

    def _is_ready(self, one: _Process) -> bool:
        return (
            one.bell is None
            or one.bell.is_rung
            or one.hears_of_death
            or self.error is not None
            or (one.wakes_ns is not None and one.wakes_ns <= self.now_ns)
        )

    def sleep(self, bell: _Bell, wakes_ns: int) -> bool:
        """Until rung, somebody died, or it is time. Whether somebody died."""
        me = self.mine
        assert me is not None, "only processes that run sleep"
        me.bell, me.wakes_ns = bell, wakes_ns
        self._pass(me)
        has_died, me.hears_of_death = me.hears_of_death, False
        me.bell = me.wakes_ns = None
        bell.is_rung = False
        if self.error is not None:
            raise Killed
        return has_died

    def ring(self, waiter: Waiter) -> None:
        """Called by the store behind a commit. A ringer that dies there rings no more."""
        if self.mine is not None:
            ringer = next(life for life in self.lives.values() if life.log is self.log_in_use)
            if self.chances.kill and self.dice.random() < self.chances.kill:
                self.kill(ringer)
                raise Killed
        life = self.lives.get(waiter.session)
        if life is not None and waiter.bell in life.bells:
            life.bells[waiter.bell].is_rung = True

    def kill(self, life: SimHost) -> None:
        """It is dead; who sleeps hears of it, or not."""
        if not life.is_dead:
            life.is_dead = True
            for process in self._processes:
                process.hears_of_death |= self.dice.random() < HEARING

    def is_buried(self, life: SimHost) -> bool:
        return self.store.read(sessions.look, life._session) is None

    # -- the end ------------------------------------------------------------------------------------------------------

    @contextmanager
    def afterwards(self) -> Iterator[SimHost]:
        """A life after all others, to look at what is left: all are dead and buried, and nothing happens to it."""
        chances, self.chances = self.chances, Chances(0)
        with turned_by_hand(self), burials(lambda: self.log_in_use):  # type: ignore[arg-type,return-value]
            life = SimHost(self)
            life.bury_dead()
            yield life
            life._commit(sessions.bury, life._session, 0, (), deadline.now())
        self.chances = chances


@functools.cache
def _readers_of_the_clock() -> list[Any]:
    """Modules of the package that have the clock under a name of their own."""
    ours = [module for name, module in list(sys.modules.items()) if name.startswith("guildhall")]
    return [module for module in ours if getattr(module, "now", None) is time.monotonic]


@contextmanager
def turned_by_hand(sim: Simulation) -> Iterator[None]:
    """The package's clock is the simulation's."""

    def now_s() -> float:
        return sim.now_ns / 1e9

    clock = SimpleNamespace(monotonic=now_s, monotonic_ns=lambda: sim.now_ns, time=now_s)
    held, plain = _readers_of_the_clock(), deadline.time
    deadline.time = clock  # type: ignore[attr-defined]
    for module in held:
        module.now = now_s  # type: ignore[attr-defined]
    try:
        yield
    finally:
        deadline.time = plain  # type: ignore[attr-defined]
        for module in held:
            module.now = time.monotonic  # type: ignore[attr-defined]
