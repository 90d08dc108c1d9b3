"""A backend for joblib, by the name "guildhall": `with joblib.parallel_config("guildhall"): Parallel()(...)`.

The only place that imports joblib. `import guildhall` makes the name known; this module is loaded when it is used.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent import futures as standard
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from types import FunctionType
from typing import Any

from .client.client import Client, Executor, get_client
from .client.executor import ClientExecutor
from .client.futures import Future
from .engine.local import functions, payload, tasks
from .errors import NoHall

try:
    from joblib import cpu_count, register_parallel_backend
    from joblib._parallel_backends import FallbackToBackend
    from joblib.parallel import AutoBatchingMixin, BatchedCalls, ParallelBackendBase, SequentialBackend
except ImportError as error:
    raise ImportError("guildhall.joblib needs joblib: pip install 'guildhall[joblib]'") from error

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")
"""By these a user says how many threads libraries calculate in; the first that is a number holds for all."""
MAX_LEVEL = 8
"""Calls that far inside of calls run where they are made: all workers have long been busy, and who never stops going
deeper meets Python's own bound instead of filling the machine with threads that wait."""
SHARED_BYTES = 1 << 20
"""A larger array is placed once for all calls of a `Parallel`, if joblib's `max_nbytes` says nothing else."""


class GuildhallBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """Runs joblib's batches as tasks of a client: the one given, the newest, or inside a task the task's own.

    Without any it starts workers, which end with the `parallel_config` block. Options of `Client.submit` (`retries`,
    `priority`) hold for each batch. Calls inside of calls run on the same workers, and a call that waits for such gives
    up its slot. An array larger than `max_nbytes` is in memory once, and every worker that changes it changes its copy.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    default_n_jobs = -1
    MIN_IDEAL_BATCH_DURATION = 0.05
    MAX_GROWTH = 8
    _effective_batch_size: int
    _smoothed_batch_duration: float

    def __init__(self, nesting_level: int | None = None, client: Client | None = None, **options: Any) -> None:
        super().__init__(nesting_level=nesting_level)
        self._given = client
        self._options = options
        self._own: Executor | None = None
        self._call: _Call | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _nested, (self.nesting_level, self.inner_max_num_threads, self._options)

    def get_nested_backend(self) -> tuple[ParallelBackendBase, int | None]:
        """The backend of calls inside of calls; they go first, as others wait for them."""
        level = (self.nesting_level or 0) + 1
        if level > MAX_LEVEL:
            return SequentialBackend(nesting_level=level), None
        return _nested(level, self.inner_max_num_threads, {**self._options, "priority": level}), None

    @property
    def _client(self) -> Client:
        if self._given is not None:
            return self._given
        if self._own is not None:
            return self._own._desk.client  # type: ignore[return-value]
        try:
            return get_client()
        except NoHall:
            self._own = Executor()
            return self._own._desk.client  # type: ignore[return-value]

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many calls run at a time: -1 is one on each worker, -2 leaves one out."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        return n_jobs if n_jobs > 0 else max(_workers(self._client) + 1 + n_jobs, 1)

    def compute_batch_size(self) -> int:
        """As joblib, which aims at batches four times as long, doubles: we get there in fewer steps."""
        before = self._effective_batch_size
        took_s = self._smoothed_batch_duration
        size: int = super().compute_batch_size()
        if size == 2 * before and took_s > 0:
            ideal = int(2 * before * self.MIN_IDEAL_BATCH_DURATION / took_s)
            size = self._effective_batch_size = max(size, min(self.MAX_GROWTH * before, ideal))
        return size

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        max_nbytes: int | None = SHARED_BYTES,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        **ignored: Any,
    ) -> int:
        """Get ready for calls of this `Parallel`. `initializer(*initargs)` runs first in each process."""
        count = self.effective_n_jobs(n_jobs)
        if count == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        if self._call is not None:  # All of a `parallel_config` block share one backend; others are at it.
            raise FallbackToBackend(self._another())
        self.parallel = parallel
        prepare = {} if initializer is None else {"initializer": initializer, "initargs": initargs}
        self._call = _Call(self._client, count, self.inner_max_num_threads, max_nbytes, {**self._options, **prepare})
        return count

    def _another(self) -> GuildhallBackend:
        made = GuildhallBackend(self.nesting_level, self._given, **self._options)
        made.inner_max_num_threads = self.inner_max_num_threads
        made._own = self._own
        return made

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], Any] | None = None) -> standard.Future[Any]:
        """Run one batch. `callback` is called with the future when it has ended."""
        assert self._call is not None, "joblib configures a backend before it submits"
        return self._call.submit(func, callback)

    def retrieve_result_callback(self, out: standard.Future[Any]) -> Any:
        """The results of a batch that has ended."""
        return out.result()

    @contextmanager
    def retrieval_context(self) -> Iterator[None]:
        """While a call waits for calls inside of it, others run in its slot."""
        give_way = self._client.host.give_way
        go_on = None if give_way is None else give_way()
        try:
            yield
        finally:
            if go_on is not None:
                go_on()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel what has not begun and interrupt what runs, so that the workers are free for what comes next.

        joblib calls it when a call raised or took too long, or when a generator of results is dropped.
        """
        before, self._call = self._call, None
        if before is not None:
            before.close(cancel=True)
        if ensure_ready and before is not None:
            self._call = before.again()

    def terminate(self) -> None:
        """The calls of a `Parallel` have ended; the workers stay."""
        before, self._call = self._call, None
        if before is not None:
            before.close(cancel=False)
        self.reset_batch_stats()


