"""What travels between a process and the hall in the scheduler: frames, each with one pickle that names only ours.

A frame is its length, and then the pickle. An op travels as the name of a function of this package, and arguments and
answers as plain data and our records: whatever else a pickle names is refused, so that nobody runs code by it.
"""

from __future__ import annotations

import builtins
import dataclasses
import functools
import importlib
import io
import pickle
import struct
from collections.abc import Iterator
from enum import Enum
from types import FunctionType
from typing import Any, NamedTuple

from ...errors import Broken, GuildhallError
from ...store.records import Record

HEAD = struct.Struct("!I")
MAX_FRAME = (1 << 32) - 1
_HOMES = (
    "guildhall.primitives.",
    "guildhall.store.",
    "guildhall.engine.local.",
    "guildhall.client.",
    "guildhall.errors",
)
"""Where ops, records and errors are."""
_ALSO = {("collections", "deque"), ("datetime", "timedelta"), ("functools", "partial")}
_PLAIN = {"set", "frozenset", "bytearray", "complex", "range", "slice"}


@functools.cache
def named(module: str, name: str) -> Any:
    """What is of that name, if it may travel. Raises UnpicklingError otherwise."""
    if module == "builtins":
        found = getattr(builtins, name, None)
        if name in _PLAIN or (isinstance(found, type) and issubclass(found, Exception)):
            return found
    elif (module, name) in _ALSO:
        return getattr(importlib.import_module(module), name)
    elif module.startswith(_HOMES) and name.isidentifier():
        found = getattr(importlib.import_module(module), name, None)
        home = getattr(found, "__module__", None) or ""
        if home.startswith("guildhall.") and (is_op(found) or _is_plain(found)):
            return found
    raise pickle.UnpicklingError(f"{module}.{name} does not travel to a hall or from it")


def is_op(found: Any) -> bool:
    """Whether it is a function of a transaction."""
    return isinstance(found, FunctionType) and found.__code__.co_varnames[:1] == ("txn",)


def _is_plain(found: Any) -> bool:
    """Whether it is a class of nothing but data."""
    kinds = (tuple, Enum, Exception, Record)
    return isinstance(found, type) and (issubclass(found, kinds) or dataclasses.is_dataclass(found))


class Facts(NamedTuple):
    """What an op's arguments mean: where its `now` is (-1: it has none), and whether it lays something into a list."""

    now: int
    fills: bool


@functools.cache
def facts_of(op: Any) -> Facts:
    """What is to be known of an op, or of what is asked by a name."""
    if isinstance(op, str):
        return Facts(-1, False)
    code = op.__code__
    given = code.co_varnames[1 : code.co_argcount]
    return Facts(given.index("now") if "now" in given else -1, given[:1] == ("found",))


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return named(module, name)


def loads(data: bytes | memoryview) -> Any:
    """What was packed. Raises UnpicklingError for what names anything that is not ours."""
    return _Reader(io.BytesIO(data)).load()


def frame(message: Any) -> bytes:
    """The message, ready to be sent. Raises what pickling raises, and Broken if it is too large for one frame."""
    data = pickle.dumps(message, 5)
    if len(data) > MAX_FRAME:
        raise Broken(f"a message of {len(data)} bytes: at most {MAX_FRAME} travel at a time")
    return HEAD.pack(len(data)) + data


class Assembler:
    """Puts frames together from what is read, however it was cut."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._need = HEAD.size

    def feed(self, data: bytes) -> Iterator[memoryview]:
        """The frames that are complete now."""
        self._parts.append(data)
        self._size += len(data)
        if self._size < self._need:
            return
        whole = data if len(self._parts) == 1 else b"".join(self._parts)
        view, at, size = memoryview(whole), 0, len(whole)
        self._need = HEAD.size
        while size - at >= HEAD.size:
            end = at + HEAD.size + HEAD.unpack_from(whole, at)[0]
            if end > size:
                self._need = end - at
                break
            yield view[at + HEAD.size : end]
            at = end
        self._parts = [whole[at:]] if at < size else []
        self._size = size - at


def failure(error: BaseException) -> tuple[type, tuple[Any, ...], dict[str, Any]]:
    """The error as it travels: its class, what it was made from, and what it has. Not as pickle does it: in a Dask
    process that is another library's business, and brings tracebacks along."""
    kind = type(error)
    if issubclass(kind, GuildhallError) or kind.__module__ == "builtins":
        try:
            taken_apart = kind, error.args, dict(vars(error))
            loads(pickle.dumps(taken_apart, 5))
            return taken_apart
        except Exception:
            pass
    return Broken, (f"in the scheduler: {kind.__name__}: {error}",), {}


def error_of(kind: type, args: tuple[Any, ...], facts: dict[str, Any]) -> BaseException:
    """The error that was taken apart."""
    error: BaseException = kind(*args)
    vars(error).update(facts)
    return error
