"""Random programs of what can be held, op by op over the memory store, against plain-Python models.

A model is a list of holders and a list of those who wait, and its rule is written as the documentation says it: who is
served when something changes. After each step holders and line must agree, in order.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from guildhall.errors import LockLost, NotHeld, SemaphoreClosed
from guildhall.primitives import lock, multilock, pool, rlock, rwlock, semaphore, sessions, waiters
from guildhall.primitives.op import BUSY, PARKED
from guildhall.store.keys import pack_name
from guildhall.store.memory import MemoryStore
from guildhall.store.transaction import Waiter

N = pack_name("test", "n")
NAMES = [pack_name("test", name) for name in "abcd"]
PROGRAMS = 2000
STEPS = 40


class World:
    """A store with three sessions, a clock, and the numbers of attempts. `holders` and `line` belong to the model."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.rung: list[Waiter] = []
        self.store = MemoryStore(ring=self.rung.append)
        self.now, self.numbers, self.fresh = 100.0, 0, 3
        self.alive = [1, 2, 3]
        for number in self.alive:
            self.store.transact(sessions.join, sessions.Session(number, 100 + number, "process"))
        self.holders: list[tuple[int, int, Any]] = []
        """(session, number of the attempt, what it wants)"""
        self.line: list[tuple[int, int, Any]] = []
        self.steps: list[str] = []

    def run(self) -> None:
        for _ in range(STEPS):
            self.now += self.dice.random()
            self.step(self.dice.random())
            self.compare()
        for session in self.alive:
            self.bury(session)
        left = {key[:1] for key in self.store.keys}
        assert left <= {b"\x01", semaphore.SEMAPHORES}, f"left behind: {left}"

    def step(self, roll: float) -> None:
        if roll < 0.5:
            self.acquire(self.dice.choice(self.alive), self.dice.random() < 0.8)
        elif roll < 0.8 and self.holders:
            self.release(self.dice.choice(self.holders))
        elif roll < 0.9 and self.line:
            self.leave(self.dice.choice(self.line))
        elif roll < 0.95:
            session = self.dice.choice(self.alive)
            self.alive.remove(session)
            self.bury(session)
            self.fresh += 1
            self.alive.append(self.fresh)
            self.store.transact(sessions.join, sessions.Session(self.fresh, 0, "process"))

    def bury(self, session: int) -> None:
        self.steps.append(f"{session} dies")
        self.holders = [one for one in self.holders if one[0] != session]
        self.line = [one for one in self.line if one[0] != session]
        self.serve()
        assert self.store.transact(sessions.bury, session, 0, (), self.now)

    def acquire(self, session: int, waits: bool) -> None:
        self.numbers += 1
        want, number = self.want(session), self.numbers if waits else -self.numbers
        self.steps.append(f"{session} asks for {want} as {number}")
        one = session, number, want
        waiter = Waiter(session, number, 1) if waits else None
        answer = self.ask(one, waiter)
        self.line.append(one)
        self.serve()
        if one in self.line:
            assert answer is (PARKED if waits else BUSY)
            if not waits:
                self.line.remove(one)
        else:
            assert answer not in (PARKED, BUSY)

    def release(self, one: tuple[int, int, Any]) -> None:
        self.steps.append(f"{one} releases")
        self.holders.remove(one)
        self.serve()
        self.give(one)

    def leave(self, one: tuple[int, int, Any]) -> None:
        self.steps.append(f"{one} leaves")
        self.line.remove(one)
        self.serve()
        self.retire(one)

    def serve(self) -> None:
        """Move from the line to the holders whoever the rule serves."""
        while (one := next((one for one in self.line if self.fits(one)), None)) is not None:
            self.line.remove(one)
            self.holders.append(self.granted(one))

    def granted(self, one: tuple[int, int, Any]) -> tuple[int, int, Any]:
        return one

    def is_next(self, one: tuple[int, int, Any]) -> bool:
        return self.line[0] == one

    def compare(self) -> None:
        there = sorted(self.found())
        assert there == sorted(self.holders), self
        assert [waiter[:2] for waiter, _ in self.waiting()] == [one[:2] for one in self.line], self

    def __repr__(self) -> str:
        return f"holders {self.holders}, line {self.line}, after:\n" + "\n".join(self.steps)

    # What a kind says of itself.

    def want(self, session: int) -> Any: ...
    def fits(self, one: tuple[int, int, Any]) -> bool: ...
    def ask(self, one: tuple[int, int, Any], waiter: Waiter | None) -> Any: ...
    def give(self, one: tuple[int, int, Any]) -> None: ...
    def retire(self, one: tuple[int, int, Any]) -> None: ...
    def found(self) -> Iterator[tuple[int, int, Any]]: ...
    def waiting(self) -> list[tuple[Waiter, bytes]]: ...


