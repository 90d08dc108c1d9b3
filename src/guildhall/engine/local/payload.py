"""Users' values <-> what the store keeps.

Small values are a pickle. Large ones (over 64 KiB) are an object of their own with a blob. Futures met on the way
are collected, so that whoever stores the value holds them.
"""

from __future__ import annotations

import pickle
import threading
from typing import Any

from ...errors import HallDamaged, Unpicklable
from ...hosts.embedded import EmbeddedHost
from ...primitives import values
from ...primitives.values import FINISHED
from ...store.records import UNREADABLE, damaged
from ...store.transaction import Txn
from . import blobs

INLINE_BYTES = 64 << 10
REFERENCE = b"R"
PICKLE = b"\x80"
"""How a stored value begins that refers to nothing: it is a pickle as it is."""
SPOILED = (pickle.UnpicklingError, EOFError, ValueError, LookupError, OverflowError, MemoryError)
"""What the unpickler itself raises of bytes that are no pickle, beside what speaks of a class that has changed. The
code of a class that is read may raise the same."""
_READERS = ("guildhall.engine.local.", "guildhall.client.handles.")
"""The modules that call the unpickler."""
PLAIN: frozenset[type] = frozenset({int, float, bool, str, bytes, type(None)})


class _Context(threading.local):
    """What a pickle in the making or being read has to do with: set for the time of one call."""

    uses: list[bytes] | None = None
    into: EmbeddedHost | None = None
    host: EmbeddedHost | None = None
    held: list[bytes] | None = None
    results: list[bytes] | None = None
    """If it is a list, futures in the pickle stand for their results; they are added, as these must be there first."""


context = _Context()


def pickled(
    host: EmbeddedHost, value: Any, what: str, is_whole: bool = False
) -> tuple[bytes, list[pickle.PickleBuffer], tuple[bytes, ...]]:
    """The pickle, its buffers (in it if it `is_whole`), and the objects of this hall that futures in it stand for.

    Raises Unpicklable, naming `what`.
    """
    if type(value) in PLAIN:
        return pickle.dumps(value, 5), [], ()
    before = context.uses, context.into
    context.uses, context.into = [], host
    buffers: list[pickle.PickleBuffer] = []
    callback = None if is_whole else buffers.append
    try:
        try:
            data = pickle.dumps(value, 5, buffer_callback=callback)
            if b"__main__" not in data and b"__mp_main__" not in data:
                return data, buffers, tuple(context.uses)
        except Exception:
            pass
        buffers.clear()
        context.uses.clear()
        data = cloudpickled(value, buffer_callback=callback)
        return data, buffers, tuple(context.uses)
    except Exception as error:
        kind = type(value).__name__
        raise Unpicklable(f"{what} of type {kind} cannot be pickled: {error}; pass what it is made from") from error
    finally:
        context.uses, context.into = before


def cloudpickled(value: Any, **options: Any) -> bytes:
    """A pickle that takes along what others cannot import."""
    import cloudpickle  # Here: a worker that never needs it is at work so much earlier.

    return cloudpickle.dumps(value, 5, **options)  # type: ignore[no-any-return]


def load_ahead() -> None:
    """Load what pickling by value needs, while there is nothing else to do."""
    import cloudpickle  # noqa: F401


def encode(host: EmbeddedHost, oid: bytes, value: Any, what: str) -> tuple[bytes, tuple[bytes, ...], str]:
    """The value of the object as its (data, uses, blob)."""
    data, buffers, uses = pickled(host, value, what)
    if (small := _in_one(value, data, buffers)) is not None:
        return small, uses, ""
    stored, blob = blobs.write(host, oid, data, buffers)
    return stored, uses, blob


def _in_one(value: Any, data: bytes, buffers: list[pickle.PickleBuffer]) -> bytes | None:
    """The pickle with its buffers in it, if it is small enough to be stored inline."""
    if not buffers:
        return data if len(data) <= INLINE_BYTES else None
    size = len(data) + sum(buffer.raw().nbytes for buffer in buffers)
    return cloudpickled(value) if size <= INLINE_BYTES else None


