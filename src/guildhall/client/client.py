"""Client and LocalCluster: a hall of one's own, workers in it, and the calls that put tasks there."""

from __future__ import annotations

import builtins
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from concurrent.futures import CancelledError
from typing import Any, Self, overload

from ..deadline import Timeout
from ..engine.local import payload, tasks
from ..errors import Misuse, NoHall, WrongType
from ..hosts import current
from ..hosts.embedded import EmbeddedHost
from . import ahead, html, places, submission
from .cluster import LocalCluster
from .executor import ClientExecutor
from .futures import Future, cancel
from .purity import each_key, keys_of

MISSING: Any = object()
"""No default."""

_clients: list[Client] = []


class Client:
    """Runs functions in worker processes. `Client()` starts a `LocalCluster`; a context manager.

    `Client("tcp://host:port")`, or with a cluster or client of Dask, works on that cluster; so does a `Client()` where
    GUILDHALL is such an address. Then the options that a cluster is started with change nothing.

    `Client()` while another one is open attaches to the cluster that it started, and in an interactive session so does
    a call with the same arguments: a cell of a notebook can be run again. The cluster ends with the last of them.
    """

    _pure = False
    _place: Any = None
    """The cluster of Dask that is meant, if it is one."""

    def __new__(cls, cluster: Any = None, *args: Any, address: str | None = None, **options: Any) -> Self:
        if cls is Client and (place := places.cluster_meant(cluster if address is None else address)) is not None:
            made: Self = object.__new__(places.of_dask("DaskClient"))
            made._place = place
            return made
        return object.__new__(cls)

    def __init__(
        self,
        cluster: Any = None,
        *,
        n_workers: int | None = None,
        pure: bool = False,
        **options: Any,
    ) -> None:
        if cluster is not None and not isinstance(cluster, LocalCluster):
            raise WrongType(
                "Client: expected a LocalCluster, the address of a Dask cluster such as 'tcp://host:8786', or nothing, "
                f"got {type(cluster).__name__} {cluster!r:.60}"
            )
        self._pure = pure
        self._asked = None if cluster is not None else {"n_workers": n_workers, **options}
        self.cluster: Any = cluster or self._started_before() or LocalCluster(n_workers, **options)
        self.host = self.cluster.host
        self._is_open = True
        current.add_default(self.host)
        _clients.append(self)

    def _started_before(self) -> LocalCluster | None:
        """The cluster that a call like this one started."""
        is_plain = self._asked == {"n_workers": None}
        is_interactive = hasattr(sys, "ps1") or hasattr(builtins, "get_ipython")
        if not is_plain and not is_interactive:
            return None
        alike = (client.cluster for client in reversed(_clients) if client._asked == self._asked)
        return next((cluster for cluster in alike if cluster.is_ours()), None)

    @classmethod
    def current(cls) -> Client:
        """The newest open client of this process. Raises NoHall (ValueError) if there is none."""
        return get_client()

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
        """Run `function(*args, **kwargs)` in a worker. Futures in the arguments become their results.

        Each call runs, unless it has a `key` (text of at most 400 bytes): while a future of that key lives, the key
        stands for its result, whatever the function. `pure=True` makes the key from the function and its arguments.
        `workers` (addresses or names, one or several) are the only ones that may run it, unless others are allowed;
        `resources` ("GPU": 1) are what it takes of its worker's while it runs: it waits until one has them. Raises
        Unpicklable (TypeError) for a function or argument that cannot travel.

        `actor=True`: the function is a class, whose object stays in the worker; the result is an `Actor`.
        `restart=True`, with that: when its worker dies it is made anew, from the same arguments.

        `fifo_timeout` changes nothing: of equal priority, what was submitted first runs first, however long ago.
        """
        if actor or actors:
            from .actors import maker  # Here, as the others below: few clients need them, and each costs its start.

            function = maker(function, bool(kwargs.pop("restart", False)))
        keys = keys_of(self.host, key, self._is_pure(pure), is_single=True)
        demand = _demand(workers, resources, allow_other_workers)
        return submission.submit(
            self.host, function, (args, kwargs), retries=_number(retries), priority=priority, keys=keys, demand=demand
        )

    @overload
    def map(
        self, function: Callable[..., Any], *iterables: Iterable[Any], buffersize: int, **options: Any
    ) -> Iterator[Future]: ...

    @overload
    def map(
        self, function: Callable[..., Any], *iterables: Iterable[Any], buffersize: None = None, **options: Any
    ) -> list[Future]: ...

    def map(
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
        """Run the function on the items of the iterables, as `map` pairs them, keywords given to each call.

        Iterators are consumed as they go: workers begin while they do. `key`: a list with one for each call, or a text
        that each begins with. `batch_size` changes nothing: batches grow by themselves. Else as `submit`.

        With `buffersize` it gives no list but an iterator over the futures, in order, each when it has ended. So many
        calls at most are ahead of it, and the iterables are consumed as it goes: in bounded memory, however many calls.
        """
        if not iterables:
            raise WrongType("map: expected at least one iterable")
        if buffersize is not None:
            options = {
                "retries": retries, "priority": priority, "pure": pure, "workers": workers, "resources": resources,
                "allow_other_workers": allow_other_workers, "actor": actor or actors, **kwargs,
            }  # fmt: skip
            return self._map_ahead(function, iterables, buffersize, key, options)
        if actor or actors:
            from .actors import maker

            function = maker(function, bool(kwargs.pop("restart", False)))
        calls = ((args, kwargs) for args in zip(*iterables, strict=False))
        keys = keys_of(self.host, key, self._is_pure(pure), is_single=False)
        demand = _demand(workers, resources, allow_other_workers)
        is_there = all(isinstance(items, Sized) for items in iterables)
        return submission.submit_all(
            self.host,
            function,
            calls,
            retries=_number(retries),
            priority=priority,
            keys=keys,
            demand=demand,
            first_batch=submission.FIRST_BATCH if is_there else 1,  # The next item may come when the first has run.
        )

    def _map_ahead(
        self, function: Callable[..., Any], iterables: Any, size: int, key: Any, options: dict[str, Any]
    ) -> Iterator[Future]:
        """As `map`, portion by portion."""
        names = None if key is None else each_key(key)

        def send(calls: list[tuple[Any, ...]]) -> list[Future]:
            keys = None if names is None else list(itertools.islice(names, len(calls)))
            return self.map(function, *zip(*calls, strict=True), key=keys, **options) if calls else []

        calls = zip(*iterables, strict=False)
        return ahead.in_order(send, calls, ahead.expect_size(size), lambda future: future._ended(None))

    def _is_pure(self, asked: bool | None) -> bool:
        return self._pure if asked is None else asked

    def gather(self, futures: Any, errors: str = "raise") -> Any:
        """The results, in the shape given: a future, or lists, tuples, sets and dicts of them.

        Raises what the first failed one raised; `errors="skip"` leaves failed ones out.
        """
        if isinstance(futures, Future):
            return futures.result()
        if isinstance(futures, dict):
            return {key: self.gather(item, errors) for key, item in futures.items() if not self._skips(item, errors)}
        if type(futures) is list and errors == "raise":
            kinds = set(map(type, futures))
            if len(kinds) == 1 and issubclass(kind := kinds.pop(), Future):
                return kind._results(futures)
        if isinstance(futures, list | tuple | set | frozenset):
            found = [self.gather(item, errors) for item in futures if not self._skips(item, errors)]
            return type(futures)(*found) if hasattr(futures, "_fields") else type(futures)(found)
        if isinstance(futures, Iterator):
            return self.gather(list(futures), errors)
        return futures

    def _skips(self, item: Any, errors: str) -> bool:
        if errors == "raise":
            return False
        if errors != "skip":
            raise Misuse(f"gather: errors {errors!r}: expected 'raise' or 'skip'")
        if not isinstance(item, Future):
            return False
        try:
            return item.exception() is not None or item.cancelled()
        except CancelledError:
            return True

    def scatter(self, data: Any, broadcast: bool = False, **options: Any) -> Any:
        """Place values where every worker maps them: a future for one value, a list or dict of futures for those.

        `broadcast` changes nothing on one machine: memory is shared.
        """
        if isinstance(data, dict):
            return {key: self._scatter_one(value, str(key)) for key, value in data.items()}
        if isinstance(data, list | tuple | set | frozenset):
            return type(data)([self._scatter_one(value) for value in data])
        return self._scatter_one(data)

    def _scatter_one(self, value: Any, key: str | None = None) -> Future:
        host = self.host
        oid = payload.place(host, value, "the value to scatter")
        return Future(host, oid, key, type(value).__name__)

    def cancel(self, futures: Any, force: bool = False) -> None:
        """Cancel a future or several. `force` interrupts those that run: an exception that is no Exception is raised in
        the task, at once if it sleeps or waits, when a call into C has ended otherwise."""
        cancel(futures, force)

    def get_executor(self, **options: Any) -> Executor:
        """A `concurrent.futures.Executor` over these workers; options of `submit` hold for each of its calls."""
        return Executor(client=self, **options)

    # -- Dask collections ---------------------------------------------------------------------------------------------

    asynchronous = False
    """Dask asks."""

    def get(self, dsk: Any, keys: Any, *, sync: bool = True, **options: Any) -> Any:
        """Compute a Dask graph: the values of the keys (with `sync=False` futures of them), in the shape they come in.

        This is what `dask.config.set(scheduler=client)` and `scheduler=client` call. `workers`, `allow_other_workers`,
        `resources`, `retries` and `priority` hold for each node, as `submit` has them, unless `dask.annotate` says
        otherwise of it. `actors`: the nodes (True: all; or keys or collections) whose objects stay in their workers.
        """
        from . import graphs

        return graphs.get(self.host, dsk, keys, sync=sync, **options)

    def compute(
        self, collections: Any, sync: bool = False, optimize_graph: bool = True, traverse: bool = True, **options: Any
    ) -> Any:
        """Futures of Dask collections (arrays, bags, dataframes, delayed), one for each; `sync=True`: their values.

        Takes one or a list; lists and dicts in it are looked through, and what is no collection is given back. Options
        as of `get`.
        """
        from . import graphs

        made = graphs.compute(self.host, collections, optimize_graph, traverse, options)
        return self.gather(made) if sync else made

    def persist(self, collections: Any, optimize_graph: bool = True, **options: Any) -> Any:
        """The collections (one, or a list), computed in the background: they look the same and are made of futures.

        Options as of `get`.
        """
        from . import graphs

        return graphs.persist(self.host, collections, optimize_graph, options)

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
        """Call the function once in every worker (or those named), beside what it does: {address: result}.

        Without `wait`, {address: future}. `on_error`: "raise", "return" (the exception stands for the result) or
        "ignore" (that worker is left out).
        """
        from . import crew

        return crew.run(self.host, function, (args, kwargs), workers, wait, on_error)

    def run_on(self, worker: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """As `run`, in the one worker of that address or name: its result."""
        from . import crew

        return crew.run_on(self.host, worker, function, (args, kwargs))

    def restart(self, timeout: Timeout = None) -> None:
        """Cancel what is not done and start every worker anew. Results, variables and queues stay. Raises TimedOut."""
        from . import crew

        self.host.transact(tasks.cancel_all)
        before = set(self.host.read(tasks.crew))
        self.cluster.pool.restart()
        if self.cluster.has_processes:
            crew.await_workers(self.host, self.cluster.n_workers, before, timeout)

    def wait_for_workers(self, n_workers: int, timeout: Timeout = None) -> None:
        """Until so many workers are there. Raises TimedOut."""
        from . import crew

        crew.await_workers(self.host, n_workers, set(), timeout)

    def ncores(self, workers: Any = None) -> dict[str, int]:
        """How many tasks each worker runs at a time, by address; also called `nthreads`."""
        from . import crew

        return crew.threads(self.host, workers)

    nthreads = ncores

    def scheduler_info(self, n_workers: int = -1) -> dict[str, Any]:
        """What is known of the hall and its workers (or the first few), in the peer's form: a dict with "workers" by
        address; also called `info`."""
        from . import crew

        return crew.info(self.host, n_workers)

    info = scheduler_info

    def processing(self, workers: Any = None) -> dict[str, list[str]]:
        """The keys of the tasks that each worker (or those named) has claimed, by address."""
        from . import crew

        return crew.processing(self.host, workers)

    def who_has(self, futures: Any = None) -> dict[str, list[str]]:
        """Which workers have the results, by key: all of them or, before it is done, none. Memory is shared.

        Without futures, of all results that this process has a future of, or that were given a key.
        """
        from . import whereabouts

        return whereabouts.who_has(self.host, futures)

    def has_what(self, workers: Any = None) -> dict[str, list[str]]:
        """The keys of the results that each worker (or those named) has, by address: as memory is shared, all that
        `who_has()` knows of."""
        from . import whereabouts

        return whereabouts.has_what(self.host, workers)

    def story(self, *keys_or_futures: Any) -> list[tuple[str, str, str, dict[str, Any], float | None]]:
        """What is known of some tasks, as steps (key, from state, to state, details, since when). The states are those
        of the page on tasks. No journal is kept: of what has ended only the end is told."""
        from . import whereabouts

        return whereabouts.story(self.host, keys_or_futures)

    # -- datasets -----------------------------------------------------------------------------------------------------

    def publish_dataset(self, *args: Any, name: Any = None, override: bool = False, **kwargs: Any) -> None:
        """Keep values, futures in them included, under a name: `publish_dataset(x=1)`, `publish_dataset(1, name="x")`.

        They live as long as the hall, or until `unpublish_dataset`. Raises Misuse (KeyError) for a name that is taken,
        unless `override`.
        """
        from . import datasets

        datasets.publish(self.host, args, name, kwargs, override)

    def get_dataset(self, name: Any, default: Any = MISSING) -> Any:
        """What was published under that name. Raises NotPublished (KeyError) if nothing was and there is no default."""
        from . import datasets

        return datasets.get(self.host, name) if default is MISSING else datasets.get(self.host, name, default)

    def list_datasets(self) -> tuple[Any, ...]:
        """The names of all that is published."""
        from . import datasets

        return datasets.names(self.host)

    def unpublish_dataset(self, name: Any) -> None:
        """Let it go. Nothing happens if it is not there."""
        from . import datasets

        datasets.remove(self.host, name)

    def close(self) -> None:
        """Close the client, and the cluster if it started one."""
        if self._is_open:
            self._is_open = False
            _clients.remove(self)
            current.remove_default(self.host)
            if self._asked is not None and not any(c._asked and c.cluster is self.cluster for c in _clients):
                self.cluster.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _facts(self) -> list[tuple[str, str]]:
        import psutil

        memory = psutil.virtual_memory().total / 2**30
        workers, cores = self.cluster.n_workers, self.cluster.n_workers * self.cluster.threads
        return [("Workers", str(workers)), ("Cores", str(cores)), ("Memory", f"{memory:.1f} GiB")]

    def __repr__(self) -> str:
        return "<Client: " + ", ".join(f"{name}: {value}" for name, value in self._facts()) + ">"

    def _repr_html_(self) -> str:
        facts: list[tuple[str, object]] = [*self._facts()]
        if self._is_open and self.cluster.is_ours():
            ready, claimed = self.host.read(tasks.standing)
            facts += [("Hall", self.host.directory), ("Tasks ready", ready), ("with workers", claimed)]
        else:
            facts.append(("Status", "closed"))
        return html.table("guildhall Client", facts)


class TaskClient(Client):
    """The client inside a task: the same calls, on the worker's own hall. Closing it does nothing."""

    def __init__(self, host: EmbeddedHost) -> None:
        self.host = host

    def restart(self, timeout: Timeout = None) -> None:
        """Not from within: raises Misuse."""
        raise Misuse("restart: a task cannot restart the worker that runs it; call it where the Client was made")

    def close(self) -> None:
        """Nothing to close: the worker stays."""

    def __repr__(self) -> str:
        return f"<Client in worker session {self.host.session}>"

    def _repr_html_(self) -> str:
        return html.table("guildhall Client", [("In", f"worker session {self.host.session}")])


class Executor(ClientExecutor):
    """A `concurrent.futures.Executor`, used as `ProcessPoolExecutor` is, with that module's own futures.

    `Executor(4)` starts four workers of its own, which end with it. `Executor()` works on those of the newest client,
    or inside a task on the task's; without any it starts one for each core. `Executor(client=)` and
    `client.get_executor()` leave the client's workers running. `initializer(*initargs)` runs once in each process
    before its first call.

    A call whose worker dies runs again, at most three times; then it alone fails, with KilledWorker. A future that a
    worker has cannot be cancelled. After `shutdown` a call raises RuntimeError.
    """

    _around: Client | None = None
    """The client found when none was given, of a Dask cluster."""

    def __new__(cls, max_workers: int | None = None, *args: Any, client: Client | None = None, **options: Any) -> Self:
        around = client or (_client_around() if max_workers is None else None)
        if cls is Executor and hasattr(around, "engine"):
            made: Self = object.__new__(places.of_dask("DaskExecutor"))
            made._around = around
            return made
        return object.__new__(cls)

    def __init__(
        self,
        max_workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        client: Client | None = None,
        **options: Any,
    ) -> None:
        if max_workers is not None and max_workers <= 0:
            raise Misuse(f"Executor: max_workers must be greater than 0, got {max_workers!r}")
        if max_workers is not None and client is not None:
            raise Misuse("Executor: max_workers and client: expected one of the two; a client has its own workers")
        found = client or (_client_around() if max_workers is None else None)
        made = found or _Workers(max_workers)
        try:
            super().__init__(made, found is None, initializer, initargs, options)
        except BaseException:
            if found is None:
                made.close()
            raise


class _Workers(Client):
    """An executor's own: not the client that is meant when none is given."""

    def __init__(self, n_workers: int | None) -> None:
        self.cluster = LocalCluster(n_workers)
        self.host = self.cluster.host
        self._is_open = True

    def close(self) -> None:
        self.cluster.close()


def _number(retries: int | None) -> int:
    return 0 if retries is None else retries


def _demand(workers: Any, resources: Any, allow_other_workers: bool) -> tasks.Demand | None:
    if workers is None and resources is None:
        return None
    from . import crew

    return crew.demand_of(workers, resources, allow_other_workers)


def _client_around() -> Client | None:
    return get_client() if current.task is not None or _clients else None


def get_client() -> Client:
    """The client of the task around, or the newest one of this process. Raises NoHall (ValueError)."""
    if current.task is not None:
        return places.of_dask("DaskTaskClient")() if current.task.is_far else TaskClient(current.task)
    if not _clients and places.is_in_dask_task():  # A task that Dask was given itself.
        return places.of_dask("DaskTaskClient")()  # type: ignore[no-any-return]
    if not _clients:
        raise NoHall("no client: make a Client() first, or call this in a task")
    return _clients[-1]
