"""What users hold of the primitives. A handle is a name and a hall; it pickles by name.

Each blocking method has its flow (`_flow` in the name), which `guildhall.aio` runs too. A process loads the handles
that it uses: a worker that is given a Variable has no need of the others, and its first task does not wait for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .barrier import Barrier
    from .condition import Condition
    from .counter import Counter
    from .election import Election
    from .event import Event
    from .latch import Latch
    from .lock import Lock
    from .multilock import MultiLock
    from .queue import PriorityQueue, Queue, Taken
    from .rate_limiter import RateLimiter
    from .rlock import RLock
    from .rwlock import RWLock
    from .semaphore import Semaphore
    from .statistics import TopicStatistics
    from .topic import Pub, Sub
    from .variable import Variable
    from .watch import Watch

__all__ = [
    "Event", "Lock", "Pub", "Queue", "Sub", "Variable",
    "MultiLock", "RLock", "RWLock", "Semaphore",
    "Counter", "Watch",
    "PriorityQueue", "Taken",
    "Barrier", "Condition", "Election", "Latch", "RateLimiter",
    "TopicStatistics",
]  # fmt: skip

_HOMES = {
    "MultiLock": "multilock", "PriorityQueue": "queue", "Pub": "topic", "RateLimiter": "rate_limiter", "Sub": "topic",
    "Taken": "queue", "TopicStatistics": "statistics",
}  # fmt: skip
"""Where those live whose module is not called as they are."""


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES.get(name, name.lower())}"), name)
    globals()[name] = value
    return value
