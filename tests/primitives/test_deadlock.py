"""Waits that could never end, op by op over the memory store, and random programs against an oracle.

The oracle knows nothing of statements or circles. It tries: on a copy of the store whoever is not in an endless wait
gives back all it can and ends its task, whoever is served by that does the same, and so on. Who then still waits could
never have been served.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from guildhall.engine.local import tasks
from guildhall.engine.local.tasks import Done, Recipe
from guildhall.errors import DeadlockError, Misuse
from guildhall.primitives import deadlock, lock, multilock, pool, rlock, rwlock, semaphore, sessions, values, waiters
from guildhall.primitives.deadlock import Circle, Statement
from guildhall.primitives.op import PARKED
from guildhall.primitives.values import ERROR, FINISHED
from guildhall.store.keys import pack_name
from guildhall.store.memory import MemoryStore
from guildhall.store.transaction import Waiter


def name(text: str) -> bytes:
    return pack_name("test", text)


# -- a hall without processes -----------------------------------------------------------------------------------------


@dataclass(eq=False)
class Hold:
    """What an agent got. `is_bound`: it alone gives it back, as after `with`."""

    agent: Agent
    thing: tuple[str, Any]
    number: int
    is_bound: bool


@dataclass(eq=False)
class Agent:
    """A thread of a session. `number` is that of its wait (0: it runs), which stands at `want`."""

    session: int
    owner: int
    holds: list[Hold] = field(default_factory=list)
    number: int = 0
    want: tuple[str, Any] = ("", None)
    binds: bool = True
    is_endless: bool = False
    others: tuple[int, ...] = ()
    """The further waits of one that waits for any of several tasks."""
    task: tuple[bytes, bytes] | None = None
    """The claim and the object of the task that it runs."""

    def waiters(self) -> list[Waiter]:
        return [Waiter(self.session, number, 0) for number in (self.number, *self.others)]

    def __repr__(self) -> str:
        return f"{self.session}.{self.owner}"


NAMES = {
    "lock": [name("a"), name("b")],
    "rlock": [name("r")],
    "read": [name("w")],
    "write": [name("w")],
    "semaphore": [name("s")],
    "multilock": [(name("m"), name("n")), (name("n"), name("o")), (name("o"), name("m"))],
}


class Hall:
    """A store, sessions and their agents."""

    def __init__(self, *agents_of: int) -> None:
        self.store = MemoryStore()
        self.numbers = 0
        self.agents: list[Agent] = []
        for session, count in enumerate(agents_of, 1):
            self.store.transact(sessions.join, sessions.Session(session, 40 + session, "process"))
            self.store.transact(tasks.enlist, session)
            self.agents += [Agent(session, owner) for owner in range(1, count + 1)]
        self.pending: list[bytes] = []

    # Asking.

    def ask(self, agent: Agent, thing: tuple[str, Any], *, binds: bool = True, is_endless: bool = True) -> bool:
        """Whether the agent has it; else it waits."""
        assert not agent.number, "an agent waits for one thing at a time"
        self.numbers += 1
        number = self.numbers
        agent.want, agent.binds, agent.others = thing, binds, ()
        if thing[0] == "any":
            if self.store.read(values.which_settled, thing[1]):
                return True
            agent.others = tuple(range(number + 1, number + len(thing[1])))
            self.numbers += len(agent.others)
            self.store.transact(values.watch_all, thing[1][1:], agent.waiters()[1:])
        if self.store.transact(_asked, thing, agent, Waiter(agent.session, number, 0)) is PARKED:
            agent.number, agent.is_endless = number, is_endless
            if not is_endless:
                self.store.transact(waiters.arm, Waiter(agent.session, number, 0), 1)
            return False
        self.keep(agent, number)
        return True

    def keep(self, agent: Agent, number: int) -> None:
        if agent.want[0] in NAMES:
            agent.holds.append(Hold(agent, agent.want, number, agent.binds or agent.want[0] == "rlock"))

    def give(self, hold: Hold) -> None:
        hold.agent.holds.remove(hold)
        _give(self.store, hold)

    def serve(self) -> None:
        """Who was granted what it waits for runs again."""
        for agent in self.agents:
            if agent.number and self.store.read(waiters.which_granted, agent.waiters()):
                self.store.transact(waiters.withdraw_all, agent.waiters())
                self.keep(agent, agent.number)
                agent.number = 0

    def give_up(self, agent: Agent) -> None:
        """Stop waiting."""
        _withdraw(self.store, agent)
        agent.number = 0

    # Stating.

    def statement(self, agent: Agent) -> Statement | None:
        """What a client's thread would state."""
        holds: list[deadlock.Hold] = []
        for hold in agent.holds:
            if hold.is_bound and hold.thing[0] != "rlock":
                holds += self.store.read(_as_stated, hold)
        mates = [one for one in self.agents if one.session == agent.session]
        is_sealed = all(one.number and one.is_endless for one in mates)
        sealed = tuple(one.number for one in mates) if is_sealed else ()
        runs = (agent.task[1],) if agent.task else ()
        any_of = agent.want[1] if agent.want[0] == "any" else ()
        owners = (agent.owner,) if any(hold.thing[0] == "rlock" for hold in agent.holds) else ()
        if not (holds or owners or runs or sealed or any_of):
            return None
        return Statement(f"thread {agent.owner}", tuple(holds), owners, runs, sealed, any_of)

    def declare(self, agent: Agent, *, is_late: bool = False) -> bool | Circle:
        waiter = Waiter(agent.session, agent.number, 0)
        return self.store.transact(deadlock.declare, waiter, 1, self.statement(agent), tasks.awaits, is_late)

    def wait(self, agent: Agent, thing: tuple[str, Any], *, binds: bool = True) -> Circle | None:
        """Ask without end, and fall asleep. What there is to say against it, if anything."""
        assert not self.ask(agent, thing, binds=binds), "it was free"
        answer = self.declare(agent)
        return answer if isinstance(answer, Circle) else None

    # Tasks.

    def submit(self, *deps: bytes) -> bytes:
        self.numbers += 1
        oid = values.object_id(1, self.numbers)
        self.store.transact(tasks.submit, [(oid, Recipe("f", b"", b"", deps), deps)])
        self.pending.append(oid)
        return oid

    def claim(self, agent: Agent) -> bool:
        claimed = self.store.transact(tasks.claim, agent.session, 1, None)
        if isinstance(claimed, tuple):
            agent.task = claimed[0], claimed[1][0][0]
        return agent.task is not None

    def finish(self, agent: Agent, state: int = FINISHED) -> None:
        assert agent.task is not None, "it runs a task"
        key, oid = agent.task
        agent.task = None
        self.store.transact(tasks.finish, key, [Done(oid, state, b"")])

    # The oracle.

    def doomed(self) -> set[Agent]:
        """The agents whose waits can never end."""
        store = MemoryStore()
        store.data, store.keys, store.revision = dict(self.store.data), list(self.store.keys), self.store.revision
        stuck = {agent for agent in self.agents if agent.number and agent.is_endless}
        acting: set[Agent] = set()
        while True:
            before = len(stuck)
            freed = [agent for agent in self.agents if agent not in stuck and agent not in acting]
            acting |= set(freed)
            for agent in freed:
                if agent.number:
                    _withdraw(store, agent)
                if agent.task:  # One that fails takes along all that depends on it.
                    store.transact(tasks.finish, agent.task[0], [Done(agent.task[1], ERROR, b"")])
                for hold in agent.holds:
                    if hold.is_bound:
                        _give(store, hold)
            for hold in [hold for agent in self.agents for hold in agent.holds]:
                if not hold.is_bound and hold.agent.session in {agent.session for agent in acting}:
                    _give(store, hold)
            while (ready := store.transact(tasks.claim, 99, 1, None)) and isinstance(ready, tuple):
                store.transact(tasks.finish, ready[0], [Done(ready[1][0][0], ERROR, b"")])
            for agent in stuck.copy():
                if store.read(waiters.which_granted, agent.waiters()):
                    stuck.remove(agent)
            if not freed and len(stuck) == before:
                return stuck


