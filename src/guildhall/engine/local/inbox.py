"""Ops of what is asked of one worker, however busy it is: a function to run beside its tasks.

A request is an object like a task, in its worker's inbox until it has ended. Requests of one worker are answered one
after the other, and die with it.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...primitives import values, waiters
from ...primitives.op import BUSY, NotNow
from ...primitives.values import ERROR, PENDING
from ...store.keys import pack_id, pack_int
from ...store.transaction import Txn, Waiter
from . import actors, tasks
from .tasks import RECIPE, Done, Recipe

INBOX = b"\x48"


def send(txn: Txn, session: int, oid: bytes, recipe: Recipe, uses: Sequence[bytes]) -> None:
    """Ask the worker of that session to run something. If it is gone, the request fails at once."""
    if txn.get(tasks.WORKERS + pack_id(session)) is None:
        values.make(txn, oid, ERROR, tasks.killed(recipe.name, 1, 0))
        return
    values.make(txn, oid, PENDING, RECIPE.pack(recipe), tuple(uses))
    txn.put(INBOX + pack_id(session) + pack_int(txn.revision) + oid, oid)
    tasks.fire(txn, (oid,))
    waiters.unpark_all(txn, INBOX + pack_id(session))


def order(txn: Txn, session: int, oid: bytes, recipe: Recipe) -> None:
    """As `send`, for what nobody wants to hear the end of."""
    send(txn, session, oid, recipe, ())
    values.release_for(txn, values.maker_of(oid), (oid,))


def take(txn: Txn, session: int, waiter: Waiter | None) -> NotNow | tuple[bytes, bytes, Recipe]:
    """The next request, as (its place, the object, what to run); it stays until `done`. Else the waiter is parked."""
    for key, oid in txn.scan(INBOX + pack_id(session)):
        found = values.look(txn, oid)
        if found is not None and found.state == PENDING:
            return key, oid, RECIPE.unpack(found.data)
        txn.delete(key)
    return BUSY if waiter is None else waiters.park(txn, INBOX + pack_id(session), waiter)


def done(txn: Txn, key: bytes, end: Done) -> None:
    """The request has ended."""
    txn.delete(key)
    tasks.settle(txn, end)


def bury(txn: Txn, session: int) -> None:
    """What was asked of a dead worker fails."""
    pid = tasks.pid_of(txn, session)
    for key, oid in txn.scan(INBOX + pack_id(session)):
        txn.delete(key)
        found = values.look(txn, oid)
        if found is not None and found.state == PENDING:
            tasks.settle(txn, Done(oid, ERROR, tasks.killed(RECIPE.unpack(found.data).name, 1, pid)))


def bury_worker(txn: Txn, session: int, marks: Sequence[int]) -> None:
    """Give back what a dead session had as a worker: its tasks, and what was asked of it. `marks` are the words of its
    lanes."""
    bury(txn, session)
    actors.bury(txn, session)
    tasks.bury(txn, session, marks)
