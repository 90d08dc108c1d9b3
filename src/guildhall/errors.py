"""Every error of guildhall. Whose fault it is decides the branch.

    GuildhallError
    |-- Misuse          the caller's: also ValueError
    |   |-- NotHeld         released by someone who does not hold it; also RuntimeError
    |   |-- DeadlockError   a wait that could never end, as who holds waits in turn; also RuntimeError
    |   |-- SemaphoreClosed used after it was closed; also RuntimeError
    |   |-- NotPublished    no dataset of that name; also KeyError
    |   |-- Taken           a dataset of that name is there; also KeyError
    |   `-- NoHall          no hall to work in; also RuntimeError
    |-- TimedOut        time's: also TimeoutError
    |-- LockLost        time's: a lease ran out and another took over; also RuntimeError
    |-- Closed          the end of a queue, reached as somebody wished; also KeyError
    |-- Lagged          the reader's slowness: messages were dropped before it read them
    |-- BrokenBarrier   another party's: it gave up or died; also threading.BrokenBarrierError (RuntimeError)
    |-- Broken          the world's: also OSError
    |   |-- StoreFull       no room in the file system or the store
    |   |-- HallRefused     a directory that cannot be trusted or used
    |   `-- HallDamaged     a store that cannot be read
    `-- TaskFailed      the task's
        |-- KilledWorker    the worker died under the task too often
        |   `-- ActorLost       an actor's worker died, and its state with it; also RuntimeError
        `-- Unpicklable     an argument or a result cannot travel; also TypeError and pickle.PicklingError

Every error survives pickling: it is rebuilt from `args`.
"""

from __future__ import annotations

import threading
from pickle import PicklingError
from typing import NamedTuple


class GuildhallError(Exception):
    """The root of all errors raised on purpose by this package."""


class Misuse(GuildhallError, ValueError):
    """The caller asked for something that makes no sense."""


class NotHeld(Misuse, RuntimeError):
    """A lock was released by someone who does not hold it."""


class Link(NamedTuple):
    """One wait of a circle. What it waits for, the next one has; what the last one waits for, the first one has."""

    session: int
    pid: int | None
    agent: str
    """Who waits: "thread MainThread", "asyncio task Task-2", "task slow_pow-15011502" (of a client); "" if unknown."""
    waits_for: str
    """Such as "lock 'a'" or "task slow_pow-15011502"."""


class DeadlockError(Misuse, RuntimeError):
    """A wait that could never end: whoever could end it waits, in the end, for the one who asked.

    `circle` names them, the one who asked first. It has stopped waiting and holds what it held before.
    """

    def __init__(self, text: str, circle: tuple[Link, ...] = ()) -> None:
        super().__init__(text, circle)
        self.circle = circle

    def __str__(self) -> str:
        return str(self.args[0])


class SemaphoreClosed(Misuse, RuntimeError):
    """A semaphore was used after somebody closed it."""


class NoHall(Misuse, RuntimeError):
    """There is no hall: no client, no task around, no GUILDHALL in the environment."""


class NotPublished(Misuse, KeyError):
    """There is no dataset of that name."""

    __str__ = Exception.__str__  # That of KeyError shows the text as a key.


class Taken(Misuse, KeyError):
    """There is a dataset of that name already."""

    __str__ = Exception.__str__


class WrongType(Misuse, TypeError):
    """A value of a type that cannot be used here."""


class TimedOut(GuildhallError, TimeoutError):
    """The time given for a value to arrive was up."""


class LockLost(GuildhallError, RuntimeError):
    """The lease of a lock ran out before the lock was released: another holds it, or may at any moment."""


class Closed(GuildhallError, KeyError):
    """A queue was closed: it takes nothing any more, and has nothing left to give."""

    __str__ = Exception.__str__  # A KeyError would show its message in quotes.


class Lagged(GuildhallError):
    """A subscription was too slow: `n` messages before the next one were dropped. `get` goes on with that one."""

    def __init__(self, n: int, what: str = "subscription") -> None:
        super().__init__(n, what)
        self.n = n

    def __str__(self) -> str:
        return (
            f"{self.args[1]}: {self.n} messages were dropped unread; get() goes on behind them, or allow more of them"
        )


class BrokenBarrier(GuildhallError, threading.BrokenBarrierError):
    """A barrier that not all parties reach: the time of one was up, one died, or it was aborted or reset."""


class Broken(GuildhallError, OSError):
    """Something outside the program does not work."""


class StoreFull(Broken):
    """The store or its file system is full; it works again after something is deleted."""


class HallRefused(Broken):
    """A hall directory that is not ours to use: another owner, a network file system, another container."""


class HallDamaged(Broken):
    """A store that cannot be read."""


class TaskFailed(GuildhallError):
    """A task failed for a reason that is not an exception of its own."""


class KilledWorker(TaskFailed):
    """The workers that ran a task died, one after the other."""


class ActorLost(KilledWorker, RuntimeError):
    """The worker died that an actor lived in, or the actor was let go."""


class Unpicklable(TaskFailed, TypeError, PicklingError):
    """An argument or a result that cannot be pickled, or not read where it arrives."""
