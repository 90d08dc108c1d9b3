"""Dask's collections on our workers: each node of a graph is a task, and only the keys asked for become futures.

The only place that imports dask. Its optimizers run where they are called, as with every scheduler; what comes here is
a graph of nodes that know which keys they need.
"""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from ..engine.local import functions, payload, tasks
from ..engine.local.tasks import Demand, Recipe
from ..errors import Misuse, WrongType
from ..hosts.embedded import EmbeddedHost
from ..primitives import values
from ..primitives.values import FINISHED
from ..store.transaction import Txn
from .crew import demand_of
from .futures import Future, known_to_dask, result_in, results
from .submission import expect_numbers

try:
    import dask
    from dask._task_spec import Alias, DataNode, Task, convert_legacy_graph, cull
    from dask.core import flatten
    from dask.order import order
    from dask.utils import ensure_dict, key_split
except ImportError as error:
    raise ImportError("Dask collections need dask: pip install 'guildhall[dask]'") from error

if TYPE_CHECKING:
    from dask._task_spec import GraphNode

Key: TypeAlias = Any
"""What Dask names a node by: text, or a tuple of text and numbers."""
BATCH = 256


def get(host: EmbeddedHost, graph: Any, keys: Any, *, sync: bool = True, **options: Any) -> Any:
    """The values of the keys, in the lists that they come in. Raises what the first node that failed raised."""
    flat = list(flatten([keys]))
    futures = submit(host, graph, flat, **options)
    if not sync:
        return _packed(keys, futures)
    try:
        if len(flat) > 1:
            _gate(host, futures.values()).result()  # Whichever fails, it fails at once.
        found = dict(zip(flat, results([futures[key] for key in flat]), strict=True))
    finally:
        futures.clear()  # The traceback of an error would keep them, and with them all that has not run.
    return _packed(keys, found)


def _gate(host: EmbeddedHost, futures: Iterable[Future]) -> Future:
    """A future that ends when all of these have ended, or one has failed."""
    ids = tuple(dict.fromkeys(future._oid for future in futures))
    oid = host.new_object()
    recipe = Recipe("gate", pickle.dumps(bool, 5), pickle.dumps(((), {}), 5), ids, is_plain=True)
    host.transact(tasks.submit, [(oid, recipe, ids)])
    return Future(host, oid, None, "gate")


def _packed(keys: Any, found: Mapping[Key, Any]) -> Any:
    return [_packed(key, found) for key in keys] if isinstance(keys, list) else found[keys]


def compute(host: EmbeddedHost, collections: Any, optimize_graph: bool, traverse: bool, options: Any) -> Any:
    """A future for a collection, or a list of them; what is no collection is given back."""
    is_one = not isinstance(collections, list | tuple | set | frozenset)
    every = [collections] if is_one else list(collections)
    if traverse:
        every = [dask.delayed(one) if isinstance(one, list | tuple | set | dict | Iterator) else one for one in every]
    lazy = [one for one in every if dask.is_dask_collection(one)]
    made = iter(dask.compute(*lazy, scheduler=_futures(host, options), optimize_graph=optimize_graph, traverse=False))
    found = [next(made) if dask.is_dask_collection(one) else one for one in every]
    return found[0] if is_one else found


def persist(host: EmbeddedHost, collections: Any, optimize_graph: bool, options: Any) -> Any:
    """The collections again, made of futures of their parts."""
    is_one = not isinstance(collections, list | tuple | set | frozenset)
    every = [collections] if is_one else list(collections)
    for one in every:
        if not dask.is_dask_collection(one):
            raise Misuse(f"persist: expected Dask collections, got {type(one).__name__} {one!r:.60}")
    made = dask.persist(*every, scheduler=_futures(host, options), optimize_graph=optimize_graph, traverse=False)
    return made[0] if is_one else list(made)


def _futures(host: EmbeddedHost, options: dict[str, Any]) -> Callable[..., list[Future]]:
    """A scheduler, as Dask calls it, that gives futures in the place of values."""

    def schedule(graph: Any, keys: Sequence[Key], **_: Any) -> list[Future]:
        futures = submit(host, graph, list(keys), **options)
        return [futures[key] for key in keys]

    return schedule


def scheduler_now() -> Any:
    """What computes Dask's collections here, if nothing else is said."""
    return dask.base.get_scheduler()


class _Wish(NamedTuple):
    """What is asked for one node, by `dask.annotate` or by the options of the call."""

    retries: int
    priority: int
    demand: Demand | None
    is_actor: bool


