"""Ops of sessions: joining a hall, and burying who died in it.

A session joins in two commits: it gets a number, takes the byte of that number in the members file, and only then is
written down. So a written session without its byte is dead, and stays dead: numbers are not used again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..store.keys import pack_int
from ..store.records import MOST_SESSIONS, Form, ProcessId, Record, SessionNumber
from ..store.transaction import Txn
from .values import is_litter as is_litter
from .values import object_id as object_id
from .values import release_for as release_for
from .waiters import is_granted as is_granted

SESSIONS = b"\x02"
NEXT_SESSION = b"\x01s"
MEMBERSHIP = b"\x01m"

Estate = Callable[[Txn, int, Sequence[int]], None]
"""Gives back what a session held of one kind: (transaction, session, the note it left)."""


class Session(Record, tag=1, frozen=True):
    """One process in the hall. Everything here is for messages and for watching, never for deciding who is alive."""

    number: SessionNumber
    pid: ProcessId
    role: str
    since: float = 0.0


SESSION = Form(Session)


def number(txn: Txn) -> int:
    """A number for a new session."""
    data = txn.get(NEXT_SESSION)
    fresh = 1 if data is None else int.from_bytes(data, "big") + 1
    assert fresh < MOST_SESSIONS, "numbers of sessions are counted"
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


def prepare() -> None:
    """Load what `bury` needs: all that can be held. A process is at work sooner without that, and may never need it."""
    from . import burial  # noqa: F401


def bury(
    txn: Txn,
    session: int,
    note: int = 0,
    estates: Iterable[Estate] = (),
    now: float = 0.0,
    marks: Sequence[int] = (),
) -> bool:
    """Give back all that the dead session held; `now` is when its heirs get it. False if that was done already.

    `marks`: for each lane of the session, the number of its last call that arrived.
    """
    if not txn.delete(SESSIONS + pack_int(session)):
        return False
    from . import burial  # Loaded by `prepare` before, where that matters: not in a transaction.

    burial.give_back(txn, session, note, estates, now, marks)
    _changed(txn)
    return True


def _changed(txn: Txn) -> None:
    txn.put(MEMBERSHIP, txn.revision.to_bytes(8, "big"))