def inline(host: EmbeddedHost, value: Any, what: str) -> tuple[bytes, tuple[bytes, ...], tuple[bytes, ...]]:
    """A value as (data, uses, objects to release once it is stored): a large one is placed, and `data` refers to it."""
    data, buffers, uses = pickled(host, value, what)
    if (small := _in_one(value, data, buffers)) is not None:
        return small, uses, ()
    oid = host.new_object()
    stored, blob = blobs.write(host, oid, data, buffers)
    _make(host, oid, stored, uses, blob)
    return REFERENCE + oid, (oid,), (oid,)


def store(host: EmbeddedHost, value: Any, what: str) -> tuple[bytes, tuple[bytes, ...]]:
    """A value for a variable, queue or topic, and objects to release once it is there."""
    data, uses, spent = inline(host, value, what)
    return values.pack(data, uses), spent


def whole(host: EmbeddedHost, value: Any, what: str) -> tuple[bytes, tuple[bytes, ...]]:
    """A value of any size as one piece, for a message that nobody stores, and the objects that it refers to."""
    data, _, uses = pickled(host, value, what, is_whole=True)
    return values.pack(data, uses), uses


def place(host: EmbeddedHost, value: Any, what: str) -> bytes:
    """A value as an object of its own, held once by this session."""
    oid = host.new_object()
    _make(host, oid, *encode(host, oid, value, what))
    return oid


def _make(host: EmbeddedHost, oid: bytes, data: bytes, uses: tuple[bytes, ...], blob: str) -> None:
    try:
        host.transact(values.make, oid, FINISHED, data, uses, blob)
    except BaseException:
        if blob:
            host.remove_blob(blob)  # Nobody else knows of it.
        raise


def decode(host: EmbeddedHost, data: bytes, held: tuple[bytes, ...] = ()) -> Any:
    """The value. `held` are holds of this session that its futures take over; the others are given back."""
    before = context.host, context.held
    context.host, context.held = host, list(held)
    try:
        if data[:1] == REFERENCE:
            found = host.read(values.look, data[1:])
            if found is None:
                raise HallDamaged(f"hall {host.directory}: a large value is gone; set or put it anew")
            data = found.data
        if data[:1] in (blobs.BLOB, blobs.FAR):
            return blobs.read(host, data)
        if data[:1] != PICKLE:
            raise HallDamaged(f"hall {host.directory}: a value begins with {data[:1]!r}; it is damaged, set it anew")
        return pickle.loads(data)
    except SPOILED as error:
        tell_damage(error)
        raise
    finally:
        left = context.held
        context.host, context.held = before
        if left:
            host.defer(values.release_for, host.session, tuple(left))


def unpack(host: EmbeddedHost, value: bytes) -> Any:
    """A stored value whose holds this session has taken. One that uses no object is a plain pickle without futures."""
    if value[:1] == PICKLE:
        try:
            return pickle.loads(value)
        except SPOILED as error:
            tell_damage(error)
            raise
    try:
        stored = values.unpack(value)
    except UNREADABLE as error:
        raise damaged(error) from error
    return decode(host, stored.data, stored.uses)


def tell_damage(error: Exception) -> None:
    """Raise HallDamaged in place of one of SPOILED that the unpickler raised, and not the code of a value's class."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith(_READERS):
        raise HallDamaged(f"a value cannot be read ({error}): it is damaged; set or put it anew") from error


def size_bytes(txn: Txn, value: bytes) -> int:
    """How many bytes a stored value takes: its pickle, and the buffers of a large one."""
    data = values.unpack(value).data
    if data[:1] == REFERENCE:
        found = values.look(txn, data[1:])
        data = b"" if found is None else found.data
    return blobs.size_bytes(data) if data[:1] in (blobs.BLOB, blobs.FAR) else len(data)