class Leases(World):
    """What semaphores and locks for readers and writers have in common."""

    place: bytes

    def give(self, one: tuple[int, int, Any]) -> None:
        assert self.store.transact(pool.release, self.place, one[0], one[1], self.now)
        assert not self.store.transact(pool.release, self.place, one[0], one[1], self.now)

    def retire(self, one: tuple[int, int, Any]) -> None:
        op = self.dice.choice((pool.leave, pool.withdraw))
        assert self.store.transact(op, self.place, Waiter(one[0], one[1], 1), self.now) in (True, None)

    def found(self) -> Iterator[tuple[int, int, Any]]:
        for one in [*self.holders, *self.line]:
            lease = self.store.read(pool.lease, self.place, Waiter(one[0], one[1], 0))
            if lease is not None:
                yield one[0], one[1], self.meaning(lease.units)
        leases = self.store.read(pool.leases, self.place)
        assert sorted(session for session, _ in leases) == sorted(one[0] for one in self.holders)

    def meaning(self, units: int) -> Any:
        return units

    def waiting(self) -> list[tuple[Waiter, bytes]]:
        return self.store.read(waiters.line, self.place)


class Semaphores(Leases):
    place = semaphore.SEMAPHORES + N

    def want(self, session: int) -> Any:
        return 1

    def fits(self, one: tuple[int, int, Any]) -> bool:
        return self.is_next(one) and len(self.holders) < 3

    def ask(self, one: tuple[int, int, Any], waiter: Waiter | None) -> Any:
        return self.store.transact(semaphore.acquire, N, 3, 0, one[0], one[1], self.now, waiter)


class ReadersAndWriters(Leases):
    place = rwlock.RWLOCKS + N

    def want(self, session: int) -> Any:
        return self.dice.choice(["read", "read", "write"])

    def fits(self, one: tuple[int, int, Any]) -> bool:
        """The first in line: a reader if nobody writes, a writer if nobody is in."""
        return self.is_next(one) and not any(one[2] == "write" or held[2] == "write" for held in self.holders)

    def ask(self, one: tuple[int, int, Any], waiter: Waiter | None) -> Any:
        units = rwlock.READ if one[2] == "read" else rwlock.WRITE
        return self.store.transact(rwlock.acquire, N, units, one[0], one[1], self.now, waiter)

    def meaning(self, units: int) -> Any:
        return {rwlock.READ: "read", rwlock.WRITE: "write"}[units]


class SeveralNames(World):
    """`want` is (how many, of which names); of a holder, the names that it has."""

    def want(self, session: int) -> Any:
        names = tuple(self.dice.sample(NAMES, self.dice.randint(1, 4)))
        return self.dice.randint(1, len(names)), names

    def free(self, one: tuple[int, int, Any]) -> list[bytes]:
        """Names of the request that nobody holds and no earlier request wants."""
        taken = {name for held in self.holders for name in held[2]}
        for earlier in self.line[: self.line.index(one)]:
            taken.update(earlier[2][1])
        return [name for name in one[2][1] if name not in taken]

    def fits(self, one: tuple[int, int, Any]) -> bool:
        return len(self.free(one)) >= one[2][0]

    def serve(self) -> None:
        while (one := next((one for one in self.line if self.fits(one)), None)) is not None:
            names = tuple(self.free(one)[: one[2][0]])
            self.line.remove(one)
            self.holders.append((one[0], one[1], names))

    def ask(self, one: tuple[int, int, Any], waiter: Waiter | None) -> Any:
        count, names = one[2]
        return self.store.transact(multilock.acquire, names, count, one[0], one[1], self.now, waiter)

    def give(self, one: tuple[int, int, Any]) -> None:
        for is_there in (True, False):
            got = self.store.transact(multilock.release, NAMES, one[0], one[1], self.now)
            assert got is is_there

    def retire(self, one: tuple[int, int, Any]) -> None:
        assert self.store.transact(multilock.leave, Waiter(one[0], one[1], 1), self.now)

    def found(self) -> Iterator[tuple[int, int, Any]]:
        for one in self.holders:
            grant = self.store.read(multilock.granted, one[2], Waiter(one[0], one[1], 0))
            assert grant is not None, self
            yield one[0], one[1], grant.names
        held = [name for name in NAMES if self.store.read(multilock.look, name) is not None]
        assert sorted(held) == sorted(name for one in self.holders for name in one[2]), self

    def waiting(self) -> list[tuple[Waiter, bytes]]:
        return self.store.read(multilock.line, NAMES)


