"""Ops of actors: objects that live in one worker and are called in order.

An actor is what a task made: its object stands for it, and it lives as long as that. Calls are objects too, in the
actor's line until they have ended, in the order in which they were committed. When the worker dies, calls that had
begun fail. The others fail, too, unless the actor is to be made anew: then they wait for that.
"""

from __future__ import annotations

from ...primitives import values, waiters
from ...primitives.op import BUSY, NotNow
from ...primitives.values import ERROR, PENDING
from ...store.keys import pack_id, pack_int
from ...store.records import Form, Record
from ...store.transaction import Txn, Waiter
from . import tasks
from .tasks import RECIPE, Done, Recipe

HOMES = b"\x4b"
"""By actor: where it lives."""
TENANTS = b"\x4c"
"""By session and actor: the actors that live there."""
CALLS = b"\x4d"
LOST = b"L"
"""First byte of the error of a call to an actor that is gone: the actor's name follows."""
_WAITING, _BEGUN = b"\x00", b"\x01"


class Home(Record, tag=1, frozen=True):
    """The session that the actor lives in. With a recipe, and what that uses, it is made anew when the session dies."""

    session: int
    name: str
    recipe: bytes = b""
    uses: tuple[bytes, ...] = ()


HOME = Form(Home)


def settle_in(txn: Txn, actor: bytes, session: int, is_restarting: bool) -> None:
    """The actor, whose task runs in that session, lives there from now on."""
    found = values.look(txn, actor)
    if found is None or found.state != PENDING:
        return
    name = RECIPE.unpack(found.data).name
    home = Home(session, name, found.data, found.uses) if is_restarting else Home(session, name)
    before = txn.get(HOMES + actor)
    if before is None:
        values.hold(txn, home.uses)
    txn.put(HOMES + actor, HOME.pack(home))
    txn.put(TENANTS + pack_id(session) + actor, b"")


def call(txn: Txn, actor: bytes, oid: bytes, recipe: Recipe, uses: tuple[bytes, ...]) -> None:
    """Ask the actor for something. Fails at once if it is gone for good."""
    home = txn.get(HOMES + actor)
    if home is None:
        found = values.look(txn, actor)
        if found is None or found.state != PENDING:
            values.make(txn, oid, ERROR, LOST + recipe.name.encode())
            return
    values.make(txn, oid, PENDING, RECIPE.pack(recipe), uses)
    txn.put(CALLS + actor + pack_int(txn.revision) + oid, _WAITING + oid)
    tasks.fire(txn, (oid,))  # A call is made for what it does, too: it is not cancelled with its last future.
    waiters.unpark_all(txn, CALLS + actor)


def take(txn: Txn, actor: bytes, waiter: Waiter | None) -> NotNow | tuple[bytes, bytes, Recipe] | None:
    """The next call that has not begun, as (its place, the object, what to call); None if the actor is to end."""
    if values.look(txn, actor) is None:
        return None
    for key, data in txn.scan(CALLS + actor):
        if data[:1] == _WAITING:
            oid = data[1:]
            found = values.look(txn, oid)
            if found is None or found.state != PENDING:
                txn.delete(key)
                continue
            txn.put(key, _BEGUN + oid)
            return key, oid, RECIPE.unpack(found.data)
    return BUSY if waiter is None else waiters.park(txn, CALLS + actor, waiter)


def done(txn: Txn, key: bytes, end: Done) -> None:
    """The call has ended."""
    txn.delete(key)
    tasks.settle(txn, end)


def move_out(txn: Txn, actor: bytes) -> None:
    """The actor ends: nobody refers to it."""
    data = txn.get(HOMES + actor)
    if data is None:
        return
    home = HOME.unpack(data)
    txn.delete(HOMES + actor)
    txn.delete(TENANTS + pack_id(home.session) + actor)
    _fail(txn, actor, home, also_waiting=True)
    values.release(txn, home.uses)


def bury(txn: Txn, session: int) -> None:
    """The actors of a dead session are made anew elsewhere, or are gone with what was asked of them."""
    prefix = TENANTS + pack_id(session)
    for key, _ in txn.scan(prefix):
        actor = key[len(prefix) :]
        data = txn.get(HOMES + actor)
        if data is None:
            txn.delete(key)
            continue
        home = HOME.unpack(data)
        if home.recipe and values.look(txn, actor) is not None:
            txn.delete(key)
            _fail(txn, actor, home, also_waiting=False)
            tasks.run_again(txn, actor, home.recipe, home.uses)
        else:
            move_out(txn, actor)


def _fail(txn: Txn, actor: bytes, home: Home, *, also_waiting: bool) -> None:
    for key, data in txn.scan(CALLS + actor):
        if also_waiting or data[:1] == _BEGUN:
            txn.delete(key)
            tasks.settle(txn, Done(data[1:], ERROR, LOST + home.name.encode()))
