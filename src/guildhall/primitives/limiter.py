"""Ops of RateLimiter: so many units in a period, over all processes, first come, first served.

There are two rules. Without a burst, `rate` units may go at once, and in any period no more than that: a log says when
the last `rate` units went, and a unit may go one period after the one that went `rate` units before it. The log of a
high rate is kept in grains: units that went within a part of the period (`GRAINS`) count as gone with the last of them,
so that it has at most so many entries, and nothing goes earlier than it may.

With a burst, units are spaced evenly and so many of them may be saved: the generic cell rate algorithm in its form of
virtual scheduling (GCRA: ITU-T recommendation I.371; ATM Forum, Traffic Management Specification), which gives what a
token bucket does and keeps one number: the theoretical arrival time (TAT) of the next unit. With `rate` units in `per`
seconds, T = per / rate is the time of one unit, and n units may go at t when t >= TAT + (n - burst) T; then TAT becomes
max(t, TAT) + n T. So in any w seconds, the first moment in and the last one out, at most burst + (w / T rounded up) - 1
units go: with burst 1, never more than `rate` in any period.

Times are whole nanoseconds, and the TAT counts `rate`ths of one, so no sum is rounded. Who commits later may have read
the clock earlier: the bounds hold for the times that were read. They count since the machine was started; `boot` names
that start, for a limiter on disk may outlive it: then it begins with nothing to spend.

Invariants: while somebody waits, the first of them may not go yet, and `queued` is what all of them want together.
Whoever waits knows when to look (`at_ns`) and lets all go who may, those before it too; the first in line is rung when
it may go earlier than it knows, because somebody before it left.
"""

from __future__ import annotations

from typing import NamedTuple

from ..errors import Misuse
from ..store.keys import name_of, pack_int, unpack
from ..store.records import Form, Record
from ..store.transaction import Txn, Waiter
from . import waiters
from .op import BUSY, NotNow

LIMITS = b"\x61"
LOGS = b"\x62"

GRAINS = 1024
"""A period's log has about so many entries at most."""


class Terms(NamedTuple):
    """What all handles of one limiter agree on. Burst 0: none, so many as the rate at once."""

    rate: int
    per_ns: int
    burst: int


class Moment(NamedTuple):
    """A time, in nanoseconds since the start of the machine that the boot names."""

    boot: str
    ns: int


class Limit(Record, tag=1, frozen=True):
    """The terms; the clock; the TAT, in nanoseconds and `rate`ths of one; units that are waited for; units that went.

    Without a burst: up to which unit the log tells no more, and when that one went, or might have; when the last unit
    went, and the first one of the last entry in the log.
    """

    rate: int
    per_ns: int
    burst: int
    boot: str
    tat_ns: int = 0
    tat_part: int = 0
    queued: int = 0
    gone: int = 0
    forgotten: int = 0
    forgotten_ns: int = 0
    last_ns: int = 0
    grain_ns: int = 0


class Want(Record, tag=1, frozen=True):
    """How many units, and when the waiter looks by itself."""

    number: int
    at_ns: int


LIMIT = Form(Limit)
WANT = Form(Want)


def seen(txn: Txn, name: bytes) -> Limit | None:
    """The limiter as it is written, for who looks and has no terms of its own; None if nobody used it yet."""
    data = txn.get(LIMITS + name)
    return None if data is None else LIMIT.unpack(data)


def look(txn: Txn, name: bytes, terms: Terms, now: Moment) -> Limit:
    """The limiter at that time, as good as new if nobody used it yet. Raises Misuse if it was made on other terms."""
    return _look(txn, name, terms, now)[0]


def _look(txn: Txn, name: bytes, terms: Terms, now: Moment) -> tuple[Limit, bool]:
    """Also whether the machine was started anew since it was used."""
    data = txn.get(LIMITS + name)
    if data is None:
        return Limit(*terms, now.boot, forgotten_ns=-terms.per_ns), False
    found = LIMIT.unpack(data)
    if (found.rate, found.per_ns, found.burst) != terms:
        raise Misuse(
            f"rate limiter {name_of(name)!r:.60}: made with {_words(found)}, here with {_words(Limit(*terms, ''))}; "
            "give all its handles the same"
        )
    if found.boot == now.boot:
        return found, False
    empty = Limit(
        *terms, now.boot, queued=found.queued, gone=found.gone, forgotten=found.gone, forgotten_ns=now.ns,
        last_ns=now.ns, grain_ns=now.ns,
    )  # fmt: skip
    return _with(empty, now.ns * terms.rate + terms.burst * terms.per_ns, 0), True