class _Wishes:
    """What is asked for each node. What is said of a node by itself counts first, then the options, then what
    `dask.annotate` says around the call."""

    def __init__(self, graph: Any, options: Mapping[str, Any]) -> None:
        asked = {name: options[name] for name in ASKABLE if options.get(name)}
        self._general = {**{name: v for name, v in dask.get_annotations().items() if name in ASKABLE}, **asked}
        self._given: dict[Key, dict[str, Any]] = {}
        for name, by_key in _annotations(graph):
            for key, value in by_key.items():
                self._given.setdefault(key, {})[name] = value
        self._are_alike = not any(map(callable, self._general.values()))
        actors = options.get("actors")
        self._all_act = actors is True
        self._actors = frozenset() if actors is None or isinstance(actors, bool) else frozenset(_expanded(actors))
        self._usual = self._read(None, self._general) if self._are_alike else None

    def of(self, key: Key) -> _Wish:
        given = self._given.get(key)
        if given is None and self._usual is not None and not self._actors:
            return self._usual
        return self._read(key, {**self._general, **(given or {})})

    def _read(self, key: Key, said: Mapping[str, Any]) -> _Wish:
        said = {name: value(key) if callable(value) else value for name, value in said.items()}
        retries, priority = said.get("retries") or 0, said.get("priority") or 0
        expect_numbers(retries, priority)
        others = said.get("allow_other_workers")
        if others not in (None, True, False):
            raise WrongType(f"allow_other_workers: expected True or False, got {others!r:.60}")
        demand = demand_of(said.get("workers"), said.get("resources"), bool(others))
        return _Wish(retries, priority, demand, self._all_act or key in self._actors)

    def expect(self, nodes: Mapping[Key, Any]) -> None:
        """Raises Misuse for an actor that is no node: one that was optimized away would not come to life."""
        for key in self._actors.difference(nodes):
            raise Misuse(
                f"actors: {key!r:.80} is no node of the graph, or was merged with another: optimize_graph=False"
            )


ASKABLE = ("workers", "allow_other_workers", "resources", "retries", "priority")
"""The annotations of Dask that mean something here, which are options, too."""


def _annotations(graph: Any) -> Iterator[tuple[str, Mapping[Key, Any]]]:
    """What the graph says of its nodes: by the name of what is said, and by key."""
    if hasattr(graph, "__dask_annotations__"):
        yield from ((name, by_key) for name, by_key in graph.__dask_annotations__().items() if name in ASKABLE)
        return
    for layer in getattr(graph, "layers", {}).values():  # A HighLevelGraph.
        for name, value in (getattr(layer, "annotations", None) or {}).items():
            if name in ASKABLE:
                yield name, {key: value(key) if callable(value) else value for key in layer}


def _expanded(actors: Any) -> Iterator[Key]:
    """The keys meant, of one or several keys or collections; of a dict those that it says yes to."""
    if isinstance(actors, Mapping):
        actors = tuple(key for key, is_one in actors.items() if is_one)
    for one in actors if isinstance(actors, list | tuple | set | frozenset) else (actors,):
        yield from flatten(one.__dask_keys__()) if dask.is_dask_collection(one) else (one,)


class _Plan(NamedTuple):
    """A graph, made ready: its nodes in the order in which to submit them, and how many others need each."""

    nodes: dict[Key, GraphNode]
    order: list[Key]
    needed: Counter[Key]
    wishes: _Wishes

    def target(self, key: Key) -> Key:
        """The key itself, or the one that it is another name for."""
        while isinstance(node := self.nodes.get(key), Alias):
            key = node.target
        return key


def submit(host: EmbeddedHost, graph: Any, keys: Sequence[Key], **options: Any) -> dict[Key, Future]:
    """Futures of the keys. All other nodes are held by those that need them only, and go with the last of these.

    `options`: those of ASKABLE, and `actors`. Dask hands over others, too, which are for its optimizers.
    """
    return _Submission(host, _planned(graph, keys, _Wishes(graph, options)), keys).run()


def _planned(graph: Any, keys: Iterable[Key], wishes: _Wishes) -> _Plan:
    plain = ensure_dict(graph.__dask_graph__() if hasattr(graph, "__dask_graph__") else graph)
    nodes = cull(convert_legacy_graph(plain), list(keys))
    places = order(nodes)
    wishes.expect(nodes)
    plan = _Plan(nodes, sorted(nodes, key=places.__getitem__), Counter(), wishes)
    for node in nodes.values():
        if not isinstance(node, Alias):
            plan.needed.update({plan.target(key) for key in node.dependencies})
    return plan


