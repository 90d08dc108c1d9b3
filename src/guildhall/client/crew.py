"""The workers, as the client sees them: who they are, what they do, and asking each of them something."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from .. import deadline
from ..deadline import Timeout
from ..engine.local import inbox, payload, tasks
from ..engine.local.tasks import Demand, Recipe, WorkerInfo
from ..errors import Misuse, TimedOut, WrongType
from ..hosts.embedded import EmbeddedHost
from ..primitives import sessions, values
from .cluster import amounts
from .futures import Future
from .submission import name_of

LOOK_S = 0.01


def address_of(info: WorkerInfo) -> str:
    """What a worker is called by, whatever becomes of its hall."""
    return tasks.names_of(0, info.pid)[0]


def demand_of(workers: Any, resources: Mapping[str, float] | None, allow_others: bool) -> Demand | None:
    """What the tasks of a call ask of their worker; None if nothing."""
    names = () if workers is None or allow_others else _names(workers)
    needed = amounts(resources)
    return Demand(names, needed) if names or needed else None


def _names(workers: Any) -> tuple[str, ...]:
    given = [workers] if isinstance(workers, str) else workers
    if not isinstance(given, list | tuple | set | frozenset) or not all(isinstance(one, str) for one in given):
        raise WrongType(f"workers: expected an address or a name, or several, got {workers!r:.80}")
    return tuple(given)


def chosen(host: EmbeddedHost, workers: Any) -> dict[int, WorkerInfo]:
    """The workers meant, by session: all, or those with these addresses or names. Raises Misuse for an unknown one."""
    everybody = host.read(tasks.crew)
    if workers is None:
        return everybody
    wanted = set(_names(workers))
    known = {session: set(tasks.names_of(session, info.pid)) for session, info in everybody.items()}
    if unknown := wanted - set().union(*known.values()):
        raise Misuse(f"worker {min(unknown)!r:.60}: not there; there are {sorted(map(address_of, everybody.values()))}")
    return {session: everybody[session] for session, names in known.items() if names & wanted}


def threads(host: EmbeddedHost, workers: Any) -> dict[str, int]:
    return {address_of(info): info.threads for info in chosen(host, workers).values()}


def info(host: EmbeddedHost, most: int = -1) -> dict[str, Any]:
    """As `Client.scheduler_info`."""
    import psutil

    everybody, started = host.read(tasks.crew), host.read(sessions.everybody)
    claimed = host.read(tasks.claimed)
    some = list(everybody.items())[: None if most < 0 else most]
    return {
        "type": "Hall",
        "id": host.directory,
        "address": host.directory,
        "services": {},
        "started": deadline.epoch(min(one.since for one in started)),
        "n_workers": len(everybody),
        "total_threads": sum(one.threads for one in everybody.values()),
        "total_memory": sum(one.memory_limit for one in everybody.values()) or psutil.virtual_memory().total,
        "workers": {
            address_of(one): _described(host, session, one, len(claimed.get(session, ()))) for session, one in some
        },
    }


def _described(host: EmbeddedHost, session: int, one: WorkerInfo, running: int) -> dict[str, Any]:
    import psutil

    name, now = tasks.names_of(session, one.pid)[1], deadline.epoch(deadline.now())
    metrics: dict[str, Any] = {"time": now, "executing": running}
    try:
        process = psutil.Process(one.pid)
        with process.oneshot():
            status = "paused" if process.status() == psutil.STATUS_STOPPED else "running"
            metrics |= {
                "memory": process.memory_info().rss,
                "cpu_s": sum(process.cpu_times()[:2]),
                "num_fds": process.num_fds() if hasattr(process, "num_fds") else 0,
            }
    except psutil.Error:  # It has ended, and its burial is under way.
        status, metrics = "gone", {**metrics, "memory": 0}
    return {
        "type": "Worker", "id": name, "host": "localhost", "resources": dict(one.resources),
        "local_directory": host.directory, "name": name, "nthreads": one.threads, "memory_limit": one.memory_limit,
        "last_seen": now, "services": {}, "metrics": metrics, "status": status, "nanny": None, "pid": one.pid,
    }  # fmt: skip


def processing(host: EmbeddedHost, workers: Any = None) -> dict[str, list[str]]:
    """As `Client.processing`."""
    some, claimed = chosen(host, workers), host.read(tasks.claimed)
    return {address_of(one): claimed.get(session, []) for session, one in some.items()}


def run_on(host: EmbeddedHost, worker: str, function: Any, call: Any) -> Any:
    """As `Client.run_on`."""
    if not isinstance(worker, str):
        raise WrongType(f"run_on: expected a worker's address or name, got {type(worker).__name__} {worker!r:.60}")
    (found,) = run(host, function, call, worker, True, "raise").values()
    return found


def run(host: EmbeddedHost, function: Any, call: Any, workers: Any, wait: bool, on_error: str) -> dict[str, Any]:
    """As `Client.run`."""
    if on_error not in ("raise", "return", "ignore"):
        raise Misuse(f"run: on_error {on_error!r}: expected 'raise', 'return' or 'ignore'")
    if not callable(function):
        raise WrongType(f"run: expected a function, got {type(function).__name__} {function!r:.60}")
    futures = _send(host, chosen(host, workers), function, call)
    if not wait:
        return dict(futures)
    found: dict[str, Any] = {}
    for address, future in futures.items():
        error = future.exception()
        if error is None:
            found[address] = future.result()
        elif on_error == "raise":
            raise error
        elif on_error == "return":
            found[address] = error
    return found


def _send(
    host: EmbeddedHost, crew: dict[int, WorkerInfo], function: Callable[..., Any], call: Any
) -> dict[str, Future]:
    """Ask each of them. What they share, the function and its arguments, is placed once."""
    name = name_of(function)
    code = payload.place(host, function, f"function {name}")
    spent: tuple[bytes, ...] = (code,)
    try:
        data, uses, placed = payload.inline(host, call, f"an argument of {name}")
        spent += placed
        recipe = Recipe(name, payload.REFERENCE + code, data)
        futures = {}
        for session, one in crew.items():
            oid = host.new_object()
            host.transact(inbox.send, session, oid, recipe, (code, *uses))
            futures[address_of(one)] = Future(host, oid, None, name)
        return futures
    finally:
        host.defer(values.release_for, host.session, spent)


def await_workers(host: EmbeddedHost, n_workers: int, old: set[int], timeout: Timeout) -> None:
    """Until so many workers are there, besides those of the `old` sessions. Raises TimedOut."""
    timeout_s = deadline.seconds(timeout)
    until = deadline.after(timeout_s)
    while (there := len(host.read(tasks.crew).keys() - old)) < n_workers:
        if deadline.left(until) == 0:
            raise TimedOut(f"workers: {there} of {n_workers} there within {timeout_s:g} s")
        time.sleep(LOOK_S)
