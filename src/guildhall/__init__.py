"""Coordination for parallel Python: variables, queues, locks, events, publish/subscribe and futures that worker
processes and their client share, on one machine without a server.

The map, each using what stands before it and nothing behind: `errors`, `deadline` (the clock) < `store` (ordered keys,
transactions) < `primitives` (ops) < `hosts` (where ops run, waking, dying) < `engine` (where functions run: tasks,
actors, blobs, workers) < `client` (what users hold: clients, futures, `client.handles` of the primitives, executors;
also `aio`, with `await`, and `joblib`) < `tools` (the command line, progress) < `testing` (simulated processes; nothing
else loads it). docs/architecture.md has every module.
Names are imported when they are first used.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concurrent.futures import CancelledError as CancelledError

    from .client.actors import Actor as Actor
    from .client.actors import ActorFuture as ActorFuture
    from .client.client import Client as Client
    from .client.client import Executor as Executor
    from .client.client import get_client as get_client
    from .client.cluster import LocalCluster as LocalCluster
    from .client.completion import as_completed as as_completed
    from .client.futures import Future as Future
    from .client.futures import fire_and_forget as fire_and_forget
    from .client.futures import wait as wait
    from .client.hall import Hall as Hall
    from .client.hall import ObservedHall as ObservedHall
    from .client.hall import observe as observe
    from .client.hall import open as open
    from .client.hall import remove as remove
    from .client.handles import Barrier as Barrier
    from .client.handles import Condition as Condition
    from .client.handles import Counter as Counter
    from .client.handles import Election as Election
    from .client.handles import Event as Event
    from .client.handles import Latch as Latch
    from .client.handles import Lock as Lock
    from .client.handles import MultiLock as MultiLock
    from .client.handles import PriorityQueue as PriorityQueue
    from .client.handles import Pub as Pub
    from .client.handles import Queue as Queue
    from .client.handles import RateLimiter as RateLimiter
    from .client.handles import RLock as RLock
    from .client.handles import RWLock as RWLock
    from .client.handles import Semaphore as Semaphore
    from .client.handles import Sub as Sub
    from .client.handles import TopicStatistics as TopicStatistics
    from .client.handles import Variable as Variable
    from .client.handles import Watch as Watch
    from .client.seceding import rejoin as rejoin
    from .client.seceding import secede as secede
    from .client.seceding import worker_client as worker_client
    from .client.xarray_lock import install_xarray_lock as install_xarray_lock
    from .errors import ActorLost as ActorLost
    from .errors import Broken as Broken
    from .errors import BrokenBarrier as BrokenBarrier
    from .errors import Closed as Closed
    from .errors import DeadlockError as DeadlockError
    from .errors import GuildhallError as GuildhallError
    from .errors import HallDamaged as HallDamaged
    from .errors import HallRefused as HallRefused
    from .errors import KilledWorker as KilledWorker
    from .errors import Lagged as Lagged
    from .errors import LockLost as LockLost
    from .errors import Misuse as Misuse
    from .errors import NoHall as NoHall
    from .errors import NotHeld as NotHeld
    from .errors import SemaphoreClosed as SemaphoreClosed
    from .errors import StoreFull as StoreFull
    from .errors import TaskFailed as TaskFailed
    from .errors import TimedOut as TimedOut
    from .errors import Unpicklable as Unpicklable
    from .tools.progress import progress as progress

__version__ = "0.1.0"

TimeoutError = TimeoutError

_HOMES = {
    "client.client": ("Client", "Executor", "get_client"),
    "client.actors": ("Actor", "ActorFuture"),
    "client.cluster": ("LocalCluster",),
    "client.completion": ("as_completed",),
    "client.futures": ("Future", "fire_and_forget", "wait"),
    "client.seceding": ("rejoin", "secede", "worker_client"),
    "client.hall": ("Hall", "ObservedHall", "observe", "open", "remove"),
    "client.handles": (
        "Event", "Lock", "Pub", "Queue", "Sub", "Variable",
        "MultiLock", "RLock", "RWLock", "Semaphore",
        "Counter", "Watch",
        "PriorityQueue",
        "Barrier", "Condition", "Election", "Latch", "RateLimiter",
        "TopicStatistics",
    ),
    "client.xarray_lock": ("install_xarray_lock",),
    "errors": (
        "Closed",
        "ActorLost", "Broken", "GuildhallError", "HallDamaged", "HallRefused", "KilledWorker", "Misuse", "NoHall",
        "NotHeld",
        "StoreFull", "TaskFailed", "TimedOut", "Unpicklable",
        "LockLost", "SemaphoreClosed",
        "BrokenBarrier",
        "DeadlockError",
        "Lagged",
    ),
    "tools.progress": ("progress",),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted([*_HOME_OF, "CancelledError", "TimeoutError"])


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "CancelledError":
        value: Any = import_module("concurrent.futures").CancelledError
    elif name in _HOME_OF:
        value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    elif name == "aio":
        value = import_module(f"{__name__}.aio")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


# -- joblib -----------------------------------------------------------------------------------------------------------
# Its backends are chosen by name, and it has no other way to learn ours (docs/decisions/0008-joblib-by-name.md).


def _joblib_backend(**options: Any) -> Any:
    from .joblib import GuildhallBackend

    return GuildhallBackend(**options)


class _JoblibImport:
    """Tells joblib our name when it is imported; neither is loaded for that. Then it is gone."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "joblib.parallel":
            return None
        sys.meta_path.remove(self)
        specs = (finder.find_spec(name, path, target) for finder in sys.meta_path)
        spec = next((found for found in specs if found is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                execute(module)
                module.register_parallel_backend("guildhall", _joblib_backend)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if "joblib.parallel" in sys.modules:
    sys.modules["joblib.parallel"].register_parallel_backend("guildhall", _joblib_backend)
else:
    sys.meta_path.insert(0, _JoblibImport())