class _Submission:
    """One graph on its way into the store, in batches, so that workers begin with the first."""

    def __init__(self, host: EmbeddedHost, plan: _Plan, keys: Iterable[Key]) -> None:
        self._host = host
        self._plan = plan
        self._asked = {key: plan.target(key) for key in keys}
        self._lasting = set(self._asked.values())
        self._ids: dict[Key, bytes] = {}
        self._mine: set[bytes] = set()
        """Objects that this session holds once for us."""
        self._kept: list[Future] = []
        """Futures that come in the graph: they hold their results until those that need them do."""
        self._made: list[tuple[bytes, bytes, tuple[bytes, ...], str]] = []
        self._batch: list[tuple[bytes, Recipe, tuple[bytes, ...]]] = []
        self._spent: list[bytes] = []
        code, _ = functions.pickled(host, run_node, "run_node")
        assert code is not None, "the pickle of a function of ours has no buffers"
        self._code = code

    def run(self) -> dict[Key, Future]:
        try:
            for key in self._plan.order:
                self._add(key, self._plan.nodes[key])
                if len(self._batch) + len(self._made) >= BATCH:
                    self._flush()
            self._flush()
            return {key: self._future(target) for key, target in self._asked.items()}
        finally:
            self._host.defer(values.release_for, self._host.session, (*self._mine, *self._spent))

    def _future(self, key: Key) -> Future:
        oid = self._object_of(key)
        if oid in self._mine:
            self._mine.discard(oid)
        else:  # It is a future's that came in the graph, or has got its future under another key.
            self._host.transact(values.hold_for, self._host.session, (oid,))
        return Future(self._host, oid, None, key_split(key))

    def _add(self, key: Key, node: GraphNode) -> None:
        if isinstance(node, Alias):
            return
        if isinstance(node, DataNode):
            self._add_value(key, node.value)
            return
        deps = {needed: self._plan.target(needed) for needed in node.dependencies}
        self._add_task(key, node, {needed: self._object_of(target) for needed, target in deps.items()})
        for target in set(deps.values()):
            self._plan.needed[target] -= 1
            if not self._plan.needed[target] and target not in self._lasting:
                self._let_go(self._ids[target])

    def _let_go(self, oid: bytes) -> None:
        """All that need it are known, and hold it from the next flush on."""
        if oid in self._mine:
            self._mine.discard(oid)
            self._spent.append(oid)

    def _object_of(self, key: Key) -> bytes:
        """The object that stands for the key: of this graph, or of a future that the graph was made of."""
        if key not in self._ids:
            future = known_to_dask(self._host, key)
            if future is None:
                raise Misuse(f"key {key!r:.80}: neither in the graph nor a future of this client that is still there")
            self._kept.append(future)
            self._ids[key] = future._oid
        return self._ids[key]

    def _add_value(self, key: Key, value: Any) -> None:
        oid = self._ids[key] = self._host.new_object()
        self._mine.add(oid)
        self._made.append((oid, *payload.encode(self._host, oid, value, f"the value of {key_split(key)}")))

    def _add_task(self, key: Key, node: GraphNode, deps: Mapping[Key, bytes]) -> None:
        host = self._host
        name = key_split(key)
        wish = self._plan.wishes.of(key)
        if wish.is_actor:
            node = _acting(node)
        given = node, {needed: result_in(oid) for needed, oid in deps.items()}
        inside: list[bytes] = []
        payload.context.results = inside  # Dask leaves futures in the arguments of a node as they are.
        try:
            data, _, placed = payload.inline(host, (given, {}), f"node {name}")
        finally:
            payload.context.results = None
        self._spent += placed
        ids = tuple(dict.fromkeys((*deps.values(), *inside)))
        oid = self._ids[key] = host.new_object()
        self._mine.add(oid)
        recipe = Recipe(name, self._code, data, ids, wish.retries, 0, 0, wish.priority, False, wish.demand)
        self._batch.append((oid, recipe, (*placed, *ids)))

    def _flush(self) -> None:
        """What was added goes into the store, and with it what is needed no more goes out of our hands."""
        made, self._made = self._made, []
        batch, self._batch = self._batch, []
        spent, self._spent = self._spent, []
        self._host.transact(_put, self._host.session, made, batch, spent)


def _put(txn: Txn, session: int, made: Sequence[Any], batch: Sequence[Any], spent: Sequence[bytes]) -> None:
    for oid, data, uses, blob in made:
        values.make(txn, oid, FINISHED, data, uses, blob)
    tasks.submit(txn, batch)
    values.release_for(txn, session, spent)


def _acting(node: GraphNode) -> GraphNode:
    """The node, whose object stays in the worker that makes it. Raises Misuse if it makes none."""
    from .actors import maker

    kind = getattr(node, "func", None)
    if not isinstance(kind, type):
        raise Misuse(f"actors: node {node.key!r:.80} calls {kind!r:.60}; expected a class, whose object is the actor")
    return Task(node.key, maker(kind, False), *node.args, **node.kwargs)


def run_node(node: GraphNode, given: Mapping[Key, Any]) -> Any:
    """In the worker: the value of a node."""
    return node(given)