def _asked(txn: Any, thing: tuple[str, Any], agent: Agent, waiter: Waiter) -> Any:
    kind, what = thing
    session, number = agent.session, waiter.number
    if kind == "lock":
        return lock.acquire(txn, what, session, number, number, waiter)
    if kind == "rlock":
        return rlock.acquire(txn, what, session, agent.owner, number, 0.0, waiter)
    if kind in ("read", "write"):
        units = rwlock.READ if kind == "read" else rwlock.WRITE
        return rwlock.acquire(txn, what, units, session, number, 0.0, waiter)
    if kind == "semaphore":
        return semaphore.acquire(txn, what, 2, 0, session, number, 0.0, waiter)
    if kind == "multilock":
        return multilock.acquire(txn, what, len(what), session, number, 0.0, waiter)
    if kind == "one of":
        return multilock.acquire(txn, what, 1, session, number, 0.0, waiter)
    if kind == "task":
        return values.wait_settled(txn, what, waiter)
    assert kind == "any", kind
    return values.wait_settled(txn, what[0], waiter)


def _place(thing: tuple[str, Any]) -> bytes:
    return (semaphore.SEMAPHORES if thing[0] == "semaphore" else rwlock.RWLOCKS) + thing[1]


def _as_stated(txn: Any, hold: Hold) -> list[deadlock.Hold]:
    kind, what = hold.thing
    if kind == "lock":
        return [(lock.LOCKS + what, hold.number, 1)]
    if kind in ("multilock", "one of"):
        got = multilock.granted(txn, what, Waiter(hold.agent.session, hold.number, 0))
        return [(multilock.MULTILOCKS + each, hold.number, 1) for each in (got.names if got else ())]
    return [(_place(hold.thing), 0, rwlock.WRITE if kind == "write" else 1)]


