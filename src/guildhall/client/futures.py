"""Futures: references to results that are there or will be."""

from __future__ import annotations

import errno
import pickle
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import CancelledError
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self
from weakref import WeakValueDictionary

from .. import deadline
from ..deadline import Timeout
from ..engine.local import actors, failures, payload, tasks
from ..engine.local.pool import order
from ..errors import (
    ActorLost,
    GuildhallError,
    HallDamaged,
    KilledWorker,
    Misuse,
    StoreFull,
    TimedOut,
    Unpicklable,
    WrongType,
)
from ..hosts.embedded import EmbeddedHost
from ..primitives import values, waiters
from ..primitives.op import Answer
from ..primitives.values import CANCELLED, ERROR, FINISHED, PENDING, Object
from ..store.transaction import Waiter
from . import drive, html
from .callbacks import call_when_ended
from .drive import LATE, Flow
from .hall import host_of
from .vigil import Owned

if TYPE_CHECKING:
    from .handles.statistics import FutureStatistics

_STATUS = {PENDING: "pending", FINISHED: "finished", ERROR: "error", CANCELLED: "cancelled"}


READ_AHEAD = 256
MAX_OWNED = 256
"""A wait for any of more tasks than this counts as one that somebody will end."""
EXIT_S = 0.5


_known_to_dask: WeakValueDictionary[tuple[EmbeddedHost, Any], Future] = WeakValueDictionary()


def known_to_dask(host: EmbeddedHost, key: Any) -> Future | None:
    """The future of that key that a Dask graph was made of."""
    return _known_to_dask.get((host, key))


