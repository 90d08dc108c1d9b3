"""Ops of tasks: submitted by clients, claimed and finished by workers; no scheduler.

A task is a pending object whose data is its recipe. It stands in READY when all it depends on has finished, and in its
worker's CLAIMS while it runs. Settling it frees its dependents in the same commit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ...primitives import values, waiters
from ...primitives.op import BUSY, NotNow
from ...primitives.values import CANCELLED, ERROR, FINISHED, PENDING, Object
from ...store.keys import pack_id, pack_int
from ...store.records import Form, Record
from ...store.transaction import Txn, Waiter

READY = b"\x40"
CLAIMS = b"\x41"
DEPENDENTS = b"\x42"
IDLE = b"\x43"
LOOKING = b"\x44"
"""Places of workers without a task: asleep, and still awake. The latter are served first: they need no ring."""
WORKERS = b"\x45"
READY_COUNT = b"\x46"
"""How many keys there are under READY, so that a worker can leave the others their share."""
MAX_DEATHS = 3
KILLED = b"K"
"""First byte of an error that is not a pickled exception: the task's name follows."""
FULL = b"F"
"""The error of a task whose end did not fit: smaller than any recipe, so that it fits where that was."""


class Recipe(Record, tag=1, frozen=True):
    """What a worker needs to run a task. `missing` counts the dependencies that have not finished; `is_plain`: its
    arguments refer to nothing."""

    name: str
    function: bytes
    args: bytes
    deps: tuple[bytes, ...] = ()
    retries: int = 0
    deaths: int = 0
    missing: int = 0
    priority: int = 0
    is_plain: bool = False


class Claim(Record, tag=1, frozen=True):
    """Tasks that one worker runs, one after the other."""

    oids: tuple[bytes, ...]


class Done(NamedTuple):
    """The end of one task. `again` asks for another run, if retries are left."""

    oid: bytes
    state: int
    data: bytes
    uses: tuple[bytes, ...] = ()
    blob: str = ""
    again: bool = False


RECIPE = Form(Recipe)
CLAIM = Form(Claim)


def submit(txn: Txn, tasks: Sequence[tuple[bytes, Recipe, tuple[bytes, ...]]]) -> None:
    """New tasks, as (object id, recipe, what it uses), each held once by the session that its id names."""
    ready = 0
    stamp = pack_int(txn.revision)
    used: list[bytes] = []
    for oid, recipe, uses in tasks:
        if recipe.deps:
            missing, failed = _await(txn, oid, recipe.deps)
            if failed is not None:
                values.make(txn, oid, failed.state, failed.data)
                continue
            recipe = _with(recipe, missing=missing)
        values.lay(txn, oid, PENDING, RECIPE.pack(recipe), uses)
        used += uses
        if not recipe.missing:
            txn.put(READY + pack_id(-recipe.priority) + stamp + oid, oid)
            ready += 1
    _count(txn, ready)
    values.hold(txn, used)
    _wake_idle(txn, ready)


def _await(txn: Txn, oid: bytes, deps: Iterable[bytes]) -> tuple[int, Object | None]:
    """Have the task told of each dependency's end. How many are pending, and one that failed or is gone."""
    missing = 0
    for dep in deps:
        found = values.look(txn, dep)
        if found is None:
            return 0, Object(CANCELLED, 1, 1, b"")
        if found.state in (ERROR, CANCELLED):
            return 0, found
        if found.state == PENDING:
            missing += 1
            values.watch(txn, dep, found)
            txn.put(DEPENDENTS + dep + oid, b"")
    return missing, None


def enlist(txn: Txn, session: int) -> None:
    """The session runs tasks from now on."""
    txn.put(WORKERS + pack_id(session), b"")


def workers(txn: Txn) -> int:
    """How many sessions run tasks."""
    return len(list(txn.scan(WORKERS)))


def _count(txn: Txn, change: int) -> int:
    """So many more are ready. Returns how many are."""
    data = txn.get(READY_COUNT)
    ready = (0 if data is None else int.from_bytes(data, "big")) + change
    if change:
        txn.put(READY_COUNT, ready.to_bytes(8, "big"))
    return ready