class Reentrant(World):
    """`want` is the owner. It holds as long as one of its acquires is not released."""

    def want(self, session: int) -> Any:
        busy = {one[2] for one in self.line if one[0] == session}  # Who waits cannot ask again.
        return self.dice.choice([owner for owner in range(1, 100) if owner not in busy][:2])

    def fits(self, one: tuple[int, int, Any]) -> bool:
        return not self.holders or (self.holders[0][0], self.holders[0][2]) == (one[0], one[2])

    def serve(self) -> None:
        while self.line and (one := next((one for one in self.line if self.fits(one)), None)) is not None:
            self.line.remove(one)
            self.holders.append(one)

    def ask(self, one: tuple[int, int, Any], waiter: Waiter | None) -> Any:
        session, number, owner = one
        return self.store.transact(rlock.acquire, N, session, owner, number, self.now, waiter)

    def give(self, one: tuple[int, int, Any]) -> None:
        session, _, owner = one
        self.numbers += 1
        self.store.transact(rlock.release, N, session, owner, -self.numbers, self.now)
        self.store.transact(rlock.finish_release, N, session, owner, -self.numbers, self.now)  # Done: once is enough.
        with pytest.raises(NotHeld, match="released too often"):
            self.store.transact(rlock.release, N, session, owner + 100, 0, self.now)

    def retire(self, one: tuple[int, int, Any]) -> None:
        self.store.transact(rlock.withdraw, N, Waiter(one[0], one[1], 1), self.now)

    def found(self) -> Iterator[tuple[int, int, Any]]:
        held = self.store.read(rlock.look, N)
        assert (held.count if held else 0) == len(self.holders), self
        if held is not None:
            assert {(held.session, held.owner)} == {(one[0], one[2]) for one in self.holders}, self
        yield from self.holders

    def waiting(self) -> list[tuple[Waiter, bytes]]:
        return self.store.read(waiters.line, rlock.RLOCKS + N)


