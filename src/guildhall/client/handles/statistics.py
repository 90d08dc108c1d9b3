"""What `statistics()` answers: a frozen record of one thing at one moment, and the op that reads it.

The records are here and not with their handles, because a hall that lists all its things reads them, too. An op is
`of_<kind>(txn, name, packed name)`; `client/census.py` has the table of kinds. Each record has a `kind` and a `name`,
who is `waiting` and for what, and, of what can be held, its `holders`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ... import deadline
from ...engine.local import payload, tasks
from ...primitives import (
    barrier,
    condition,
    counter,
    election,
    event,
    introduction,
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
    waiters,
)
from ...store.keys import name_of
from ...store.transaction import Txn, Waiter


@dataclass(frozen=True, slots=True)
class Holder:
    """One who holds. `since` is in seconds since 1970 (None: unknown), as is `until`, when a lease ends."""

    session: int
    pid: int | None
    since: float | None
    fencing_token: int
    mode: str = ""
    """"read" or "write" of an RWLock."""
    count: int = 1
    """How often the owner of an RLock holds it."""
    names: tuple[Any, ...] = ()
    """Which names of a MultiLock."""
    until: float | None = None
    previous_holder_died: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """One who waits. `mode` is what it waits for, where that may be several things: to "read" or "write", to "get" or
    "put". `since` is in seconds since 1970 (None: unknown)."""

    session: int
    pid: int | None
    mode: str = ""
    since: float | None = None


@dataclass(frozen=True, slots=True)
class Statistics:
    """Who holds, and who waits, the longest first. `capacity` is how many can hold at a time (None: not a number)."""

    kind: str
    name: Any
    holders: tuple[Holder, ...]
    waiting: tuple[Waiting, ...]
    capacity: int | None = 1


def _pid(txn: Txn, session: int) -> int | None:
    found = sessions.look(txn, session)
    return None if found is None else found.pid


def _when(at: float | None) -> float | None:
    return deadline.epoch(at) if at else None


def _waiting(txn: Txn, line: Iterable[tuple[Waiter, bytes]], mode: str = "") -> tuple[Waiting, ...]:
    return tuple(Waiting(waiter.session, _pid(txn, waiter.session), mode, _when(waiter.since)) for waiter, _ in line)


def _at(txn: Txn, place: bytes, mode: str = "") -> tuple[Waiting, ...]:
    """Those in line at the place."""
    return _waiting(txn, waiters.line(txn, place), mode)


def _mode(units: int) -> str:
    return "read" if units == rwlock.READ else "write"


def of_lock(txn: Txn, name: Any, key: bytes) -> Statistics:
    held = lock.look(txn, key)
    holders = () if held is None else (
        Holder(
            held.session, _pid(txn, held.session), _when(held.since), held.token, until=_when(held.until),
            previous_holder_died=held.is_inherited,
        ),
    )  # fmt: skip
    return Statistics("lock", name, holders, _at(txn, lock.LOCKS + key))


def of_rlock(txn: Txn, name: Any, key: bytes) -> Statistics:
    held = rlock.look(txn, key)
    holders = () if held is None else (
        Holder(
            held.session, _pid(txn, held.session), _when(held.since), held.token, count=held.count,
            previous_holder_died=held.is_inherited,
        ),
    )  # fmt: skip
    return Statistics("rlock", name, holders, _at(txn, rlock.RLOCKS + key))


Leases = Mapping[bytes, Sequence[tuple[int, pool.Lease]]]
"""All leases of a hall, by the place whose they are: for one who asks for many places."""


def of_rwlock(txn: Txn, name: Any, key: bytes, leases: Leases | None = None) -> Statistics:
    place = rwlock.RWLOCKS + key
    holders = _lessees(txn, place, leases, has_modes=True)
    waiting = tuple(
        Waiting(waiter.session, _pid(txn, waiter.session), _mode(int.from_bytes(want[1:], "big")), _when(waiter.since))
        for waiter, want in waiters.line(txn, place)
    )
    return Statistics("rwlock", name, holders, waiting, None)


def of_semaphore(txn: Txn, name: Any, key: bytes, leases: Leases | None = None) -> Statistics:
    place = semaphore.SEMAPHORES + key
    found = pool.look(txn, place)
    capacity = None if found is None else found.capacity
    return Statistics("semaphore", name, _lessees(txn, place, leases), _at(txn, place), capacity)


def _lessees(txn: Txn, place: bytes, leases: Leases | None, *, has_modes: bool = False) -> tuple[Holder, ...]:
    return tuple(
        Holder(
            session, _pid(txn, session), _when(lease.since), lease.token, _mode(lease.units) if has_modes else "",
            previous_holder_died=lease.is_inherited,
        )
        for session, lease in (pool.leases(txn, place) if leases is None else _valid(txn, place, leases))
    )  # fmt: skip


def _valid(txn: Txn, place: bytes, leases: Leases) -> list[tuple[int, pool.Lease]]:
    """Those that are not of a pool which the name had before."""
    found = pool.look(txn, place)
    return [pair for pair in leases.get(place, ()) if found is not None and pair[1].born == found.born]


def of_multilock(txn: Txn, names: tuple[Any, ...], keys: tuple[bytes, ...]) -> Statistics:
    grants: dict[tuple[int, int], tuple[multilock.Held, list[Any]]] = {}
    for key in keys:
        held = multilock.look(txn, key)
        if held is not None:
            grants.setdefault((held.session, held.grant), (held, []))[1].append(name_of(key))
    holders = tuple(
        Holder(
            held.session, _pid(txn, held.session), _when(held.since), held.token, names=tuple(some),
            previous_holder_died=held.is_inherited,
        )
        for held, some in grants.values()
    )  # fmt: skip
    return Statistics("multilock", names, holders, _waiting(txn, multilock.line(txn, keys)), len(names))


def of_multilock_name(txn: Txn, name: Any, key: bytes) -> Statistics:
    return of_multilock(txn, (name,), (key,))


@dataclass(frozen=True, slots=True)
class EventStatistics:
    """An event at one moment."""

    kind: ClassVar[str] = "event"
    name: Any
    is_set: bool
    waiting: tuple[Waiting, ...]


def of_event(txn: Txn, name: Any, key: bytes) -> EventStatistics:
    return EventStatistics(name, event.is_set(txn, key), _at(txn, event.EVENTS + key))


@dataclass(frozen=True, slots=True)
class BarrierStatistics:
    """A barrier at one moment. `trips`: how often all parties went on; `broken`: why it is broken, "" if it is not;
    `is_acting`: a party runs the action, before the first of those waiting go on."""

    kind: ClassVar[str] = "barrier"
    name: Any
    parties: int
    trips: int
    broken: str
    is_acting: bool
    waiting: tuple[Waiting, ...]


def of_barrier(txn: Txn, name: Any, key: bytes, parties: int = 0) -> BarrierStatistics:
    found = barrier.seen(txn, key) or barrier.Barrier(parties)
    return BarrierStatistics(
        name, found.parties, found.trips, found.broken, found.going > 0, _at(txn, barrier.BARRIERS + key)
    )


@dataclass(frozen=True, slots=True)
class LatchStatistics:
    """A latch at one moment."""

    kind: ClassVar[str] = "latch"
    name: Any
    count: int
    left: int
    waiting: tuple[Waiting, ...]


def of_latch(txn: Txn, name: Any, key: bytes, count: int = 0) -> LatchStatistics:
    found = latch.seen(txn, key) or latch.Latch(count, count)
    return LatchStatistics(name, found.count, found.left, _at(txn, latch.LATCHES + key))


@dataclass(frozen=True, slots=True)
class ConditionStatistics:
    """A condition at one moment. `waiting`: those who wait to be notified."""

    kind: ClassVar[str] = "condition"
    name: Any
    lock: Any
    is_locked: bool
    waiting: tuple[Waiting, ...]


def of_condition(txn: Txn, name: Any, key: bytes) -> ConditionStatistics:
    line = waiters.line(txn, condition.CONDITIONS + key)
    if not line:
        return ConditionStatistics(name, None, False, ())
    place = condition.SLEEPER.unpack(line[0][1]).lock
    return ConditionStatistics(name, name_of(place[1:]), txn.get(place) is not None, _waiting(txn, line))


@dataclass(frozen=True, slots=True)
class ElectionStatistics:
    """An election at one moment. Its leader, if it has one, is its holder, and its term that one's fencing token. Those
    waiting want to "lead", or to see a "change"."""

    kind: ClassVar[str] = "election"
    name: Any
    term: int | None
    holders: tuple[Holder, ...]
    waiting: tuple[Waiting, ...]

    @property
    def session(self) -> int | None:
        """The leader's; None while nobody leads."""
        return self.holders[0].session if self.holders else None

    @property
    def pid(self) -> int | None:
        """The leader's; None while nobody leads."""
        return self.holders[0].pid if self.holders else None

    @property
    def candidates(self) -> int:
        """How many wait to lead."""
        return _count(self.waiting, "lead")

    @property
    def watchers(self) -> int:
        """How many wait for a change."""
        return _count(self.waiting, "change")


