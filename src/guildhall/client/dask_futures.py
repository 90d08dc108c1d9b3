"""Futures of a Dask cluster: each holds one of Dask's, which says how the task stands and where its result is.

In a variable, a queue or a topic such a future is an object of the hall, made when it is first stored, and as long as
that lives the scheduler keeps the result.
"""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent import futures as standard
from typing import Any, Self

from .. import deadline
from ..deadline import Timeout
from ..engine import dask
from ..engine.dask import Engine, Native, NativeActor, NativeFuture, TaskRef
from ..engine.local import payload
from ..errors import Misuse, TimedOut, WrongType
from ..primitives import values
from .dask_actors import DaskActor
from .futures import Future

_engines: dict[str, list[Engine]] = {}
"""The engines of this process's clients, by scheduler, the newest last."""


def enlist(engine: Engine) -> None:
    """Futures of its scheduler that arrive in this process are its own from now on."""
    _engines.setdefault(engine.scheduler_id, []).append(engine)


def strike(engine: Engine) -> None:
    """It is closed."""
    _engines[engine.scheduler_id].remove(engine)


def engine_of(scheduler_id: str) -> Engine:
    """The engine of that scheduler: the newest client's, or in a worker the worker's own."""
    if here := _engines.get(scheduler_id):
        return here[-1]
    if dask.is_in_worker() and (engine := dask.engine_of_worker()).scheduler_id == scheduler_id:
        return engine
    raise Misuse(
        f"future: of a Dask cluster ({scheduler_id}) that this process has no client of; "
        "make one first, or if that scheduler was started anew, run the task again: its result went with it"
    )