def _words(limit: Limit) -> str:
    return f"{limit.rate} in {limit.per_ns / 1e9:g} s, " + (f"burst {limit.burst}" if limit.burst else "no burst")


def _current(txn: Txn, name: bytes, terms: Terms, now: Moment) -> tuple[Limit, int]:
    """As `look`; if the machine was started anew, that is written down. And the time: not before who came last."""
    limit, is_anew = _look(txn, name, terms, now)
    if is_anew:
        for key, _ in txn.scan(LOGS + name):
            txn.delete(key)
        txn.put(LIMITS + name, LIMIT.pack(limit))
    return limit, max(now.ns, limit.last_ns)


def _with(limit: Limit, tat: int, queued: int, gone: int = 0) -> Limit:
    """With another TAT (in `rate`ths of a nanosecond), so many more waited for, and so many more gone."""
    tat_ns, tat_part = divmod(tat, limit.rate)
    return Limit(
        limit.rate, limit.per_ns, limit.burst, limit.boot, tat_ns, tat_part, limit.queued + queued, limit.gone + gone,
        limit.forgotten, limit.forgotten_ns, limit.last_ns, limit.grain_ns,
    )  # fmt: skip


def _queue(limit: Limit, number: int) -> Limit:
    return _with(limit, _tat(limit), number)


def _tat(limit: Limit) -> int:
    return limit.tat_ns * limit.rate + limit.tat_part