def _count(waiting: tuple[Waiting, ...], mode: str) -> int:
    return sum(one.mode == mode for one in waiting)


def of_election(txn: Txn, name: Any, key: bytes) -> ElectionStatistics:
    found = election.look(txn, key)
    waiting = _at(txn, election.ELECTIONS + key, "lead") + _at(txn, election.WATCHERS + key, "change")
    if found is None:
        return ElectionStatistics(name, None, (), waiting)
    leader = Holder(found.session, _pid(txn, found.session), None, found.term)
    return ElectionStatistics(name, found.term, (leader,), waiting)


NO_TERMS = limiter.Terms(0, 0, 0)


@dataclass(frozen=True, slots=True)
class RateLimiterStatistics:
    """A rate limiter at one moment. `gone`: units that were let go so far; `queued`: units that are waited for."""

    kind: ClassVar[str] = "rate-limiter"
    name: Any
    rate: int
    per_s: float
    burst: int | None
    gone: int
    queued: int
    waiting: tuple[Waiting, ...]


def of_limiter(txn: Txn, name: Any, key: bytes, terms: limiter.Terms = NO_TERMS) -> RateLimiterStatistics:
    found = limiter.seen(txn, key) or limiter.Limit(*terms, "")
    waiting = _at(txn, limiter.LIMITS + key)
    return RateLimiterStatistics(
        name, found.rate, found.per_ns / 1e9, found.burst or None, found.gone, found.queued, waiting
    )


