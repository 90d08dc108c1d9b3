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
from ...store.keys import pack_id, pack_int, unpack
from ...store.records import Form, Record
from ...store.transaction import Txn, Waiter

READY = b"\x40"
CLAIMS = b"\x41"
DEPENDENTS = b"\x42"
IDLE = b"\x43"
LOOKING = b"\x44"
"""Places of workers without a task: asleep, and still awake. The latter are served first: they need no ring."""
WORKERS = b"\x45"
RESERVED = b"\x49"
"""Ready tasks that ask something of their worker. The region's byte alone is there while there may be some."""
READY_COUNT = b"\x46"
"""How many keys there are under READY, so that a worker can leave the others their share."""
FIRED = b"\x47"
"""Tasks that nobody need refer to: each holds itself until it has ended."""
LOOK_AHEAD = 8
"""How far from the front of READY a task is found that somebody waits for."""
CHAIN = b"C"
"""First byte of an error that came from a task that this one depends on: their names, the first cause's first, follow
behind their length, and then the error."""
MAX_CHAIN_BYTES = 1000
MAX_DEATHS = 3
KILLED = b"K"
"""First byte of an error that is not a pickled exception: the task's name follows."""
FULL = b"F"
"""The error of a task whose end did not fit: smaller than any recipe, so that it fits where that was."""


Amounts = tuple[tuple[str, float], ...]
"""Of resources, by name."""


class Demand(Record, tag=1, frozen=True):
    """What a task asks of its worker: to have one of these names (none: any), and so much of each resource."""

    workers: tuple[str, ...] = ()
    resources: Amounts = ()


class WorkerInfo(Record, tag=1, frozen=True):
    """What a worker is, for those who ask."""

    pid: int
    threads: int = 1
    resources: Amounts = ()
    memory_limit: int = 0
    """In bytes; 0: none."""


class Able:
    """What one worker can do now. Belongs to its process, not to the store: only it takes what it has."""

    def __init__(self, names: frozenset[str] = frozenset(), resources: Amounts = ()) -> None:
        self.names = names
        self._free = dict(resources)

    def can(self, demand: Demand) -> bool:
        """Whether it may run a task with that demand, and has what it needs."""
        if demand.workers and self.names.isdisjoint(demand.workers):
            return False
        return all(self._free.get(name, 0) >= amount for name, amount in demand.resources)

    def take(self, demand: Demand | None) -> None:
        """So much less is free."""
        if demand is not None:
            for name, amount in demand.resources:
                self._free[name] -= amount

    def give_back(self, demand: Demand) -> None:
        """So much more is free."""
        for name, amount in demand.resources:
            self._free[name] += amount


_ANY = Able()


def names_of(session: int, pid: int) -> tuple[str, str]:
    """What a worker may be called by: its address, and its name."""
    return f"local://{pid}", f"worker-{session}"


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
    demand: Demand | None = None


class Claim(Record, tag=1, frozen=True):
    """Tasks that one worker runs, one after the other, and since when. `lane`: where it marks which (-1: nowhere)."""

    oids: tuple[bytes, ...]
    since: float = 0.0
    lane: int = -1


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
INFO = Form(WorkerInfo)


def submit(txn: Txn, tasks: Sequence[tuple[bytes, Recipe, tuple[bytes, ...]]], is_nested: bool = False) -> None:
    """New tasks, as (object id, recipe, what it uses), each held once by the session that its id names.

    Those that tasks submit come first, the newest foremost: a tree of tasks is worked off to its leaves before it grows
    wider, so that few wait at a time.
    """
    ready = 0
    stamp = pack_int(-txn.revision if is_nested else txn.revision)
    used: list[bytes] = []
    met: dict[bytes, Object] = {}
    for oid, recipe, uses in tasks:
        if recipe.deps:
            missing, failed = _await(txn, oid, recipe.deps, met)
            if failed is not None:
                data = _handed_on(failed.data, "", recipe.name) if failed.state == ERROR else b""
                values.make(txn, oid, failed.state, data)
                continue
            if missing:
                recipe = _with(recipe, missing=missing)
        values.lay(txn, oid, PENDING, RECIPE.pack(recipe), uses)
        used += uses
        if not recipe.missing:
            ready += _line_up(txn, oid, recipe, stamp)
    values.hold(txn, used, met)
    if ready:
        _count(txn, ready)
        _wake_idle(txn, ready)