def _give(store: MemoryStore, hold: Hold) -> None:
    """Give it back, or what is left of it."""
    kind, what = hold.thing
    session, number = hold.agent.session, hold.number
    if kind == "lock":
        store.transact(lock.withdraw, what, Waiter(session, number, 0))
    elif kind == "rlock":
        held = store.read(rlock.look, what)
        if held is not None and (held.session, held.owner) == (session, hold.agent.owner):
            store.transact(rlock.release, what, session, hold.agent.owner, -number, 0.0)
    elif kind in ("multilock", "one of"):
        store.transact(multilock.release, what, session, number, 0.0)
    else:
        store.transact(pool.release, _place(hold.thing), session, number, 0.0)


def _withdraw(store: MemoryStore, agent: Agent) -> None:
    (kind, what), waiter = agent.want, agent.waiters()[0]
    if kind == "lock":
        store.transact(lock.withdraw, what, waiter)
    elif kind == "rlock":
        store.transact(rlock.withdraw, what, waiter, 0.0)
    elif kind in ("multilock", "one of"):
        store.transact(multilock.withdraw, what, waiter, 0.0)
    elif kind in ("read", "write", "semaphore"):
        store.transact(pool.withdraw, _place(agent.want), waiter, 0.0)
    else:
        store.transact(waiters.withdraw_all, agent.waiters())


# -- each rule --------------------------------------------------------------------------------------------------------

A, B = ("lock", name("a")), ("lock", name("b"))
READ, WRITE = ("read", name("w")), ("write", name("w"))
SEMAPHORE = ("semaphore", name("s"))
RLOCK = ("rlock", name("r"))


def test_two_that_cross_are_told_once_and_in_words() -> None:
    hall = Hall(1, 1)
    one, two = hall.agents
    assert hall.ask(one, A)
    assert hall.ask(two, B)
    assert hall.wait(one, B) is None
    circle = hall.wait(two, A)
    assert circle is not None
    assert circle.text.startswith(
        "lock 'a': held by session 1 (pid 41, thread 1), which waits for lock 'b', "
        "held by session 2 (pid 42, thread 1), which asked for it; "
    )
    assert circle.links == ((2, 42, "thread 1", "lock 'a'"), (1, 41, "thread 1", "lock 'b'"))
    assert not hall.store.read(deadlock.closes, Waiter(1, one.number, 0), tasks.awaits), "the other goes on"
    hall.give_up(two)
    hall.give(two.holds[0])
    hall.serve()
    assert not one.number


