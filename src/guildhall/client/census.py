"""All that is in a hall, as one record: for `Hall.snapshot`, the command line and whoever else looks from outside.

A new kind of thing takes a line in KINDS. Everything is read in many short transactions, none of which holds a writer
up or keeps old pages for long (`primitives/census.py`); so each thing is of one moment, but not all of the same one.
"""

from __future__ import annotations

import dataclasses
import reprlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from .. import deadline
from ..engine.local import tasks
from ..hosts.embedded import EmbeddedHost
from ..hosts.observer import Looking, blob_files
from ..primitives import (
    barrier,
    census,
    condition,
    counter,
    election,
    event,
    latch,
    limiter,
    lock,
    multilock,
    pool,
    queue,
    rlock,
    rwlock,
    semaphore,
    sessions,
    topic,
    values,
    variable,
)
from ..primitives.values import OBJECT, PENDING
from ..primitives.waiters import LINES
from ..store.keys import name_of
from ..store.records import damage_of
from .handles import statistics
from .peek import unshown

PAGE = 32
"""So many keys are looked at in one transaction."""
FEW = 8
"""So many things, of which each takes 10 us, or records of tasks and values, which may have 64 KiB each."""
MANY = 1 << 40
DEEPEST = 50
"""So deep users' values are taken apart: one may contain itself."""
LONGEST_BITS = 2000


@dataclass(frozen=True)
class Kind:
    """One kind of things that have names: where their records are, and the op that tells of one of them.

    `awaited` is where those have keys that have no record while somebody waits for them.
    """

    word: str
    region: bytes
    of: Callable[..., Any]
    awaited: tuple[bytes, ...] = ()
    has_leases: bool = False


KINDS = (
    Kind(
        "variable", variable.VARIABLES, statistics.of_variable, (LINES + variable.VARIABLES, LINES + variable.WATCHERS)
    ),
    Kind("counter", counter.COUNTERS, statistics.of_counter),
    Kind("queue", queue.QUEUES, statistics.of_queue),
    Kind("topic", topic.TOPICS, statistics.of_topic),
    Kind("lock", lock.LOCKS, statistics.of_lock),
    Kind("rlock", rlock.RLOCKS, statistics.of_rlock),
    Kind("rwlock", rwlock.RWLOCKS, statistics.of_rwlock, has_leases=True),
    Kind("multilock", multilock.MULTILOCKS, statistics.of_multilock_name, (multilock.REQUESTED,)),
    Kind("semaphore", semaphore.SEMAPHORES, statistics.of_semaphore, has_leases=True),
    Kind("event", event.EVENTS, statistics.of_event, (LINES + event.EVENTS,)),
    Kind("barrier", barrier.BARRIERS, statistics.of_barrier),
    Kind("latch", latch.LATCHES, statistics.of_latch),
    Kind("condition", condition.CONDITIONS, statistics.of_condition, (LINES + condition.CONDITIONS,)),
    Kind("election", election.ELECTIONS, statistics.of_election, (LINES + election.WATCHERS,)),
    Kind("rate-limiter", limiter.LIMITS, statistics.of_limiter),
)
BY_WORD = {kind.word: kind for kind in KINDS}


@dataclass(frozen=True, slots=True)
class Thing:
    """Something with a name, and what its `statistics()` tells."""

    kind: str
    name: Any
    statistics: Any


@dataclass(frozen=True, slots=True)
class Held:
    """Something with a name that a session holds."""

    kind: str
    name: Any


@dataclass(frozen=True, slots=True)
class SessionSeen:
    """One process in the hall, what it holds, and the keys of the tasks that it runs."""

    number: int
    pid: int
    role: str
    since: float | None
    is_alive: bool
    holds: tuple[Held, ...]
    tasks: tuple[str, ...]
    is_stopped: bool = False
    """Whether its process is there, and does nothing until it is told to go on (SIGSTOP)."""


@dataclass(frozen=True, slots=True)
class RunningTask:
    """A task that a worker runs since it took it; `behind` so many that it took with it have not begun."""

    key: str
    name: str
    session: int
    pid: int | None
    since: float | None
    behind: int