class Leased(World):
    """`want` is the length of the lease, None for none. A holder whose lease ran out is robbed by whoever asks or
    looks, for the first in line; until then it holds."""

    ends = float("inf")
    robbed: tuple[int, int, Any] | None = None

    def want(self, session: int) -> Any:
        return self.dice.choice([None, 0.5, 2.0])

    def serve(self) -> None:
        if not self.holders and self.line:
            one = self.line.pop(0)
            self.holders.append(one)
            self.ends = float("inf") if one[2] is None else self.now + one[2]

    def rob(self) -> None:
        if self.holders and self.ends <= self.now and self.line:
            self.robbed = self.holders.pop()
            self.serve()

    def acquire(self, session: int, waits: bool) -> None:
        self.rob()
        if self.holders and self.ends <= self.now:  # Nobody waits: then it is this one who takes over.
            self.robbed = self.holders.pop()
        super().acquire(session, waits)

    def step(self, roll: float) -> None:
        if roll > 0.95:
            self.steps.append("somebody looks")
            before = list(self.holders)
            self.rob()
            assert self.store.transact(lock.lapse, N, self.now) == (before != self.holders)
        else:
            super().step(roll)
        if self.robbed is not None and self.robbed[0] in self.alive:
            session, number, _ = self.robbed
            grant = lock.Lock(session, 1000 + number, number, -1)
            with pytest.raises(LockLost):
                self.store.transact(lock.release, N, session, grant.handle, self.now, grant, True)
            with pytest.raises(LockLost):
                self.store.transact(lock.renew, N, session, grant.handle, -1, self.now, 1.0)
        self.robbed = None
        if self.holders and self.dice.random() < 0.1 and self.holders[0][2] is not None:
            session, number, lease_s = self.holders[0]
            self.steps.append(f"{self.holders[0]} renews")
            held = self.store.read(lock.look, N)
            assert held is not None
            self.store.transact(lock.renew, N, session, 1000 + number, held.token, self.now, lease_s)
            self.ends = self.now + lease_s

    def ask(self, one: tuple[int, int, Any], waiter: Waiter | None) -> Any:
        session, number, lease_s = one
        return self.store.transact(lock.acquire, N, session, 1000 + number, number, waiter, self.now, lease_s)

    def give(self, one: tuple[int, int, Any]) -> None:
        held = self.store.read(lock.look, N)
        grant = self.dice.choice([held, None])
        self.store.transact(lock.release, N, one[0], 1000 + one[1], self.now, grant, one[2] is not None)

    def retire(self, one: tuple[int, int, Any]) -> None:
        self.store.transact(lock.withdraw, N, Waiter(one[0], one[1], 1), self.now)

    def found(self) -> Iterator[tuple[int, int, Any]]:
        held = self.store.read(lock.look, N)
        if held is not None:
            assert held.until == (None if self.ends == float("inf") else self.ends), self
            yield held.session, held.grant, next(one[2] for one in self.holders if one[1] == held.grant)

    def waiting(self) -> list[tuple[Waiter, bytes]]:
        return self.store.read(waiters.line, lock.LOCKS + N)


@pytest.mark.parametrize("kind", [Semaphores, ReadersAndWriters, SeveralNames, Reentrant, Leased])
def test_random_programs_do_what_the_model_does(kind: type[World]) -> None:
    first = random.randrange(1 << 30)
    for seed in range(first, first + PROGRAMS):
        world = kind(seed)
        try:
            world.run()
        except BaseException as error:
            raise AssertionError(f"{kind.__name__}, seed {seed}: {world}") from error


def a_store(sessions_there: int = 3) -> tuple[MemoryStore, list[Waiter]]:
    rung: list[Waiter] = []
    store = MemoryStore(ring=rung.append)
    for number in range(1, sessions_there + 1):
        store.transact(sessions.join, sessions.Session(number, 100 + number, "process"))
    return store, rung


def test_who_sleeps_first_in_line_is_rung_when_a_lease_begins_before_it() -> None:
    store, rung = a_store()
    two, three = Waiter(2, 1, 1), Waiter(3, 1, 1)
    store.transact(lock.acquire, N, 1, 1, 0, None, 0.0)
    store.transact(lock.acquire, N, 2, 1, 1, two, 0.0, 5.0)
    store.transact(lock.acquire, N, 3, 1, 1, three, 0.0)
    assert store.read(lock.next_lapse, N, two) is None
    store.transact(lock.release, N, 1, 1, 10.0)
    assert rung == [two, three]
    assert store.read(lock.next_lapse, N, three) == 15.0
    assert not store.transact(lock.lapse, N, 14.9)
    assert store.transact(lock.lapse, N, 15.0)
    held = store.read(lock.look, N)
    assert held is not None
    assert (held.session, held.is_taken_over, held.is_inherited) == (3, True, False)


def test_a_second_in_line_is_rung_when_the_first_leaves_or_dies_before_a_lease() -> None:
    for is_dead in (False, True):
        store, rung = a_store()
        two, three = Waiter(2, 1, 1), Waiter(3, 1, 1)
        store.transact(lock.acquire, N, 1, 1, 0, None, 0.0, 5.0)
        store.transact(lock.acquire, N, 2, 1, 1, two, 0.0)
        store.transact(lock.acquire, N, 3, 1, 1, three, 0.0)
        assert store.read(lock.next_lapse, N, three) == 5.0 + lock.GRACE_S
        if is_dead:
            store.transact(sessions.bury, 2, 0, (), 1.0)
        else:
            assert store.transact(lock.leave, N, two)
        assert rung == [three]
        assert store.read(lock.next_lapse, N, three) == 5.0