def test_the_error_is_the_callers_fault_and_survives_pickling() -> None:
    hall = Hall(1)
    assert hall.ask(hall.agents[0], A)
    circle = hall.wait(hall.agents[0], A)
    assert circle is not None
    error = pickle.loads(pickle.dumps(DeadlockError(*circle)))
    assert isinstance(error, Misuse)
    assert isinstance(error, RuntimeError)
    assert str(error) == circle.text
    assert error.circle == circle.links
    assert error.circle[0].waits_for == "lock 'a'"


def test_who_waits_with_a_timeout_closes_no_circle() -> None:
    hall = Hall(1, 1)
    one, two = hall.agents
    hall.ask(one, A)
    hall.ask(two, B)
    assert not hall.ask(one, B, is_endless=False)
    assert hall.wait(two, A) is None


def test_a_lease_of_time_ends_by_itself() -> None:
    hall = Hall(1)
    hall.store.transact(lock.acquire, A[1], 1, 1, -1, None, 1.0, 30.0)
    hall.agents[0].holds.append(Hold(hall.agents[0], A, -1, True))
    assert hall.wait(hall.agents[0], A) is None


def test_a_reader_that_asks_again_behind_a_writer_waits_for_itself() -> None:
    hall = Hall(1, 1)
    reader, writer = hall.agents
    hall.ask(reader, READ)
    assert hall.wait(writer, WRITE) is None
    circle = hall.wait(reader, READ)
    assert circle is not None
    assert (
        "rwlock 'w' (to read): behind session 2 (pid 42, thread 1), which waits for rwlock 'w' (to write), held by"
        in (circle.text)
    )


def test_readers_that_want_to_write_wait_for_themselves_and_are_told_each() -> None:
    hall = Hall(1, 1)
    for agent in hall.agents:
        hall.ask(agent, READ)
    for agent in hall.agents:
        circle = hall.wait(agent, WRITE)
        assert circle is not None
        assert len(circle.links) == 1
        hall.give_up(agent)


def test_a_semaphore_is_stuck_only_when_none_of_its_leases_may_come_back() -> None:
    hall = Hall(1, 1, 1)
    one, two, three = hall.agents
    hall.ask(one, SEMAPHORE)
    hall.ask(two, SEMAPHORE)
    assert hall.wait(one, SEMAPHORE) is None
    assert hall.wait(three, SEMAPHORE) is None
    assert hall.wait(two, SEMAPHORE) is not None


def test_names_of_a_multilock_are_missed_only_if_too_few_are_left() -> None:
    hall = Hall(2, 1)
    one, mate, two = hall.agents
    both = (name("m"), name("n"))
    hall.ask(one, ("multilock", both))
    hall.ask(two, A)
    assert hall.wait(two, ("one of", (name("n"), name("o"), name("m"))[:1])) is None
    assert hall.wait(one, A) is not None
    hall.give_up(one)
    hall.give_up(two)
    assert hall.ask(two, ("one of", (name("n"), name("o"))))
    assert not mate.number


def test_a_later_request_for_a_free_name_is_stuck_behind_an_earlier_one() -> None:
    hall = Hall(2, 2)
    one, _, two, _ = hall.agents
    hall.ask(one, ("multilock", (name("m"),)))
    assert hall.wait(two, ("multilock", (name("m"), name("n")))) is None
    circle = hall.wait(one, ("multilock", (name("n"),)))
    assert circle is not None
    assert "multilock ['n']: behind session 2" in circle.text
    assert "multilock ['m', 'n'], held by session 1" in circle.text


