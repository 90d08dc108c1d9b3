"""What becomes of all that a dead session held, waited for and was handed: each primitive gives its own back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..store.transaction import Txn
from . import (
    barrier,
    condition,
    delivery,
    election,
    introduction,
    limiter,
    lock,
    multilock,
    pool,
    queue,
    rlock,
    rwlock,
    semaphore,
    subscription,
    topic,
    values,
    variable,
    waiters,
)  # fmt: skip

_LINES: dict[bytes, Callable[[Txn, waiters.Left, float], None]] = {
    lock.LOCKS: lock.bury_wait,
    rwlock.RWLOCKS: pool.bury_wait,
    semaphore.SEMAPHORES: pool.bury_wait,
    barrier.BARRIERS: barrier.bury_wait,
    election.ELECTIONS: election.bury_wait,
    limiter.LIMITS: limiter.bury_wait,
}
"""What to do, by the region of the place, when a wait of a dead session is taken out of a line: others may go on."""


def give_back(
    txn: Txn,
    session: int,
    note: int,
    estates: Iterable[Callable[[Txn, int, Sequence[int]], None]],
    now: float,
    marks: Sequence[int],
) -> None:
    """As `sessions.bury`, of a session that is written down no more."""
    waits = waiters.leave(txn, session)
    for left in waits:
        queue.bury(txn, left)
        topic.bury(txn, left)
        if (bury_wait := _LINES.get(left.place[:1])) is not None:
            bury_wait(txn, left, now)
    delivery.bury(txn, session, marks, waits)
    barrier.bury(txn, session)
    condition.bury(txn, session, now)  # Before its locks: who is told stands in line for them.
    election.bury(txn, session)
    lock.bury(txn, session, now)
    rlock.bury(txn, session, now)
    multilock.bury(txn, session, waits, now)
    pool.bury(txn, session, now)
    subscription.bury(txn, session)
    introduction.bury(txn, session, now)
    variable.bury(txn, session)
    for estate in estates:
        estate(txn, session, marks)
    values.bury(txn, session)