def _share(txn: Txn, limit: int) -> int:
    """How many tasks a worker may claim: no more than its part of what is ready."""
    if limit == 1:
        return 1
    return min(limit, max(1, -(-_count(txn, 0) // (workers(txn) or 1))))


def _wake_idle(txn: Txn, count: int) -> None:
    while count and (waiters.unpark(txn, LOOKING) or waiters.unpark(txn, IDLE)):
        count -= 1


def claim(
    txn: Txn, session: int, limit: int, waiter: Waiter | None
) -> NotNow | tuple[bytes, list[tuple[bytes, Recipe]]]:
    """Up to `limit` ready tasks for this worker to run; while there are none the waiter is parked, awake.

    Returns the claim's key and the tasks.
    """
    taken: list[tuple[bytes, Recipe]] = []
    limit = _share(txn, limit)
    stale = 0
    while len(taken) < limit:
        batch = list(txn.scan(READY, limit=limit - len(taken)))
        if not batch:
            break
        for key, oid in batch:
            found = values.look(txn, oid)
            if found is None or found.state != PENDING:
                stale += txn.delete(key)
                if found is None:
                    _forget(txn, oid)
                continue
            recipe = RECIPE.unpack(found.data)
            if recipe.deaths:  # Run alone, so that the next death is certainly its own.
                limit = max(len(taken), 1)
                if taken:
                    break
            txn.delete(key)
            taken.append((oid, recipe))
            if len(taken) >= limit:
                break
    _count(txn, -len(taken) - stale)
    if not taken:
        return BUSY if waiter is None else waiters.park(txn, LOOKING, waiter)
    key = CLAIMS + pack_int(session) + pack_int(txn.revision)
    txn.put(key, CLAIM.pack(Claim(tuple(oid for oid, _ in taken))))
    return key, taken


def doze(txn: Txn, waiter: Waiter, bell: int) -> bool:
    """A worker that looked for long enough falls asleep. False if there is something to do."""
    if not waiters.withdraw(txn, waiter) or txn.first(READY) is not None:
        return False
    waiters.park(txn, IDLE, waiter._replace(bell=bell))
    return True


def finish(txn: Txn, claimed: bytes, ends: Sequence[Done]) -> None:
    """The ends of some tasks of a claim; the claim goes with its last task."""
    data = txn.get(claimed)
    if data is None:
        return
    _strike(txn, claimed, data, {end.oid for end in ends})
    settle_all(txn, [end for end in reversed(ends) if not (end.again and _retry(txn, end.oid))])


def _strike(txn: Txn, claimed: bytes, data: bytes, over: set[bytes]) -> None:
    """Take tasks off the claim; it goes with its last one."""
    rest = tuple(oid for oid in CLAIM.unpack(data).oids if oid not in over)
    if rest:
        txn.put(claimed, CLAIM.pack(Claim(rest)))
    else:
        txn.delete(claimed)


def _retry(txn: Txn, oid: bytes) -> bool:
    found = values.look(txn, oid)
    recipe = None if found is None or found.state != PENDING else RECIPE.unpack(found.data)
    if found is None or recipe is None or recipe.retries <= 0:
        return False
    _put_back(txn, oid, found, _with(recipe, retries=recipe.retries - 1))
    return True


def pass_on(txn: Txn) -> None:
    """Wake another idle worker in the caller's place, if there is something to do."""
    if txn.first(READY) is not None:
        _wake_idle(txn, 1)


def unclaim(txn: Txn, claimed: bytes, oids: Iterable[bytes]) -> None:
    """Tasks of a claim that were not begun go back to the front."""
    data = txn.get(claimed)
    if data is None:
        return
    back = set(oids)
    _strike(txn, claimed, data, back)
    for oid in back:
        found = values.look(txn, oid)
        if found is not None and found.state == PENDING:
            _put_first(txn, oid, RECIPE.unpack(found.data))
    _wake_idle(txn, len(back))


def _put_first(txn: Txn, oid: bytes, recipe: Recipe) -> None:
    """Ready, before all others of its priority."""
    txn.put(READY + pack_id(-recipe.priority) + pack_int(0) + oid, oid)
    _count(txn, 1)


def settle(txn: Txn, end: Done) -> None:
    """One task's end, and what follows for those that depend on it."""
    settle_all(txn, [end])


def settle_all(txn: Txn, todo: list[Done]) -> None:
    """As `settle`, for many, the last one first."""
    spent: list[bytes] = []
    while todo:
        end = todo.pop()
        before = values.settle(txn, end.oid, end.state, end.data, end.uses, end.blob)
        if before is None:
            if end.blob:
                txn.unlink(end.blob)
            _forget(txn, end.oid)
            continue
        spent += before.uses
        if not before.is_watched:
            continue
        for key, _ in txn.scan(DEPENDENTS + end.oid):
            txn.delete(key)
            oid = key[1 + len(end.oid) :]
            found = values.look(txn, oid)
            if found is None:
                _forget(txn, oid)
                continue
            if found.state != PENDING:
                continue
            if end.state != FINISHED:
                todo.append(Done(oid, end.state, end.data))
                continue
            recipe = RECIPE.unpack(found.data)
            recipe = _with(recipe, missing=recipe.missing - 1)
            if recipe.missing:
                values.rewrite(txn, oid, found, RECIPE.pack(recipe))
            else:
                _put_back(txn, oid, found, recipe)
    if spent:
        values.release(txn, spent)


def _forget(txn: Txn, oid: bytes) -> None:
    """A task that is gone is waited for by none: what depended on it went before it."""
    gone = [oid]
    while gone:
        oid = gone.pop()
        for key, _ in txn.scan(DEPENDENTS + oid):
            txn.delete(key)
            gone.append(key[1 + len(oid) :])


def cancel(txn: Txn, oids: Iterable[bytes]) -> None:
    """Pending tasks end as cancelled, with their dependents; what has ended stays."""
    settle_all(txn, [Done(oid, CANCELLED, b"") for oid in oids])


def is_claimed(txn: Txn, oid: bytes) -> bool:
    """Whether a worker has the task: it runs, or stands behind one that does."""
    return any(oid in CLAIM.unpack(data).oids for _, data in txn.scan(CLAIMS))


def load(txn: Txn) -> tuple[int, int]:
    """How many tasks are ready to run, and how many workers have."""
    return _count(txn, 0), sum(len(CLAIM.unpack(data).oids) for _, data in txn.scan(CLAIMS))


def cancel_waiting(txn: Txn, oid: bytes) -> bool:
    """Cancel a task that no worker has yet. False, and nothing changes, if one has or had it."""
    found = values.look(txn, oid)
    if found is None or found.state == CANCELLED:
        return True
    if found.state != PENDING or is_claimed(txn, oid):
        return False
    cancel(txn, (oid,))
    return True


def _put_back(txn: Txn, oid: bytes, found: Object, recipe: Recipe) -> None:
    values.rewrite(txn, oid, found, RECIPE.pack(recipe))
    _put_first(txn, oid, recipe)
    _wake_idle(txn, 1)


def bury(txn: Txn, session: int, note: int) -> None:
    """The tasks that a dead worker had claimed run again, those that killed too many fail."""
    txn.delete(WORKERS + pack_id(session))
    for key, data in txn.scan(CLAIMS + pack_int(session)):
        txn.delete(key)
        oids = CLAIM.unpack(data).oids
        for oid in oids:
            found = values.look(txn, oid)
            if found is None or found.state != PENDING:
                continue
            recipe = RECIPE.unpack(found.data)
            deaths = recipe.deaths + 1
            if deaths > MAX_DEATHS:
                settle(txn, Done(oid, ERROR, KILLED + f"{recipe.name}|{deaths}|{session}".encode()))
            else:
                _put_back(txn, oid, found, _with(recipe, deaths=deaths))


def _with(old: Recipe, *, missing: int | None = None, retries: int | None = None, deaths: int | None = None) -> Recipe:
    return Recipe(
        old.name,
        old.function,
        old.args,
        old.deps,
        old.retries if retries is None else retries,
        old.deaths if deaths is None else deaths,
        old.missing if missing is None else missing,
        old.priority,
        old.is_plain,
    )