def test_an_rlock_is_its_owners_however_it_was_taken() -> None:
    hall = Hall(2, 2)
    one, _, two, _ = hall.agents
    hall.ask(one, RLOCK, binds=False)
    hall.ask(two, A)
    assert hall.ask(one, RLOCK, binds=False), "again"
    assert hall.wait(two, RLOCK) is None
    assert hall.wait(one, A) is not None


def test_a_plain_hold_is_stuck_only_while_nobody_of_its_session_can_act() -> None:
    hall = Hall(2, 1)
    one, mate, two = hall.agents
    hall.ask(one, A, binds=False)
    hall.ask(two, B)
    assert hall.wait(one, B) is None
    assert hall.wait(two, A) is None, "the mate may release it"
    assert hall.wait(mate, B) is not None, "now nobody may"
    hall.give_up(mate)


@pytest.mark.parametrize("thing", [A, SEMAPHORE, ("multilock", (name("m"),))])
def test_what_was_granted_after_all_had_fallen_asleep_is_somebody_elses(thing: tuple[str, Any]) -> None:
    hall = Hall(1, 1)
    one, two = hall.agents
    hall.ask(two, B)
    assert hall.wait(one, B) is None
    helper = Agent(1, 2)  # A worker's: it began a task meanwhile.
    while hall.ask(helper, thing, binds=False):
        pass
    hall.give_up(helper)
    assert hall.wait(two, thing) is None


def test_a_task_that_waits_for_itself_or_for_what_depends_on_it() -> None:
    hall = Hall(1, 2)
    agent = hall.agents[1]
    task = hall.submit()
    after = hall.submit(task)
    last = hall.submit(after)
    assert hall.claim(agent)
    circle = hall.wait(agent, ("task", task))
    assert circle is not None
    label = f"f-{task.hex()}"
    assert circle.text.startswith(f"task {label}: run by session 2 (pid 42, task {label}), which asked for it; ")
    hall.give_up(agent)
    circle = hall.wait(agent, ("task", last))
    assert circle is not None
    assert f"task f-{last.hex()}: which waits for task f-{after.hex()}, which waits for task {label}, run by" in (
        circle.text
    )


def test_a_task_is_free_while_one_of_those_it_depends_on_is() -> None:
    """That one may fail, and then the task has failed."""
    hall = Hall(2, 1)
    one, _, two = hall.agents
    mine, other = hall.submit(), hall.submit()
    both = hall.submit(mine, other)
    hall.claim(one)
    hall.claim(two)
    assert hall.wait(one, ("task", both)) is None
    hall.finish(two)
    assert hall.store.read(deadlock.closes, Waiter(1, one.number, 0), tasks.awaits)


def test_a_task_and_a_lock_in_one_circle() -> None:
    hall = Hall(2, 2)
    one, _, two, _ = hall.agents
    hall.ask(one, A)
    task = hall.submit()
    hall.claim(two)
    assert hall.wait(one, ("task", task)) is None
    circle = hall.wait(two, A)
    assert circle is not None
    assert f"which waits for task f-{task.hex()}, run by session 2 (pid 42, task f-{task.hex()}), which" in circle.text


def test_who_waits_for_any_of_several_tasks_needs_one() -> None:
    hall = Hall(1, 2)
    agent = hall.agents[1]
    mine, other = hall.submit(), hall.submit()
    hall.claim(agent)
    assert hall.wait(agent, ("any", (mine, other))) is None
    assert hall.store.read(deadlock.closes, Waiter(2, agent.number, 0), tasks.awaits) is False
    hall.give_up(agent)
    assert hall.wait(agent, ("any", (mine,))) is not None


def test_a_list_of_tasks_that_others_may_lengthen_is_open_until_nobody_can() -> None:
    hall = Hall(1, 2)
    agent, mate = hall.agents[1:]
    mine = hall.submit()
    hall.claim(agent)
    hall.ask(agent, ("task", mine))
    waiter = Waiter(2, agent.number, 0)
    said = Statement("thread 1", runs=(mine,), any_of=(mine,), is_open=True)
    assert hall.store.transact(deadlock.declare, waiter, 1, said, tasks.awaits) is True
    hall.ask(mate, ("task", mine))
    sealed = Statement("thread 2", sealed=(agent.number, mate.number))
    assert isinstance(hall.store.transact(deadlock.declare, Waiter(2, mate.number, 0), 1, sealed, tasks.awaits), Circle)