class Future:
    """The result of a task, there or to come. Pickles: in a task, a variable or a queue it stands for the same result.

    The result lives as long as a future of it does. Futures compare by identity.
    """

    __slots__ = ("__weakref__", "_host", "_key", "_name", "_oid", "_session")

    def __init__(self, host: EmbeddedHost, oid: bytes, key: str | None, name: str = "") -> None:
        self._host = host
        self._oid = oid
        self._session = host.session
        self._key = key
        self._name = name

    @property
    def key(self) -> str:
        """The task's name: what was given, or the function's name and a number."""
        return self._key or f"{self._name}-{self._oid.hex()}"

    def __reduce__(self) -> tuple[Any, ...]:
        if payload.context.uses is not None:
            _expect_hall(payload.context.into, self)
            payload.context.uses.append(self._oid)
        if payload.context.results is not None:
            payload.context.results.append(self._oid)
            return _value_of, (self._oid,)
        return _restore, (self._oid, self.key)

    @property
    def __dask_future__(self) -> bool:
        """Dask asks this of what it meets in a graph, and keeps the key only: by that it is found again."""
        _known_to_dask[self._host, self.key] = self
        return True

    def __dask_tokenize__(self) -> tuple[str, str]:
        return type(self).__name__, self.key

    def __del__(self) -> None:
        if self._session == self._host._session:  # In a forked child the hold is its parent's.
            self._host.drop(self._oid)

    def __repr__(self) -> str:
        try:
            status = self.status
        except GuildhallError:  # The hall is closed.
            status = "lost"
        return f"<{type(self).__name__}: {status}, key: {self.key}>"

    def _repr_html_(self) -> str:
        try:
            facts = self._facts()
        except GuildhallError as error:
            facts = [("Key", self.key), ("Status", "lost"), ("Why", error)]
        return html.table(f"guildhall {type(self).__name__}", facts)

    def _facts(self) -> list[tuple[str, object]]:
        found = self._look()
        facts: list[tuple[str, object]] = [("Key", self.key), ("Status", self.status)]
        if found is None or found.state == CANCELLED:
            return facts
        if found.state == PENDING:
            is_claimed = self._host.read(tasks.is_claimed, self._oid)
            return [*facts, ("Where", "a worker has it" if is_claimed else "no worker has it yet")]
        if found.state == ERROR:
            error = self._error(found)
            return [*facts, ("Error", f"{type(error).__name__}: {error}")]
        return [*facts, ("Result", "in shared memory, a blob" if found.blob else f"{len(found.data)} bytes")]

    # -- many at once: each kind of future has its own way ------------------------------------------------------------

    def _watch(self) -> Watching:
        """What waits for futures of this kind and hall."""
        return EndWatch(self._host)

    @classmethod
    def _results(cls, futures: list[Any]) -> list[Any]:
        """The results in order. Raises what the first failed one raised."""
        return results(futures)

    @classmethod
    def _cancel(cls, futures: list[Any], force: bool) -> None:
        """As `Client.cancel`."""
        for host in {future._host for future in futures}:
            oids = [future._oid for future in futures if future._host is host]
            running = host.read(tasks.running, oids) if force else []
            host.transact(tasks.cancel, oids)
            for session, oid in running:
                order(host, session, "interrupt", oid)

    @classmethod
    def _fire(cls, futures: list[Any]) -> None:
        """As `fire_and_forget`."""
        for host in {future._host for future in futures}:
            host.transact(tasks.fire, [future._oid for future in futures if future._host is host])

    # -- state --------------------------------------------------------------------------------------------------------

    def _look(self) -> Object | None:
        return self._host.read(values.look, self._oid)

    @property
    def status(self) -> str:
        """One of pending, finished, error, cancelled, lost."""
        found = self._look()
        return "lost" if found is None else _STATUS[found.state]

    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        found = self._look()
        return found is None or found.state != PENDING

    def cancelled(self) -> bool:
        return self.status == "cancelled"

    def cancel(self, force: bool = False) -> None:
        """End it as cancelled, unless it has ended. A task that runs goes on and its result is dropped; `force`
        interrupts it, at once if it sleeps or waits."""
        cancel([self], force)

    def statistics(self) -> FutureStatistics:
        """What is known of it now: who runs it since when, what it waits for, who waits for it."""
        from .handles.statistics import of_future  # Here: with it come all handles.

        return self._host.read(of_future, self.key, self._oid)

    # -- results ------------------------------------------------------------------------------------------------------

    def _flow(self, timeout_s: float | None, has_looked: bool = False) -> Flow[Object | None]:
        host, oid = self._host, self._oid
        answer = yield from drive.waiting(
            host,
            lambda waiter: host.transact(values.wait_settled, oid, waiter),
            lambda waiter: host.read(values.settled, oid),
            lambda waiter: host.let_go(waiters.withdraw, waiter),
            timeout_s,
            is_owned=True,
            has_looked=has_looked,
        )
        if answer is LATE:
            raise TimedOut(f"future {self.key}: not done within {timeout_s:g} s")
        return answer  # type: ignore[no-any-return]

    def _ended(self, timeout: Timeout) -> Object | None:
        timeout_s = None if timeout is None else deadline.seconds(timeout)
        found = self._host.read(values.settled, self._oid)
        if isinstance(found, Answer):
            if timeout_s is None and self._host.run_awaited is not None:
                self._host.run_awaited(self._oid)
            # Most ends come within a moment: who stands in line for that keeps the worker from the store meanwhile.
            self._host.flush()
            if self._host.look_if_alone(timeout_s, values.has_ended, self._oid):
                return self._host.read(values.settled, self._oid)  # type: ignore[return-value]
            return drive.run(self._host, self._flow(timeout_s, has_looked=True))
        return found

    def result(self, timeout: Timeout = None) -> Any:
        """The result; raises what the task raised, CancelledError, KilledWorker, TimedOut; DeadlockError if the task
        waits for the caller."""
        return self._open(self._ended(timeout))

    def _open(self, found: Object | None) -> Any:
        error = self._error(found)
        if error is not None:
            try:
                raise error
            finally:
                del error
        assert found is not None
        try:
            if not found.uses and not found.blob:
                return pickle.loads(found.data)
            return payload.decode(self._host, found.data)
        except HallDamaged:
            raise
        except Exception as broken:
            raise Unpicklable(
                f"task {self.key}: its result is there but cannot be read here: {broken!r}; "
                "see whether what it needs can be imported in this process"
            ) from broken

    def exception(self, timeout: Timeout = None) -> BaseException | None:
        """What the task raised; None if it did not, or was cancelled."""
        error = self._error(self._ended(timeout))
        return None if isinstance(error, CancelledError) else error

    def traceback(self, timeout: Timeout = None) -> str | None:
        """The text of the traceback where the task raised; None if it did not."""
        found = self._ended(timeout)
        if found is None or found.state != ERROR:
            return None
        data = tasks.chain_of(found.data)[1]
        return None if data[:1] in (tasks.KILLED, tasks.FULL, actors.LOST) else failures.decode(data)[1]

    def _error(self, found: Object | None) -> BaseException | None:
        if found is None or found.state == CANCELLED:
            return CancelledError(self.key)
        if found.state != ERROR:
            return None
        names, data = tasks.chain_of(found.data)
        error = self._failure(data)
        if names:
            error.add_note(
                f"raised in {names[0]}, which " + ", which ".join(f"{name} depends on" for name in names[1:])
            )
        return error

    def _failure(self, data: bytes) -> BaseException:
        if data[:1] == tasks.KILLED:
            name, deaths, pid = data[1:].decode().rsplit("|", 2)
            died = "1 worker" if deaths == "1" else f"{deaths} workers"
            return KilledWorker(
                f"task {name} ({self.key}): {died} died while running it; the last was "
                f"{_exit_of(self._host, int(pid))}; see whether it calls os._exit, crashes, or runs out of memory"
            )
        if data[:1] == actors.LOST:
            return ActorLost(
                f"actor call {data[1:].decode()} ({self.key}): the worker that it lived in is gone, and its "
                "state with it; make it anew, or submit it with restart=True"
            )
        if data[:1] == tasks.FULL:
            return StoreFull(
                errno.ENOSPC,
                f"task {self.key}: no room left for its result; take or delete something, then run it again",
            )
        return failures.decode(data)[0]

    def add_done_callback(self, callback: Callable[[Future], Any]) -> None:
        """Call `callback(self)` from another thread when it has ended."""
        if not callable(callback):
            raise WrongType(f"add_done_callback: expected a function, got {type(callback).__name__} {callback!r:.60}")

        call_when_ended(self, callback)

    def __await__(self) -> Generator[Any, None, Any]:
        async def wait() -> Any:
            found = self._host.read(values.settled, self._oid)
            if isinstance(found, Answer):
                found = await drive.arun(self._host, self._flow(None))
            return self._open(found)

        return wait().__await__()


