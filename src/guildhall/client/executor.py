"""A `concurrent.futures.Executor` over the workers of a hall, with that module's own futures.

What must live here: what the standard library promises and guildhall's own futures do not (running, callbacks that run
at once when it is done, shutdown). Everything else is `Client.submit` and `Client.map`.
"""

from __future__ import annotations

import atexit
import itertools
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures as standard
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypeVar

from .. import deadline
from ..deadline import Timeout
from ..engine.local import tasks
from ..errors import Broken, Misuse, TimedOut, WrongType
from ..hosts.embedded import LOOK_AGAIN_S, EmbeddedHost
from ..primitives.values import CANCELLED, PENDING, Object
from . import html
from .ahead import expect_size, in_order
from .callbacks import Caller
from .futures import Future, cancel

T = TypeVar("T")
OPTIONS = frozenset({"pure", "workers", "resources", "allow_other_workers", "retries", "priority"})
"""What `Client.submit` may be told for every call of an executor."""
MAX_UNHEARD = 64
"""More calls that ended unheard are not kept: their results take room."""


class Submitter(Protocol):
    """What this file needs of a client."""

    host: EmbeddedHost

    @property
    def submit(self) -> Callable[..., Future]:
        """One call as a task."""

    @property
    def map(self) -> Callable[..., list[Future]]:
        """Many calls as tasks."""

    def close(self) -> None:
        """The client goes, and the workers that it started."""


class ClientExecutor(standard.Executor):
    """Runs calls as tasks of a client. `guildhall.Executor` says what users need to know."""

    def __init__(
        self, client: Submitter, is_own: bool, initializer: Callable[..., object] | None, initargs: Any, options: Any
    ) -> None:
        if initializer is not None and not callable(initializer):
            raise WrongType(f"Executor: initializer: expected a function, got {initializer!r:.60}")
        _expect_options(client, options)
        prepare = None if initializer is None else _Prepare(os.urandom(8), initializer, initargs)
        self._desk = _Desk(client, is_own, prepare, options)
        self._finalizer = weakref.finalize(self, self._desk.retire)
        self._finalizer.atexit = False  # The desk sees to that, before its workers end.

    @property
    def _max_workers(self) -> int:
        """How many calls run at a time. Dask asks for it by this name."""
        return self._desk.client.host.read(tasks.slots)

    @property
    def _broken(self) -> bool:
        """Whether it takes no calls because its initializer failed. Others ask for it by this name, too."""
        return self._desk.failure is not None

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> standard.Future[T]:
        """Run `fn(*args, **kwargs)` in a worker. RuntimeError after `shutdown`, Unpicklable if it cannot travel."""
        return self._desk.submit(fn, args, kwargs)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: Timeout = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """The results of the calls, in their order; the iterables are consumed and the calls submitted at once.

        `chunksize` calls travel as one. `buffersize`: so many calls (or chunks of them) at most are ahead of the result
        that is asked for, and the iterables are consumed as it goes: memory is bounded, however many there are. The
        iterator raises TimeoutError when a result is not there `timeout` seconds after this call; calls that have not
        begun are cancelled when it ends early.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        until = deadline.after(_seconds(timeout))
        if buffersize is not None:
            return self._streamed(fn, zip(*iterables, strict=False), chunksize, expect_size(buffersize), until)
        if chunksize == 1:
            return results(self._desk.map(fn, *iterables), until)
        chunks = _chunks(zip(*iterables, strict=False), chunksize)
        return _flat(results(self._desk.map(_Chunk(fn), chunks), until))

    def _streamed(
        self, fn: Callable[..., T], calls: Iterator[tuple[Any, ...]], chunksize: int, size: int, until: float | None
    ) -> Iterator[T]:
        if chunksize == 1:
            return results_ahead(partial(self._desk.map_calls, fn), calls, size, until)
        chunks = ((chunk,) for chunk in _chunks(calls, chunksize))
        return _flat(results_ahead(partial(self._desk.map_calls, _Chunk(fn)), chunks, size, until))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. `wait`: until all have ended; `cancel_futures`: what has not begun is cancelled."""
        self._desk.shutdown(wait, cancel_futures)

    def __repr__(self) -> str:
        try:
            state = "shut down" if self._desk.is_shut else f"{self._max_workers} workers"
        except (Broken, Misuse):
            state = "its hall is closed"
        return f"<guildhall.Executor: {state}>"

    def _repr_html_(self) -> str:
        try:
            state = "shut down" if self._desk.is_shut else "takes calls"
            facts = [("Status", state), ("Workers", self._max_workers), ("Calls under way", len(self._desk._pending))]
        except (Broken, Misuse):
            facts = [("Status", "its hall is closed")]
        return html.table("guildhall Executor", facts)