def test_who_waits_for_a_circle_is_told_later_than_those_in_it() -> None:
    hall = Hall(1, 1, 1)
    one, two, three = hall.agents
    mine = hall.submit()
    other = hall.submit()
    both = hall.submit(mine, other)
    hall.claim(one)
    hall.claim(two)
    hall.ask(one, A)
    hall.ask(three, B)
    assert hall.wait(one, ("task", both)) is None
    hall.finish(two)  # It could have failed: now nothing ends the wait any more, and nobody has fallen asleep.
    assert hall.wait(three, A) is None
    late = hall.declare(three, is_late=True)
    assert isinstance(late, Circle)
    assert "lock 'a': held by session 1 (pid 41, task f-" in late.text
    assert "as said" in late.text
    assert isinstance(hall.declare(one), Circle)


@pytest.mark.parametrize("end", ["granted", "withdrawn", "buried", "rewritten"])
def test_a_statement_goes_with_its_wait(end: str) -> None:
    hall = Hall(1, 1)
    one, two = hall.agents
    hall.ask(one, A)
    hall.ask(two, B)
    hall.wait(two, A)
    stated = waiters.statement_key(2, two.number)
    assert stated in hall.store.data
    if end == "granted":
        hall.give(one.holds[0])
    elif end == "withdrawn":
        hall.give_up(two)
    elif end == "buried":
        hall.store.transact(sessions.bury, 2)
    else:
        hall.store.transact(waiters.arm, Waiter(2, two.number, 0), 1)
    assert stated not in hall.store.data


def test_a_search_that_grows_too_large_is_given_up() -> None:
    hall = Hall(1, 1)
    agent = hall.agents[1]
    first = last = hall.submit()
    hall.claim(agent)
    for _ in range(deadlock.MAX_NODES - 5):
        last = hall.submit(last)
    assert hall.wait(agent, ("task", last)) is not None
    hall.give_up(agent)
    for _ in range(10):
        last = hall.submit(last)
    assert hall.wait(agent, ("task", last)) is None
    assert first != last


# -- random programs --------------------------------------------------------------------------------------------------

PROGRAMS = 700
STEPS = 35


