"""Users' values <-> what the store keeps, and exceptions with their traceback.

Small values are a pickle. Large ones (over 64 KiB) are an object of their own with a blob. Futures met on the way
are collected, so that whoever stores the value holds them.
"""

from __future__ import annotations

import pickle
import threading
import traceback
from itertools import pairwise
from typing import Any

import cloudpickle

from ...errors import TaskFailed, Unpicklable
from ...hosts.embedded import EmbeddedHost
from ...primitives import values
from ...primitives.values import FINISHED, Object, Stored
from . import blobs

INLINE_BYTES = 64 << 10
REFERENCE = b"R"
_PLAIN = frozenset({int, float, bool, str, bytes, type(None)})


class _Context(threading.local):
    """What a pickle in the making or being read has to do with: set for the time of one call."""

    uses: list[bytes] | None = None
    host: EmbeddedHost | None = None
    held: list[bytes] | None = None


context = _Context()


def pickled(value: Any, what: str) -> tuple[bytes, list[pickle.PickleBuffer], tuple[bytes, ...]]:
    """The pickle, its buffers, and the objects that futures in it stand for. Raises Unpicklable, naming `what`."""
    if type(value) in _PLAIN:
        return pickle.dumps(value, 5), [], ()
    before, context.uses = context.uses, []
    buffers: list[pickle.PickleBuffer] = []
    try:
        try:
            data = pickle.dumps(value, 5, buffer_callback=buffers.append)
            if b"__main__" not in data and b"__mp_main__" not in data:
                return data, buffers, tuple(context.uses)
        except Exception:
            pass
        buffers.clear()
        context.uses.clear()
        data = cloudpickle.dumps(value, 5, buffer_callback=buffers.append)
        return data, buffers, tuple(context.uses)
    except Exception as error:
        kind = type(value).__name__
        raise Unpicklable(f"{what} of type {kind} cannot be pickled: {error}; pass what it is made from") from error
    finally:
        context.uses = before


def encode(host: EmbeddedHost, value: Any, what: str) -> tuple[bytes, tuple[bytes, ...], str]:
    """A value as an object's (data, uses, blob)."""
    data, buffers, uses = pickled(value, what)
    size = len(data) + sum(buffer.raw().nbytes for buffer in buffers)
    if size <= INLINE_BYTES:
        if buffers:
            data = cloudpickle.dumps(value, 5)
        return data, uses, ""
    stored, blob = blobs.write(host, data, buffers)
    return stored, uses, blob


def store(host: EmbeddedHost, value: Any, what: str) -> tuple[Stored, tuple[bytes, ...]]:
    """A value for a variable, queue or topic, and objects to release once it is there."""
    data, uses, blob = encode(host, value, what)
    if not blob:
        return Stored(data, uses), ()
    oid = _make(host, data, uses, blob)
    return Stored(REFERENCE + oid, (oid,)), (oid,)


def place(host: EmbeddedHost, value: Any, what: str) -> bytes:
    """A value as an object of its own, held once by this session."""
    return _make(host, *encode(host, value, what))


def _make(host: EmbeddedHost, data: bytes, uses: tuple[bytes, ...], blob: str) -> bytes:
    oid = host.new_object()
    try:
        host.transact(values.make, host.session, oid, Object(FINISHED, 1, data, uses, blob))
    except BaseException:
        if blob:
            host.remove_blob(blob)  # Nobody else knows of it.
        raise
    return oid


def decode(host: EmbeddedHost, data: bytes, held: tuple[bytes, ...] = ()) -> Any:
    """The value. `held` are holds of this session that its futures take over; the others are given back."""
    if not held and data[:1] == b"\x80" and context.host is host:
        return pickle.loads(data)
    before = context.host, context.held
    context.host, context.held = host, list(held)
    try:
        if data[:1] == REFERENCE:
            found = host.read(values.look, data[1:])
            if found is None:
                raise FileNotFoundError("the value is gone")
            data = found.data
        return blobs.read(host, data) if data[:1] == blobs.BLOB else pickle.loads(data)
    finally:
        left = context.held
        context.host, context.held = before
        if left:
            host.defer(values.release_for, host.session, tuple(left))


def encode_error(error: BaseException) -> bytes:
    """An exception with its causes and the text of its traceback.

    As in a generator, StopIteration becomes a RuntimeError: raised by `result()` it would end the caller's loop.
    """
    if isinstance(error, StopIteration):
        stop, error = error, RuntimeError(f"the task raised StopIteration: {error}").with_traceback(error.__traceback__)
        error.__cause__ = stop
    text = "".join(traceback.format_exception(error))
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and not any(link is seen for seen in chain):
        chain.append(link)
        link = link.__cause__
    return pickle.dumps((_words(error), text, [_portable(link) for link in chain]))


def _words(error: BaseException) -> str:
    """The exception's type and text, also if it refuses to give its text."""
    return "".join(traceback.format_exception_only(error)).strip()


def _portable(error: BaseException) -> bytes:
    """The exception's pickle, proved to come back the same; made otherwise, or only its words, if it does not."""
    for made in (error, _Parts(error)):
        try:
            data: bytes = cloudpickle.dumps(made)
            if str(pickle.loads(data)) == str(error):
                return data
        except Exception:
            continue
    return pickle.dumps(Exception(_words(error)))


class _Parts:
    """Stands for an exception in a pickle, and is read back as one without asking its constructor."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self._error), self._error.args, self._error.__dict__)


def _rebuilt(kind: type[BaseException], args: tuple[Any, ...], attributes: dict[str, Any]) -> BaseException:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


def decode_error(data: bytes) -> tuple[BaseException, str]:
    """The exception and the text of its traceback where it was raised."""
    words, text, chain = pickle.loads(data)
    errors = [_read_error(link, words) for link in chain]
    for error, cause in pairwise(errors):
        error.__cause__ = cause
    errors[0].add_note("Raised in a worker:\n" + text.rstrip())
    return errors[0], text


def _read_error(data: bytes, words: str) -> BaseException:
    try:
        error: BaseException = pickle.loads(data)
        return error
    except Exception as broken:
        return TaskFailed(f"the task failed with {words}; the exception itself cannot be read here: {broken!r}")
