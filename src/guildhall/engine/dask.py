"""The engine of a Dask cluster: users' functions are tasks of Dask's scheduler, their results are Dask's futures.

The only module of this layer that imports distributed. What must live here: everything that asks a distributed client,
and what runs around a user's function in a worker. What users hold is made of it in `client/dask_client.py`.
"""

from __future__ import annotations

import asyncio
import copy
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent import futures as standard
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib.metadata import version
from types import CoroutineType, TracebackType
from typing import Any

from .. import deadline
from ..errors import ActorLost, Broken, HallRefused, KilledWorker, Misuse, TimedOut, Unpicklable
from ..hosts import current
from ..hosts.dask.comms import give_way as give_way
from ..hosts.dask.comms import in_task as in_task
from ..hosts.sweeper import Sweeper
from ..primitives import values
from .local import failures

try:
    import distributed
    from dask._task_spec import TaskRef as TaskRef
    from dask.base import tokenize
    from dask.sizeof import sizeof
    from distributed import scheduler as dask_scheduler
    from distributed import worker
    from distributed.client import FutureCancelledError, FuturesCancelledError
except ImportError as error:
    raise ImportError("a Dask cluster needs distributed: pip install 'guildhall[dask]'") from error

GIVE_WAY_S = 0.005
"""A task that waits for longer than this gives its slot up."""
KEEP_S = 30.0
"""So long the scheduler waits for a task that was submitted before its future was stored."""
LARGE_BYTES = 100_000
"""Keywords of a map that take more travel to each worker once, and not with each call."""
VERSION = version("guildhall")
INSTALL = f"pip install 'guildhall[dask]=={VERSION}'"
_ASK_VERSION = "__import__('guildhall') and __import__('importlib.metadata').metadata.version('guildhall')"
"""For `eval` at the other end: what is pickled by reference to us could not say that we are not there."""

NativeActor = distributed.Actor
NativeFuture = distributed.Future
Native = Any
"""One of those, for type checkers, which know nothing of distributed."""


# -- connecting -------------------------------------------------------------------------------------------------------


