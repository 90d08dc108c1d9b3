"""Random programs over the memory store, beside plain Python that says what must come out. Failures name the seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest

from guildhall.errors import BrokenBarrier, LockLost, NotHeld
from guildhall.primitives import barrier, condition, election, limiter, lock, rlock, sessions, waiters
from guildhall.primitives.barrier import ACT
from guildhall.primitives.condition import Guard
from guildhall.primitives.limiter import Moment, Terms
from guildhall.primitives.op import BUSY, PARKED
from guildhall.store.keys import pack_name
from guildhall.store.memory import MemoryStore
from guildhall.store.transaction import Waiter

N, GUARD = pack_name("test", "n"), pack_name("test", "guard")
PROGRAMS = 2500


class World:
    """A store, sessions that die and are replaced, and waits that are numbered."""

    def __init__(self, seed: int, people: int = 5) -> None:
        self.dice = random.Random(seed)
        self.store = MemoryStore()
        self.alive: list[int] = []
        self.numbers = 0
        for _ in range(people):
            self.join()

    def join(self) -> None:
        self.numbers += 1
        self.store.transact(sessions.join, sessions.Session(self.numbers, 1, "process"))
        self.alive.append(self.numbers)

    def anybody(self) -> int:
        return self.dice.choice(self.alive)

    def waiter(self, session: int | None = None) -> Waiter:
        self.numbers += 1
        return Waiter(self.anybody() if session is None else session, self.numbers, 1)

    def kill(self, now: float = 0.0) -> int:
        dead = self.anybody()
        self.alive.remove(dead)
        self.store.transact(sessions.bury, dead, 0, (), now)
        self.join()
        return dead

    def lines(self) -> int:
        return sum(key[:1] in (waiters.LINES, waiters.WAITS, condition.NOTIFIED) for key in self.store.keys)


class Round:
    """A barrier as plain lists. Who `can_act` brings an action; while one runs, `going` of the line go after it."""

    def __init__(self, parties: int, *, is_fixed: bool) -> None:
        self.parties, self.is_fixed = parties, is_fixed
        self.line: list[Waiter] = []
        self.able: set[Waiter] = set()
        self.told: dict[Waiter, Any] = {}
        self.broken = False
        self.going = 0
        self.actor: Waiter | None = None
        self.members: set[int] = set()

    def come(self, waiter: Waiter, *, can_act: bool, waits: bool) -> Any:
        if self.broken:
            return "broken"
        if len(self.line) + 1 == self.parties and not self.going:
            if not can_act:
                self.go(len(self.line), {waiter.session})
                return self.parties - 1
            self.line.append(waiter)
            self.able.add(waiter)
            self.going, self.actor = self.parties, waiter
            return ACT
        if not waits:
            self.end()
            return BUSY
        self.line.append(waiter)
        if can_act:
            self.able.add(waiter)
        return PARKED

    def go(self, count: int, also: set[int]) -> None:
        """So many of the line go, each told its place."""
        self.told.update({waiter: index for index, waiter in enumerate(self.line[:count])})
        if self.is_fixed:
            self.members = {waiter.session for waiter in self.line[:count]} | also
        del self.line[:count]
        self.going, self.actor = 0, None

    def acted(self) -> None:
        self.go(self.going, set())
        while len(self.line) >= self.parties and not self.going:
            able = [waiter for waiter in self.line[: self.parties] if waiter in self.able]
            if able:
                self.going, self.actor = self.parties, able[-1]
            else:
                self.go(self.parties, set())

    def leave(self, waiter: Waiter) -> None:
        if waiter == self.actor:
            self.line.remove(waiter)
            self.end()
        else:
            self.going -= waiter in self.line[: self.going]
            self.line.remove(waiter)

    def end(self) -> None:
        if not self.broken:
            self.broken = True
            self.clear()

    def clear(self) -> None:
        self.told.update(dict.fromkeys(self.line, "broken"))
        self.line.clear()
        self.going, self.actor = 0, None

    def reset(self) -> None:
        self.clear()
        self.broken, self.members = False, set()

    def die(self, dead: int) -> None:
        self.told = {waiter: how for waiter, how in self.told.items() if waiter.session != dead}
        if any(waiter.session == dead for waiter in self.line):
            self.line = [waiter for waiter in self.line if waiter.session != dead]
            self.end()
        if dead in self.members:
            self.members.remove(dead)
            if self.members:
                self.end()
            elif not self.line:
                self.broken = False


def run_barrier(seed: int) -> None:
    world = World(seed)
    dice, store = world.dice, world.store
    parties, share, is_fixed = dice.randint(1, 4), dice.choice((0, 0, 0.7, 1)), dice.random() < 0.4
    model = Round(parties, is_fixed=is_fixed)
    for _ in range(dice.randint(5, 40)):
        steps = ("come",) * 6 + ("give up", "leave", "once", "abort", "reset", "delete", "die", "hear")
        if model.actor and dice.random() < 0.4:
            steps = ("act", "fail")
        step = dice.choice(steps)
        if step in ("come", "once"):
            waiter, can_act = world.waiter(), dice.random() < share
            actor, member = (waiter if can_act else None), (waiter.session if is_fixed else 0)
            try:
                answer: Any = store.transact(
                    barrier.wait, N, parties, waiter if step == "come" else None, actor, member
                )
            except BrokenBarrier:
                answer = "broken"
            assert answer == model.come(waiter, can_act=can_act, waits=step == "come")
        elif step == "act":
            assert store.read(barrier.is_to_act, N, model.actor)
            store.transact(barrier.go, N, model.actor, is_fixed)
            model.acted()
        elif step == "fail":
            store.transact(barrier.fail, N, model.actor, "it failed")
            model.leave(model.actor)
        elif step in ("give up", "leave", "hear") and (model.line or model.told):
            hear(model, store, step, dice.choice([*model.line, *model.told]))
        elif step == "abort":
            store.transact(barrier.abort, N, parties)
            model.end()
        elif step == "reset":
            store.transact(barrier.reset, N, parties)
            model.reset()
        elif step == "delete":
            store.transact(barrier.delete, N)
            model.reset()
            assert store.read(barrier.seen, N) is None
        elif step == "die":
            model.die(world.kill())
        found = store.read(barrier.look, N, parties)
        assert (found.waiting, bool(found.broken), found.going) == (len(model.line), model.broken, model.going)
        assert set(found.members) == model.members
        assert {key[:1] for key in store.keys if key.endswith(N)} <= {barrier.BARRIERS, barrier.PARTIES}
        assert sum(key[:1] == barrier.PARTIES for key in store.keys) == len(model.members)
        assert world.lines() == 2 * len(model.line) + len(model.told)


def hear(model: Round, store: MemoryStore, step: str, waiter: Waiter) -> None:
    """A party learns how its wait ended, or ends it."""
    if waiter in model.told:
        if step == "leave":
            store.transact(barrier.withdraw, N, model.parties, waiter)
            del model.told[waiter]
            return
        if step == "give up":
            assert not store.transact(barrier.give_up, N, model.parties, waiter)
        outcome = store.transact(barrier.collect, waiter)
        assert ("broken" if outcome.broken else outcome.index) == model.told.pop(waiter)
    elif step == "give up":
        assert store.transact(barrier.give_up, N, model.parties, waiter)
        model.line.remove(waiter)
        model.end()
    elif step == "leave":
        store.transact(barrier.withdraw, N, model.parties, waiter)
        model.leave(waiter)


@dataclass(eq=False)
class Person:
    """Who holds and waits: a handle of a Lock, or an owner of an RLock."""

    session: int
    handle: int
    lease_s: float | None
    wait: Waiter | None = None  # Of the condition, until it returns.
    standing: Waiter | None = None  # In the lock's line, without a wait.
    grant: lock.Lock | None = None
    count: int = 0  # How often it holds an RLock, or will again.


class Hall:
    """A lock, its line, and a condition, as plain lists."""

    def __init__(self) -> None:
        self.holder: Person | None = None
        self.until = float("inf")
        self.line: list[Person] = []
        self.asleep: list[Person] = []
        self.told: list[Person] = []
        self.now = 0.0

    def take(self, person: Person) -> None:
        self.holder = person
        self.until = float("inf") if person.lease_s is None else self.now + person.lease_s

    def give(self) -> None:
        self.holder = None
        if self.line:
            self.take(self.line.pop(0))

    def enlist(self, person: Person) -> None:
        self.line.append(person)
        if self.holder is None or self.until <= self.now:
            self.give()

    def tell(self, many: int) -> None:
        for person in self.asleep[:many]:
            self.told.append(person)
            self.enlist(person)
        del self.asleep[:many]

    def forget(self, person: Person) -> None:
        """It is in no line any more; what it was told is passed on."""
        for line in (self.line, self.asleep):
            if person in line:
                line.remove(person)
        if person in self.told:
            self.told.remove(person)
            self.tell(1)


class ConditionProgram:
    """One random program on a condition with a Lock, with or without leases, or with an RLock."""

    STEPS = (
        "acquire", "acquire", "acquire", "release", "sleep", "sleep", "notify", "late", "turn_back", "abandon",
        "collect", "collect", "leave", "die", "lapse",
    )  # fmt: skip

    def __init__(self, seed: int) -> None:
        self.world, self.hall = World(seed), Hall()
        self.store, self.dice = self.world.store, self.world.dice
        self.kind = self.dice.choice(("lock", "leases", "rlock"))
        self.place = (rlock.RLOCKS if self.kind == "rlock" else lock.LOCKS) + GUARD
        self.people: list[Person] = []

    def run(self) -> None:
        for _ in range(self.dice.randint(5, 60)):
            step = self.dice.choice(self.STEPS)
            getattr(self, step)()
            self.check()

    def guard(self, person: Person) -> Guard:
        if self.kind == "rlock":
            return Guard(self.place, person.session, person.handle)
        return Guard(self.place, person.session, person.handle, person.lease_s, person.grant)

    def somebody(self) -> Person:
        idle = [p for p in self.people if p.wait is None and p.standing is None]
        if idle and self.dice.random() < 0.5:
            return self.dice.choice(idle)
        lease_s = self.dice.choice((None, 1.0, 3.0)) if self.kind == "leases" else None
        person = Person(self.world.anybody(), self.world.waiter().number, lease_s)
        self.people.append(person)
        return person

    def acting(self) -> Person | None:
        """The holder, if it knows."""
        holder = self.hall.holder
        if holder is not None and holder.standing is not None:
            holder.standing = None  # It has seen its grant.
            holder.count = 1
            holder.grant = self.record()
        return None if holder is None or holder.wait is not None else holder

    def record(self) -> Any:
        return self.store.read(rlock.look if self.kind == "rlock" else lock.look, GUARD)

    def acquire(self) -> None:
        person, hall = self.somebody(), self.hall
        waiter = self.dice.choice((self.world.waiter(person.session), None))
        number = -self.world.waiter().number if waiter is None else waiter.number
        answer: Any
        if self.kind == "rlock":
            answer = self.store.transact(rlock.acquire, GUARD, person.session, person.handle, number, hall.now, waiter)
            if hall.holder is person:
                person.count += 1
                assert answer.count == person.count
                return
        else:
            if hall.holder is person:
                return
            answer = self.store.transact(
                lock.acquire, GUARD, person.session, person.handle, number, waiter, hall.now, person.lease_s
            )
        if hall.holder is not None and hall.until <= hall.now:
            hall.give()
        if hall.holder is None:
            assert not hall.line
            hall.take(person)
            person.grant, person.count = answer, 1
        elif waiter is None:
            assert answer is BUSY
        else:
            assert answer is PARKED
            hall.line.append(person)
            person.standing = waiter

    def release(self) -> None:
        holder, now = self.acting(), self.hall.now
        if holder is None:
            return
        if self.kind == "rlock":
            self.store.transact(rlock.release, GUARD, holder.session, holder.handle, 0, now)
        else:
            has_lease = holder.lease_s is not None
            self.store.transact(lock.release, GUARD, holder.session, holder.handle, now, holder.grant, has_lease)
        holder.count -= 1
        if not holder.count:
            holder.grant = None
            self.hall.give()

    def sleep(self) -> None:
        holder = self.acting()
        if holder is not None:
            holder.wait = self.world.waiter(holder.session)
            assert self.store.transact(condition.wait, N, self.guard(holder), holder.wait, self.hall.now) is PARKED
            self.hall.asleep.append(holder)
            self.hall.give()

    def notify(self) -> None:
        many = self.dice.choice((1, 1, 2, 3, None))
        holder, now = self.acting(), self.hall.now
        person = holder if holder is not None and self.dice.random() < 0.9 else self.somebody()
        if person is holder:
            self.store.transact(condition.notify, N, self.guard(person), many, now)
            self.hall.tell(len(self.hall.asleep) if many is None else many)
        else:
            was_leased = person.lease_s is not None and person.grant is not None
            with pytest.raises(LockLost if was_leased else NotHeld):
                self.store.transact(condition.notify, N, self.guard(person), many, now)

    def waiting(self) -> Person | None:
        inside = [person for person in self.people if person.wait is not None]
        return self.dice.choice(inside) if inside else None

    def late(self) -> None:
        person = self.waiting()
        if person is not None:
            was_asleep = person in self.hall.asleep
            assert self.store.transact(condition.time_up, N, person.wait, self.hall.now) == was_asleep
            if was_asleep:
                self.hall.asleep.remove(person)
                self.hall.enlist(person)

    def turn_back(self) -> None:
        person = self.waiting()
        if person is None:
            return
        answer = self.store.transact(condition.turn_back, N, self.guard(person), person.wait, self.hall.now)
        if person in self.hall.asleep:
            self.hall.asleep.remove(person)
            self.hall.enlist(person)
        if person in self.hall.told:
            self.hall.told.remove(person)
            self.hall.tell(1)
        if person in self.hall.line:
            assert answer is PARKED
        else:
            assert (answer is not None) == (self.hall.holder is person)
            self.returned(person)

    def returned(self, person: Person) -> None:
        person.wait = None
        if self.hall.holder is person:
            person.grant = self.record()
            if self.kind == "rlock":
                assert self.record().count == person.count, "it is not held as often as before"
        else:
            person.count = 0

    def abandon(self) -> None:
        person = self.waiting()
        if person is not None:
            assert self.store.transact(condition.abandon, self.guard(person), person.wait, self.hall.now) is None
            self.hall.forget(person)
            if self.hall.holder is person:
                self.hall.give()
            person.wait, person.grant, person.count = None, None, 0

    def collect(self) -> None:
        inside = [p for p in self.people if p.wait is not None and p not in self.hall.line + self.hall.asleep]
        if inside:
            person = self.dice.choice(inside)
            granted = self.store.transact(condition.collect, self.guard(person), person.wait)
            assert (granted is not None) == (self.hall.holder is person)
            if person in self.hall.told:
                self.hall.told.remove(person)
            self.returned(person)

    def leave(self) -> None:
        standing = [person for person in self.people if person.standing is not None]
        if standing:
            person = self.dice.choice(standing)
            op = rlock.withdraw if self.kind == "rlock" else lock.withdraw
            self.store.transact(op, GUARD, person.standing, self.hall.now)
            self.hall.forget(person)
            if self.hall.holder is person:
                self.hall.give()
            person.standing = None

    def die(self) -> None:
        hall, dead = self.hall, self.world.kill(self.hall.now)
        gone = [person for person in self.people if person.session == dead]
        self.people = [person for person in self.people if person.session != dead]
        passed_on = sum(person in hall.told for person in gone)
        hall.line = [person for person in hall.line if person not in gone]
        hall.asleep = [person for person in hall.asleep if person not in gone]
        hall.told = [person for person in hall.told if person not in gone]
        for _ in range(passed_on):
            hall.tell(1)
        if hall.holder in gone:
            hall.give()

    def lapse(self) -> None:
        self.hall.now += self.dice.choice((0.0, 0.5, 2.0))
        if self.kind != "rlock":
            passes = self.hall.holder is not None and self.hall.until <= self.hall.now and bool(self.hall.line)
            assert self.store.transact(lock.lapse, GUARD, self.hall.now) == passes
            if passes:
                self.hall.give()

    def check(self) -> None:
        hall, store, held = self.hall, self.store, self.record()
        assert (held is None) == (hall.holder is None)
        if hall.holder is not None:
            who = held.owner if self.kind == "rlock" else held.handle
            assert (held.session, who) == (hall.holder.session, hall.holder.handle)
        asleep = [waiter[:2] for waiter, _ in store.read(waiters.line, condition.CONDITIONS + N)]
        line = [waiter[:2] for waiter, _ in store.read(waiters.line, self.place)]
        assert asleep == [person.wait[:2] for person in hall.asleep if person.wait]
        assert line == [waiter[:2] for person in hall.line if (waiter := person.wait or person.standing)]
        assert self.world.lines() == 2 * (len(asleep) + len(line)) + len(hall.told)


def run_condition(seed: int) -> None:
    ConditionProgram(seed).run()


def run_election(seed: int) -> None:
    world = World(seed)
    dice, store = world.dice, world.store
    leader: Waiter | None = None
    line: list[Waiter] = []
    terms = [0]
    seen: int | None = None

    for _ in range(dice.randint(5, 40)):
        step = dice.choice(("stand", "stand", "once", "again", "resign", "leave", "interrupt", "die", "watch"))
        before = leader
        if step in ("stand", "once"):
            waiter = world.waiter()
            value = b"%d" % waiter.number
            given = waiter if step == "stand" else None
            answer = store.transact(election.campaign, N, waiter.session, waiter.number, waiter.number, value, given)
            if leader is None:
                assert isinstance(answer, election.Leader)
                leader = waiter
            elif given is not None:
                assert answer is PARKED
                line.append(waiter)
            else:
                assert answer is BUSY
        elif step == "again" and leader is not None:
            answer = store.transact(
                election.campaign, N, leader.session, leader.number, -1, b"%d" % leader.number, None
            )
            assert isinstance(answer, election.Leader)
            assert answer.term == terms[-1]
        elif step == "resign" and leader is not None:
            store.transact(election.resign, N, leader.session, leader.number)
            leader = line.pop(0) if line else None
        elif step in ("leave", "interrupt") and (line or leader):
            waiter = dice.choice([*line, *([leader] if leader else [])])
            if step == "leave":
                assert store.transact(election.leave, waiter, b"") == (waiter in line)
            else:
                store.transact(election.withdraw, N, waiter, b"")
            if waiter in line:
                line.remove(waiter)
            elif step == "interrupt":
                leader = line.pop(0) if line else None
        elif step == "die":
            dead = world.kill()
            line = [waiter for waiter in line if waiter.session != dead]
            if leader is not None and leader.session == dead:
                leader = line.pop(0) if line else None
        elif step == "watch" and seen is not None:
            found: Any = store.read(election.await_change, N, seen, None)
            now = store.read(election.look, N)
            assert found is BUSY if seen == (now.changed if now else 0) else found == now
        led: Any = store.read(election.look, N)
        seen = dice.choice((seen, led.changed if led else 0))
        assert (led and (led.session, led.grant)) == (leader and leader[:2])
        if led is not None:
            assert led.value == b"%d" % leader.number  # type: ignore[union-attr]
            assert led.term > terms[-1] if leader != before else led.term == terms[-1]
            if leader != before:
                terms.append(led.term)
        assert [w[:2] for w, _ in store.read(waiters.line, election.ELECTIONS + N)] == [w[:2] for w in line]
        assert world.lines() == 2 * len(line)


class Log:
    """When each unit went, by the rule for no burst, in plain Python."""

    def __init__(self, terms: Terms) -> None:
        self.terms, self.units = terms, [-terms.per_ns] * terms.rate

    def may_go(self, number: int, ns: int) -> bool:
        return ns >= self.units[number - 1 - self.terms.rate] + self.terms.per_ns

    def add(self, number: int, ns: int) -> None:
        self.units += [ns] * number


def run_coarse_limiter(seed: int) -> None:
    """With so few grains that units share them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limiter, "GRAINS", seed % 5 + 1)
        run_limiter(seed)