def _due_ns(txn: Txn, name: bytes, limit: Limit, number: int, ns: int = 0) -> int:
    """The first nanosecond at which so many more units may go; of more than the rate, at `ns`, not later than that."""
    if limit.burst:
        return -((-(_tat(limit) + (number - limit.burst) * limit.per_ns)) // limit.rate)
    periods, rest = divmod(number - 1, limit.rate)
    due_ns = _went_ns(txn, name, limit, limit.gone + rest + 1 - limit.rate) + limit.per_ns
    return max(due_ns, ns) + periods * limit.per_ns if periods else due_ns


def _went_ns(txn: Txn, name: bytes, limit: Limit, unit: int) -> int:
    """When that unit went; units are counted from 1."""
    if unit > limit.forgotten:
        for _, data in txn.scan(LOGS + name, LOGS + name + pack_int(unit - 1), 1):
            return int.from_bytes(data, "big")
    return limit.forgotten_ns


def _spend(txn: Txn, name: bytes, limit: Limit, number: int, ns: int, queued: int = 0) -> Limit:
    """So many units go now, of which so many had been waited for."""
    if limit.burst:
        return _with(limit, max(ns * limit.rate, _tat(limit)) + number * limit.per_ns, queued, number)
    log, gone = LOGS + name, limit.gone + number
    is_grain = limit.rate > GRAINS and ns - limit.grain_ns < limit.per_ns // GRAINS
    if is_grain:
        txn.delete(log + pack_int(limit.gone))
    txn.put(log + pack_int(gone), ns.to_bytes(8, "big"))
    forgotten, forgotten_ns = _forget(txn, log, limit, gone, ns)
    return Limit(
        limit.rate, limit.per_ns, 0, limit.boot, 0, 0, limit.queued + queued, gone, forgotten, forgotten_ns, ns,
        limit.grain_ns if is_grain else ns,
    )  # fmt: skip


def _forget(txn: Txn, log: bytes, limit: Limit, gone: int, ns: int) -> tuple[int, int]:
    """Drop what went a period ago, or `rate` units before the next one: two entries at a time, as one is made."""
    forgotten, forgotten_ns = limit.forgotten, limit.forgotten_ns
    for key, data in txn.scan(log, limit=2):
        went_ns = int.from_bytes(data, "big")
        unit: int = unpack(key[len(log) :])[0]
        if unit > gone - limit.rate and went_ns + limit.per_ns > ns:
            break
        txn.delete(key)
        forgotten, forgotten_ns = unit, went_ns
    return forgotten, forgotten_ns


def acquire(txn: Txn, name: bytes, terms: Terms, number: int, now: Moment, waiter: Waiter | None) -> NotNow | bool:
    """True if so many units may go now and nobody waits; else the waiter is parked until its turn."""
    limit, ns = _current(txn, name, terms, now)
    if not limit.queued and _due_ns(txn, name, limit, number) <= ns:
        txn.put(LIMITS + name, LIMIT.pack(_spend(txn, name, limit, number, ns)))
        return True
    if waiter is None:
        return BUSY
    at_ns = _due_ns(txn, name, limit, limit.queued + number, ns)
    txn.put(LIMITS + name, LIMIT.pack(_queue(limit, number)))
    return waiters.park(txn, LIMITS + name, waiter, WANT.pack(Want(number, at_ns)))


def due(txn: Txn, waiter: Waiter) -> int | None:
    """When to call `turn`; None if the waiter was let go."""
    want = waiters.want(txn, waiter)
    return None if want is None else WANT.unpack(want).at_ns


def turn(txn: Txn, name: bytes, terms: Terms, now: Moment, waiter: Waiter, is_awake: bool = True) -> int | None:
    """Let all go whose time has come. None if the waiter is among them, else when to call again. If it is awake, which
    who asks is unless the hall is far, it need not be rung."""
    limit, ns = _current(txn, name, terms, now)
    limit = _serve(txn, name, limit, ns, waiter if is_awake else None)
    txn.put(LIMITS + name, LIMIT.pack(limit))
    packed = waiters.want(txn, waiter)
    if packed is None:
        return None
    want, first = WANT.unpack(packed), waiters.head(txn, LIMITS + name)
    assert first is not None, "a waiter stands in line"
    first_want = WANT.unpack(first[1])
    if first[0][:2] == waiter[:2]:
        at_ns = _due_ns(txn, name, limit, want.number)
    else:  # Not before those in front: they were late.
        at_ns = max(want.at_ns, _due_ns(txn, name, limit, first_want.number + want.number, ns))
    waiters.rewrite(txn, waiter, WANT.pack(Want(want.number, at_ns)))
    return at_ns


def _serve(txn: Txn, name: bytes, limit: Limit, ns: int, awake: Waiter | None) -> Limit:
    """Let all go whose time has come. Who is awake need not be rung."""
    while (first := waiters.head(txn, LIMITS + name)) is not None:
        number = WANT.unpack(first[1]).number
        if _due_ns(txn, name, limit, number) > ns:
            break
        if awake is not None and first[0][:2] == awake[:2]:
            is_out = waiters.withdraw(txn, awake)
            assert is_out, "who is first in line stands in it"
        else:
            waiters.unpark(txn, LIMITS + name)
        limit = _spend(txn, name, limit, number, ns, -number)
    _tell_first(txn, name, limit)
    return limit


def _tell_first(txn: Txn, name: bytes, limit: Limit) -> None:
    """Ring for the first in line if it may go earlier than it knows."""
    first = waiters.head(txn, LIMITS + name)
    if first is None:
        return
    waiter, want = first[0], WANT.unpack(first[1])
    at_ns = _due_ns(txn, name, limit, want.number)
    if at_ns < want.at_ns:
        waiters.rewrite(txn, waiter, WANT.pack(Want(want.number, at_ns)))
        if waiter.bell:
            txn.wake(waiter)


def leave(txn: Txn, name: bytes, number: int, waiter: Waiter) -> bool:
    """Stop waiting; those behind move up. False if the waiter had been let go meanwhile."""
    if not waiters.withdraw(txn, waiter):
        return False
    _move_up(txn, name, number)
    return True


def _move_up(txn: Txn, name: bytes, number: int) -> None:
    data = txn.get(LIMITS + name)
    assert data is not None, "a limiter that is waited for is written down"
    limit = LIMIT.unpack(data)
    limit = _queue(limit, -number)
    txn.put(LIMITS + name, LIMIT.pack(limit))
    _tell_first(txn, name, limit)


def delete(txn: Txn, name: bytes) -> None:
    """Nothing is left of it, also of what went. Raises Misuse while somebody waits."""
    waiters.refuse_waited(txn, LIMITS + name, "rate limiter")
    txn.delete(LIMITS + name)
    for key, _ in txn.scan(LOGS + name):
        txn.delete(key)


def bury_wait(txn: Txn, left: waiters.Left, now: float = 0.0) -> None:
    """The place of a dead waiter goes to those behind it."""
    _move_up(txn, left.place[len(LIMITS) :], WANT.unpack(left.want).number)