def cancel(futures: Any, force: bool = False) -> None:
    """As `Client.cancel`."""
    for kind, every in _by_kind(expect_futures("cancel", futures)):
        kind._cancel(every, force)


def _by_kind(futures: list[Future]) -> list[tuple[type[Future], list[Future]]]:
    return [(kind, [future for future in futures if type(future) is kind]) for kind in set(map(type, futures))]


def results(futures: list[Future]) -> list[Any]:
    """The results in order, read many at a time. Raises what the first failed one raised."""
    found: list[Any] = []
    while len(found) < len(futures):
        host = futures[len(found)]._host
        ahead = futures[len(found) : len(found) + READ_AHEAD]
        ahead = list(takewhile(lambda future: future._host is host, ahead))  # noqa: B023 (used up here)
        ended = host.read(values.settled_run, [future._oid for future in ahead])
        found.extend(future._open(end) for future, end in zip(ahead, ended))
        if not ended:
            ahead[0]._ended(None)
    return found


def _exit_of(host: EmbeddedHost, pid: int) -> str:
    """How a worker ended, if that is known here: the pool hears of it about when its tasks are given back."""
    exits: dict[int, str] = getattr(host, "exits", {})
    until = deadline.after(EXIT_S if hasattr(host, "exits") else 0)
    while pid not in exits and deadline.left(until):
        time.sleep(0.005)
    how = exits.get(pid, "in a way that this process has not seen")
    hint = " (by somebody, or by the kernel for want of memory: see dmesg)" if how == "killed by SIGKILL" else ""
    return f"{tasks.names_of(0, pid)[0]} (process {pid}), {how}{hint}" if pid else "gone before it began"


def _restore(oid: bytes, key: str) -> Future:
    """A future that arrives in a pickle. It takes over a hold that came with it, or takes one."""
    host = payload.context.host or host_of(None)
    held = payload.context.held
    if held and oid in held:
        held.remove(oid)
    else:
        host.transact(values.hold_for, host.session, (oid,))
    return Future(host, oid, key)


class _Result:
    """Stands for a future's result in a task's arguments; becomes it when the worker reads them."""

    def __init__(self, oid: bytes) -> None:
        self._oid = oid

    def __reduce__(self) -> tuple[Any, ...]:
        return _value_of, (self._oid,)


def result_in(oid: bytes) -> Any:
    """Stands in a task's arguments for the result of a task that it depends on."""
    return _Result(oid)


def _value_of(oid: bytes) -> Any:
    host = payload.context.host or host_of(None)
    found = host.read(values.look, oid)
    if found is None or found.state != FINISHED:
        raise CancelledError("a task's argument is gone")
    return payload.decode(host, found.data)


def _expect_hall(host: EmbeddedHost | None, future: Future) -> None:
    """Refuse a future of another hall: there its number stands for something else."""
    if future._host is not host:
        raise Misuse(f"future {future.key}: of another client or hall than it is given to; pass its result instead")


def substitute(host: EmbeddedHost, value: Any, deps: list[bytes]) -> Any:
    """The arguments with each future in lists, tuples, sets and dict values replaced by its result to be."""
    kind = type(value)
    if kind in payload.PLAIN:
        return value
    if isinstance(value, Future):
        _expect_hall(host, value)
        deps.append(value._oid)
        return _Result(value._oid)
    if kind in (list, tuple, set, frozenset):
        return kind([substitute(host, item, deps) for item in value])
    if kind is dict:
        return {key: substitute(host, item, deps) for key, item in value.items()}
    return value


class DoneAndNotDone(NamedTuple):
    done: set[Future]
    not_done: set[Future]


