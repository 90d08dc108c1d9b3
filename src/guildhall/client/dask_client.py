"""The client of a Dask cluster: our calls, Dask's scheduler and workers, and a hall that lives in that scheduler."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from .. import deadline
from ..deadline import Timeout
from ..engine import dask
from ..engine.dask import Engine
from ..errors import Misuse, NotPublished, Taken, TimedOut, WrongType
from ..hosts import current
from ..hosts import dask as dask_hosts
from . import dask_futures, html, submission
from .client import MISSING, Client, _clients
from .cluster import amounts
from .dask_futures import DaskFuture, substitute, wrapped
from .futures import Future, expect_futures
from .hall import Hall
from .purity import Given, expect_key

_LOCAL = frozenset(
    {
        "n_workers", "threads_per_worker", "processes", "max_tasks_per_worker", "initializer", "initargs",
        "memory_limit", "blob_budget", "resources",
    }
)  # fmt: skip
"""What a cluster is started with, and what means nothing to one that is there."""
_OPTIONS = frozenset({"timeout", "name", "scheduler_file", "heartbeat_interval", "direct_to_workers", "set_as_default"})


class DaskClient(Client):
    """A `guildhall.Client` of a Dask cluster: `Client("tcp://host:port")`, `Client(cluster)`, `Client(dask_client)`.

    Tasks run through Dask's scheduler and their results are Dask's, so its collections, dashboards and spilling go on
    working. Variables, queues, locks and topics live in the scheduler and are the same for all clients and tasks. What
    a cluster would be started with (`n_workers` and so on) changes nothing. `security` is distributed's, for "tls://".
    """

    def __init__(
        self,
        cluster: Any = None,
        *,
        address: str | None = None,
        pure: bool = False,
        security: Any = None,
        **options: Any,
    ) -> None:
        given = self._place or cluster or address
        if unknown := set(options) - _LOCAL - _OPTIONS:
            raise WrongType(f"Client: unknown option {min(unknown)!r}")
        told = {name: value for name, value in options.items() if name in _OPTIONS}
        self._pure = pure
        self._asked = None
        self.cluster: Any = cluster if hasattr(cluster, "scheduler_address") else None
        self.engine = _entered(given, security=security, **told)
        self.host: Any = self.engine.host
        self._is_open = True
        current.add_default(self.host)
        _clients.append(self)

    # -- tasks --------------------------------------------------------------------------------------------------------

    def submit(
        self,
        function: Callable[..., Any],
        *args: Any,
        retries: int | None = 0,
        priority: int = 0,
        key: str | None = None,
        pure: bool | None = None,
        workers: Any = None,
        resources: Mapping[str, float] | None = None,
        allow_other_workers: bool = False,
        actor: bool = False,
        actors: bool = False,
        fifo_timeout: Any = None,
        **kwargs: Any,
    ) -> Future:
        """As `Client.submit`. An actor is Dask's: it ends with its worker, and `restart=True` is refused."""
        actor, retries = actor or actors, retries or 0
        if actor:
            from .dask_actors import expect_class

            expect_class(function, kwargs)
        name = submission.expect_call(function, retries, priority)
        if key is not None:
            expect_key(key)
        elif self._is_pure(pure) and not actor:
            key = dask.pure_key(function, name, self._substituted(args), self._substituted(kwargs))
        options = _options(retries, priority, workers, resources, allow_other_workers)
        if actor:
            options["actor"] = True
        with dask.meeting() as held:
            made = self.engine.submit(
                function, self._substituted(args), self._substituted(kwargs), key or dask.fresh_key(name), options
            )
        return DaskFuture(self.engine, made, held)

    def map(  # type: ignore[override]
        self,
        function: Callable[..., Any],
        *iterables: Iterable[Any],
        buffersize: int | None = None,
        retries: int | None = 0,
        priority: int = 0,
        key: str | list[str] | None = None,
        pure: bool | None = None,
        batch_size: int | None = None,
        workers: Any = None,
        resources: Mapping[str, float] | None = None,
        allow_other_workers: bool = False,
        actor: bool = False,
        actors: bool = False,
        fifo_timeout: Any = None,
        **kwargs: Any,
    ) -> list[Future] | Iterator[Future]:
        """As `Client.map`; without `buffersize` the iterables are consumed before the first task is sent."""
        retries = retries or 0
        if buffersize is not None and iterables:
            told: dict[str, Any] = {
                "retries": retries, "priority": priority, "pure": pure, "workers": workers, "resources": resources,
                "allow_other_workers": allow_other_workers, "actor": actor or actors, **kwargs,
            }  # fmt: skip
            return self._map_ahead(function, iterables, buffersize, key, told)
        if actor or actors:
            options: dict[str, Any] = {"workers": workers, "resources": resources, "actor": True}
            return [self.submit(function, *call, **options, **kwargs) for call in zip(*iterables, strict=False)]
        if not iterables:
            raise WrongType("map: expected at least one iterable")
        name = submission.expect_call(function, retries, priority)
        calls = [self._substituted(call) for call in zip(*iterables, strict=False)]
        keywords = self._substituted(kwargs)
        keys = self._keys(function, name, calls, keywords, key, pure)
        options = _options(retries, priority, workers, resources, allow_other_workers)
        with dask.meeting() as held:
            made = self.engine.map(function, calls, keywords, keys, options)
        return [DaskFuture(self.engine, future, held) for future in made]

    def _substituted(self, value: Any) -> Any:
        return substitute(self.engine, value)

    def _keys(self, function: Any, name: str, calls: Any, keywords: Any, key: Any, pure: bool | None) -> list[str]:
        if key is None:
            if self._is_pure(pure):
                return [dask.pure_key(function, name, call, keywords) for call in calls]
            return [dask.fresh_key(name) for _ in calls]
        if isinstance(key, list | tuple):
            given = Given(iter(key))
        else:
            expect_key(key)
            given = Given(f"{key}-{number}" for number in itertools.count())
        return [given.of(function, call, keywords) for call in calls]

    def scatter(self, data: Any, broadcast: bool = False, **options: Any) -> Any:
        """Place values in the workers' memory, with `broadcast` in that of each: futures, in the shape of the data."""
        options = {name: options[name] for name in ("workers", "direct", "timeout") if name in options}
        found = self.engine.ask(
            self.engine.client._scatter(data, broadcast=broadcast, hash=False, **self.engine.where(), **options)
        )
        return wrapped(self.engine, found)

    # -- Dask collections ---------------------------------------------------------------------------------------------

    def get(self, dsk: Any, keys: Any, *, sync: bool = True, **options: Any) -> Any:
        """Compute a Dask graph, as distributed's client does."""
        with dask.in_our_words(None):
            return wrapped(self.engine, self.engine.client.get(dsk, keys, sync=sync, **options))

    def compute(
        self, collections: Any, sync: bool = False, optimize_graph: bool = True, traverse: bool = True, **options: Any
    ) -> Any:
        """Futures of Dask collections, one for each; `sync=True`: their values."""
        made = self.engine.client.compute(
            self._substituted(collections), sync=False, optimize_graph=optimize_graph, traverse=traverse, **options
        )
        found = wrapped(self.engine, made)
        return self.gather(found) if sync else found

    def persist(self, collections: Any, optimize_graph: bool = True, **options: Any) -> Any:
        """The collections, computed in the background; their parts are futures of Dask."""
        return self.engine.client.persist(collections, optimize_graph=optimize_graph, **options)

    # -- the cluster --------------------------------------------------------------------------------------------------

    def run(
        self,
        function: Callable[..., Any],
        *args: Any,
        workers: Any = None,
        wait: bool = True,
        on_error: str = "raise",
        **kwargs: Any,
    ) -> dict[str, Any]:
        """As `Client.run`. Without `wait`, the calls are tasks, which wait for a slot of their worker."""
        if on_error not in ("raise", "return", "ignore"):
            raise Misuse(f"run: on_error {on_error!r}: expected 'raise', 'return' or 'ignore'")
        if not callable(function):
            raise WrongType(f"run: expected a function, got {type(function).__name__} {function!r:.60}")
        everybody = self._addresses(workers)
        if not wait:
            return {one: self.submit(function, *args, workers=one, **kwargs) for one in everybody}
        return self.engine.run(function, args, kwargs, everybody, on_error)

    def _addresses(self, workers: Any) -> list[str]:
        """Those of the workers meant. Raises Misuse for an unknown one."""
        there = self.engine.workers()
        if workers is None:
            return list(there)
        known = {str(one["name"]): address for address, one in there.items()} | {address: address for address in there}
        wanted = [workers] if isinstance(workers, str) else workers
        if unknown := [one for one in wanted if str(one) not in known]:
            raise Misuse(f"worker {unknown[0]!r:.60}: not there; there are {sorted(there)}")
        return [known[str(one)] for one in wanted]

    def restart(self, timeout: Timeout = None) -> None:
        """Start every worker anew. Variables and queues stay; results are Dask's, and gone. Raises TimedOut."""
        timeout_s = deadline.seconds(timeout)
        try:
            self.engine.client.restart(**({} if timeout_s is None else {"timeout": timeout_s}))
        except TimeoutError as error:
            raise TimedOut(f"restart: {error}") from error

    def wait_for_workers(self, n_workers: int, timeout: Timeout = None) -> None:
        """Until so many workers are there. Raises TimedOut."""
        try:
            self.engine.client.wait_for_workers(n_workers, timeout=deadline.seconds(timeout))
        except TimeoutError as error:
            raise TimedOut(f"workers: {error}") from error

    def ncores(self, workers: Any = None) -> dict[str, int]:
        """How many tasks each worker runs at a time, by address; also called `nthreads`."""
        there = self.engine.workers()
        return {address: there[address]["nthreads"] for address in self._addresses(workers)}

    nthreads = ncores

    def scheduler_info(self, n_workers: int = -1) -> dict[str, Any]:
        """What Dask tells of its scheduler and workers (or the first few): a dict with "workers" by address; also
        called `info`."""
        found = self.engine.info()
        if n_workers >= 0:
            found = {**found, "workers": dict(list(found["workers"].items())[:n_workers])}
        return found

    info = scheduler_info

    def processing(self, workers: Any = None) -> dict[str, list[str]]:
        """The keys of the tasks that each worker (or those named) has, by address."""
        asked = None if workers is None else self._addresses(workers)
        return {address: list(keys) for address, keys in self.engine.client.processing(asked).items()}

    def who_has(self, futures: Any = None) -> dict[str, list[str]]:
        """Which workers have the results, by key: of these futures, or of all results that there are."""
        if futures is None:
            return {key: list(found) for key, found in self.engine.client.who_has().items()}
        asked = [self._substituted(future) for future in expect_futures("who_has", futures)]
        return {key: list(found) for key, found in self.engine.client.who_has(asked).items()}

    def has_what(self, workers: Any = None) -> dict[str, list[str]]:
        """The keys of the results that each worker (or those named) has, by address."""
        asked = None if workers is None else self._addresses(workers)
        return {address: list(keys) for address, keys in self.engine.client.has_what(asked).items()}

    def story(self, *keys_or_futures: Any) -> list[Any]:
        """What Dask's scheduler remembers of some tasks, as steps in its form."""
        asked = [one.key if isinstance(one, Future) else one for one in keys_or_futures]
        return list(self.engine.client.sync(self.engine.client.scheduler.story, keys_or_stimuli=asked))

    def run_on(self, worker: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """As `run`, in the one worker of that address or name: its result."""
        (found,) = self.run(function, *args, workers=[worker], **kwargs).values()
        return found

    # -- datasets -----------------------------------------------------------------------------------------------------

    def publish_dataset(self, *args: Any, name: Any = None, override: bool = False, **kwargs: Any) -> None:
        """As `Client.publish_dataset`. The datasets are Dask's: its clients see them, and collections may be some."""
        if name is not None:
            if len(args) != 1 or kwargs:
                raise WrongType(f"publish_dataset: expected one value for the name {name!r:.60}, got {len(args)}")
            kwargs = {name: args[0]}
        elif args:
            raise WrongType("publish_dataset: a value without a name; write publish_dataset(x=value) or give name=")
        for one, value in kwargs.items():
            try:
                self.engine.client.publish_dataset(self._substituted(value), name=one, override=override)
            except KeyError as error:
                raise Taken(
                    f"dataset {one!r:.60}: the name is taken; unpublish it first, or give override=True"
                ) from error

    def get_dataset(self, name: Any, default: Any = MISSING) -> Any:
        """What was published under that name. Raises NotPublished (KeyError) if nothing was and there is no default."""
        try:
            return wrapped(self.engine, self.engine.client.get_dataset(name))
        except KeyError as error:
            if default is not MISSING:
                return default
            there = list(self.list_datasets())
            raise NotPublished(f"dataset {name!r:.60}: not published; there are {there!r:.200}") from error

    def list_datasets(self) -> tuple[Any, ...]:
        """The names of all that is published."""
        return tuple(self.engine.client.list_datasets())

    def unpublish_dataset(self, name: Any) -> None:
        """Let it go. Nothing happens if it is not there."""
        if name in self.list_datasets():
            self.engine.client.unpublish_dataset(name)

    # -- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Leave the hall, and close the connection unless it was given to us. The cluster stays."""
        if self._is_open:
            self._is_open = False
            _clients.remove(self)
            current.remove_default(self.host)
            dask_futures.strike(self.engine)
            self.engine.close()

    def _facts(self) -> list[tuple[str, str]]:
        if not self.engine.is_open:
            return [("Cluster", "closed")]
        workers = self.engine.workers().values()
        memory = sum(one["memory_limit"] or 0 for one in workers) / 2**30
        cores = sum(one["nthreads"] for one in workers)
        return [
            ("Workers", str(len(workers))), ("Cores", str(cores)), ("Memory", f"{memory:.1f} GiB"),
            ("Cluster", self.engine.address),
        ]  # fmt: skip

    def _repr_html_(self) -> str:
        return html.table("guildhall Client", [*self._facts(), ("Dashboard", self.engine.dashboard)])


class FarHall(Hall):
    """The hall of a Dask cluster, opened by this process without being a client of its tasks."""

    def __init__(self, address: str) -> None:
        self._engine = _entered(address)
        super().__init__(self._engine.host)

    def close(self) -> None:
        """Leave the hall. Twice is once."""
        if self._is_open:
            self._is_open = False
            dask_futures.strike(self._engine)
            self._engine.close()


def _entered(given: Any, **options: Any) -> Engine:
    """A connection to the cluster, with this process in its hall."""
    engine = dask.connect(given, **options)
    try:
        engine.enter(dask_hosts.connect(engine.client))
    except BaseException:
        engine.close()
        raise
    dask_futures.enlist(engine)
    return engine


class DaskTaskClient(DaskClient):
    """The client inside a task: the same calls, through the worker's own connections. Closing it does nothing."""

    def __init__(self) -> None:
        self.engine: Engine = dask.engine_of_worker()
        self.host = self.engine.host
        self.cluster = None

    def restart(self, timeout: Timeout = None) -> None:
        """Not from within: raises Misuse."""
        raise Misuse("restart: a task cannot restart the worker that runs it; call it where the Client was made")

    def close(self) -> None:
        """Nothing to close: the worker stays."""


def _options(retries: int, priority: int, workers: Any, resources: Any, allow_others: bool) -> dict[str, Any]:
    """What Dask is told of a call, only where it differs from nothing."""
    told: dict[str, Any] = {}
    if retries:
        told["retries"] = retries
    if priority:
        told["priority"] = priority
    if workers is not None:
        told["workers"] = [workers] if isinstance(workers, str) else list(workers)
        told["allow_other_workers"] = allow_others
    if needed := amounts(resources):
        told["resources"] = dict(needed)
    return told