class Engine:
    """One client of a Dask cluster, as this process uses it. Made by `connect`."""

    def __init__(self, client: distributed.Client, is_own: bool) -> None:
        self.client = client
        self._is_own = is_own
        self.scheduler_id: str = client.scheduler_info()["id"]
        self.host: Any = None
        """This process in the scheduler's hall."""
        self._sweeper: Sweeper | None = None

    @property
    def address(self) -> str:
        """Where the scheduler is."""
        return str(self.client.scheduler.address)

    @property
    def is_open(self) -> bool:
        return self.client.status not in ("closing", "closed")

    def enter(self, host: Any) -> None:
        """This is the host of the scheduler's hall."""
        self.host = host
        host.scheduler_id = self.scheduler_id
        host.give_way = give_way  # Workers may be threads of a client's process.
        if host.nudge is None:
            self._sweeper = Sweeper(host)

    def close(self) -> None:
        """Leave the hall, and close the connection if it was made for us."""
        if self._sweeper is not None:
            self._sweeper.close()
        if self.host is not None:
            self.host.close()
        if self._is_own:
            self.client.close()

    # -- waiting ------------------------------------------------------------------------------------------------------

    def ask(self, coroutine: Coroutine[Any, Any, Any], timeout_s: float | None = None, what: str = "cluster") -> Any:
        """What the coroutine returns, run where the client's connections are. In a task, others run meanwhile.

        Raises TimedOut, on behalf of `what`; what the coroutine raises is raised as it is.
        """
        asked = self.begin(coroutine)
        try:
            self.await_end(asked, timeout_s, what)
            return asked.result()
        finally:
            asked.cancel()

    def await_end(self, asked: standard.Future[Any], timeout_s: float | None, what: str) -> None:
        """Until it has ended. Raises TimedOut."""
        if not self._await(lambda limit_s: bool(standard.wait([asked], limit_s).done), timeout_s):
            raise TimedOut(f"{what}: not done within {timeout_s:g} s")

    def begin(self, coroutine: Coroutine[Any, Any, Any]) -> standard.Future[Any]:
        """As `ask`, without waiting."""
        loop = self.client.loop.asyncio_loop
        refusal = self._refusal(loop)
        if refusal is not None:
            coroutine.close()
            raise refusal
        return asyncio.run_coroutine_threadsafe(coroutine, loop)

    def _refusal(self, loop: asyncio.AbstractEventLoop) -> Exception | None:
        if not self.is_open:
            return Broken(f"cluster {self.address}: its client is closed; make another")
        if asyncio._get_running_loop() is loop:
            return Misuse(f"cluster {self.address}: a call that waits, in the event loop that it waits for; use await")
        return None

    def await_event(self, event: threading.Event, timeout_s: float | None) -> bool:
        """Until it is set. In a task, others run meanwhile."""
        return self._await(event.wait, timeout_s)

    def _await(self, wait: Callable[[float | None], bool], timeout_s: float | None) -> bool:
        if not in_task():
            return wait(timeout_s)
        until = deadline.after(timeout_s)
        first_s = GIVE_WAY_S if timeout_s is None else min(GIVE_WAY_S, timeout_s)
        if wait(first_s):
            return True
        give_way()
        return wait(deadline.left(until))

    # -- tasks --------------------------------------------------------------------------------------------------------

    def submit(self, function: Callable[..., Any], args: Any, kwargs: Any, key: str, options: Mapping[str, Any]) -> Any:
        """One call as a task of Dask. Raises Unpicklable."""
        with _sending(key):
            call = Call(function, key, bool(kwargs))
            return self.client.submit(call, *args, *_packed(kwargs), key=key, pure=False, **options)

    def map(self, function: Callable[..., Any], calls: Any, kwargs: Any, keys: list[str], options: Any) -> list[Any]:
        """Each call, a tuple of arguments, as a task. Raises Unpicklable."""
        if not calls:
            return []
        with _sending(keys[0]):
            last: Any = kwargs
            if sizeof(kwargs) > LARGE_BYTES:  # A task of its own, so that each worker gets it once.
                last = self.client.submit(same, kwargs, key=fresh_key("keywords"), pure=False)
            columns = [*zip(*calls, strict=True), *([last] * len(calls) for _ in _packed(kwargs))]
            call = Call(function, keys[0], bool(kwargs))
            return list(self.client.map(call, *columns, key=keys, pure=False, **options))

    def result(self, future: distributed.Future, timeout_s: float | None) -> Any:
        """Its result. Raises what the task raised, in our words where it is Dask's own."""
        with in_our_words(future.key, [future]):
            return self.ask(self._result(future), timeout_s, f"future {future.key}")

    async def _result(self, future: distributed.Future) -> Any:
        self._hurry()
        return await future._result()

    async def _gathered(self, futures: Any) -> Any:
        self._hurry()
        return await self.client._gather(futures)

    def _hurry(self) -> None:
        """Send what Dask's client holds back to send it with what may come in the next 10 ms: somebody waits now.

        In its loop.
        """
        stream = self.client.scheduler_comm
        if stream is not None and stream.buffer and stream.next_deadline is not None:
            stream.next_deadline = None
            stream.waker.set()

    def results(self, futures: list[distributed.Future]) -> list[Any]:
        """All results; raises what the first one raised that failed."""
        with in_our_words(None, futures):
            return list(self.ask(self._gathered(futures)))

    async def aresult(self, future: distributed.Future) -> Any:
        """As `result`, for any event loop."""
        if asyncio.get_running_loop() is self.client.loop.asyncio_loop:
            asked: Any = asyncio.ensure_future(self._result(future))
        else:
            asked = self.begin(self._result(future))
        try:
            await (asked if isinstance(asked, asyncio.Future) else asyncio.wrap_future(asked))
        except BaseException:
            if not asked.done() or asked.cancelled():
                raise  # It is the caller who is cancelled, or interrupted.
        with in_our_words(future.key, [future]):
            return asked.result()

    def failure(self, future: distributed.Future, timeout_s: float | None) -> BaseException | None:
        """What the task raised, in our words; None if it did not, or was cancelled."""
        found = self.ask(future._exception(), timeout_s, f"future {future.key}")
        return None if found is None else _apart(found, translated(found, future.key), [future])

    def trace(self, future: distributed.Future, timeout_s: float | None) -> TracebackType | str | None:
        """Where it was raised."""
        return self.ask(future._traceback(), timeout_s, f"future {future.key}")  # type: ignore[no-any-return]

    # -- actors -------------------------------------------------------------------------------------------------------

    def native_result(self, future: distributed.Future) -> Any:
        """Its result, once it is there."""
        return self.ask(self._result(future))

    def begin_call(self, actor: distributed.Actor, name: str, args: Any, kwargs: Any) -> standard.Future[Any]:
        """Call a method of an actor. Raises ActorLost."""

        async def call() -> Any:
            with _losing(actor, name):
                answer = getattr(actor, name)(*args, **kwargs)
                return await answer

        return self.begin(call())

    def gather_in(self, given: Any) -> Any:
        """The arguments with their futures' results."""
        return self.ask(self._gathered(given))

    def await_call(self, asked: standard.Future[Any], timeout_s: float | None, what: str) -> Any:
        """What the method returned. Raises TimedOut, ActorLost, or what the method raised."""
        self.await_end(asked, timeout_s, f"actor call {what}")
        return asked.result()

    def actor_attribute(self, actor: distributed.Actor, name: str) -> Any:
        """The value of an attribute."""

        async def look() -> Any:
            with _losing(actor, name):
                return await actor._worker_rpc.actor_attribute(attribute=name, actor=actor.key)

        found = self.ask(look())
        if found["status"] != "OK":
            raise found["exception"]
        return found["result"]

    # -- futures ------------------------------------------------------------------------------------------------------

    def when_done(self, futures: Iterable[distributed.Future], tell: Callable[[distributed.Future], None]) -> Any:
        """Have `tell(future)` called, from the client's loop, as each ends. Returns what cancels that."""

        async def follow(future: distributed.Future) -> None:
            await future._state.wait()
            tell(future)

        async def follow_all(futures: list[distributed.Future]) -> None:
            self._hurry()
            await asyncio.gather(*(follow(future) for future in futures), return_exceptions=True)

        return self.begin(follow_all(list(futures))).cancel

    def future(self, key: Any) -> distributed.Future:
        """A future of a key that the scheduler knows. May be called in any thread, loops included."""
        made = distributed.Future(key, self.client)
        self.client._send_to_scheduler({"op": "guildhall-desire", "key": key})
        return made

    def cancelled_future(self, key: Any) -> distributed.Future:
        """One that was cancelled before it came."""
        made = distributed.Future(key, self.client)
        made._state.status = "cancelled"
        self.client.loop.add_callback(made._state.cancel, "it was cancelled before it was stored")
        return made

    def let_go(self, key: Any) -> None:
        """A future that `future` made is gone."""
        if self.is_open:
            self.client._send_to_scheduler({"op": "guildhall-undesire", "key": key})

    def keep(self, oid: bytes, future: distributed.Future) -> None:
        """Make an object of the hall that holds the future's result for as long as it lives."""
        is_coming = future.status != "cancelled"
        self.ask(self.client.scheduler.guildhall_keep(oid=oid, key=future.key, is_coming=is_coming))

    def fire(self, future: distributed.Future) -> None:
        """The task runs to its end, whoever lets go of it."""
        distributed.fire_and_forget(future)

    def cancel(self, futures: list[distributed.Future]) -> None:
        """Cancel the tasks, unless somebody else wants them."""
        self.ask(self.client._cancel(futures))

    def where(self) -> dict[str, Any]:
        """What distributed is told of data from within a task: it stays in the task's worker."""
        return {"local_worker": distributed.get_worker()} if is_in_worker() else {}

    def run(self, function: Any, args: Any, kwargs: Any, workers: list[str], on_error: str) -> dict[str, Any]:
        """The call in each of these workers, beside its tasks: {address: result}."""
        with _sending("run"):
            call = distributed.protocol.pickle.dumps((Call(function, "run", bool(kwargs)), args, kwargs))
        found: dict[str, Any] = {}
        for address, end in self.ask(self.client._run(beside, call, workers=workers, on_error="return")).items():
            if not isinstance(end, BaseException):
                found[address] = end
            elif on_error == "raise":
                raise translated(end, "run")
            elif on_error == "return":
                found[address] = translated(end, "run")
        return found

    def info(self) -> dict[str, Any]:
        """What the scheduler tells of itself and its workers."""
        return dict(self.ask(self.client.scheduler.identity(n_workers=-1)))

    def workers(self) -> dict[str, Any]:
        """What it tells of its workers, by address."""
        return dict(self.info()["workers"])

    @property
    def dashboard(self) -> str:
        """Where Dask shows its tasks."""
        return str(self.client.dashboard_link)