def run_limiter(seed: int) -> None:
    """Waiters look when they were told to, some of them late. Whatever leaves, order and bounds hold."""
    world = World(seed)
    dice, store = world.dice, world.store
    terms = Terms(dice.randint(1, 20), dice.choice((1_000, 999_999_937, 7)), dice.choice((0, 0, 1, 2, 3, 4, 5)))
    has_grains = terms.rate > limiter.GRAINS and not terms.burst
    lateness_ns = dice.choice((0, 0, terms.per_ns // 2 + 1))
    rung: list[Waiter] = []
    store._ring = rung.append
    now = terms.per_ns + dice.randrange(1 << 40)  # No moment is before the machine was started.
    line: list[tuple[Waiter, int]] = []
    looks: dict[Waiter, int] = {}
    went: list[tuple[int, int]] = []
    left = False
    log = Log(terms)

    def let_go() -> None:
        while line and store.read(limiter.due, line[0][0]) is None:
            waiter, number = line.pop(0)
            looks.pop(waiter)
            went.append((now, number))
            log.add(number, now)
        for waiter in rung:
            if waiter in looks:
                looks[waiter] = min(looks[waiter], store.read(limiter.due, waiter) or now)
        rung.clear()

    for _ in range(dice.randint(5, 60)):
        step = dice.choice(("come", "come", "once", "look", "look", "look", "leave", "die"))
        number = dice.randint(1, terms.burst or terms.rate)
        moment = Moment("boot", now - dice.randint(0, lateness_ns))
        ns = moment.ns if terms.burst else max(moment.ns, log.units[-1])
        if step in ("come", "once"):
            waiter = world.waiter()
            given = waiter if step == "come" else None
            answer = store.transact(limiter.acquire, N, terms, number, moment, given)
            if not terms.burst and not has_grains:
                may_go = not line and log.may_go(number, ns)
                assert (answer is True) == may_go, "it may go and does not, or the other way round"
            if answer is True:
                assert not line, "somebody was overtaken"
                went.append((ns, number))
                log.add(number, ns)
            elif given is not None:
                line.append((waiter, number))
                looks[waiter] = (store.read(limiter.due, waiter) or 0) + dice.randint(0, lateness_ns)
        elif step == "look" and looks:
            waiter, due = min(looks.items(), key=lambda pair: pair[1])
            now = max(now, due)
            again = store.transact(limiter.turn, N, terms, Moment("boot", now), waiter)
            if again is not None:
                assert again > now, "it is told to look at once, for ever"
                if (
                    terms.burst and not lateness_ns and not left
                ):  # Each that went before may have lost part of a nanosecond.
                    assert again - now <= 60, "it was told the wrong time, though all are punctual"
                looks[waiter] = again + dice.randint(0, lateness_ns)
        elif step == "leave" and line:
            waiter, many = dice.choice(line)
            if store.transact(limiter.leave, N, many, waiter):
                line.remove((waiter, many))
                looks.pop(waiter)
                left = True
        elif step == "die":
            dead = world.kill()
            left = left or any(waiter.session == dead for waiter, _ in line)
            line = [(waiter, many) for waiter, many in line if waiter.session != dead]
            looks = {waiter: due for waiter, due in looks.items() if waiter.session != dead}
        let_go()
        assert store.read(limiter.look, N, terms, Moment("boot", now)).queued == sum(many for _, many in line)
        assert all(store.read(limiter.due, waiter) is not None for waiter, _ in line), "somebody was overtaken"
        if line:
            first = store.read(limiter.look, N, terms, Moment("boot", 0))
            at_ns = store.read(limiter._due_ns, N, first, line[0][1])
            assert store.read(limiter.due, line[0][0]) <= at_ns, "the first sleeps too long"
        assert world.lines() == 2 * len(line)
        if dice.random() < 0.3:
            later = now + dice.randrange(terms.per_ns)
            now = later if lateness_ns else max(now, min([later, *looks.values()]))
    check_windows(terms, went)


def check_windows(terms: Terms, went: list[tuple[int, int]]) -> None:
    """From each grant to each later one: no more than the bound, for the shortest window that holds both."""
    went.sort()
    for first in range(len(went)):
        units = 0
        for ns, number in went[first:]:
            units += number
            window_ns = ns - went[first][0] + 1  # The first moment in, the last out.
            if terms.burst:
                most = terms.burst + -(-window_ns * terms.rate // terms.per_ns) - 1
            else:
                most = -(-window_ns // terms.per_ns) * terms.rate
            assert units <= most, f"{units} units in {window_ns} ns, at most {most}"


@pytest.mark.parametrize("run", [run_barrier, run_condition, run_election, run_limiter, run_coarse_limiter])
def test_random_programs_do_what_plain_python_does(run: Any) -> None:
    base = random.randrange(1 << 30)
    for seed in range(base, base + PROGRAMS):
        try:
            run(seed)
        except BaseException as error:
            raise AssertionError(f"{run.__name__}({seed}): {error}") from error