class DaskFuture(Future):
    """As `guildhall.Future`, of a task of Dask."""

    __slots__ = ("_engine", "_held", "_inner", "_is_received", "_native_key", "_of", "_scheduler")

    def __init__(self, engine: Engine, inner: Native, held: list[Any] | None = None) -> None:
        self._scheduler = engine.scheduler_id
        self._native_key = inner.key
        self._engine: Engine | None = engine
        self._inner: Native | None = inner
        self._is_received = False
        self._of: bytes | None = None
        """The hall's object that holds the result, if there is one."""
        self._held = held
        """Futures that the task took along in a closure or an object: they live as long as this one."""
        self._name = ""

    @property
    def engine(self) -> Engine:
        """What asks the scheduler."""
        if self._engine is None:
            self._engine = engine_of(self._scheduler)
        return self._engine

    @property
    def inner(self) -> Native:
        """Dask's own future."""
        if self._inner is None:
            self._inner = self.engine.future(self._native_key)
        return self._inner

    @property
    def _host(self) -> Any:  # type: ignore[override]
        return self.engine.host

    @property
    def _oid(self) -> bytes:  # type: ignore[override]
        """Its object in the hall, which is made now if there is none."""
        if self._of is None:
            oid = self._host.new_object()
            self.engine.keep(oid, self.inner)
            self._of = oid
        return self._of

    @property
    def key(self) -> Any:
        """The task's name, as Dask has it."""
        return self._native_key

    def __reduce__(self) -> tuple[Any, ...]:
        if payload.context.uses is None:
            dask.meet(self)
            return _restore, (self._scheduler, self.key, None, self._is_gone())
        into = payload.context.into
        if into is not self._host and getattr(into, "scheduler_id", "") != self._scheduler:
            raise Misuse(f"future {self.key}: of another client or hall than it is given to; pass its result instead")
        payload.context.uses.append(self._oid)
        return _restore, (self._scheduler, self.key, self._oid, self._is_gone())

    def _is_gone(self) -> bool:
        return self._inner is not None and self._inner.status == "cancelled"

    __dask_future__ = True
    substitute = TaskRef.substitute

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """Dask asks with `isinstance` whether an argument of a delayed call stands for the result of a key."""
        return TaskRef

    def __dask_tokenize__(self) -> tuple[str, str]:
        return "Future", str(self.key)

    def __del__(self) -> None:
        engine = getattr(self, "_engine", None)
        if engine is None:
            return
        if self._is_received and self._inner is not None:
            engine.let_go(self._native_key)
        if self._of is not None:
            engine.host.drop(self._of)

    def _facts(self) -> list[tuple[str, object]]:
        return [("Key", self.key), ("Status", self.status), ("Cluster", self.engine.address)]

    # -- many at once -------------------------------------------------------------------------------------------------

    def _watch(self) -> DaskWatch:
        return DaskWatch(self.engine)

    @classmethod
    def _results(cls, futures: list[Any]) -> list[Any]:
        engine = futures[0].engine
        if any(future.engine is not engine for future in futures):
            return [future.result() for future in futures]
        found = engine.results([future.inner for future in futures])
        return [future._opened(one) for future, one in zip(futures, found, strict=True)]

    @classmethod
    def _cancel(cls, futures: list[Any], force: bool) -> None:
        for engine in {future.engine for future in futures}:
            engine.cancel([future.inner for future in futures if future.engine is engine])

    @classmethod
    def _fire(cls, futures: list[Any]) -> None:
        for future in futures:
            future.engine.fire(future.inner)
            if future._held:
                held = future._held
                future.engine.when_done([future.inner], lambda _, held=held: held.clear())

    # -- state and result ---------------------------------------------------------------------------------------------

    @property
    def status(self) -> str:
        """One of pending, finished, error, cancelled, lost."""
        return self.inner.status or "pending"

    def done(self) -> bool:
        return bool(self.inner.done() or self.inner.status == "cancelled")

    def statistics(self) -> Any:
        """Not kept here: Dask's dashboard shows the tasks of a cluster."""
        raise Misuse(f"future {self.key}: Dask has its tasks' statistics; see the dashboard at {self.engine.dashboard}")

    def _ended(self, timeout: Timeout) -> None:
        """Until it has ended. Raises TimedOut."""
        if not self.done():
            with self._watch() as watch:
                watch.wait([self], deadline.seconds(timeout), f"future {self.key}")

    def result(self, timeout: Timeout = None) -> Any:
        """The result; raises what the task raised, CancelledError, KilledWorker, TimedOut."""
        return self._opened(self.engine.result(self.inner, deadline.seconds(timeout)))

    def _opened(self, found: Any) -> Any:
        return DaskActor(self, found) if isinstance(found, NativeActor) else found

    def call(self, actor: Native, name: str, args: Any, kwargs: Any) -> standard.Future[Any]:
        """Call a method of the actor that is this one's result. Futures in the arguments become their results."""
        if _has_futures((args, kwargs)):
            args, kwargs = self.engine.gather_in(substitute(self.engine, (args, kwargs)))
        return self.engine.begin_call(actor, name, args, kwargs)

    def exception(self, timeout: Timeout = None) -> BaseException | None:
        """What the task raised; None if it did not, or was cancelled."""
        return self.engine.failure(self.inner, deadline.seconds(timeout))

    def traceback(self, timeout: Timeout = None) -> str | None:
        """The text of the traceback where the task raised; None if it did not."""
        error = self.exception(timeout)
        if error is None:
            return None
        where = self.engine.trace(self.inner, None)
        if where is None or isinstance(where, str):
            return (where or "") + "".join(traceback.format_exception_only(error))
        return "".join(traceback.format_exception(type(error), error, where))

    def add_done_callback(self, callback: Callable[[Future], Any]) -> None:
        """Call `callback(self)` from another thread when it has ended."""
        if not callable(callback):
            raise WrongType(f"add_done_callback: expected a function, got {type(callback).__name__} {callback!r:.60}")
        self.inner.add_done_callback(lambda _: callback(self))

    def __await__(self) -> Generator[Any, None, Any]:
        async def wait() -> Any:
            return self._opened(await self.engine.aresult(self.inner))

        return wait().__await__()


