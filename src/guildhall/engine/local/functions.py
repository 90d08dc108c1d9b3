"""Functions travel once: pickles of functions, kept on both sides.

Pickling by value (a function of `__main__`, a lambda) takes longer than a task's way through the store, and captures
the globals that the function uses at that moment. So a pickle is used again only while everything it captured is the
very same, and of kinds that cannot change under us; a function that refers to anything else is pickled at each call.
"""

from __future__ import annotations

import sys
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from ...hosts.embedded import EmbeddedHost
from . import payload

_MAX_DEPTH = 4

_kept: weakref.WeakKeyDictionary[Callable[..., Any], tuple[list[Any], bytes]] = weakref.WeakKeyDictionary()


def pickled(host: EmbeddedHost, function: Callable[..., Any], name: str) -> tuple[bytes | None, tuple[bytes, ...]]:
    """The function's pickle and the objects it uses; no pickle if it has buffers, which need a blob.

    Raises Unpicklable.
    """
    captured = _all_captured(function)
    can_keep = not any(value is _MISSING for value in captured)
    if can_keep:
        known = _kept.get(function)
        if known is not None and _same(known[0], captured):
            return known[1], ()
    code, buffers, uses = payload.pickled(host, function, f"function {name}")
    if buffers:
        return None, ()
    if can_keep and not uses:
        _kept[function] = captured, code
    return code, uses


_ABSENT: Any = object()
"""Stands for a global that is not there: a builtin's name or an attribute's; it may come and go."""
_MISSING: Any = object()
"""Stands for something that may change without our seeing it."""


_BY_VALUE = "__main__", "__mp_main__"
"""Modules whose own things others cannot import."""


def _all_captured(function: Callable[..., Any]) -> list[Any]:
    """All that the function's pickle would hold: of one that others import, its name."""
    if not isinstance(function, types.FunctionType):
        return [_MISSING]
    if _has_name(function):
        return [function.__module__, function.__qualname__]
    return list(_captured(function, 0))


def _captured(function: types.FunctionType, depth: int) -> Iterator[Any]:
    """All that the function's pickle would hold, or _MISSING."""
    if depth > _MAX_DEPTH or function.__dict__ or function.__closure__:
        yield _MISSING
        return
    yield function.__code__
    for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
        yield default if type(default) in payload.PLAIN else _MISSING
    for name in _names(function.__code__):
        value = function.__globals__.get(name, _ABSENT)
        yield value
        if type(value) is types.FunctionType:
            if value is not function:
                yield from _captured(value, depth + 1)
        elif value is not _ABSENT and type(value) not in payload.PLAIN and not _is_importable(value):
            yield _MISSING


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _is_importable(value: Any) -> bool:
    """Whether it is imported by name where it is needed: a module, or a module's own class or builtin function.

    A builtin that is the method of an object takes that object along.
    """
    if type(value) is types.ModuleType:
        return sys.modules.get(value.__name__) is value
    if not isinstance(value, type) and not (
        type(value) is types.BuiltinFunctionType and isinstance(value.__self__, types.ModuleType | None)
    ):
        return False
    return _has_name(value)


def _has_name(value: Any) -> bool:
    """Whether it is what others get who import its name from its module."""
    module = value.__module__
    return module not in _BY_VALUE and getattr(sys.modules.get(module), value.__qualname__, None) is value


def _same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))