def _expect_options(client: Submitter, options: dict[str, Any]) -> None:
    known = OPTIONS & _parameters(client.submit)
    for name in options:
        if name not in known:
            raise WrongType(f"Executor: unknown option {name!r}; there are {', '.join(sorted(known))}")


def _parameters(method: Any) -> frozenset[str]:
    code = method.__func__.__code__
    return frozenset(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])


class CallFuture(standard.Future[Any]):
    """The future of one call. The store knows first how it stands: whoever asks looks there."""

    def __init__(self, inner: Future, desk: _Desk) -> None:
        super().__init__()
        self._inner: Future | None = inner
        self._desk = desk

        self._waiters: list[Any] = _Watchers(self)

    def add_done_callback(self, fn: Callable[[standard.Future[Any]], object]) -> None:
        """Call `fn(self)` when the call has ended: from a thread of the executor, or now if it has."""
        super().add_done_callback(fn)
        self._desk.follow(self)

    def running(self) -> bool:
        """Whether a worker has the call."""
        self._look()
        return super().running()

    def done(self) -> bool:
        """Whether it has ended or was cancelled."""
        self._look()
        return super().done()

    def _look(self) -> None:
        inner = self._inner
        if inner is None:
            return
        try:
            if inner.done():
                self.settle()
            elif inner._host.read(tasks.is_claimed, inner._oid):
                self._begin()
        except (Broken, Misuse) as error:
            self.abandon(error)

    def _begin(self) -> None:
        with self._condition:
            if self._state == "PENDING":
                self.set_running_or_notify_cancel()

    def cancel(self) -> bool:
        """Cancel a call that no worker has yet. False if one has or had it."""
        inner = self._inner
        if inner is not None:
            try:
                if not inner._host.transact(tasks.cancel_waiting, inner._oid):
                    self._look()
                    return False
            except (Broken, Misuse) as error:
                self.abandon(error)
            self.settle()
        return super().cancel()

    def result(self, timeout: Timeout = None) -> Any:
        """What the call returned; raises what it raised, CancelledError, TimeoutError."""
        left_s = self._await(timeout)
        return super().result(left_s)

    def exception(self, timeout: Timeout = None) -> BaseException | None:
        """What the call raised, None if it returned. Raises CancelledError, TimeoutError."""
        left_s = self._await(timeout)
        return super().exception(left_s)

    def _await(self, timeout: Timeout) -> float | None:
        """Until the call has ended. Returns the seconds left, for another thread that is reading the result."""
        until = deadline.after(_seconds(timeout))
        inner = self._inner
        if inner is not None:
            try:
                self._settle(inner._ended(deadline.left(until)))
            except TimedOut as late:
                raise standard.TimeoutError(str(late)) from None
            except (Broken, Misuse) as error:
                self.abandon(error)
        return deadline.left(until)

    def settle(self, _: Future | None = None) -> None:
        """Take the call's end over from the store."""
        inner = self._inner
        if inner is not None:
            try:
                self._settle(inner._look())
            except (Broken, Misuse) as error:
                self.abandon(error)

    def _settle(self, found: Object | None) -> None:
        """Whoever comes first with the call's end says it to all others."""
        inner = self._take()
        if inner is None:
            return
        if found is None or found.state == CANCELLED:
            self._end_cancelled()
        else:
            assert found.state != PENDING, "only what has ended is settled"
            self._end(inner, found)
        self._desk.forget(self)

    def _take(self) -> Future | None:
        with self._condition:
            inner, self._inner = self._inner, None
            return inner

    def _end_cancelled(self) -> None:
        with self._condition:
            if self._state == "RUNNING":  # From elsewhere: our own `cancel` refuses.
                self._state = "PENDING"
        super().cancel()
        self.set_running_or_notify_cancel()

    def _end(self, inner: Future, found: Object) -> None:
        self._begin()
        try:
            self.set_result(inner._open(found))
        except BaseException as error:
            error.__traceback__ = None  # What it says of this thread is of no use to anybody.
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, _InitializerFailed):
            self._desk.break_down(error)
        self.set_exception(error)

    def abandon(self, why: BaseException) -> None:
        """The call's end will never be known."""
        if self._take() is not None:
            self._fail(_broken(why))
            self._desk.forget(self)