def submit_keyed(
    txn: Txn,
    session: int,
    tasks: Sequence[tuple[bytes, Recipe, tuple[bytes, ...]]],
    keys: Sequence[bytes],
    is_nested: bool = False,
) -> list[bytes]:
    """As `submit`, but of tasks with the same key, one runs for all. Returns the objects that stand for the results."""
    stand: list[bytes] = []
    for task, key in zip(tasks, keys, strict=True):
        known = values.named(txn, key)
        if known is not None:
            values.hold_for(txn, session, (known[0],))
            stand.append(known[0])
            continue
        submit(txn, (task,), is_nested)
        values.name(txn, task[0], key)
        stand.append(task[0])
    return stand


def fire(txn: Txn, oids: Iterable[bytes]) -> None:
    """The tasks run to their end though nobody refers to them."""
    for oid in oids:
        found = values.look(txn, oid)
        if found is not None and found.state == PENDING and txn.get(FIRED + oid) is None:
            txn.put(FIRED + oid, b"")
            values.watch(txn, oid, found)
            values.hold(txn, (oid,))


def _await(txn: Txn, oid: bytes, deps: Sequence[bytes], met: dict[bytes, Object]) -> tuple[int, Object | None]:
    """Have the task told of each dependency's end. How many are pending, and one that failed or is gone.

    The dependencies are read once and left in `met`, for the caller, who holds them, to write them once.
    """
    missing = 0
    for dep in deps:
        found = met.get(dep) or values.look(txn, dep)
        if found is None:
            return 0, Object(CANCELLED, 1, 1, b"")
        if found.state in (ERROR, CANCELLED):
            return 0, found
        met[dep] = found
        missing += found.state == PENDING
    if missing:
        for dep in deps:
            found = met[dep]
            if found.state == PENDING:
                txn.put(DEPENDENTS + dep + oid, b"")
                if not found.is_watched:
                    met[dep] = values.watched(found)
    return missing, None


def enlist(txn: Txn, session: int, info: WorkerInfo | None = None) -> None:
    """The session runs tasks from now on."""
    txn.put(WORKERS + pack_id(session), INFO.pack(info or WorkerInfo(0)))


def crew(txn: Txn) -> dict[int, WorkerInfo]:
    """Who runs tasks, by session."""
    return {unpack(key[1:])[0]: INFO.unpack(data) for key, data in txn.scan(WORKERS)}


def pid_of(txn: Txn, session: int) -> int:
    """The process of a worker; 0 if it is not known any more."""
    data = txn.get(WORKERS + pack_id(session))
    return INFO.unpack(data).pid if data else 0


def killed(name: str, deaths: int, pid: int) -> bytes:
    """The error of a task under which so many workers died, the last one with that process id."""
    return KILLED + f"{name}|{deaths}|{pid}".encode()


def slots(txn: Txn) -> int:
    """How many tasks can run at a time."""
    return sum(INFO.unpack(data).threads for _, data in txn.scan(WORKERS))


def workers(txn: Txn) -> int:
    """How many sessions run tasks."""
    return len(list(txn.scan(WORKERS)))


def load(txn: Txn) -> int:
    """How many tasks run or are ready, of those that any worker may take."""
    running = sum(len(CLAIM.unpack(data).oids) for _, data in txn.scan(CLAIMS))
    return running + _count(txn, 0)


def _count(txn: Txn, change: int) -> int:
    """So many more are ready. Returns how many are."""
    data = txn.get(READY_COUNT)
    ready = (0 if data is None else int.from_bytes(data, "big")) + change
    if change:
        txn.put(READY_COUNT, ready.to_bytes(8, "big"))
    return ready


