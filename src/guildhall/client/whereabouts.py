"""Where results are, and what is known of a task: for those who look for one.

Nothing is written down for this: a hall keeps no journal of tasks. What is told follows from where things are now.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable
from typing import Any

from ..engine.local import tasks
from ..errors import WrongType
from ..hosts.embedded import EmbeddedHost
from ..primitives import values
from ..store.records import UNREADABLE, damaged
from . import crew
from .futures import Future, expect_futures
from .handles import statistics

Step = tuple[str, str, str, dict[str, Any], float | None]
"""Of a task: its key, from which state it came into which, what is known of that, and since when (None: unknown)."""


def who_has(host: EmbeddedHost, futures: Any) -> dict[str, list[str]]:
    """As `Client.who_has`."""
    everybody = list(crew.threads(host, None))
    if futures is None:
        return {key: list(everybody) for key in _results(host)}
    wanted = expect_futures("who_has", futures)
    return {future.key: everybody if future.status == "finished" else [] for future in wanted}


def has_what(host: EmbeddedHost, workers: Any) -> dict[str, list[str]]:
    """As `Client.has_what`."""
    everything = _results(host)
    return {address: list(everything) for address in crew.threads(host, workers)}


def _results(host: EmbeddedHost) -> list[str]:
    """The keys of results that are there: of this process's futures, and of those that were given one."""
    from .census import pairs

    keys = {future._oid: future.key for future in _futures(host)}
    found = []
    for place, data in pairs(host, values.OBJECTS):
        try:
            seen, oid = values.OBJECT.unpack(data), place[len(values.OBJECTS) :]
        except UNREADABLE as error:
            raise damaged(error) from error
        if seen.state != values.FINISHED or not (seen.is_named or oid in keys):
            continue
        given = host.read(values.key_of, oid) if seen.is_named else None
        found.append(keys[oid] if given is None else given.decode("utf-8", "surrogatepass"))
    return found


def _futures(host: EmbeddedHost) -> Iterable[Future]:
    """This process's futures. To look for them is slow; to keep a list would cost each task."""
    for thing in gc.get_objects():
        if issubclass(type(thing), Future) and getattr(thing, "_host", None) is host:
            yield thing


def story(host: EmbeddedHost, wanted: Iterable[Any]) -> list[Step]:
    """As `Client.story`."""
    asked = list(wanted)
    known = {} if all(isinstance(one, Future) for one in asked) else {one.key: one for one in _futures(host)}
    steps: list[Step] = []
    for one in asked:
        if isinstance(one, Future):
            steps += _steps(host, one.key, one._oid, one)
            continue
        if not isinstance(one, str):
            raise WrongType(f"story: expected futures or their keys, got {type(one).__name__} {one!r:.60}")
        future = known.get(one)
        named = host.read(values.named, one.encode("utf-8", "surrogatepass"))
        oid = named[0] if named is not None else None if future is None else future._oid
        steps += [(one, "new", "gone", {}, None)] if oid is None else _steps(host, one, oid, future)
    return steps


def _steps(host: EmbeddedHost, key: str, oid: bytes, future: Future | None) -> list[Step]:
    seen = host.read(statistics.of_future, key, oid)
    if seen.status == "error":
        return [(key, "new", "error", {} if future is None else {"error": repr(future.exception())}, None)]
    if seen.status != "pending":
        state = "gone" if seen.status == "lost" else seen.status
        return [(key, "new", state, {"size_bytes": seen.size_bytes} if state == "finished" else {}, None)]
    if seen.phase == "waiting":
        return [(key, "new", "waiting", {"results missing": seen.missing, "retries": seen.retries}, None)]
    steps: list[Step] = [(key, "new", "ready", {"retries": seen.retries}, None)]
    steps += [(key, "claimed", "ready", {"why": "its worker died"}, None)] * seen.deaths
    if seen.phase == "running":
        steps.append((key, "ready", "claimed", {"worker": tasks.names_of(0, seen.pid or 0)[0]}, seen.since))
    return steps
