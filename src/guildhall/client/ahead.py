"""Calls without end in bounded memory: so many are under way, and the next are sent as the first are given."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from .. import deadline
from .submission import SLOW_S

F = TypeVar("F")
Call = tuple[Any, ...]


def in_order(
    send: Callable[[list[Call]], Sequence[F]],
    calls: Iterator[Call],
    size: int,
    settle: Callable[[F], object],
    let_go: Callable[[F], object] = lambda future: None,
) -> Iterator[F]:
    """The futures of the calls, each when `settle` has waited for it; at most `size` are sent and not given.

    The first are sent now, the next when half of them are given: one by one each would cost a commit. Who leaves early
    has those that are left `let_go`.
    """
    ahead = deque(send(_portion(calls, size)))

    def each() -> Iterator[F]:
        try:
            while ahead:
                future = ahead.popleft()
                settle(future)
                if len(ahead) <= size // 2 and (more := _portion(calls, size - len(ahead))):
                    ahead.extend(send(more))
                yield future
                del future  # The next one's result may take as much room.
        finally:
            for future in ahead:
                let_go(future)

    return each()


def _portion(calls: Iterator[Call], most: int) -> list[Call]:
    """Up to so many of the calls, fewer where they come slowly. None: there are no more."""
    until = deadline.after(SLOW_S)
    portion: list[Call] = []
    for call in calls:
        portion.append(call)
        if len(portion) >= most or not deadline.left(until):
            break
    return portion


def expect_size(given: Any) -> int:
    """A `buffersize`. Raises TypeError or ValueError, as the standard library does."""
    if isinstance(given, bool) or not isinstance(given, int):
        raise TypeError("buffersize must be an integer or None")
    if given < 1:
        raise ValueError("buffersize must be None or > 0")
    return given