def test_an_heir_of_the_dead_gets_a_lease_from_then_on_and_knows() -> None:
    store, _ = a_store()
    store.transact(lock.acquire, N, 1, 1, 0, None, 0.0)
    store.transact(lock.acquire, N, 2, 1, 1, Waiter(2, 1, 1), 0.0, 5.0)
    store.transact(sessions.bury, 1, 0, (), 7.0)
    held = store.read(lock.look, N)
    assert held is not None
    assert (held.session, held.since, held.until, held.is_inherited) == (2, 7.0, 12.0, True)


def test_heirs_of_dead_readers_names_and_leases_know() -> None:
    store, rung = a_store()
    two = Waiter(2, 1, 1)
    store.transact(rwlock.acquire, N, rwlock.READ, 1, -1, 0.0, None)
    store.transact(rwlock.acquire, N, rwlock.WRITE, 2, 1, 0.0, two)
    store.transact(multilock.acquire, NAMES, 4, 1, -2, 0.0, None)
    store.transact(multilock.acquire, NAMES[1:2], 1, 2, 2, 0.0, Waiter(2, 2, 1))
    store.transact(rlock.acquire, N, 1, 1, -3, 0.0, None)
    store.transact(rlock.acquire, N, 1, 1, -4, 0.0, None)
    store.transact(rlock.acquire, N, 2, 1, 3, 0.0, Waiter(2, 3, 1))
    store.transact(sessions.bury, 1, 0, (), 9.0)
    assert len(rung) == 3
    lease: Any = store.read(pool.lease, rwlock.RWLOCKS + N, two)
    names: Any = store.read(multilock.look, NAMES[1])
    owner: Any = store.read(rlock.look, N)
    for heir in (lease, names, owner):
        assert heir.is_inherited
        assert heir.since == 9.0
    assert owner.count == 1


def test_readers_enter_together_up_to_the_next_writer() -> None:
    store, rung = a_store()
    store.transact(rwlock.acquire, N, rwlock.WRITE, 1, -1, 0.0, None)
    for number, units in enumerate([rwlock.READ, rwlock.READ, rwlock.WRITE, rwlock.READ], 1):
        store.transact(rwlock.acquire, N, units, 2, number, 0.0, Waiter(2, number, 1))
    store.transact(pool.release, rwlock.RWLOCKS + N, 1, -1, 0.0)
    assert [waiter.number for waiter in rung] == [1, 2]
    assert store.transact(rwlock.acquire, N, rwlock.READ, 3, -2, 0.0, None) is BUSY, "a reader overtook a writer"


def test_a_step_of_an_owner_is_undone_or_finished_wherever_it_was_interrupted() -> None:
    store, _ = a_store()
    store.transact(rlock.acquire, N, 1, 1, -1, 0.0, None)
    store.transact(rlock.withdraw, N, Waiter(1, -2, 0), 0.0)  # Interrupted before the commit: nothing to undo.
    store.transact(rlock.acquire, N, 1, 1, -3, 0.0, None)
    store.transact(rlock.withdraw, N, Waiter(1, -3, 0), 0.0)  # And behind it.
    held = store.read(rlock.look, N)
    assert held is not None
    assert held.count == 1
    store.transact(rlock.finish_release, N, 1, 1, -4, 0.0)
    assert store.read(rlock.look, N) is None


def test_a_closed_semaphore_lets_its_waiters_go_and_forgets_its_leases() -> None:
    store, rung = a_store()
    two = Waiter(2, 1, 1)
    born = store.transact(semaphore.acquire, N, 1, 0, 1, -1, 0.0, None).born
    store.transact(semaphore.acquire, N, 1, born, 2, 1, 0.0, two)
    store.transact(semaphore.close, N, born)
    assert rung == [two]
    with pytest.raises(SemaphoreClosed):
        store.transact(semaphore.acquire, N, 1, born, 2, 1, 0.0, two)
    store.transact(semaphore.acquire, N, 2, 0, 3, -1, 0.0, None)
    store.transact(semaphore.close, N, born)  # The old one: harmless to the new.
    assert store.transact(pool.release, semaphore.SEMAPHORES + N, 1, -1, 0.0)
    assert store.read(semaphore.held, N, 0) == 1
