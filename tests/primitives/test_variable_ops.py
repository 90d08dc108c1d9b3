"""Ops of Variable and Counter over the memory store: each rule, and random programs beside a plain-Python model."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guildhall.client.handles.statistics import of_variable
from guildhall.primitives import counter, sessions, values, variable, waiters
from guildhall.primitives.op import BUSY, PARKED
from guildhall.primitives.values import FINISHED
from guildhall.store.keys import pack_name
from guildhall.store.memory import MemoryStore
from guildhall.store.transaction import Waiter

N, OTHER = pack_name("test", "n"), pack_name("test", "n2")
W2, W3 = Waiter(2, 1, 1), Waiter(3, 1, 1)
PROGRAMS = 10_000


@pytest.fixture
def rung() -> list[Waiter]:
    return []


@pytest.fixture
def store(rung: list[Waiter]) -> MemoryStore:
    made = MemoryStore(ring=rung.append)
    for number in (1, 2, 3):
        made.transact(sessions.join, sessions.Session(number, 100 + number, "process"))
    return made


def version(store: MemoryStore) -> int:
    return store.read(variable.version, N)


def test_a_version_grows_with_every_set_and_is_never_used_again(store: MemoryStore) -> None:
    assert version(store) == 0
    seen = []
    for _ in range(3):
        store.transact(variable.put, N, b"same")
        store.transact(variable.put, OTHER, b"other")
        seen.append(version(store))
        store.transact(variable.delete, N)
        assert version(store) == 0
    assert seen == sorted(set(seen))


def test_a_deleted_variable_leaves_nothing(store: MemoryStore) -> None:
    before = list(store.keys)
    store.transact(variable.put, N, b"1")
    store.transact(variable.delete, N)
    assert store.keys == before


def test_a_swap_is_for_the_version_that_was_seen(store: MemoryStore) -> None:
    assert store.transact(variable.swap, N, 7, b"1") is False
    assert store.transact(variable.swap, N, 0, b"1") is True
    seen = version(store)
    assert store.transact(variable.swap, N, 0, b"2") is False
    store.transact(variable.put, N, b"1")
    assert store.transact(variable.swap, N, seen, b"2") is False, "the same value, but another version"
    assert store.transact(variable.swap, N, version(store), b"2") is True
    assert store.read(variable.get, N) == b"2"


def test_a_turn_holds_back_swaps_and_nobody_else(store: MemoryStore) -> None:
    store.transact(variable.put, N, b"1")
    assert store.transact(variable.take_turn, N, 1, 1, None) is True
    seen = version(store)
    assert store.transact(variable.swap, N, seen, b"2") is BUSY
    assert store.transact(variable.swap, OTHER, 0, b"2") is True
    assert store.transact(variable.finish, N, 1, 1, seen, b"3") is True
    assert store.read(variable.get, N) == b"3"
    assert store.transact(variable.swap, N, version(store), b"4") is True


def test_a_put_in_a_turn_counts_as_after_it(store: MemoryStore) -> None:
    store.transact(variable.put, N, b"1")
    store.transact(variable.take_turn, N, 1, 1, None)
    seen = version(store)
    store.transact(variable.put, N, b"put")
    assert store.transact(variable.finish, N, 1, 1, seen, b"turned") is True
    assert store.read(variable.get, N) == b"put"
    assert not store.read(variable.has_turn, N, 1, 1)


def test_turns_go_to_the_longest_waiter_also_from_the_dead(store: MemoryStore, rung: list[Waiter]) -> None:
    assert store.transact(variable.take_turn, N, 1, 1, None) is True
    assert store.transact(variable.take_turn, N, 2, 1, None) is BUSY
    assert store.transact(variable.take_turn, N, 2, 1, W2) is PARKED
    assert store.transact(variable.take_turn, N, 3, 1, W3) is PARKED
    store.transact(sessions.bury, 1)
    assert rung == [W2]
    assert store.read(variable.has_turn, N, 2, 1)
    assert not store.transact(variable.finish, N, 3, 1, 0, b"not mine")
    store.transact(variable.end_turn, N, 2, 1)
    assert store.read(variable.has_turn, N, 3, 1)
    store.transact(variable.end_turn, N, 2, 1)
    assert store.read(variable.has_turn, N, 3, 1), "ended twice is ended once"


def test_a_turn_granted_to_who_left_goes_on(store: MemoryStore) -> None:
    store.transact(variable.take_turn, N, 1, 1, None)
    store.transact(variable.take_turn, N, 2, 1, W2)
    store.transact(variable.end_turn, N, 1, 1)
    store.transact(variable.withdraw_turn, N, 2, 1, W2)
    assert store.transact(variable.take_turn, N, 3, 1, None) is True


def test_watchers_wake_with_what_is_newer_and_not_with_a_delete(store: MemoryStore, rung: list[Waiter]) -> None:
    assert store.transact(variable.await_newer, N, 0, W2) is PARKED
    store.transact(variable.put, N, b"1")
    assert rung == [W2]
    assert store.transact(variable.await_newer, N, 0, None) is True
    seen = version(store)
    assert store.transact(variable.await_newer, N, seen, None) is BUSY
    assert store.transact(variable.await_newer, N, seen, W2) is PARKED
    store.transact(variable.delete, N)
    assert rung == [W2]
    store.transact(variable.put, N, b"1")
    assert rung == [W2, W2]


def test_a_watcher_that_is_dismissed_is_woken_and_out_of_line(store: MemoryStore, rung: list[Waiter]) -> None:
    store.transact(variable.await_newer, N, 0, W2)
    store.transact(variable.await_newer, N, 0, W3)
    for _ in range(2):
        store.transact(waiters.dismiss, W2)
    assert rung == [W2]
    assert store.read(waiters.is_granted, W2)
    assert not store.read(waiters.is_granted, W3)


def test_a_watcher_costs_who_sets_nothing_while_it_is_busy(store: MemoryStore) -> None:
    store.transact(variable.put, N, b"1")
    store.transact(variable.await_newer, N, version(store), W2)
    store.transact(variable.put, N, b"2")
    before = len(store.keys)
    for _ in range(100):
        store.transact(variable.put, N, b"3")
    assert len(store.keys) == before


def test_statistics_count_who_waits_for_what(store: MemoryStore) -> None:
    store.transact(variable.await_set, N, Waiter(1, 1, 1))
    store.transact(variable.await_newer, N, 0, Waiter(1, 2, 1))
    store.transact(variable.await_newer, N, 0, Waiter(1, 3, 1))
    store.transact(variable.take_turn, N, 1, 1, None)
    store.transact(variable.take_turn, N, 1, 2, Waiter(1, 4, 1))
    told = store.read(of_variable, "n", N)
    assert [(one.session, one.mode) for one in told.waiting] == [(1, "value"), (1, "turn"), (1, "newer"), (1, "newer")]
    store.transact(variable.put, N, b"1")
    told = store.read(of_variable, "n", N)
    assert (told.version, [one.mode for one in told.waiting]) == (version(store), ["turn"])


def test_an_update_lets_go_of_what_the_old_value_kept_and_holds_what_the_new_one_does(store: MemoryStore) -> None:
    first, second = values.object_id(1, 1), values.object_id(1, 2)
    for oid in (first, second):
        store.transact(values.make, oid, FINISHED, b"data")
    store.transact(variable.put, N, values.pack(b"ref", (first,)))
    store.transact(values.release_for, 1, (first,))
    seen: Any = store.transact(variable.look_held, N, 2)
    assert store.transact(variable.swap, N, seen.version, values.pack(b"ref", (first, second))) is True
    store.transact(values.release_for, 1, (second,))
    store.transact(values.release_for, 2, (first,))
    assert store.read(values.look, first) is not None
    assert store.read(values.look, second) is not None
    store.transact(variable.swap, N, version(store), b"plain")
    assert store.read(values.look, first) is None
    assert store.read(values.look, second) is None


# -- random programs --------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Actor:
    """One caller of a session: what it saw, and what it waits for, if anything."""

    session: int
    number: int
    ticket: int = 0
    seen: tuple[int, int | None] = (0, None)
    writes_seen: int = 0
    waits: str = ""
    after: int = 0
    is_done: bool = False  # What it waits for came.

    @property
    def waiter(self) -> Waiter:
        return Waiter(self.session, self.number, self.number)


@dataclass
class Model:
    """A variable in plain Python: the value, all writes so far, and who has or wants a turn."""

    value: int | None = None
    writes: list[tuple[int, str]] = field(default_factory=list)
    turns: list[Actor] = field(default_factory=list)
    actors: list[Actor] = field(default_factory=list)

    def changed(self, version: int, how: str) -> None:
        self.writes.append((version, how))
        for actor in self.actors:
            if actor.waits == "value" or (actor.waits == "newer" and version > actor.after):
                actor.is_done = True


class Program:
    """Random steps on a store and the model. Numbers are odd when the stored value keeps an object alive."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.store = MemoryStore()
        self.model = Model()
        self.next_session = self.next_number = 1
        self.kept: int | None = None
        for _ in range(3):
            self.join()

    def join(self) -> None:
        self.store.transact(sessions.join, sessions.Session(self.next_session, 1, "process"))
        for _ in range(2):
            self.model.actors.append(Actor(self.next_session, self.fresh()))
        self.next_session += 1

    def fresh(self) -> int:
        self.next_number += 1
        return self.next_number

    def stored(self, actor: Actor, number: int) -> bytes:
        if number % 2 == 0:
            return b"%d" % number
        oid = values.object_id(actor.session, number)
        self.store.transact(values.make, oid, FINISHED, b"")
        return values.pack(b"%d" % number, (oid,))

    def write(self, actor: Actor, op: Any, *args: Any) -> tuple[Any, int]:
        """Run the op with a new value as its last argument, as a handle does. Its answer and the value."""
        number = self.fresh()
        answer = self.store.transact(op, N, *args, self.stored(actor, number))
        if number % 2:
            self.store.transact(values.release_for, actor.session, [values.object_id(actor.session, number)])
        return answer, number

    def written(self, number: int, how: str) -> None:
        now = self.store.read(variable.version, N)
        assert all(now > before for before, _ in self.model.writes[-1:])
        self.model.value = number
        self.model.changed(now, how)

    # -- steps --------------------------------------------------------------------------------------------------------

    def put(self, actor: Actor) -> None:
        _, number = self.write(actor, variable.put)
        self.written(number, "put")

    def delete(self, actor: Actor) -> None:
        self.store.transact(variable.delete, N)
        self.model.value = None

    def read(self, actor: Actor) -> None:
        actor.writes_seen = len(self.model.writes)
        seen = self.store.transact(variable.look_held, N, actor.session)
        if seen is None:
            assert self.model.value is None
            actor.seen = (0, None)
            return
        number = int(values.unpack(seen.data).data)
        assert number == self.model.value
        assert seen.version == self.model.writes[-1][0]
        self.store.transact(values.release_for, actor.session, values.uses_of(seen.data))
        actor.seen = seen.version, number

    def swap(self, actor: Actor) -> None:
        now = self.store.read(variable.version, N)
        answer, number = self.write(actor, variable.swap, actor.seen[0])
        if self.model.turns:
            assert answer is BUSY
        else:
            assert answer is (now == actor.seen[0])
            if answer:
                self.written(number, "swap")

    def take_turn(self, actor: Actor) -> None:
        if actor in self.model.turns:
            return
        actor.ticket = self.fresh()
        answer = self.store.transact(variable.take_turn, N, actor.session, actor.ticket, actor.waiter)
        assert answer is (PARKED if self.model.turns else True)
        self.model.turns.append(actor)
        if answer is True:
            self.read(actor)
        else:
            actor.waits = "turn"

    def finish(self, actor: Actor) -> None:
        has_turn = self.model.turns[:1] == [actor]
        now = self.store.read(variable.version, N)
        answer, number = self.write(actor, variable.finish, actor.session, actor.ticket, actor.seen[0])
        assert answer is has_turn
        if not has_turn:
            return
        if now == actor.seen[0]:
            self.written(number, "swap")
        elif now:
            assert self.model.writes[actor.writes_seen][1] == "put", "only what looks at nothing comes between"
        self.end_of_turn(actor)

    def end_turn(self, actor: Actor) -> None:
        self.store.transact(variable.end_turn, N, actor.session, actor.ticket)
        if self.model.turns[:1] == [actor]:
            self.end_of_turn(actor)

    def end_of_turn(self, actor: Actor) -> None:
        self.model.turns.remove(actor)
        for heir in self.model.turns[:1]:
            if heir.waits == "turn":
                heir.is_done = True

    def await_newer(self, actor: Actor) -> None:
        after = self.dice.choice([0, actor.seen[0]])
        answer = self.store.transact(variable.await_newer, N, after, actor.waiter)
        is_there = self.model.value is not None and self.model.writes[-1][0] > after
        assert answer is (True if is_there else PARKED)
        if not is_there:
            actor.waits, actor.after = "newer", after

    def await_set(self, actor: Actor) -> None:
        answer = self.store.transact(variable.await_set, N, actor.waiter)
        assert answer is (PARKED if self.model.value is None else True)
        if answer is PARKED:
            actor.waits = "value"

    def go_on(self, actor: Actor) -> None:
        """A waiter looks whether it was granted; if not, it leaves or stays."""
        granted = self.store.read(waiters.is_granted, actor.waiter)
        assert granted is actor.is_done
        if actor.waits == "turn" and not granted:
            if self.dice.random() < 0.3:
                self.store.transact(variable.withdraw_turn, N, actor.session, actor.ticket, actor.waiter)
                self.model.turns.remove(actor)
                actor.number = self.fresh()
                actor.waits = ""
            return
        if not granted and self.dice.random() < 0.7:
            return
        if not granted:
            assert self.store.transact(*self.dice.choice([(waiters.withdraw,), (waiters.dismiss,)]), actor.waiter) in (
                True,
                None,
            )
        if actor.waits == "turn":
            assert self.store.read(variable.has_turn, N, actor.session, actor.ticket)
            self.read(actor)
        actor.waits, actor.is_done, actor.number = "", False, self.fresh()

    def die(self, actor: Actor) -> None:
        gone = [other for other in self.model.actors if other.session == actor.session]
        self.store.transact(sessions.bury, actor.session)
        had_turn = self.model.turns[:1]
        for other in gone:
            self.model.actors.remove(other)
            if other in self.model.turns:
                self.model.turns.remove(other)
        if self.model.turns[:1] != had_turn:
            for heir in self.model.turns[:1]:
                if heir.waits == "turn":
                    heir.is_done = True
        self.join()

    # -- running ------------------------------------------------------------------------------------------------------

    def run(self, steps: int) -> None:
        kinds = [self.put, self.delete, self.read, self.swap, self.swap, self.take_turn, self.finish, self.end_turn]
        kinds += [self.await_newer, self.await_set, self.finish, self.read]
        for _ in range(steps):
            actor = self.dice.choice(self.model.actors)
            if self.dice.random() < 0.04:
                self.die(actor)
            elif actor.waits:
                self.go_on(actor)
            else:
                self.dice.choice(kinds)(actor)
            self.check()
        for session in {actor.session for actor in self.model.actors}:
            self.store.transact(sessions.bury, session)
        left = {key[:1] for key in self.store.keys}
        assert left <= {b"\x01", variable.VARIABLES, variable.MARKS, values.OBJECTS}

    def check(self) -> None:
        model = self.model
        for actor in model.actors:
            if actor.waits:
                assert self.store.read(waiters.is_granted, actor.waiter) is actor.is_done
        for turn in model.turns[:1]:
            assert self.store.read(variable.has_turn, N, turn.session, turn.ticket)
        assert bool(model.turns) is (self.store.read(lambda txn: txn.get(variable.TURNS + N)) is not None)
        found = self.store.read(of_variable, "n", N)
        waiting = [actor.waits for actor in model.actors if actor.waits and not actor.is_done]
        assert (len(found.waiting), found.watchers) == (len(waiting), waiting.count("newer"))
        kept = [key for key in self.store.keys if key[:1] == values.OBJECTS]
        is_odd = model.value is not None and model.value % 2 == 1
        assert len(kept) == is_odd, "only what the value keeps is there"


def test_random_programs_do_as_the_model() -> None:
    first = random.randrange(1 << 30)
    for seed in range(first, first + PROGRAMS):
        try:
            Program(seed).run(40)
        except BaseException as error:
            raise AssertionError(f"program {seed}: {error}") from error


# -- counter ----------------------------------------------------------------------------------------------------------

numbers = st.one_of(
    st.integers(), st.integers(-(1 << 700), 1 << 700), st.sampled_from([127, 128, -128, -129, 255, 256])
)


@given(st.lists(st.tuples(st.sampled_from(["add", "set", "reset"]), numbers)))
def test_a_counter_is_an_int(steps: list[tuple[str, int]]) -> None:
    store, value, adds = MemoryStore(), 0, 0
    for what, n in steps:
        if what == "add":
            value, adds = value + n, adds + 1
            assert store.transact(counter.add, N, n) == value
        elif what == "set":
            value = n
            store.transact(counter.put, N, n)
        else:
            assert store.transact(counter.reset, N) == value
            value = adds = 0
            assert not store.keys
        assert store.read(counter.get, N) == value
        assert store.read(counter.look, N) == (value, adds)
