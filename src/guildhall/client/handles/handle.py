"""What all handles are: a name and a hall."""

from __future__ import annotations

import pickle
import uuid
from typing import Any

from ...engine.local import payload
from ...errors import Misuse, TimedOut, WrongType
from ...hosts import current
from ...hosts.embedded import EmbeddedHost
from ..hall import host_of, packed


class Handle:
    """A name in a hall. Without a name it gets a unique one; without a hall it finds the current one when used."""

    _kind = "handle"

    def __init__(self, name: Any = None, *, hall: Any = None, client: Any = None) -> None:
        is_unnamed = not name  # As of the peer: 0 and "" are no names.
        self.name = f"{self._kind}-{uuid.uuid4().hex}" if is_unnamed else name
        if isinstance(self.name, list):
            self.name = tuple(self.name)
        self._key = packed(self._kind, self.name)
        given = hall if hall is not None else client
        self._given: EmbeddedHost | None = None if given is None else host_of(given)

    @property
    def _host(self) -> EmbeddedHost:
        return self._given or current.now or host_of(None)

    def _is_in(self, host: EmbeddedHost) -> bool:
        """Whether the name is one of that hall."""
        return (self._given or current.now) is host

    def _has_hall(self) -> bool:
        """Whether it is known in which hall the name is meant."""
        return (self._given or current.now) is not None

    def statistics(self) -> Any:
        """What is known of it at this moment, as a frozen record."""
        raise NotImplementedError

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name,)

    def __repr__(self) -> str:
        from .looks import line  # Here: with it come the records of all kinds.

        return line(self)

    def _repr_html_(self) -> str:
        from .looks import page

        return page(self)

    def _store(self, host: EmbeddedHost, value: Any) -> tuple[bytes, tuple[bytes, ...]]:
        if type(value) in payload.PLAIN:
            data = pickle.dumps(value, 5)
            if len(data) <= payload.INLINE_BYTES:
                return data, ()
        return payload.store(host, value, f"{self._kind} {self.name!r:.60}: the value")

    def _late(self, timeout_s: float | None) -> TimedOut:
        return TimedOut(f"{self._kind} {self.name!r:.60}: nothing came within {timeout_s:g} s")


def no_number(kind: type[Handle], name: Any, word: str) -> None:
    """Refuse a number as the only argument of what other libraries give a number first: nobody means a semaphore of
    the name 3, for one at a time. Else a number is a name like others."""
    if isinstance(name, int | float):
        means = f"{word}={name!r:.30}"
        raise WrongType(
            f"{kind._kind} {name!r:.30}: the name comes first; expected text, bytes, a tuple or None (a fresh one), "
            f"got {type(name).__name__}; write {kind.__name__}({means}) or {kind.__name__}('some name', {means})"
        )


def whole(handle: Handle, what: str, value: Any, *, least: int = 1, most: int = (1 << 63) - 1, hint: str = "") -> int:
    """The value, if it is a whole number in these bounds. Raises WrongType or Misuse, naming the handle."""
    of = f"{handle._kind} {handle.name!r:.60}: {what} {value!r:.30}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise WrongType(f"{of}: expected a whole number, got {type(value).__name__}{hint}")
    if not least <= value <= most:
        raise Misuse(f"{of}: expected {least} to {most}{hint}")
    return int(value)
