"""The table of a task's states is what the ops do, and what the page shows."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from guildhall.engine.local import states, tasks
from guildhall.engine.local.states import TRANSITIONS, diagram, state_of
from guildhall.engine.local.tasks import Demand, Done, Recipe
from guildhall.primitives import sessions, values
from guildhall.primitives.op import Answer
from guildhall.primitives.values import ERROR, FINISHED
from guildhall.store.memory import MemoryStore

PAGE = Path(__file__).parents[2] / "docs" / "tasks.md"
ALLOWED = {(state, then) for (state, _), following in TRANSITIONS.items() for then in following}
CLIENT, WORKERS = 1, (2, 3, 4)


class Program:
    """Clients and workers at random; notes every change of every task's state."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.store = MemoryStore()
        self.oids: list[bytes] = []
        self.claims: list[tuple[int, bytes, list[bytes]]] = []
        self.seen: dict[bytes, str] = {}
        self.changes: set[tuple[str, str]] = set()
        for session in (CLIENT, *WORKERS):
            self.join(session)
        self.next_session = 5

    def join(self, session: int) -> None:
        self.store.transact(sessions.join, sessions.Session(session, 100 + session, "worker"))
        if session != CLIENT:
            self.store.transact(tasks.enlist, session)

    def step(self) -> None:
        self.dice.choice(
            (self.submit, self.claim, self.claim, self.finish, self.finish, self.cancel, self.give_back, self.die)
        )()
        self.look()

    def submit(self) -> None:
        oid = values.object_id(CLIENT, len(self.oids) + 1)
        known = [one for one in self.oids if self.store.read(values.look, one) is not None]
        deps = tuple(self.dice.sample(known, min(len(known), self.dice.choice((0, 0, 1, 2)))))
        demand = self.dice.choice((None, None, None, Demand(("worker-2",))))
        recipe = Recipe("f", b"", b"", deps, retries=self.dice.choice((0, 2)), demand=demand)
        self.store.transact(tasks.submit, [(oid, recipe, deps)], self.dice.random() < 0.3)
        self.oids.append(oid)
        self.seen[oid] = "new"

    def claim(self) -> None:
        session = self.dice.choice([s.number for s in self.store.read(sessions.everybody) if s.number != CLIENT] or [0])
        if session:
            able = tasks.Able(frozenset(tasks.names_of(session, 0)))
            answer = self.store.transact(tasks.claim, session, self.dice.choice((1, 4)), None, able)
            if not isinstance(answer, Answer):
                self.claims.append((session, answer[0], [oid for oid, _ in answer[1]]))

    def finish(self) -> None:
        if self.claims:
            place = self.dice.randrange(len(self.claims))
            _, key, oids = self.claims[place]
            end = self.dice.choice((Done(oids[0], FINISHED, b"\x80"), Done(oids[0], ERROR, b"e", again=True)))
            self.store.transact(tasks.finish, key, [end])
            del oids[0]
            if not oids:
                del self.claims[place]

    def give_back(self) -> None:
        if self.claims:
            _, key, oids = self.claims[-1]
            self.store.transact(tasks.unclaim, key, oids[1:])
            del oids[1:]

    def cancel(self) -> None:
        if self.oids and self.dice.random() < 0.4:
            self.store.transact(tasks.cancel, [self.dice.choice(self.oids)])

    def die(self) -> None:
        alive = [s.number for s in self.store.read(sessions.everybody) if s.number != CLIENT]
        if self.dice.random() < 0.3 and alive:
            dead = self.dice.choice(alive)
            self.store.transact(sessions.bury, dead, 0, (tasks.bury,))
            self.claims = [claim for claim in self.claims if claim[0] != dead]
            self.join(self.next_session)
            self.next_session += 1

    def look(self) -> None:
        for oid, before in self.seen.items():
            now = self.store.read(state_of, oid)
            if now != before:
                self.changes.add((before, now))
                self.seen[oid] = now


@pytest.mark.parametrize("part", range(4))
def test_tasks_only_change_as_the_table_says(part: int) -> None:
    changes: set[tuple[str, str]] = set()
    for seed in range(part * 100, part * 100 + 100):
        program = Program(seed)
        for _ in range(60):
            program.step()
        direct = program.changes - ALLOWED
        # One op may do two steps: a cancelled or failed dependency, a death that is the last one.
        assert not direct - {("new", "claimed")}, f"seed {seed}: {direct}"
        changes |= program.changes
    assert {("ready", "claimed"), ("claimed", "ready"), ("claimed", "finished"), ("waiting", "ready")} <= changes
    assert {("waiting", "error"), ("waiting", "cancelled"), ("claimed", "error"), ("claimed", "cancelled")} <= changes


def test_the_page_shows_the_table() -> None:
    assert f"```mermaid\n{diagram()}```" in PAGE.read_text()


if __name__ == "__main__":
    print(states.diagram())


@pytest.mark.parametrize("end", ["dies", "gives back"])
def test_what_depended_on_a_task_that_is_gone_leaves_nothing_when_its_worker_has_it_no_more(end: str) -> None:
    store = MemoryStore()
    for session in (CLIENT, 2):
        store.transact(sessions.join, sessions.Session(session, 100 + session, "worker"))
    first, second = (values.object_id(CLIENT, number) for number in (1, 2))
    store.transact(
        tasks.submit,
        [(first, Recipe("f", b"", b""), ()), (second, Recipe("g", b"", b"", (first,)), (first,))],
    )
    key, _ = store.transact(tasks.claim, 2, 1, None)
    store.transact(sessions.bury, CLIENT)
    if end == "dies":
        store.transact(tasks.bury, 2)
    else:
        store.transact(tasks.unclaim, key, [first])
    assert list(store.read(lambda txn: txn.scan(tasks.DEPENDENTS))) == []
