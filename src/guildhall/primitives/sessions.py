"""Ops of sessions: joining a hall, and burying who died in it.

A session joins in two commits: it gets a number, takes the byte of that number in the members file, and only then is
written down. So a written session without its byte is dead, and stays dead: numbers are not used again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..store.keys import pack_int
from ..store.records import Form, Record
from ..store.transaction import Txn
from . import lock, queue, subscription, topic, values, waiters
from .values import object_id as object_id
from .values import release_for as release_for

SESSIONS = b"\x02"
NEXT_SESSION = b"\x01s"
MEMBERSHIP = b"\x01m"

Estate = Callable[[Txn, int, int], None]
"""Gives back what a session held of one kind: (transaction, session, the note it left)."""


class Session(Record, tag=1, frozen=True):
    """One process in the hall. Everything here is for messages and for watching, never for deciding who is alive."""

    number: int
    pid: int
    role: str


SESSION = Form(Session)


def number(txn: Txn) -> int:
    """A number for a new session."""
    data = txn.get(NEXT_SESSION)
    fresh = 1 if data is None else int.from_bytes(data, "big") + 1
    txn.put(NEXT_SESSION, fresh.to_bytes(8, "big"))
    return fresh


def join(txn: Txn, session: Session) -> None:
    """Write the session down. Its byte in the members file is taken already."""
    txn.put(SESSIONS + pack_int(session.number), SESSION.pack(session))
    _changed(txn)


def everybody(txn: Txn) -> list[Session]:
    return [SESSION.unpack(data) for _, data in txn.scan(SESSIONS)]


def look(txn: Txn, session: int) -> Session | None:
    data = txn.get(SESSIONS + pack_int(session))
    return None if data is None else SESSION.unpack(data)


def membership(txn: Txn) -> bytes | None:
    """Changes whenever a session comes or goes."""
    return txn.get(MEMBERSHIP)


def bury(txn: Txn, session: int, note: int = 0, estates: Iterable[Estate] = ()) -> bool:
    """Give back all that the dead session held. False if that was done already."""
    if not txn.delete(SESSIONS + pack_int(session)):
        return False
    for left in waiters.leave(txn, session):
        queue.bury(txn, left)
        topic.bury(txn, left)
    lock.bury(txn, session)
    subscription.bury(txn, session)
    for estate in estates:
        estate(txn, session, note)
    values.bury(txn, session)
    _changed(txn)
    return True


def _changed(txn: Txn) -> None:
    txn.put(MEMBERSHIP, txn.revision.to_bytes(8, "big"))