@dataclass(frozen=True, slots=True)
class Tasks:
    """How many are "ready", "running", "waiting" (for other tasks), "finished", "error" and "cancelled", as long as a
    future is there. Values that were placed by themselves count as finished.

    `is_complete` is False where so many were there that not all were looked at.
    """

    by_state: Mapping[str, int]
    running: tuple[RunningTask, ...]
    is_complete: bool


@dataclass(frozen=True, slots=True)
class Blobs:
    """The files of large values; `elsewhere` so many are in the temporary directory, for want of room."""

    count: int
    size_bytes: int
    elsewhere: int


@dataclass(frozen=True, slots=True)
class StoreSeen:
    """What the store takes, of its file, and what can still be written, with the room that its file system has.
    `readers` look at it right now."""

    used_bytes: int
    file_bytes: int
    room_bytes: int
    left_bytes: int
    is_in_memory: bool
    is_nearly_full: bool
    readers: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A hall as it was about `time` (seconds since 1970), with every commit up to `revision`, and perhaps later ones.

    `things` has, for each kind, what has a name, in the order of the names.
    """

    path: str
    revision: int
    time: float
    sessions: tuple[SessionSeen, ...]
    tasks: Tasks
    things: Mapping[str, tuple[Thing, ...]]
    blobs: Blobs
    store: StoreSeen

    def as_dict(self) -> dict[str, Any]:
        """The same as dicts, lists, texts and numbers: ready for `json.dumps`."""
        plain: dict[str, Any] = as_plain(self)
        return plain


def as_plain(value: Any, around: tuple[int, ...] = ()) -> Any:
    """Records as dicts, tuples as lists; what JSON has no form for, what contains itself and what lies very deep as
    text. A kind's name is not told twice."""
    if isinstance(value, Thing):
        return {"name": as_plain(value.name), **as_plain(value.statistics)}
    if value is None or isinstance(value, str | float | bool) or (isinstance(value, int) and _has_digits(value)):
        return value
    if id(value) in around or len(around) > DEEPEST:
        return told(value)
    around = (*around, id(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_plain(getattr(value, field.name), around) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {told(key): as_plain(item, around) for key, item in value.items()}
    if isinstance(value, tuple | list | set | frozenset):
        return [as_plain(item, around) for item in value]
    return told(value)


def told(value: Any) -> str:
    """As text, whatever it is: values are users', and so is how they print."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not _has_digits(value):
        return f"<a number of {value.bit_length()} bits>"
    try:
        return (reprlib.repr if isinstance(value, tuple | list | Mapping) else repr)(value)
    except Exception as error:
        return unshown(value, error)


def _has_digits(number: int) -> bool:
    """Python writes no longer ones in digits, as that takes the square of their length."""
    return number.bit_length() < LONGEST_BITS


def take(hall: Looking, *, max_objects: int = MANY) -> Snapshot:
    """Look at everything. Of tasks and values at most so many are counted. Raises HallDamaged if it cannot be read."""
    try:
        return _taken(hall, max_objects)
    except Exception as error:  # Most of it is read here, and not in the ops that look it up.
        if (damage := damage_of(error)) is not None:
            raise damage from error
        raise


def _taken(hall: Looking, max_objects: int) -> Snapshot:
    revision, at = hall.revision(), time.time()
    everybody = hall.read(sessions.everybody)
    pids = {session.number: session.pid for session in everybody}
    running = tuple(_running(hall, pids))
    leases = leases_of(hall)
    found = {kind.word: tuple(things(hall, kind, leases)) for kind in KINDS}
    return Snapshot(
        hall.directory,
        revision,
        at,
        tuple(_sessions(hall, everybody, running, found)),
        _tasks(hall, running, max_objects),
        {word: some for word, some in found.items() if some},
        _blobs(hall),
        _store(hall),
    )


# -- things -----------------------------------------------------------------------------------------------------------


def things(hall: Looking, kind: Kind, leases: statistics.Leases) -> Iterator[Thing]:
    """All things of the kind, in the order of their names as they are stored."""
    of = partial(kind.of, leases=leases) if kind.has_leases else kind.of
    names = sorted({name for prefix in (kind.region, *kind.awaited) for name in _names(hall, prefix)})
    for at in range(0, len(names), FEW):
        some = names[at : at + FEW]
        for name, seen in zip(some, hall.read(census.each, of, some)):
            yield Thing(kind.word, name_of(name), seen)


def thing(hall: Looking, kind: Kind, key: bytes) -> Thing | None:
    """The thing of that kind and packed name; None if there is none."""
    if not any(hall.read(census.page, prefix + key, b"", 1) for prefix in (kind.region, *kind.awaited)):
        return None
    return Thing(kind.word, name_of(key), hall.read(kind.of, name_of(key), key))


def _names(hall: Looking, prefix: bytes) -> Iterator[bytes]:
    after = b""
    while some := hall.read(census.names, prefix, after, PAGE):
        yield from some
        after = some[-1]


def pairs(hall: Looking, prefix: bytes, size: int = PAGE) -> Iterator[tuple[bytes, bytes]]:
    """All keys that start with the prefix, and what is stored there."""
    after = b""
    while some := hall.read(census.page, prefix, after, size):
        yield from some
        after = some[-1][0]


def leases_of(hall: Looking) -> statistics.Leases:
    """All leases of the hall, the oldest first, by what they are leases of."""
    found: dict[bytes, list[tuple[int, pool.Lease]]] = {}
    for key, data in pairs(hall, pool.LEASES):
        place, session, lease = pool.read(key, data)
        found.setdefault(place, []).append((session, lease))
    for some in found.values():
        some.sort(key=lambda pair: pair[1].token)
    return found


# -- sessions and tasks -----------------------------------------------------------------------------------------------


def _sessions(
    hall: Looking,
    everybody: list[sessions.Session],
    running: tuple[RunningTask, ...],
    found: Mapping[str, tuple[Thing, ...]],
) -> Iterator[SessionSeen]:
    holds: dict[int, list[Held]] = {}
    for some in found.values():
        for each in some:
            for session in {holder.session: None for holder in getattr(each.statistics, "holders", ())}:
                holds.setdefault(session, []).append(Held(each.kind, each.name))
    for one in everybody:
        is_alive = hall.is_alive(one.number)
        yield SessionSeen(
            one.number,
            one.pid,
            one.role,
            _when(one.since),
            is_alive,
            tuple(holds.get(one.number, ())),
            tuple(task.key for task in running if task.session == one.number),
            is_alive and is_stopped(one.pid),
        )


def is_stopped(pid: int) -> bool:
    """Whether the process is stopped, as by SIGSTOP."""
    import psutil

    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.Error:
        return False


def _running(hall: Looking, pids: Mapping[int, int]) -> Iterator[RunningTask]:
    after = b""
    while True:
        some, after = hall.read(tasks.at_work, after, PAGE)
        if not after:
            return
        for one in some:
            key = tasks.shown_key(one.name, one.oid, one.key)
            yield RunningTask(key, one.name, one.session, pids.get(one.session), _when(one.since), one.behind)


def _tasks(hall: Looking, running: tuple[RunningTask, ...], max_objects: int) -> Tasks:
    counts = dict.fromkeys(("ready", "running", "waiting", "finished", "error", "cancelled"), 0)
    seen = 0
    for _, data in pairs(hall, values.OBJECTS, FEW):
        seen += 1
        if seen > max_objects:
            break
        found = OBJECT.unpack(data)
        if found.state != PENDING:
            counts[statistics.STATES[found.state]] += 1
        elif tasks.RECIPE.unpack(found.data).missing:
            counts["waiting"] += 1
        else:
            counts["ready"] += 1
    is_complete = seen <= max_objects
    counts["running"] = len(running)
    counts["ready"] = max(0, counts["ready"] - len(running)) if is_complete else hall.read(tasks.ready)
    return Tasks(counts, running, is_complete)


# -- rooms ------------------------------------------------------------------------------------------------------------


def _blobs(hall: Looking) -> Blobs:
    if isinstance(hall, EmbeddedHost) and hall.is_far:
        return Blobs(*hall.blobs(), 0)
    files = blob_files(hall.directory)
    return Blobs(len(files), sum(file.size_bytes for file in files), sum(file.is_elsewhere for file in files))


def _store(hall: Looking) -> StoreSeen:
    usage = hall.usage()
    readers = sum(reader.transaction is not None for reader in hall.readers())
    return StoreSeen(
        usage.used_bytes,
        usage.file_bytes,
        usage.room_bytes,
        usage.left_bytes,
        usage.is_in_memory,
        usage.is_nearly_full,
        readers,
    )


def _when(at: float) -> float | None:
    return deadline.epoch(at) if at else None