@contextmanager
def _losing(actor: distributed.Actor, name: str) -> Iterator[None]:
    """What Dask raises when an actor's worker is gone, as ActorLost."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) or "Worker holding Actor was lost" in str(error):
            raise ActorLost(
                f"actor call {actor._cls.__name__}.{name} ({actor.key}): the worker that it lived in is gone, and its "
                "state with it; make it anew"
            ) from error
        raise


def connect(given: Any, **options: Any) -> Engine:
    """A connection to the cluster: an address, a cluster object, or a distributed client that is used as it is.

    Raises Misuse for an asynchronous client, Broken if nobody answers, HallRefused if guildhall is not there as here.
    """
    is_own = not isinstance(given, distributed.Client)
    client = _opened(given, options) if is_own else given
    try:
        if client.asynchronous:
            raise Misuse("Client: an asynchronous distributed client cannot be shared; give its address instead")
        _expect_guildhall(client)
        client.register_plugin(References())
        return Engine(client, is_own)
    except BaseException:
        if is_own:
            client.close()
        raise


def _opened(given: Any, options: dict[str, Any]) -> distributed.Client:
    given = {} if given is None else {"address": given}
    told = {name: value for name, value in options.items() if value is not None}
    client = distributed.Client.__new__(distributed.Client)
    try:
        client.__init__(**given, **told)
        return client
    except BaseException as error:
        _end_half_open(client)  # Its finalizer would do it, in whatever thread it runs, and wait there.
        if not isinstance(error, OSError | TimeoutError | TypeError):
            raise
        if isinstance(error, TypeError) and "TLS" not in str(error):
            raise  # Else of a TLS address without what TLS needs.
        where = given.get("address") or options.get("scheduler_file")
        raise Broken(
            f"cluster {where}: no scheduler of Dask answers there: {error}; see whether it runs, and whether it "
            "wants TLS: Client('tls://...', security=distributed.Security(...))"
        ) from error


def _end_half_open(client: distributed.Client) -> None:
    with suppress(Exception):
        client.close(timeout=2)


def _expect_guildhall(client: distributed.Client) -> None:
    """Refuse a cluster in which what we send could not be read, or would be read otherwise."""
    with _refusing_absence(f"the scheduler at {client.scheduler.address}"):
        _expect_version(client.run_on_scheduler(eval, _ASK_VERSION), f"the scheduler at {client.scheduler.address}")
    for address, found in client.run(eval, _ASK_VERSION, on_error="return").items():
        with _refusing_absence(f"the worker at {address}"):
            if isinstance(found, OSError):
                continue  # It died as it was asked. Who takes its place is found out by what is sent there.
            if isinstance(found, BaseException):
                raise found
            _expect_version(found, f"the worker at {address}")


@contextmanager
def _refusing_absence(who: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise HallRefused(
            f"{who} cannot import guildhall ({error}): run {INSTALL} in its environment, and start it again"
        ) from error


def _expect_version(found: str, who: str) -> None:
    if found != VERSION:
        raise HallRefused(
            f"{who} has guildhall {found}, this process has {VERSION}: run {INSTALL} in its environment and start "
            f"it again, or install guildhall {found} here"
        )


def pure_key(function: Callable[..., Any], name: str, args: Any, kwargs: Any) -> str:
    """A key that equal calls share."""
    return f"{name}-{tokenize(function, args, kwargs)}"


def fresh_key(name: str) -> str:
    return f"{name}-{uuid.uuid4().hex}"


# -- what travels -----------------------------------------------------------------------------------------------------


class _Met(threading.local):
    """The futures that were pickled by value, and not as arguments, while a call was sent."""

    futures: list[Any] | None = None


_met = _Met()


def meet(future: Any) -> None:
    """A future is in what is being pickled: it must live as long as the call that takes it along."""
    if _met.futures is not None:
        _met.futures.append(future)


@contextmanager
def meeting() -> Iterator[list[Any]]:
    """Collects the futures that are met."""
    before, _met.futures = _met.futures, []
    try:
        yield _met.futures
    finally:
        _met.futures = before


@contextmanager
def _sending(key: str) -> Iterator[None]:
    try:
        yield
    except (Misuse, Broken):
        raise
    except distributed.client.ClosedClientError as error:
        raise Broken(f"task {key}: the client is closed; make another") from error
    except Exception as error:
        cause = error.__cause__ or error
        raise Unpicklable(
            f"task {key}: its function or an argument cannot be pickled: {cause}; pass what it is made from"
        ) from error


class Call:
    """A user's function on its way: in the worker it runs in the hall, and what it raises travels home.

    It travels as bytes: the scheduler, which reads the calls, need not have the user's modules.
    """

    def __init__(self, function: Callable[..., Any], name: str, has_keywords: bool) -> None:
        self.data: bytes = distributed.protocol.pickle.dumps(function)
        self.name = name
        self.has_keywords = has_keywords

    def __call__(self, *args: Any) -> Any:
        """With the arguments; the last is a dict of the keywords, if there are some."""
        host = enter()
        try:
            function = _function(self.data)
            result = function(*args[:-1], **args[-1]) if self.has_keywords else function(*args)
            return asyncio.run(result) if isinstance(result, CoroutineType) else result
        except BaseException as error:
            raise _travelling(error) from error.__cause__
        finally:
            host.flush()  # What the task let go of others may wait for, and no other op may come.

    def __repr__(self) -> str:
        return f"guildhall {self.name}"


def _packed(kwargs: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """A call's keywords as its last argument: as keywords some are options of Dask's own, and those of its `map` that
    are large become tasks named as they are, which other calls share."""
    return (kwargs,) if kwargs else ()


def same(value: Any) -> Any:
    """A task whose result many calls are given."""
    return value


@lru_cache(maxsize=256)
def _function(data: bytes) -> Callable[..., Any]:
    function: Callable[..., Any] = distributed.protocol.pickle.loads(data)
    return function


async def beside(pickled: bytes, dask_worker: Any) -> Any:
    """What `Client.run` runs in a worker: beside its tasks, and not in its event loop, which it would hold up."""

    def run() -> Any:
        call, args, keywords = distributed.protocol.pickle.loads(pickled)
        return call(*args, *_packed(keywords))

    worker._worker_cvar.set(dask_worker)  # So that the thread knows whose it is, as a task's does.
    return await asyncio.to_thread(run)


class Carried(Exception):
    """What a task raised and Dask would not bring home as it is, or would take for the worker's own end."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.data = data

    def __str__(self) -> str:
        return str(failures.decode(self.data)[0])


