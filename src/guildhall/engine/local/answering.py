"""What a thread works on that answers requests: noted, so that a wait that closes a circle is told with its name."""

from __future__ import annotations

from _thread import get_ident
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from ...hosts import current


class Request(NamedTuple):
    """One request, as `current.runs` has it."""

    task: tuple[bytes, str] | None
    around: None = None


@contextmanager
def answering(oid: bytes, name: str) -> Iterator[None]:
    """This thread works on that request."""
    current.runs[get_ident()] = Request((oid, name))
    try:
        yield
    finally:
        current.runs.pop(get_ident(), None)