class Program(Hall):
    """Agents that do what the dice say. After each step all who wait state anew, as clients do once a second."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        super().__init__(*(self.dice.choice((1, 1, 2, 3)) for _ in range(3)))
        self.steps: list[str] = []
        self.circles = 0

    def run(self) -> None:
        for _ in range(STEPS):
            self.step()
            self.serve()
            self.state_all()
        self.end()

    def step(self) -> None:
        agent, roll = self.dice.choice(self.agents), self.dice.random()
        if agent.number:
            if not agent.is_endless and roll < 0.3:
                self.steps.append(f"{agent} is late")
                self.give_up(agent)
        elif roll < 0.62:
            thing, is_endless, binds = self.thing(), self.dice.random() < 0.75, self.dice.random() < 0.6
            had = self.ask(agent, thing, binds=binds, is_endless=is_endless)
            how = "has" if had else "waits for" if is_endless else "waits some time for"
            self.steps.append(f"{agent} {how} {thing}{'' if binds else ' (plain)'}")
        elif roll < 0.8:
            mine = [hold for one in self.agents if one.session == agent.session for hold in one.holds]
            mine = [hold for hold in mine if hold.agent is agent or not hold.is_bound]
            if mine:
                hold = self.dice.choice(mine)
                self.steps.append(f"{agent} gives back {hold.thing} of {hold.agent}")
                self.give(hold)
        elif roll < 0.87:
            deps = self.dice.sample(self.pending, min(len(self.pending), self.dice.choice((0, 0, 1, 2))))
            self.steps.append(f"{agent} submits {self.submit(*deps).hex()} after {[dep.hex() for dep in deps]}")
        elif agent.task is None:
            if self.claim(agent) and agent.task:
                self.steps.append(f"{agent} claims {agent.task[1].hex()}")
        elif roll < 0.92:
            self.steps.append(f"{agent} ends {agent.task[1].hex()}")
            self.finish(agent, self.dice.choice((FINISHED, ERROR)))

    def thing(self) -> tuple[str, Any]:
        kinds = [*NAMES, "one of"] + (["task", "task", "any"] if self.pending else [])
        kind = self.dice.choice(kinds)
        if kind == "task":
            return kind, self.dice.choice(self.pending)
        if kind == "any":
            return kind, tuple(self.dice.sample(self.pending, min(len(self.pending), 2)))
        return kind, self.dice.choice(NAMES["multilock" if kind == "one of" else kind])

    def keep(self, agent: Agent, number: int) -> None:
        if agent.want[0] == "one of":
            agent.holds.append(Hold(agent, agent.want, number, agent.binds))
        super().keep(agent, number)

    def state_all(self) -> None:
        """Whoever waits states; who could never be served must learn of it, and nobody else."""
        while True:
            waiting = [agent for agent in self.agents if agent.number and agent.is_endless]
            doomed = self.doomed() if waiting else set()
            self.dice.shuffle(waiting)
            for agent in waiting:  # First as the others know each other, then with all there is to know.
                statement = self.statement(agent)
                data = b"" if statement is None else deadlock.STATEMENT.pack(_at(self.store.revision + 1, statement))
                assert self.store.transact(waiters.arm, Waiter(agent.session, agent.number, 0), 1, True, data)
            for agent in waiting:
                could_end = not self.store.read(deadlock.closes, Waiter(agent.session, agent.number, 0), tasks.awaits)
                assert could_end == (agent not in doomed), f"{agent}: could end: {could_end}"
            if not doomed:
                return
            # Who has nothing to state keeps nobody waiting: it is no part of a circle, and need not ask.
            self.tell(self.dice.choice([one for one in waiting if one in doomed and self.statement(one)]), doomed)

    def tell(self, agent: Agent, doomed: set[Agent]) -> None:
        in_circle = self.declare(agent)
        circle = in_circle if in_circle is not True else self.declare(agent, is_late=True)
        assert isinstance(circle, Circle)
        assert in_circle is True or len({*circle.links}) == len(circle.links)
        self.circles += 1
        assert circle.links[0][:2] == (agent.session, 40 + agent.session)
        assert {link.session for link in circle.links} <= {one.session for one in doomed}
        assert len(circle.links) <= len(doomed)
        self.steps.append(f"{agent} is told: {circle.text.partition(';')[0]}")
        self.give_up(agent)
        self.serve()

    def end(self) -> None:
        for agent in self.agents:
            if agent.number:
                self.give_up(agent)
        for session in {agent.session for agent in self.agents}:
            self.store.transact(sessions.bury, session)
        left = [key.hex() for key in self.store.keys if key[:1] in (waiters.STATEMENTS, waiters.WAITS, waiters.LINES)]
        assert not left, f"left behind: {left}"


def _at(revision: int, said: Statement) -> Statement:
    return Statement(said.who, said.holds, said.owners, said.runs, said.sealed, said.any_of, said.is_open, revision)


def _run(seeds: Iterator[int]) -> int:
    circles = 0
    for seed in seeds:
        program = Program(seed)
        try:
            program.run()
        except Exception as error:
            raise AssertionError(f"seed {seed}, {error}, after:\n" + "\n".join(program.steps)) from error
        circles += program.circles
    return circles


def test_who_is_told_could_never_have_been_served_and_everybody_who_could_not_is_told() -> None:
    first = random.randrange(1 << 30)
    circles = _run(iter(range(first, first + PROGRAMS)))
    assert circles > PROGRAMS // 10, "programs that never deadlock show nothing"


@pytest.mark.chaos
def test_ten_thousand_programs() -> None:
    first = random.randrange(1 << 30)
    _run(iter(range(first, first + 10_000)))