def _travelling(error: BaseException) -> BaseException:
    is_plain = isinstance(error, Exception) and not isinstance(error, StopIteration)
    return error if is_plain and failures.travels(error) else Carried(failures.encode(error))


@contextmanager
def in_our_words(key: Any, futures: Iterable[distributed.Future] = ()) -> Iterator[None]:
    """What Dask says of its own, as errors of ours."""
    try:
        yield
    except (Misuse, Broken, TimedOut):
        raise
    except Exception as error:
        said = _apart(error, translated(error, key), futures)
    except asyncio.CancelledError as error:
        said = translated(error, key)
    else:
        return
    raise said from said.__cause__


def _apart(error: BaseException, said: BaseException, futures: Iterable[distributed.Future]) -> BaseException:
    """The error to raise: not the one that Dask keeps with the future, whose traceback would keep the future."""
    if said is error:
        with suppress(Exception):
            said = copy.copy(error)
        said.__cause__ = error.__cause__
        traces = (one._state.traceback for one in futures if one._state and one._state.exception is error)
        said.__traceback__ = next((trace for trace in traces if isinstance(trace, TracebackType)), None)
    error.__traceback__ = None
    return said


def translated(error: BaseException, key: Any) -> BaseException:
    """The error, or what it is called here."""
    if isinstance(error, Carried):
        return failures.decode(error.data)[0]
    if isinstance(error, FutureCancelledError | FuturesCancelledError):
        return standard.CancelledError(getattr(error, "key", key))
    if type(error) is asyncio.CancelledError:  # What asyncio makes of the one below on its way between loops.
        return standard.CancelledError(*(error.args or (key,)))
    if isinstance(error, dask_scheduler.KilledWorker):
        return KilledWorker(
            f"task {error.task}: {error.allowed_failures + 1} workers died while running it; the last was at "
            f"{error.last_worker.address}; see its log, and whether the task calls os._exit, crashes, or runs out of "
            "memory"
        )
    if isinstance(error, TypeError) and str(error).startswith("Could not serialize object of type"):
        return Unpicklable(f"task {key}: its result cannot be pickled: {error}; return what it is made from")
    if isinstance(error, ImportError) and error.name == "guildhall":
        return HallRefused(f"task {key}: its worker cannot import guildhall: run {INSTALL} in its environment")
    return error