def wait(fs: Iterable[Future], timeout: Timeout = None, return_when: str = "ALL_COMPLETED") -> DoneAndNotDone:
    """Wait until all (or with FIRST_COMPLETED any) have ended; a failed future counts. Raises TimedOut."""
    waited = expect_futures("wait", fs)
    if return_when not in ("ALL_COMPLETED", "FIRST_COMPLETED"):
        raise Misuse(f"wait: return_when {return_when!r}: expected ALL_COMPLETED or FIRST_COMPLETED")
    until = deadline.after(deadline.seconds(timeout))
    if return_when == "ALL_COMPLETED":
        for future in waited:
            future._ended(deadline.left(until))
    elif waited:
        expect_one_hall("wait", waited)
        with waited[0]._watch() as watch:
            watch.wait(waited, deadline.left(until), "wait")
    done = {future for future in waited if future.done()}
    if any(future.cancelled() for future in done):
        raise CancelledError("a future that was waited for is cancelled")
    return DoneAndNotDone(done, set(waited) - done)


def fire_and_forget(futures: Any) -> None:
    """The tasks run to their end though nobody keeps a future of them; else the last one to go cancels its task."""
    for kind, every in _by_kind(expect_futures("fire_and_forget", futures)):
        kind._fire(every)


def expect_futures(what: str, given: Any) -> list[Future]:
    """The futures as a list. Raises WrongType if something else is among them."""
    if isinstance(given, Future):
        return [given]
    every = list(given)
    for future in every:
        if not isinstance(future, Future):
            raise WrongType(f"{what}: expected futures, got {type(future).__name__} {future!r:.60}")
    return every


def expect_one_hall(what: str, futures: Sequence[Future]) -> None:
    """Raises Misuse if the futures are of several: nobody waits in two halls at once."""
    if any(future._host is not futures[0]._host for future in futures):
        raise Misuse(f"{what}: futures of more than one client; watch those of each by themselves")


class Watching(Protocol):
    """Waits for any of several futures of one hall."""

    def wait(self, pending: Iterable[Any], timeout_s: float | None, what: str, *, is_open: bool = False) -> list[Any]:
        """Those that have ended, at least one. Raises TimedOut, on behalf of `what`.

        If it `is_open`, more may be added to `pending` meanwhile, by one who then calls `nudge`.
        """

    def nudge(self) -> None:
        """Look at what was added."""

    def close(self) -> None:
        """Wait no more."""

    def abandon(self) -> None:
        """As `close`, for a finalizer, which may run inside an operation."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class EndWatch:
    """Stands in line at each future once, with one bell for all."""

    def __init__(self, host: EmbeddedHost) -> None:
        self.host = host
        self._bell = host.bell()
        self._waiters: dict[bytes, Waiter] = {}
        self._stated: Waiter | None = None
        """The one with the statement of what is waited for."""

    def wait(
        self, pending: Iterable[Future], timeout_s: float | None, what: str, *, is_open: bool = False
    ) -> list[Future]:
        return drive.run(self.host, self._flow(pending, timeout_s, what, is_open))

    def _flow(self, pending: Iterable[Future], timeout_s: float | None, what: str, is_open: bool) -> Flow[list[Future]]:
        until = deadline.after(timeout_s)
        host = self.host
        while True:
            futures = list(pending)
            oids = [future._oid for future in futures]
            ended = host.read(values.which_settled, oids)
            if ended:
                return [futures[place] for place in ended]
            left_s = deadline.left(until)
            if left_s == 0:
                raise TimedOut(f"{what}: {len(futures)} futures not done within the time given")
            new = [oid for oid in oids if oid not in self._waiters]
            if new:
                fresh = [host.waiter(self._bell) for _ in new]
                self._waiters.update(zip(new, fresh, strict=True))
                host.transact(values.watch_all, new, fresh)
            else:
                is_owned = until is None and len(oids) <= MAX_OWNED
                self._stated = self._waiters[oids[0]]
                owned = Owned(tuple(oids), is_open) if is_owned else None
                yield drive.Pause(self._stated, left_s, self._bell, owned)

    def nudge(self) -> None:
        """Wake who waits, to look at what was added. What it stated is not true any more."""
        if self._stated is not None:
            self.host.transact(waiters.arm, self._stated, self._bell.number)
        self.host.ring(self.host.waiter(self._bell))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def abandon(self) -> None:
        """As `close`, for a finalizer, which may run inside an operation."""
        self.host.defer(waiters.withdraw_all, list(self._waiters.values()))
        self.host.done(self._bell)

    def close(self) -> None:
        """Leave every line."""
        self.host.transact(waiters.withdraw_all, self._waiters.values())
        self._waiters.clear()
        self.host.done(self._bell)
