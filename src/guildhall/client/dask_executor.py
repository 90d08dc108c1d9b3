"""A `concurrent.futures.Executor` over the workers of a Dask cluster, with that module's own futures."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures as standard
from functools import partial
from typing import Any, TypeVar

from .. import deadline
from ..deadline import Timeout
from ..errors import Misuse, WrongType
from .ahead import expect_size
from .client import Client, Executor
from .dask_futures import DaskFuture
from .executor import OPTIONS, _Keywords, results, results_ahead

T = TypeVar("T")


class DaskExecutor(Executor):
    """As `guildhall.Executor`. A call can be cancelled until it has ended; Dask drops the result of one that runs."""

    def __init__(
        self,
        max_workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        client: Client | None = None,
        **options: Any,
    ) -> None:
        if initializer is not None:
            raise Misuse(
                "Executor: initializer: the workers of a Dask cluster are there already; call client.run(initializer), "
                "or start them with --preload"
            )
        if unknown := set(options) - OPTIONS:
            raise WrongType(f"Executor: unknown option {min(unknown)!r}; there are {', '.join(sorted(OPTIONS))}")
        found = client or self._around
        assert found is not None, "an executor of a cluster has its client"
        self._client = found
        self._options = options
        self._gate = threading.Condition()
        self._pending: set[CallFuture] = set()
        self._is_shut = False

    @property
    def _max_workers(self) -> int:
        """How many calls run at a time."""
        return sum(self._client.nthreads().values())

    _broken = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> standard.Future[T]:
        """Run `fn(*args, **kwargs)` in a worker. RuntimeError after `shutdown`, Unpicklable if it cannot travel."""
        self._expect_open()
        call = _Keywords(fn, kwargs) if kwargs else fn
        return self._entered(self._client.submit(call, *args, **self._options))

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: Timeout = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """The results of the calls, in their order. `chunksize` changes nothing: Dask sends them together.

        `buffersize`: so many calls at most are ahead of the result that is asked for.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        self._expect_open()
        until = deadline.after(deadline.seconds(timeout))
        if buffersize is not None:
            return results_ahead(partial(self._sent, fn), zip(*iterables, strict=False), expect_size(buffersize), until)
        made = self._client.map(fn, *(iterables or ((),)), **self._options)
        return results([self._entered(one) for one in made], until)

    def _sent(self, fn: Callable[..., Any], calls: list[tuple[Any, ...]]) -> list[CallFuture]:
        made = self._client.map(fn, *zip(*calls, strict=True), **self._options) if calls else []
        return [self._entered(one) for one in made]

    def _expect_open(self) -> None:
        if self._is_shut:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def _entered(self, inner: Any) -> CallFuture:
        made = CallFuture(inner)
        with self._gate:
            self._pending.add(made)
        inner.add_done_callback(lambda _: self._settle(made))
        return made

    def _settle(self, future: CallFuture) -> None:
        future.settle()
        with self._gate:
            self._pending.discard(future)
            self._gate.notify_all()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. `wait`: until all have ended; `cancel_futures`: what has not ended is cancelled."""
        self._is_shut = True
        if cancel_futures:
            for future in list(self._pending):
                future.cancel()
        with self._gate:
            while wait and self._pending:
                self._gate.wait()

    def __repr__(self) -> str:
        state = "shut down" if self._is_shut else f"{self._max_workers} workers"
        return f"<guildhall.Executor: {state}>"


class CallFuture(standard.Future[Any]):
    """The future of one call. It may be awaited by this module's `wait` and `as_completed`, as any other."""

    def __init__(self, inner: DaskFuture) -> None:
        super().__init__()
        self._inner = inner

    def cancel(self) -> bool:
        """Cancel the call unless it has ended. Dask drops the result of one that runs."""
        if not self._inner.done():
            self._inner.cancel()
        return super().cancel()

    def settle(self) -> None:
        """The call has ended."""
        if not self.cancelled() and (self._inner.cancelled() or not self.set_running_or_notify_cancel()):
            super().cancel()
            return
        if self.cancelled():
            return
        try:
            self.set_result(self._inner.result())
        except standard.CancelledError:
            self._state = "PENDING"
            super().cancel()
        except BaseException as error:
            self.set_exception(error)

    def result(self, timeout: Timeout = None) -> Any:
        """What the call returned; raises what it raised, CancelledError, TimeoutError."""
        self._await(timeout)
        return super().result(deadline.seconds(timeout))

    def exception(self, timeout: Timeout = None) -> BaseException | None:
        """What the call raised, None if it returned. Raises CancelledError, TimeoutError."""
        self._await(timeout)
        return super().exception(deadline.seconds(timeout))

    def _await(self, timeout: Timeout) -> None:
        if not self.done():
            self._inner._ended(timeout)