# -- in a worker ------------------------------------------------------------------------------------------------------


def enter() -> Any:
    """This process runs tasks of the cluster's hall from now on, unless it is a client's, which has the hall open.

    Returns its host of the hall."""
    if current.task is None and (current.now is None or current.now.role == "worker"):
        from ..hosts import dask as hosts

        host = hosts.of_worker()
        host.give_way = give_way
        current.enter_task(host)
    return current.now


def secede() -> None:
    """Give the task's slot up, until `rejoin`. Raises Misuse outside of a task."""
    if not hasattr(worker.thread_state, "key"):
        raise Misuse("secede: there is no task here; call it in a function that was submitted")
    give_way()


def rejoin() -> None:
    """Wait for a slot and take it. Raises Misuse if the task has not seceded."""
    if not hasattr(worker.thread_state, "key") or in_task():
        raise Misuse("rejoin: this task has not seceded; call secede() first")
    distributed.rejoin()


_first = threading.Lock()


def engine_of_worker() -> Engine:
    """The engine of a task: its worker's own client."""
    with _first:  # Of several that come first at the same time, Dask would make each a client, and forget all but one.
        client = distributed.get_client()
        known: Engine | None = getattr(client, "_guildhall_engine", None)
        if known is None:
            enter()
            known = client._guildhall_engine = Engine(client, False)
            known.enter(current.task or current.now)
        return known


