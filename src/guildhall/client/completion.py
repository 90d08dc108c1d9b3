"""Futures in the order in which they end."""

from __future__ import annotations

import itertools
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

from .. import deadline
from ..deadline import Timeout
from .futures import Future, Watching, expect_futures, expect_one_hall


class _Probe:
    """Counts the references to what only a loop has, as `as_completed._fetch` does."""

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        return self._fetch()

    def _fetch(self) -> int:
        return sys.getrefcount(self)


def _references() -> int:
    for count in _Probe():
        return count
    raise AssertionError("it never ends")


_ALONE = _references()
"""With more references than that, another thread may have it, and add a future to what a circle of waits is made of."""


class as_completed:
    """Iterates over futures in the order in which they end; others may be added meanwhile, also by other threads.

    `with_results=True` gives (future, result) pairs; what a task raised is raised, or with `raise_errors=False` stands
    in the result's place. `async for` works, too. Raises TimedOut if `timeout` (seconds from now) is over first.
    """

    def __init__(
        self,
        futures: Iterable[Future] = (),
        with_results: bool = False,
        raise_errors: bool = True,
        *,
        timeout: Timeout = None,
    ) -> None:
        self._until = deadline.after(deadline.seconds(timeout))
        self._with_results = with_results
        self._raise_errors = raise_errors
        self._pending: dict[Future, None] = {}
        self._ended: deque[Future] = deque()
        self._watch: Watching | None = None
        self.update(futures)

    def add(self, future: Future) -> None:
        """One more future to wait for."""
        self.update([future])

    def update(self, futures: Iterable[Future]) -> None:
        """Several more."""
        every = expect_futures("as_completed", futures)
        expect_one_hall("as_completed", [*itertools.islice(self._pending, 1), *every])
        self._pending.update(dict.fromkeys(every))
        if self._watch is not None and every:
            self._watch.nudge()

    def count(self) -> int:
        """How many are still to come."""
        return len(self._pending) + len(self._ended)

    def is_empty(self) -> bool:
        """Whether there is nothing more to come."""
        return not self.count()

    def has_ready(self) -> bool:
        """Whether the next one comes without waiting."""
        return bool(self._ended) or any(future.done() for future in list(self._pending))

    def clear(self) -> None:
        """Wait for none of them any more."""
        self._pending.clear()
        self._ended.clear()
        self._leave()

    def next_batch(self, block: bool = True) -> list[Any]:
        """All that have ended since the last one; with `block`, at least one. Raises StopIteration behind the last."""
        if not self._ended and (block or any(future.done() for future in list(self._pending))):
            self._fetch()
        batch = [self._given(future) for future in self._ended]
        self._ended.clear()
        return batch

    def batches(self) -> Iterator[list[Any]]:
        """Iterate over what `next_batch` gives."""
        while not self.is_empty():
            yield self.next_batch()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if not self._ended:
            self._fetch()
        return self._given(self._ended.popleft())

    next = __next__

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        import asyncio

        if not self._ended:
            if not self._pending:
                raise StopAsyncIteration
            await asyncio.to_thread(self._fetch)
        return self._given(self._ended.popleft())

    def _fetch(self) -> None:
        if not self._pending:
            self._leave()
            raise StopIteration
        if self._watch is None:
            self._watch = next(iter(self._pending))._watch()
        try:
            ended = self._watch.wait(
                self._pending, deadline.left(self._until), "as_completed", is_open=sys.getrefcount(self) > _ALONE
            )
        except BaseException:
            self._leave()
            raise
        for future in ended:
            if future in self._pending:
                del self._pending[future]
                self._ended.append(future)
        if not self._pending:
            self._leave()

    def _given(self, future: Future) -> Any:
        if not self._with_results:
            return future
        if self._raise_errors:
            return future, future.result()
        error = future.exception()
        return future, future.result() if error is None else error

    def _leave(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()

    def __del__(self) -> None:
        watch = getattr(self, "_watch", None)
        if watch is not None:
            watch.abandon()