@dataclass(frozen=True, slots=True)
class VariableStatistics:
    """What a variable is like at one moment. Those waiting want its first "value", a "turn" to change it, or a "newer"
    value (a watcher that is busy with the last one is not among them)."""

    kind: ClassVar[str] = "variable"
    name: Any
    version: int
    is_set: bool
    size_bytes: int
    waiting: tuple[Waiting, ...]

    @property
    def watchers(self) -> int:
        """How many wait for a newer value."""
        return _count(self.waiting, "newer")


def of_variable(txn: Txn, name: Any, key: bytes) -> VariableStatistics:
    seen = variable.look(txn, key)
    size_bytes = 0 if seen is None else payload.size_bytes(txn, seen.data)
    version = 0 if seen is None else seen.version
    waiting = (
        _at(txn, variable.VARIABLES + key, "value")
        + _at(txn, variable.TURNS + key, "turn")
        + _at(txn, variable.WATCHERS + key, "newer")
    )
    return VariableStatistics(name, version, version > 0, size_bytes, waiting)


@dataclass(frozen=True, slots=True)
class CounterStatistics:
    """What a counter is like at one moment. `adds`: how often was added since it was made or reset. Nobody waits."""

    kind: ClassVar[str] = "counter"
    name: Any
    value: int
    adds: int
    waiting: tuple[Waiting, ...] = ()


def of_counter(txn: Txn, name: Any, key: bytes) -> CounterStatistics:
    found = counter.look(txn, key)
    return CounterStatistics(name, found.value, found.adds)


@dataclass(frozen=True, slots=True)
class QueueStatistics:
    """A queue at one moment. `size` can be got now; `delayed` later; `unacked` are with takers; `dead` in its dead
    letters. `unfinished`: what `join` waits for. Those waiting want to "get", "put" or "join"."""

    kind: ClassVar[str] = "queue"
    name: Any
    size: int
    maxsize: int
    delayed: int
    unacked: int
    dead: int
    closed: bool
    unfinished: int
    waiting: tuple[Waiting, ...]

    @property
    def getters(self) -> int:
        """How many wait to get or take."""
        return _count(self.waiting, "get")

    @property
    def putters(self) -> int:
        """How many wait to put."""
        return _count(self.waiting, "put")


