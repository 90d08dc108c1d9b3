"""One task, from its recipe to its end."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import lru_cache
from types import CoroutineType, TracebackType
from typing import Any

from ...errors import Unpicklable
from ...hosts.embedded import EmbeddedHost
from ...primitives import values
from ...primitives.values import CANCELLED, ERROR, FINISHED
from . import failures, interrupts, payload
from .interrupts import Interrupted, Interruptible
from .tasks import Done, Recipe


@lru_cache(maxsize=256)
def _function(pickled: bytes) -> Callable[..., Any]:
    function: Callable[..., Any] = pickle.loads(pickled)
    return function


@lru_cache(maxsize=256)
def _placed(host: EmbeddedHost, oid: bytes) -> bytes:
    found = host.read(values.look, oid)
    if found is None:
        raise FileNotFoundError("the function is gone")
    return found.data


@lru_cache(maxsize=1)
def large_function(host: EmbeddedHost, data: bytes) -> Callable[..., Any]:
    """One at a time, and none while there is nothing to do: it keeps its blob's memory."""
    function: Callable[..., Any] = payload.decode(host, data)
    return function


def _function_of(host: EmbeddedHost, code: bytes) -> Callable[..., Any]:
    if code[:1] == payload.REFERENCE:
        code = _placed(host, code[1:])
    return _function(code) if code[:1] == payload.PICKLE else large_function(host, code)


def load_function(host: EmbeddedHost, oid: bytes) -> Callable[..., Any]:
    """The function that an object holds."""
    return _function_of(host, payload.REFERENCE + oid)


def run_task(host: EmbeddedHost, oid: bytes, recipe: Recipe, run: Interruptible | None = None) -> Done:
    """Run one task to its end, whatever it raises. `run` is what may be interrupted in it."""

    def call() -> Any:
        return _call(host, recipe, *arguments(host, recipe))

    return ended(host, oid, recipe, call if run is None else lambda: run.play(oid, call))


def ended(host: EmbeddedHost, oid: bytes, recipe: Recipe, compute: Callable[[], Any]) -> Done:
    """The end of what `compute` does for the object, whatever it raises."""
    try:
        result = compute()
        data, uses, blob = payload.encode(host, oid, result, f"the result of task {recipe.name}")
        if uses:  # Until it is told: the futures in the result are dropped with it, which gives their holds back.
            host.transact(values.hold_for, host.session, uses)
        return Done(oid, FINISHED, data, uses, blob)
    except Interrupted:  # It has been cancelled already.
        return Done(oid, CANCELLED, b"")
    except BaseException as error:
        if not isinstance(error, Unpicklable):
            error.__traceback__ = _users(error.__traceback__)
        return Done(oid, ERROR, failures.encode(error), again=recipe.retries > 0)


def _users(traceback: TracebackType | None) -> TracebackType | None:
    """The part of it that begins in the user's code; all of it if there is none."""
    place = traceback
    while place is not None and place.tb_frame.f_globals.get("__name__") in (__name__, interrupts.__name__):
        place = place.tb_next
    return place or traceback


def _call(host: EmbeddedHost, recipe: Recipe, args: Any, kwargs: Any) -> Any:
    result = _function_of(host, recipe.function)(*args, **kwargs)
    if isinstance(result, CoroutineType):
        import asyncio

        return asyncio.run(result)
    return result


def arguments(host: EmbeddedHost, recipe: Recipe) -> tuple[Any, Any]:
    """What the task is called with: positional arguments, keywords."""
    args, kwargs = pickle.loads(recipe.args) if recipe.is_plain else payload.decode(host, recipe.args)
    return args, kwargs
