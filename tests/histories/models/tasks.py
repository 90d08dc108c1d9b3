"""Tasks: submitted, claimed, finished, each once, whoever dies meanwhile."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

from guildhall.testing.recorder import Call, Commit
from models.base import LATE, Model

FINISHED, ERROR, CANCELLED = "finished", "error", "cancelled"
KILLED = "killed"
"""The result of a task under which too many workers died."""
MOST_DEATHS = 3
OWNER, FIRED = "its owner", "itself"
SOON_NS = 3 * 10**9
"""So soon one who waits goes on, also if it was to be told by one who died."""


@dataclass(eq=False)
class Task:
    """One task that somebody refers to."""

    oid: bytes
    session: int
    deps: tuple[bytes, ...]
    retries: int
    priority: int
    missing: int = 0
    deaths: int = 0
    stamp: int = 0
    end: tuple[str, Any] | None = None
    since: int = 0
    """Since when it has been ready, or over."""
    holders: set[Any] = field(default_factory=lambda: {OWNER})


class Tasks(Model):
    """A task is ready when all that it depends on has finished, fails as what it depends on fails, and is cancelled
    with it. Workers claim ready ones: higher priority first, then what tasks submitted, the newest foremost, then what
    came back, then as submitted. It ends once, whatever is told of it later; one that raises is ready again as often
    as it has retries. The tasks of a dead worker are ready again; the one that it had begun counts a death, is claimed
    alone from then on, and at the fourth it has failed. A task is there as long as its owner, one that depends on it
    and has not ended, or, if it is fired, its own run refers to it.
    """

    also = frozenset({"values.release_for"})

    def __init__(self) -> None:
        self.tasks: dict[bytes, Task] = {}
        self.claims: dict[bytes, tuple[int, list[bytes]]] = {}
        """By key: the session of the worker, and what it has."""
        self.ends: dict[bytes, tuple[tuple[str, Any], int]] = {}
        """Of all tasks that ever ended: how, and when."""
        self.lulls: list[tuple[int, bool]] = [(0, False)]
        """From when on there was something to claim, or not."""
        super().__init__()

    def _look(self, c: Commit) -> None:
        if bool(self._ready()) != self.lulls[-1][1]:
            self.lulls.append((c.inside, not self.lulls[-1][1]))

    def commit(self, call: Call, c: Commit) -> None:
        super().commit(call, c)
        self._look(c)

    # -- what there is ------------------------------------------------------------------------------------------------

    def _ready(self) -> list[Task]:
        claimed = {oid for _, oids in self.claims.values() for oid in oids}
        ready = [t for t in self.tasks.values() if t.end is None and not t.missing and t.oid not in claimed]
        return sorted(ready, key=lambda task: (-task.priority, task.stamp, task.oid))

    def _pending(self, oid: bytes) -> Task | None:
        task = self.tasks.get(oid)
        return task if task is not None and task.end is None else None

    def _put_back(self, task: Task, c: Commit) -> None:
        task.stamp, task.since = 0, c.inside

    def _settle(self, oid: bytes, state: str, data: Any, c: Commit) -> None:
        task = self._pending(oid)
        if task is None:
            return
        task.end, task.since = (state, data), c.inside
        self.ends[oid] = task.end, c.inside
        for dependent in [other for other in self.tasks.values() if oid in other.deps and other.end is None]:
            if state != FINISHED:
                self._settle(dependent.oid, state, data, c)
            else:
                dependent.missing -= 1
                if not dependent.missing:
                    self._put_back(dependent, c)
        self._let_go(oid, FIRED)
        for dep in task.deps:
            self._let_go(dep, oid)

    def _let_go(self, oid: bytes, holder: Any) -> None:
        task = self.tasks.get(oid)
        if task is None:
            return
        task.holders.discard(holder)
        if not task.holders:
            del self.tasks[oid]
            for dep in task.deps:
                self._let_go(dep, oid)

    # -- calls --------------------------------------------------------------------------------------------------------

    def on_submit(self, call: Call, c: Commit) -> None:
        if c.verb != "submit" or not c.wrote:
            return
        specs, is_nested = call.args
        for oid, deps, retries, priority in specs:
            task = Task(oid, call.session, deps, retries, priority, stamp=-c.number if is_nested else c.number)
            task.since = c.inside
            self.tasks[oid] = task
            found = [self.tasks.get(dep) for dep in deps]
            bad = next((dep for dep in found if dep is None or (dep.end and dep.end[0] != FINISHED)), FINISHED)
            if bad != FINISHED:
                state, data = (CANCELLED, None) if bad is None else bad.end  # type: ignore[union-attr,misc]
                task.deps = ()
                self._settle(oid, state, data, c)
                continue
            for dep in found:
                assert dep is not None
                task.missing += dep.end is None
                dep.holders.add(oid)

    def on_claim(self, call: Call, c: Commit) -> None:
        if c.op != "tasks.claim":
            return
        ready = self._ready()
        if "claimed" not in c.facts:
            self.expect(not ready, f"{call} gets nothing, though {len(ready)} are ready: {c}")
            return
        key, claimed = c.facts["claimed"]
        oids = [oid for oid, _ in claimed]
        self.expect(oids == [task.oid for task in ready[: len(oids)]], f"{call} gets others than the first: {c}")
        self.expect(1 <= len(oids) <= call.args[0], f"{call} gets too many: {c}")
        blame = [(oid, self.tasks[oid].deaths) for oid in oids]
        self.expect(blame == list(claimed), f"{call}: these are to blame for so many deaths: {blame}, not as in {c}")
        has_killer = any(deaths for _, deaths in blame)
        self.expect(len(oids) == 1 or not has_killer, f"{call}: one that has killed is not alone: {c}")
        self.claims[key] = call.session, oids.copy()
        call.state, call.granted, call.value = "has", c, oids

    def _strike(self, key: bytes, oids: list[bytes]) -> bool:
        if key not in self.claims:
            return False
        _, mine = self.claims[key]
        mine[:] = [oid for oid in mine if oid not in oids]
        if not mine:
            del self.claims[key]
        return True

    def on_finish(self, call: Call, c: Commit) -> None:
        key, ends = call.args
        if c.verb != "finish" or not self._strike(key, [oid for oid, *_ in ends]):
            return
        over = []
        for oid, state, data, again in ends:
            task = self._pending(oid)
            if again and task is not None and task.retries:
                task.retries -= 1
                self._put_back(task, c)
            else:
                over.append((oid, state, data))
        for oid, state, data in over:
            self._settle(oid, state, data, c)

    def on_unclaim(self, call: Call, c: Commit) -> None:
        key, oids = call.args
        if c.verb == "unclaim" and self._strike(key, list(oids)):
            for oid in oids:
                if (task := self._pending(oid)) is not None:
                    self._put_back(task, c)

    def on_cancel(self, call: Call, c: Commit) -> None:
        for oid in call.args[0] if c.verb == "cancel" else ():
            self._settle(oid, CANCELLED, None, c)

    def on_release(self, call: Call, c: Commit) -> None:
        if c.verb == "release_for":
            self._let_go(call.args[0], OWNER)

    def on_fire(self, call: Call, c: Commit) -> None:
        if c.verb == "fire" and (task := self._pending(call.args[0])) is not None:
            task.holders.add(FIRED)

    def on_result(self, call: Call, c: Commit) -> None: ...

    def on_ready(self, call: Call, c: Commit) -> None: ...

    def bury(self, session: int, c: Commit) -> None:
        marks = c.facts["marks"]
        for key in sorted(key for key, (worker, _) in self.claims.items() if worker == session):
            _, oids = self.claims.pop(key)
            for oid in oids:
                if (task := self._pending(oid)) is None:
                    continue
                task.deaths += marks.get(1) == int.from_bytes(oid[-7:], "big")
                if task.deaths > MOST_DEATHS:
                    self._settle(oid, ERROR, KILLED, c)
                else:
                    self._put_back(task, c)
        for task in [task for task in self.tasks.values() if task.session == session]:
            self._let_go(task.oid, OWNER)
        self._look(c)

    # -- answers ------------------------------------------------------------------------------------------------------

    def answer(self, call: Call) -> Any:
        assert call.end is not None
        if call.method == "claim":
            if call.state != "has":
                self._expect_nothing_to_do(call)
                return LATE
            return call.value
        if call.method == "result":
            end, at = self.ends.get(call.args[0], (None, 0))
            if call.result == LATE:
                is_late = end is not None and at + SOON_NS + self.slack_ns < call.end
                self.expect(not is_late, f"{call}: it has been over since {at}")
                return LATE
            self.expect(end is not None and at <= call.end, f"{call}: told before it was over")
            return None if end is None else list(end)
        if call.method == "ready":
            left = [task.oid for task in self.tasks.values() if task.end is None]
            self.expect(not left, f"{call}: tasks that never end: {left}")
            return 0
        return None

    def _expect_nothing_to_do(self, call: Call) -> None:
        assert call.end is not None
        place = bisect_right(self.lulls, call.end, key=lambda lull: lull[0]) - 1
        since, has_ready = self.lulls[place]
        waited = call.end - max(since, call.begin)
        self.expect(
            not has_ready or waited <= SOON_NS + self.slack_ns, f"{call} slept on, though there were ready ones"
        )