def _restore(scheduler_id: str, key: Any, oid: bytes | None, is_gone: bool) -> DaskFuture:
    """A future that arrives in a pickle. One from the hall takes over a hold that came with it, or takes one."""
    made = DaskFuture.__new__(DaskFuture)
    made._scheduler, made._native_key, made._name = scheduler_id, key, ""
    made._engine, made._inner, made._of, made._held = None, None, None, None
    made._is_received = True
    if oid is not None:
        held, host = payload.context.held, made.engine.host  # Whose session gives it back in the end.
        if held and oid in held and host is payload.context.host:
            held.remove(oid)
        else:
            host.transact(values.hold_for, host.session, (oid,))
        made._of = oid
    if is_gone:
        made._inner, made._is_received = made.engine.cancelled_future(key), False
    elif _engines.get(scheduler_id):  # Wanted at once: who sent it may let go of it. In a worker that waits for a task.
        _ = made.inner
    return made


class DaskWatch:
    """Hears of the ends of Dask's futures, in the order in which they come."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._heard = threading.Event()
        self._ended: deque[DaskFuture] = deque()
        self._asked: set[DaskFuture] = set()
        self._stop: list[Callable[[], object]] = []

    def wait(
        self, pending: Iterable[DaskFuture], timeout_s: float | None, what: str, *, is_open: bool = False
    ) -> list[DaskFuture]:
        until = deadline.after(timeout_s)
        while True:
            self._heard.clear()
            every = dict.fromkeys(pending)
            self._follow([future for future in every if future not in self._asked])
            ended = [self._ended.popleft() for _ in range(len(self._ended))]
            if found := [future for future in ended if future in every]:
                return found
            left_s = deadline.left(until)
            if left_s == 0:
                raise TimedOut(f"{what}: {len(every)} futures not done within the time given")
            self._engine.await_event(self._heard, left_s)

    def _follow(self, new: list[DaskFuture]) -> None:
        waiting: dict[Native, DaskFuture] = {}
        for future in new:
            self._asked.add(future)
            if future.done():
                self._ended.append(future)
            else:
                waiting[future.inner] = future

        def tell(inner: Native) -> None:
            self._ended.append(waiting[inner])
            self._heard.set()

        if waiting:
            self._stop.append(self._engine.when_done(waiting, tell))

    def nudge(self) -> None:
        self._heard.set()

    def close(self) -> None:
        for stop in self._stop:
            stop()

    abandon = close

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def substitute(engine: Engine, value: Any) -> Any:
    """The arguments with each of our futures in lists, tuples, sets and dict values replaced by Dask's.

    Raises Misuse for one of another cluster.
    """
    if isinstance(value, Future):
        if not isinstance(value, DaskFuture) or value._scheduler != engine.scheduler_id:
            raise Misuse(f"future {value.key}: of another client or hall than it is given to; pass its result instead")
        return value.inner if value.engine is engine else engine.future(value.key)
    kind = type(value)
    if kind in (list, tuple, set, frozenset):
        return kind([substitute(engine, item) for item in value])
    if kind is dict:
        return {key: substitute(engine, item) for key, item in value.items()}
    return value


def _has_futures(value: Any) -> bool:
    inside = value.values() if type(value) is dict else value if type(value) in (list, tuple, set, frozenset) else ()
    return isinstance(value, Future) or any(_has_futures(item) for item in inside)


def wrapped(engine: Engine, value: Any) -> Any:
    """As `substitute`, the other way round."""
    if isinstance(value, NativeFuture):
        return DaskFuture(engine, value)
    kind = type(value)
    if kind in (list, tuple, set, frozenset):
        return kind([wrapped(engine, item) for item in value])
    if kind is dict:
        return {key: wrapped(engine, item) for key, item in value.items()}
    return value