def ready(txn: Txn) -> int:
    """How many tasks stand in line for a worker, those included that were cancelled meanwhile."""
    return _count(txn, 0)


def _share(txn: Txn, limit: int) -> int:
    """How many tasks a worker may claim: no more than its part of what is ready."""
    if limit == 1:
        return 1
    return min(limit, max(1, -(-_count(txn, 0) // (workers(txn) or 1))))


def _wake_idle(txn: Txn, count: int) -> None:
    while count and (waiters.unpark(txn, LOOKING) or waiters.unpark(txn, IDLE)):
        count -= 1


def claim(
    txn: Txn,
    session: int,
    limit: int,
    waiter: Waiter | None,
    able: Able = _ANY,
    now: float = 0.0,
    lane: int = -1,
) -> NotNow | tuple[bytes, list[tuple[bytes, Recipe]]]:
    """Up to `limit` ready tasks for this worker to run; while there are none the waiter is parked, awake.

    Returns the claim's key and the tasks. One that asks for what this worker is `able` to do comes first, alone.
    """
    reserved = _reserved(txn, able)
    if reserved is not None:
        return _claimed(txn, session, [reserved], now, lane)
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
    return _claimed(txn, session, taken, now, lane)


def _claimed(
    txn: Txn, session: int, taken: list[tuple[bytes, Recipe]], now: float, lane: int = -1
) -> tuple[bytes, list[tuple[bytes, Recipe]]]:
    key = CLAIMS + pack_int(session) + pack_int(txn.revision)
    txn.put(key, CLAIM.pack(Claim(tuple(oid for oid, _ in taken), now, lane)))
    return key, taken


class Running(NamedTuple):
    """The tasks of one claim: the first one runs, or is about to; `behind` so many come after it."""

    session: int
    oid: bytes
    key: bytes | None
    name: str
    since: float
    behind: int


def at_work(txn: Txn, after: bytes, limit: int) -> tuple[list[Running], bytes]:
    """What some workers run, behind the claim `after`; and the key of the last claim looked at, empty behind all."""
    found, last = [], b""
    for last, data in txn.scan(CLAIMS, after=after, limit=limit):
        claim = CLAIM.unpack(data)
        pending = [(oid, task) for oid in claim.oids if (task := values.look(txn, oid)) and task.state == PENDING]
        if pending:
            oid, task = pending[0]
            recipe = RECIPE.unpack(task.data)
            key = values.key_of(txn, oid)
            found.append(Running(session_of(last), oid, key, recipe.name, claim.since, len(pending) - 1))
    return found, last


def session_of(claimed: bytes) -> int:
    """Whose claim that is."""
    return int(unpack(claimed[1:])[0])


def claim_of(txn: Txn, oid: bytes) -> tuple[int, float] | None:
    """Which session has claimed the task, and when. Looks at every claim in the hall: as many as threads that work."""
    for key, data in txn.scan(CLAIMS):
        claim = CLAIM.unpack(data)
        if oid in claim.oids:
            return session_of(key), claim.since
    return None


def _reserved(txn: Txn, able: Able) -> tuple[bytes, Recipe] | None:
    """The first of the ready tasks with a demand that this worker may run."""
    if txn.get(RESERVED) is None:
        return None
    ready = list(txn.scan(RESERVED, after=RESERVED))
    if not ready:
        txn.delete(RESERVED)
    for place, oid in ready:
        found = values.look(txn, oid)
        if found is None or found.state != PENDING:
            txn.delete(place)
            continue
        recipe = RECIPE.unpack(found.data)
        if recipe.demand is None or able.can(recipe.demand):
            txn.delete(place)
            return oid, recipe
    return None


def claim_one(txn: Txn, session: int, oid: bytes, now: float = 0.0) -> tuple[bytes, list[tuple[bytes, Recipe]]] | None:
    """As `claim`, for this task alone, if it is among the next to be claimed."""
    for place, ready in txn.scan(READY, limit=LOOK_AHEAD):
        if ready == oid:
            found = values.look(txn, oid)
            recipe = None if found is None or found.state != PENDING else RECIPE.unpack(found.data)
            if recipe is None or recipe.deaths:  # Who has killed a worker runs alone.
                return None
            txn.delete(place)
            _count(txn, -1)
            return _claimed(txn, session, [(oid, recipe)], now)
    return None


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
    claim = CLAIM.unpack(data)
    rest = tuple(oid for oid in claim.oids if oid not in over)
    if rest:
        txn.put(claimed, CLAIM.pack(Claim(rest, claim.since, claim.lane)))
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
        if found is None:
            _forget(txn, oid)
        elif found.state == PENDING:
            _put_first(txn, oid, RECIPE.unpack(found.data))
    _wake_idle(txn, len(back))


def _put_first(txn: Txn, oid: bytes, recipe: Recipe) -> None:
    """Ready, before all others of its priority."""
    _count(txn, _line_up(txn, oid, recipe, pack_int(0)))


def _line_up(txn: Txn, oid: bytes, recipe: Recipe, stamp: bytes) -> int:
    """The task is ready. Returns how many more any worker may take: none, and all look, if it asks for certain ones."""
    region = READY if recipe.demand is None else RESERVED
    txn.put(region + pack_id(-recipe.priority) + stamp + oid, oid)
    if recipe.demand is None:
        return 1
    txn.put(RESERVED, b"")
    wake_all(txn)
    return 0


def wake_all(txn: Txn) -> None:
    """All workers look what there is to do."""
    waiters.unpark_all(txn, LOOKING)
    waiters.unpark_all(txn, IDLE)


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
        if txn.delete(FIRED + end.oid):
            spent.append(end.oid)
        for key, _ in txn.scan(DEPENDENTS + end.oid):
            txn.delete(key)
            oid = key[1 + len(end.oid) :]
            found = values.look(txn, oid)
            if found is None:
                _forget(txn, oid)
                continue
            if found.state != PENDING:
                continue
            recipe = RECIPE.unpack(found.data)
            if end.state != FINISHED:
                data = _handed_on(end.data, _name(before), recipe.name) if end.state == ERROR else b""
                todo.append(Done(oid, end.state, data))
                continue
            recipe = _with(recipe, missing=recipe.missing - 1)
            if recipe.missing:
                values.rewrite(txn, oid, found, RECIPE.pack(recipe))
            else:
                _put_back(txn, oid, found, recipe)
    if spent:
        values.release(txn, spent)


def _name(task: Object) -> str:
    return RECIPE.unpack(task.data).name if task.data else ""


def _handed_on(error: bytes, cause: str, name: str) -> bytes:
    """The error of a task, `cause`, as that of the next one, which depends on it."""
    names, rest = chain_of(error)
    chain = "\n".join([*(names or [cause or "another task"]), name]).encode()
    if len(chain) > MAX_CHAIN_BYTES:
        return error
    return CHAIN + len(chain).to_bytes(2, "big") + chain + rest


def chain_of(error: bytes) -> tuple[list[str], bytes]:
    """Through which tasks the error came, the first cause first, and the error of that."""
    if error[:1] != CHAIN:
        return [], error
    end = 3 + int.from_bytes(error[1:3], "big")
    return error[3:end].decode().split("\n"), error[end:]


def _forget(txn: Txn, oid: bytes) -> None:
    """A task that is gone is waited for by none: what depended on it went before it."""
    gone = [oid]
    while gone:
        oid = gone.pop()
        for key, _ in txn.scan(DEPENDENTS + oid):
            txn.delete(key)
            gone.append(key[1 + len(oid) :])


def running(txn: Txn, oids: Iterable[bytes]) -> list[tuple[int, bytes]]:
    """Those of the tasks that a worker has claimed, as (its session, task)."""
    wanted = set(oids)
    return [
        (session_of(key), oid)
        for key, data in txn.scan(CLAIMS)
        for oid in CLAIM.unpack(data).oids
        if oid in wanted
    ]  # fmt: skip


def claimed(txn: Txn) -> dict[int, list[str]]:
    """The keys of the tasks that each worker has claimed, by its session."""
    keys: dict[int, list[str]] = {}
    for key, data in txn.scan(CLAIMS):
        for oid in CLAIM.unpack(data).oids:
            found = values.look(txn, oid)
            if found is not None and found.state == PENDING:
                shown = shown_key(RECIPE.unpack(found.data).name, oid, values.key_of(txn, oid))
                keys.setdefault(session_of(key), []).append(shown)
    return keys


def shown_key(name: str, oid: bytes, given: bytes | None) -> str:
    """A task's key as its future has it: what was given, or the function's name and a number."""
    return f"{name}-{oid.hex()}" if given is None else given.decode("utf-8", "surrogatepass")


def run_again(txn: Txn, oid: bytes, recipe: bytes, uses: tuple[bytes, ...]) -> None:
    """A task that had ended is to run once more, as it was submitted."""
    found = values.look(txn, oid)
    if found is not None and values.reopen(txn, oid, found, recipe, uses):
        _put_first(txn, oid, RECIPE.unpack(recipe))
        _wake_idle(txn, 1)


def cancel_all(txn: Txn) -> None:
    """Every task that has not ended ends as cancelled."""
    cancel(txn, [key[1:] for key, data in txn.scan(values.OBJECTS) if values.OBJECT.unpack(data).state == PENDING])


def cancel(txn: Txn, oids: Iterable[bytes]) -> None:
    """Pending tasks end as cancelled, with their dependents; what has ended stays."""
    settle_all(txn, [Done(oid, CANCELLED, b"") for oid in oids])


def awaits(txn: Txn, oid: bytes) -> tuple[str, list[bytes]] | None:
    """What a pending task is called, and the pending ones that it depends on (none: it is ready or runs); None if it
    is not pending."""
    found = values.look(txn, oid)
    if found is None or found.state != PENDING:
        return None
    recipe = RECIPE.unpack(found.data)
    return recipe.name, [dep for dep in recipe.deps if values.settled(txn, dep) is BUSY] if recipe.missing else []


def is_claimed(txn: Txn, oid: bytes) -> bool:
    """Whether a worker has the task: it runs, or stands behind one that does."""
    return bool(running(txn, (oid,)))


def standing(txn: Txn) -> tuple[int, int]:
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


def mark_of(oid: bytes) -> int:
    """What a worker writes into the word of its lane before it begins the task: it differs from those of the claim's
    other tasks."""
    return int.from_bytes(oid[-7:], "big")


def bury(txn: Txn, session: int, marks: Sequence[int] = ()) -> None:
    """The tasks that a dead worker had claimed run again. The one that ran counts a death; too many, and it fails.

    `marks`: the words of its lanes. A claim that has none there counts for each of its tasks.
    """
    pid = pid_of(txn, session)
    txn.delete(WORKERS + pack_id(session))
    for key, data in txn.scan(CLAIMS + pack_int(session)):
        txn.delete(key)
        claim = CLAIM.unpack(data)
        mark = marks[claim.lane] if 0 <= claim.lane < len(marks) else None
        for oid in claim.oids:
            found = values.look(txn, oid)
            if found is None:
                _forget(txn, oid)
            if found is None or found.state != PENDING:
                continue
            recipe = RECIPE.unpack(found.data)
            deaths = recipe.deaths + (mark is None or mark == mark_of(oid))
            if deaths > MAX_DEATHS:
                settle(txn, Done(oid, ERROR, killed(recipe.name, deaths, pid)))
            else:
                _put_back(txn, oid, found, _with(recipe, deaths=deaths))
    pass_on(txn)  # It may have been woken for a task that it did not come to claim.


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
        old.demand,
    )