def _nested(level: int | None, threads: int | None, options: dict[str, Any]) -> GuildhallBackend:
    made = GuildhallBackend(nesting_level=level, **options)
    made.inner_max_num_threads = threads
    return made


def _workers(client: Client) -> int:
    if client.host.is_far:
        return sum(client.nthreads().values())
    return client.host.read(tasks.slots)


def _threads(n_jobs: int) -> int:
    """In how many threads a library may calculate in a worker: as the environment says, or its share of the cores."""
    told = next((int(told) for name in THREADS if (told := os.environ.get(name, "")).isdecimal()), 0)
    return told or max(cpu_count() // n_jobs, 1)


class _Call:
    """One run of a `Parallel`: an executor, at most `n_jobs` batches in it, and the arrays that its batches share."""

    def __init__(
        self, client: Client, n_jobs: int, threads: int | None, shared_bytes: int | None, options: dict[str, Any]
    ) -> None:
        workers = _workers(client)
        self._made_of = client, n_jobs, threads, shared_bytes, options
        self._client = client
        self._executor: ClientExecutor = client.get_executor(**options)
        self._threads = _threads(min(n_jobs, workers)) if threads is None else threads
        self._shared = _Shared(client, shared_bytes)
        self._places = n_jobs if n_jobs < workers else None
        self._gate = threading.Lock()
        self._backlog: deque[tuple[Callable[[], Any], standard.Future[Any]]] = deque()

    def again(self) -> _Call:
        return _Call(*self._made_of)

    def submit(self, batch: Callable[[], Any], callback: Callable[[Any], Any] | None) -> standard.Future[Any]:
        if self._places is None:
            future = self._send(batch)
        else:
            future = standard.Future()
            with self._gate:
                self._backlog.append((batch, future))
            self._fill()
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def _fill(self) -> None:
        """Send what there is room for."""
        while True:
            with self._gate:
                if not self._places or not self._backlog:
                    return
                self._places -= 1
                batch, future = self._backlog.popleft()
            self._send(batch).add_done_callback(partial(self._pass_on, future))

    def _pass_on(self, future: standard.Future[Any], sent: standard.Future[Any]) -> None:
        with self._gate:
            assert self._places is not None, "only what has places passes on"
            self._places += 1
        self._fill()
        error = standard.CancelledError() if sent.cancelled() else sent.exception()
        if error is None:
            future.set_result(sent.result())
        else:
            future.set_exception(error)

    def _send(self, batch: Callable[[], Any]) -> standard.Future[Any]:
        kept, rest = self._apart(batch)
        data, buffers, _ = payload.pickled(self._client.host, rest, "a batch of joblib's calls")
        if buffers:
            sent = self._executor.submit(_RUN, kept, data, self._threads, [self._shared.place(one) for one in buffers])
        else:
            sent = self._executor.submit(_RUN, kept, data, self._threads)
        sent.batch = batch  # type: ignore[attr-defined]  # Futures in its arguments live as long as it is under way.
        return sent

    def _apart(self, batch: Any) -> tuple[bytes, Any]:
        """The pickle of what all calls of the batch call, which is kept from one to the next, and the rest of it."""
        items = batch.items
        function = items[0][0]
        if type(function) is FunctionType and all(item[0] is function for item in items):
            code, uses = functions.pickled(self._client.host, function, function.__name__)
            if code is not None and not uses:
                return code, (batch.__reduce__()[1][1], [item[1:] for item in items])
        return b"", batch

    def close(self, cancel: bool) -> None:
        with self._gate:
            self._backlog.clear()
        self._executor.shutdown(wait=False, cancel_futures=cancel)
        if cancel:
            self._executor._desk.interrupt()
        self._shared.close()


class _Shared:
    """The large buffers of a run, each placed once."""

    def __init__(self, client: Client, least_bytes: int | None) -> None:
        self._client = client
        self._least_bytes = sys.maxsize if least_bytes is None else least_bytes
        self._gate = threading.Lock()
        self._placed: dict[tuple[int, int], tuple[Any, Future]] = {}

    def place(self, buffer: pickle.PickleBuffer) -> Future | bytes:
        raw = buffer.raw()
        if raw.nbytes < self._least_bytes:
            return bytes(raw)
        with self._gate:
            place = _address(raw), raw.nbytes
            if place not in self._placed:  # The view is kept, so that no other array gets its place.
                self._placed[place] = raw, self._client.scatter(buffer)
            return self._placed[place][1]

    def close(self) -> None:
        with self._gate:
            self._placed.clear()


def _address(view: memoryview) -> int:
    import numpy  # Nobody else has brought such buffers, so far.

    return int(numpy.frombuffer(view, numpy.uint8).__array_interface__["data"][0])


# -- in the worker ----------------------------------------------------------------------------------------------------


def _run(kept: bytes, data: bytes, threads: int, buffers: Any = ()) -> Any:
    """The results of a batch."""
    batch = pickle.loads(data, buffers=buffers)
    if kept:
        function = _function(kept)
        nested, calls = batch
        batch = BatchedCalls([(function, *call) for call in calls], nested)
    _limit(threads)
    return batch()


_RUN = partial(_run)
_function = lru_cache(maxsize=16)(pickle.loads)


_limited: tuple[int, int] | None = None


def _limit(threads: int) -> None:
    """Have libraries that calculate in threads of their own use so many, as far as they are here and can be told.

    It stays so: changing it back and forth costs more than a short batch, and it is what suits a worker.
    """
    global _limited
    state = threads, len(sys.modules)
    if state != _limited and "numpy" in sys.modules:
        _limited = state
        with suppress(ImportError):
            from threadpoolctl import threadpool_limits

            threadpool_limits(threads)


register_parallel_backend("guildhall", GuildhallBackend)