class _Watchers(list[Any]):
    """Who waits for a future in `concurrent.futures.wait` and `as_completed`: from then on its end must be heard."""

    def __init__(self, future: CallFuture) -> None:
        self._future = weakref.ref(future)

    def append(self, watcher: Any) -> None:
        super().append(watcher)
        future = self._future()
        if future is not None:
            future._desk.follow(future)


def _broken(why: BaseException) -> BaseException:
    broken = standard.BrokenExecutor(f"the executor's hall is closed or broken: {why}")
    broken.__cause__ = why
    return broken


def _seconds(timeout: Timeout) -> float | None:
    """As everywhere, but a time that is over is no mistake, as in the standard library."""
    return 0.0 if isinstance(timeout, int | float) and timeout < 0 else deadline.seconds(timeout)


class _Desk:
    """What an executor has under way. It outlives the executor, until its last call has ended."""

    def __init__(self, client: Submitter, is_own: bool, prepare: _Prepare | None, options: dict[str, Any]) -> None:
        self.client = client
        self.is_shut = False
        self._is_own = is_own
        self._prepare = prepare
        self._options = options
        self._reserved = _parameters(client.submit)
        self._caller = Caller(client.host, self._abandon)
        self._gate = threading.Condition()
        self._pending: dict[CallFuture, None] = {}
        self._unheard: dict[CallFuture, None] = {}
        """Of those, the ones whose end nobody has asked to hear: who waits for a result looks for himself."""
        self.failure: BaseException | None = None
        self._drainers = 0
        self._closing = threading.Lock()
        atexit.register(self._leave)

    # -- calls --------------------------------------------------------------------------------------------------------

    def submit(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> CallFuture:
        self._expect_open()
        call = self._prepared(fn)
        if not self._reserved.isdisjoint(kwargs):
            call, kwargs = _Keywords(call, kwargs), {}
        return self._enter([self.client.submit(call, *args, **self._options, **kwargs)])[0]

    def map(self, fn: Callable[..., Any], *iterables: Iterable[Any]) -> list[CallFuture]:
        self._expect_open()
        return self._enter(self.client.map(self._prepared(fn), *(iterables or ((),)), **self._options))

    def map_calls(self, fn: Callable[..., Any], calls: list[tuple[Any, ...]]) -> list[CallFuture]:
        """As `map`, with the arguments of each call together."""
        return self.map(fn, *zip(*calls, strict=True)) if calls else []

    def _prepared(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        return fn if self._prepare is None else _Prepared(self._prepare, fn)

    def _expect_open(self) -> None:
        if self.failure is not None:
            raise standard.BrokenExecutor(str(self.failure))
        if self.is_shut:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def _enter(self, inner: list[Future]) -> list[CallFuture]:
        made = [CallFuture(one, self) for one in inner]
        with self._gate:
            self._pending.update(dict.fromkeys(made))
            self._unheard.update(dict.fromkeys(made))
            many = list(self._unheard) if len(self._unheard) > MAX_UNHEARD else ()
        self.follow(*many)
        return made

    def follow(self, *calls: CallFuture) -> None:
        """From now on the calls' ends are heard, by a thread of ours: somebody wants to be told."""
        with self._gate:
            known = [call for call in calls if self._unheard.pop(call, 0) is None]
        heard = [(inner, call.settle) for call in known if (inner := call._inner) is not None]
        if heard:
            self._caller.call_when_ended(heard)

    def forget(self, future: CallFuture) -> None:
        """One has ended."""
        with self._gate:
            self._pending.pop(future, None)
            self._unheard.pop(future, None)
            if self._pending:
                return
            self._gate.notify_all()
            is_ours_to_close = self.is_shut and not self._drainers
        if is_ours_to_close:
            self._close()

    def break_down(self, why: BaseException) -> None:
        """No call of this executor can run: those that wait fail, others are refused."""
        with self._gate:
            self.failure = self.failure or why
            waiting = list(self._pending)
        for future in waiting:
            inner = future._inner
            if inner is not None and inner._host.transact(tasks.cancel_waiting, inner._oid):
                future.abandon(why)

    def _abandon(self, calls: Iterable[Any]) -> None:
        for _, settle in calls:
            settle.__self__.abandon(Broken(f"hall {self.client.host.directory}: it is closed"))

    # -- ending -------------------------------------------------------------------------------------------------------

    def shutdown(self, wait: bool, cancel_futures: bool) -> None:
        self.is_shut = True
        if cancel_futures:
            self._cancel_waiting()
        if wait:
            self._drain()
        self.retire()

    def _cancel_waiting(self) -> None:
        """Cancel what has not begun. Calls that idle workers have been woken for count as begun, whoever is faster."""
        host = self.client.host
        idle = 0
        with suppress(Broken, Misuse):  # Closed: then nothing has begun that could end.
            idle = max(0, host.read(tasks.slots) - host.read(tasks.standing)[1])
        waiting = [future for future in list(self._pending) if not future.running()]
        for future in reversed(waiting[idle:]):
            future.cancel()

    def interrupt(self) -> None:
        """End what runs, too: nobody wants its results."""
        with suppress(Broken, Misuse):
            cancel([inner for call in list(self._pending) if (inner := call._inner) is not None], force=True)

    def retire(self) -> None:
        """Nobody submits any more: what is under way runs to its end, then everything of ours ends."""
        self.is_shut = True
        self.follow(*list(self._pending))
        if not self._pending:
            self._close()

    def _drain(self) -> None:
        self.follow(*list(self._pending))
        with self._gate:
            self._drainers += 1
            while self._pending:
                self._gate.wait(LOOK_AGAIN_S)
            self._drainers -= 1

    def _leave(self) -> None:
        """The interpreter ends: not before what was submitted has run, as with the standard library's executors."""
        self.shutdown(wait=True, cancel_futures=False)

    def _close(self) -> None:
        with self._closing:
            if self._is_own:
                self._is_own = False
                self.client.close()
        atexit.unregister(self._leave)


# -- what travels -----------------------------------------------------------------------------------------------------


class _Keywords:
    """A call whose keywords have names that mean something to `Client.submit`."""

    def __init__(self, fn: Callable[..., Any], kwargs: dict[str, Any]) -> None:
        self.fn = fn
        self.kwargs = kwargs
        self.__name__ = getattr(fn, "__name__", type(fn).__name__)

    def __call__(self, *args: Any) -> Any:
        return self.fn(*args, **self.kwargs)


class _Chunk:
    """Several calls as one."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn
        self.__name__ = getattr(fn, "__name__", type(fn).__name__)

    def __call__(self, calls: list[tuple[Any, ...]]) -> list[Any]:
        return [self.fn(*args) for args in calls]


def _chunks(calls: Iterable[tuple[Any, ...]], size: int) -> Iterator[list[tuple[Any, ...]]]:
    every = iter(calls)
    while chunk := list(itertools.islice(every, size)):
        yield chunk


def results(calls: list[Any], until: float | None) -> Iterator[Any]:
    """The results as they are asked for, each let go at once. Leaving early cancels what has not begun."""
    calls.reverse()

    def each() -> Iterator[Any]:
        try:
            while calls:
                yield calls.pop().result(deadline.left(until))
        finally:
            for call in calls:
                call.cancel()

    return each()


def results_ahead(
    send: Callable[[list[tuple[Any, ...]]], Sequence[standard.Future[Any]]],
    calls: Iterator[tuple[Any, ...]],
    size: int,
    until: float | None,
) -> Iterator[Any]:
    """As `results`, with so many calls at most sent and not given yet."""
    futures = in_order(send, calls, size, lambda call: call.result(deadline.left(until)), lambda call: call.cancel())

    def each() -> Iterator[Any]:
        for call in futures:
            yield call.result()
            del call

    return each()


def _flat(chunks: Iterator[list[Any]]) -> Iterator[Any]:
    for chunk in chunks:
        yield from chunk


class _InitializerFailed(standard.BrokenExecutor):
    """The initializer raised: no call of its executor can run in that process."""


class _Prepare:
    """An initializer, as it travels with each call."""

    def __init__(self, key: bytes, function: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.key = key
        self.function = function
        self.args = args


class _Prepared:
    """A call before which the initializer must have run, once in each process."""

    def __init__(self, prepare: _Prepare, fn: Callable[..., Any]) -> None:
        self.prepare = prepare
        self.fn = fn
        self.__name__ = getattr(fn, "__name__", type(fn).__name__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        _prepare(self.prepare)
        return self.fn(*args, **kwargs)


_prepared: dict[bytes, BaseException | None] = {}
_prepared_gate = threading.RLock()


def _prepare(asked: _Prepare) -> None:
    """Run the initializer, unless it has run here."""
    with _prepared_gate:
        if asked.key not in _prepared:
            try:
                asked.function(*asked.args)
                _prepared[asked.key] = None
            except BaseException as error:
                import logging

                logging.getLogger("guildhall").critical("exception in initializer:", exc_info=True)
                _prepared[asked.key] = error
    failed = _prepared[asked.key]
    if failed is not None:
        raise _InitializerFailed(f"the initializer failed in a worker: {failed!r}; no call can run") from failed