def is_in_worker() -> bool:
    """Whether this thread runs a task of Dask."""
    return hasattr(worker.thread_state, "key")


class Guard(distributed.WorkerPlugin):  # type: ignore[misc]
    """What a worker is handed as it joins: it cannot be read without guildhall, or with another one, and so the worker
    ends with an error that says what to install. Else its first task from us would end it, with all it has."""

    name = "guildhall-guard"

    @classmethod
    def expecting(cls, there: str) -> Guard:
        """In the worker: raises ImportError if another version than `there` in the scheduler is here."""
        if there != VERSION:
            raise ImportError(
                f"this worker has guildhall {VERSION}, its scheduler and clients have {there}: run pip install "
                f"'guildhall[dask]=={there}' in its environment, and start it again"
            )
        return cls()

    def __reduce__(self) -> tuple[Any, ...]:
        absent = (
            f"this worker cannot import guildhall, which clients of its cluster use: run {INSTALL} in its environment"
        )
        is_here = "__import__('importlib.util').util.find_spec('guildhall')"
        make = f"__import__('guildhall.engine.dask').engine.dask.Guard.expecting({VERSION!r})"
        refuse = f"(_ for _ in ()).throw(ImportError({absent + ', and start it again'!r}))"
        return eval, (f"{make} if {is_here} else {refuse}",)


