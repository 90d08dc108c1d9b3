"""Calls become tasks: functions are pickled once, calls in batches that grow, so that workers begin with the first."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from typing import Any

from ..engine.local import functions, payload, tasks
from ..engine.local.tasks import Recipe
from ..errors import WrongType
from ..hosts.embedded import EmbeddedHost
from ..primitives import values
from ..primitives.values import FINISHED
from .futures import Future, substitute

Call = tuple[tuple[Any, ...], dict[str, Any]]

INLINE_FUNCTION_BYTES = 2048
"""A function whose pickle is larger is placed as an object, also for a single call."""
FIRST_BATCH = 16
MAX_BATCH = 256
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
    key: str | None = None,
    is_single: bool = False,
) -> list[Future]:
    """Each call as a task. Raises WrongType for what is not callable, Unpicklable for what cannot travel."""
    if not callable(function):
        raise WrongType(f"submit: expected a function, got {type(function).__name__} {function!r:.60}")
    name = getattr(function, "__name__", type(function).__name__)
    code, uses, spent = _place(host, function, name, INLINE_FUNCTION_BYTES if is_single else 64)
    futures: list[Future] = []
    batch: list[tuple[bytes, Recipe, tuple[bytes, ...]]] = []
    size = FIRST_BATCH
    for args, kwargs in calls:
        oid = host.new_object()
        if not kwargs and PLAIN.issuperset(map(type, args)):
            recipe = Recipe(name, code, pickle.dumps((args, kwargs), 5), (), retries, 0, 0, priority, True)
            batch.append((oid, recipe, uses))
        else:
            deps: list[bytes] = []
            stored, used = payload.store(host, substitute((args, kwargs), deps), f"an argument of {name}")
            spent += used
            recipe = Recipe(name, code, stored.data, tuple(dict.fromkeys(deps)), retries, 0, 0, priority)
            batch.append((oid, recipe, (*uses, *stored.uses, *recipe.deps)))
        futures.append(Future(host, oid, key, name))
        if len(batch) >= size:
            host.transact(tasks.submit, batch)
            batch = []
            size = min(2 * size, MAX_BATCH)
    if batch:
        host.transact(tasks.submit, batch)
    if spent:
        host.defer(values.release_for, host.session, spent)
    return futures


def _place(
    host: EmbeddedHost, function: Callable[..., Any], name: str, inline_bytes: int
) -> tuple[bytes, tuple[bytes, ...], tuple[bytes, ...]]:
    """The function as bytes for a recipe, the objects that each task uses for it, and those to release afterwards."""
    code, uses = functions.pickled(function, name)
    if code is not None and len(code) <= inline_bytes:
        return code, uses, ()
    oid = host.new_object()
    data, inner, blob = payload.encode(host, function, f"function {name}")
    host.transact(values.make, oid, FINISHED, data, inner, blob)
    return payload.REFERENCE + oid, (oid,), (oid,)
