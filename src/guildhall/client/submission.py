"""Calls become tasks: functions are pickled once, calls in batches that grow, so that workers begin with the first."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from typing import Any

from ..deadline import now
from ..engine.local import functions, payload, tasks
from ..engine.local.tasks import Demand, Recipe
from ..errors import Misuse, Unpicklable, WrongType
from ..hosts import current
from ..hosts.embedded import EmbeddedHost
from ..primitives import values
from .futures import Future, substitute
from .purity import Keys, packed_key

Entry = tuple[bytes, Recipe, tuple[bytes, ...]]
Call = tuple[tuple[Any, ...], dict[str, Any]]

INLINE_FUNCTION_BYTES = 2048
"""A function whose pickle is larger is placed as an object, also for a single call."""
MAP_FUNCTION_BYTES = 64
"""The same for the function of a map, whose tasks all refer to one object."""
FIRST_BATCH = 16
MAX_BATCH = 256
SLOW_S = 0.005
"""Calls that take longer to come do not wait for their batch to be full."""
PLAIN = payload.PLAIN


def submit(host: EmbeddedHost, function: Callable[..., Any], call: Call, **options: Any) -> Future:
    """One call as a task."""
    return submit_all(host, function, (call,), is_single=True, **options)[0]


def submit_all(
    host: EmbeddedHost,
    function: Callable[..., Any],
    calls: Iterable[Call],
    *,
    retries: int = 0,
    priority: int = 0,
    keys: Keys | None = None,
    demand: Demand | None = None,
    is_single: bool = False,
    first_batch: int = FIRST_BATCH,
) -> list[Future]:
    """Each call as a task. Raises WrongType for what is not callable, Unpicklable for what cannot travel.

    With `keys`, calls of the same key share one run and one result.
    """
    name = expect_call(function, retries, priority)
    code, uses, placed = _place(host, function, name, INLINE_FUNCTION_BYTES if is_single else MAP_FUNCTION_BYTES)
    spent = list(placed)
    futures: list[Future] = []
    batch: list[Entry] = []
    kept: list[Any] = []  # Futures that only a generator made: they hold their results until the batch does.
    size, since = first_batch, now()
    try:
        for args, kwargs in calls:
            oid = host.new_object()
            if (
                not kwargs
                and PLAIN.issuperset(map(type, args))
                and len(data := pickle.dumps((args, kwargs), 5)) <= payload.INLINE_BYTES
            ):
                recipe = Recipe(name, code, data, (), retries, 0, 0, priority, True, demand)
                batch.append((oid, recipe, uses))
            else:
                kept.append(args)
                kept.append(kwargs)
                deps: list[bytes] = []
                data, used, placed = payload.inline(
                    host, _substituted(host, args, kwargs, deps, name), f"an argument of {name}"
                )
                spent.extend(placed)
                recipe = Recipe(name, code, data, tuple(dict.fromkeys(deps)), retries, 0, 0, priority, False, demand)
                batch.append((oid, recipe, (*uses, *used, *recipe.deps)))
            futures.append(Future(host, oid, None if keys is None else keys.of(function, args, kwargs), name))
            is_slow = now() - since > SLOW_S
            if is_slow or len(batch) >= size:
                _send(host, batch, futures, keys)
                batch = []
                kept.clear()
                size, since = 1 if is_slow else min(2 * size, MAX_BATCH), now()
        if batch:
            _send(host, batch, futures, keys)
    finally:
        if spent:
            host.defer(values.release_for, host.session, tuple(spent))
    return futures


def _send(host: EmbeddedHost, batch: list[Entry], futures: list[Future], keys: Keys | None) -> None:
    """Put the tasks of the last futures into the store. With keys, their results may be those of others."""
    if keys is None:
        host.transact(tasks.submit, batch, current.task is not None)
        return
    last = range(len(futures) - len(batch), len(futures))
    packed = [packed_key(futures[place].key) for place in last]
    stand = host.transact(tasks.submit_keyed, host.session, batch, packed, current.task is not None)
    for place, oid in zip(last, stand, strict=True):
        if futures[place]._oid != oid:
            futures[place] = Future(host, oid, futures[place].key)


def _substituted(host: EmbeddedHost, args: Any, kwargs: Any, deps: list[bytes], name: str) -> Any:
    try:
        return substitute(host, args, deps), substitute(host, kwargs, deps) if kwargs else kwargs
    except RecursionError:
        raise Unpicklable(
            f"an argument of {name} holds itself, or is nested deeper than Python can follow; pass what it is made from"
        ) from None


def expect_call(function: Any, retries: Any, priority: Any) -> str:
    """Refuse what would kill every worker that reads it. Returns the function's name, as plain text."""
    if not callable(function):
        raise WrongType(f"submit: expected a function, got {type(function).__name__} {function!r:.60}")
    expect_numbers(retries, priority)
    return name_of(function)


def expect_numbers(retries: Any, priority: Any) -> None:
    """Refuse what is no number, or too large for a recipe."""
    for what, given in (("retries", retries), ("priority", priority)):
        if isinstance(given, bool) or not isinstance(given, int):
            raise WrongType(f"submit: {what}: expected a whole number, got {type(given).__name__} {given!r:.60}")
    if not 0 <= retries < 1 << 31 or not -(1 << 31) <= priority < 1 << 31:
        raise Misuse(f"submit: retries {retries}, priority {priority}: expected retries of 0 or more, both below 2**31")


def name_of(function: Callable[..., Any]) -> str:
    """The function's name, as plain text."""
    name = getattr(function, "__name__", type(function).__name__)
    return name if isinstance(name, str) and name.isascii() else str(name).encode(errors="backslashreplace").decode()


def _place(
    host: EmbeddedHost, function: Callable[..., Any], name: str, inline_bytes: int
) -> tuple[bytes, tuple[bytes, ...], tuple[bytes, ...]]:
    """The function as bytes for a recipe, the objects that each task uses for it, and those to release afterwards."""
    code, uses = functions.pickled(host, function, name)
    if code is not None and len(code) <= inline_bytes:
        return code, uses, ()
    oid = payload.place(host, function, f"function {name}")
    return payload.REFERENCE + oid, (oid,), (oid,)