# -- in the scheduler -------------------------------------------------------------------------------------------------


class References(distributed.SchedulerPlugin):  # type: ignore[misc]
    """In the scheduler: results live as long as an object of the hall refers to them.

    A future in a variable, a queue or a topic is an object of the hall whose blob is the key of a task. It is wanted by
    a client of Dask that nobody is, as long as one such object is there; when the store removes the blob, it is let go.
    """

    name = "guildhall-references"
    idempotent = True
    CLIENT = "guildhall"

    async def start(self, scheduler: Any) -> None:
        from ..hosts.dask import comms

        self._scheduler = scheduler
        self._kept: Counter[Any] = Counter()
        self._keys: dict[str, Any] = {}
        self._expected: dict[Any, Counter[str]] = {}
        """Futures that were received before their tasks: by key, who has them."""
        self._hall = comms.install(scheduler)
        self._hall.released = self._released
        scheduler.worker_plugins[Guard.name] = distributed.protocol.pickle.dumps(Guard())
        scheduler.handlers["guildhall_keep"] = self.keep
        scheduler.stream_handlers["guildhall-desire"] = self.desire
        scheduler.stream_handlers["guildhall-undesire"] = self.undesire

    async def keep(self, oid: bytes, key: Any, is_coming: bool) -> None:
        """From now on the object holds the result of the key, whose task `is_coming` unless it was cancelled."""
        if is_coming:
            await self._submitted(key)
        name = oid.hex()
        if is_coming and key in self._scheduler.tasks:
            self._keys[name] = key
            self._kept[key] += 1
            self._scheduler.client_desires_keys([key], self.CLIENT)
        with self._hall.gate:
            self._hall.store.transact(values.make, oid, values.FINISHED, b"", (), f"key:{name}")

    async def _submitted(self, key: Any) -> None:
        until = deadline.after(KEEP_S)
        while key not in self._scheduler.tasks and deadline.left(until):
            await asyncio.sleep(0.002)

    def _released(self, name: str) -> None:
        self._scheduler.loop.add_callback(self._let_go, name)  # Whoever runs an op may be in another thread.

    def _let_go(self, name: str) -> None:
        key = self._keys.pop(name, None)
        if key is None:
            return
        self._kept[key] -= 1
        if not self._kept[key]:
            del self._kept[key]
            self._scheduler.client_releases_keys([key], self.CLIENT)

    def desire(self, key: Any, client: str) -> None:
        """A client has received a future: it is told how it stands. Its task may not have been heard of yet."""
        if key in self._scheduler.tasks:
            self._scheduler.client_desires_keys([key], client)
        elif key in self._kept:  # It was there, and was cancelled, or lost in a restart.
            self._scheduler.report({"op": "cancelled-keys", "keys": [key]}, client=client)
        else:
            self._expected.setdefault(key, Counter())[client] += 1
            self._scheduler.loop.call_later(KEEP_S, self._give_up, key, client)

    def undesire(self, key: Any, client: str) -> None:
        """It has let go of it."""
        waiting = self._expected.get(key)
        if waiting is not None and waiting[client]:
            waiting[client] -= 1

    def update_graph(self, scheduler: Any, *, keys: Any, **_: Any) -> None:
        """Tasks have come."""
        for key in self._expected.keys() & set(keys):
            for client in +self._expected.pop(key):
                scheduler.client_desires_keys([key], client)

    def _give_up(self, key: Any, client: str) -> None:
        if self._expected.pop(key, None) is not None:
            self._scheduler.report({"op": "cancelled-keys", "keys": [key]}, client=client)