def of_queue(txn: Txn, name: Any, key: bytes, maxsize: int = 0) -> QueueStatistics:
    found = queue.look(txn, key, maxsize)
    more = found.more or queue.More()
    waiting = (
        _at(txn, queue.GETTERS + key, "get")
        + _at(txn, queue.PUTTERS + key, "put")
        + _at(txn, queue.JOINERS + key, "join")
    )
    return QueueStatistics(
        name=name,
        size=found.size,
        maxsize=found.maxsize,
        delayed=more.delayed,
        unacked=more.taken,
        dead=queue.size(txn, queue.dead_letters(key)),
        closed=more.is_closed,
        unfinished=queue.unfinished(found),
        waiting=waiting,
    )


@dataclass(frozen=True)
class TopicStatistics:
    """A topic at one moment. Messages are numbered from 0; those from `first` to before `end` are in the hall. Those
    waiting want to "put" (for room), or to "get"."""

    kind: ClassVar[str] = "topic"
    name: Any
    subscribers: int
    """Subscriptions, durable ones included."""
    first: int
    end: int
    published: int
    """Messages that were published to somebody, or to history."""
    kept: int
    lag: int
    """Unread messages: of this subscription, or, from a Pub, of the slowest."""
    dropped: int
    """Messages that subscriptions were told they missed."""
    waiting: tuple[Waiting, ...]
    maxlen: int = 0
    """The topic's bound for subscriptions that ask for none; 0: there is none."""

    @property
    def waiting_publishers(self) -> int:
        """How many wait for room."""
        return _count(self.waiting, "put")


def of_topic(txn: Txn, name: Any, key: bytes, lag: int | None = None) -> TopicStatistics:
    found = topic.figures(txn, key)
    log = found.topic
    return TopicStatistics(
        name=name,
        subscribers=log.subscribers + topic.look(txn, introduction.relay_of(key)).subscribers,
        first=log.first,
        end=log.end,
        published=log.end,
        kept=log.end - log.first,
        lag=found.lag if lag is None else lag,
        dropped=log.dropped,
        waiting=_at(txn, topic.PUBLISHERS + key, "put") + _at(txn, topic.TOPICS + key, "get"),
        maxlen=log.maxlen,
    )


STATES = {
    values.PENDING: "pending",
    values.FINISHED: "finished",
    values.ERROR: "error",
    values.CANCELLED: "cancelled",
}


@dataclass(frozen=True, slots=True)
class FutureStatistics:
    """A task or a value. One that is pending is "ready", "running" or "waiting" (for other tasks' results)."""

    key: str
    status: str
    phase: str
    """As `status`, but of a pending task what it is about to do."""
    session: int | None
    """Whose worker runs it; None if none does."""
    pid: int | None
    since: float | None
    """When that worker took it (seconds since 1970), perhaps with others before it."""
    missing: int
    """How many results it waits for."""
    retries: int
    deaths: int
    """How many workers died while they ran it."""
    size_bytes: int
    """What is stored of it; a large value is in a blob, and not counted."""
    holders: int
    """How many sessions, stored values and tasks keep it."""
    waiting: tuple[Waiting, ...]


def of_future(txn: Txn, key: str, oid: bytes) -> FutureStatistics:
    found = values.look(txn, oid)
    line = _at(txn, values.OBJECTS + oid)
    if found is None:
        return FutureStatistics(key, "lost", "lost", None, None, None, 0, 0, 0, 0, 0, line)
    state, size = STATES[found.state], len(found.data)
    if found.state != values.PENDING:
        return FutureStatistics(key, state, state, None, None, None, 0, 0, 0, size, found.holds, line)
    recipe = tasks.RECIPE.unpack(found.data)
    claim = tasks.claim_of(txn, oid)
    session, since = (None, None) if claim is None else (claim[0], _when(claim[1]))
    phase = "waiting" if recipe.missing else "ready" if claim is None else "running"
    return FutureStatistics(
        key, state, phase, session, None if session is None else _pid(txn, session), since, recipe.missing,
        recipe.retries, recipe.deaths, size, found.holds, line,
    )  # fmt: skip
