"""Showing users' values without running their code.

A pickle is a program. Whoever only wants to see what is in a queue must neither import the modules that it names nor
call what it calls. So here names stand for themselves: what is not a plain value of Python becomes a `Shape`, which
prints as the call that would have made it.
"""

from __future__ import annotations

import io
import pickle
import reprlib
from collections.abc import Iterator
from typing import Any

from ..engine.local import blobs, payload
from ..hosts.observer import Looking
from ..primitives import queue, values

_PLAIN = {
    "builtins": ("bytearray", "complex", "frozenset", "set", "range", "slice", "list", "dict", "tuple", "int", "float",
                 "bool", "str", "bytes"),
    "collections": ("OrderedDict", "deque", "defaultdict", "Counter"),
    "datetime": ("date", "datetime", "time", "timedelta", "timezone"),
    "decimal": ("Decimal",),
    "fractions": ("Fraction",),
    "uuid": ("UUID",),
}  # fmt: skip
"""What is made for real: it does nothing but be there."""
_FUTURE = ("guildhall.client.futures", "_restore")

_short = reprlib.Repr()
_short.maxlevel = 4
_short.maxlist = _short.maxtuple = _short.maxdict = _short.maxset = 12
_short.maxstring = _short.maxother = _short.maxlong = 120


class Shape:
    """Stands for an object that was not made: what would have been called, with what."""

    _made_by = "object"
    _parts: list[Any]
    _named: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Shape:
        self = super().__new__(cls)
        self._parts = [*args]
        self._named = dict(kwargs)
        return self

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """What came is kept by `__new__`, which a pickle may call alone."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
            state = {**(state[0] or {}), **state[1]} if isinstance(state[0], dict | None) else state
        if isinstance(state, dict):
            self._named.update({str(key): value for key, value in state.items()})
        else:
            self._parts.append(state)

    def append(self, item: Any) -> None:
        self._parts.append(item)

    add = append

    def extend(self, items: Any) -> None:
        self._parts.extend(items)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._named[_short.repr(key)] = value

    def __call__(self, *args: Any, **kwargs: Any) -> Shape:
        return _shape_class(repr(self))(*args, **kwargs)

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        parts = [_short.repr(part) for part in self._parts[:8]]
        parts += [f"{key}={_short.repr(value)}" for key, value in list(self._named.items())[:8]]
        more = len(self._parts) + len(self._named) - len(parts)
        return f"{self._made_by}({', '.join(parts)}{f', ... {more} more' if more > 0 else ''})"


def _shape_class(made_by: str) -> type[Shape]:
    return type("Shape", (Shape,), {"_made_by": made_by})


def _skeleton(constructor: Any, name: str, *rest: Any) -> type[Shape]:
    """A class that travelled by value."""
    return _shape_class(str(name))


class _Reader(pickle.Unpickler):
    """Reads a pickle, and imports nothing that it names."""

    def find_class(self, module: str, name: str) -> Any:
        if name in _PLAIN.get(module, ()):
            return super().find_class(module, name)
        if module == "cloudpickle.cloudpickle" and name.startswith("_make_skeleton"):
            return _skeleton
        return _shape_class("Future" if (module, name) == _FUTURE else f"{module}.{name}".removeprefix("builtins."))

    def persistent_load(self, pid: Any) -> Any:
        return pid


def shown(hall: Looking, stored: bytes) -> Any:
    """A stored value for looking at; where it cannot be read, a text in angle brackets that says why."""
    try:
        return _shown(hall, values.unpack(stored).data)
    except Exception as error:
        return Text(f"<{len(stored)} bytes that cannot be shown: {error!r:.200}>")


def _shown(hall: Looking, data: bytes) -> Any:
    if data[:1] == payload.REFERENCE:
        found = hall.read(values.look, data[1:])
        if found is None:
            return Text("<a large value that is gone>")
        data = found.data
    if data[:1] == blobs.BLOB:
        return Text(f"<a large value of {blobs.size_bytes(data)} bytes>")
    return _Reader(io.BytesIO(data), buffers=_nothing()).load()


def _nothing() -> Iterator[bytes]:
    while True:
        yield b""


class Text(str):
    """A text that prints as it is, without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def printed(value: Any) -> str:
    """The value in one line, shortened; whatever it is, also one that cannot be printed."""
    try:
        return _short.repr(value) if not isinstance(value, Shape | Text) else repr(value)
    except Exception as error:
        return unshown(value, error)


def unshown(value: Any, error: Exception) -> str:
    """What stands for a value whose own way of printing failed."""
    return f"<a {type(value).__name__} that cannot be shown: {type(error).__name__}>"


def items(hall: Looking, key: bytes, count: int) -> list[Any]:
    """The first items of the queue of that packed name. They stay where they are."""
    return [shown(hall, item) for item in hall.read(queue.peek, key, count)]
