"""The two protocols that every store fulfils and every op relies on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, TypeVar

T = TypeVar("T")


class Waiter(NamedTuple):
    """Who waits: a session, one wait of it (numbers are not reused), the bell that wakes it (0: awake, looking), and
    since when, for people to read (0: not told)."""

    session: int
    number: int
    bell: int
    since: float = 0.0


class Txn(Protocol):
    """One transaction. Ordered bytes to bytes; keys at most 511 bytes, values opaque."""

    @property
    def revision(self) -> int:
        """The number of this commit in the store's history: above that of every commit before. For writes only."""

    def get(self, key: bytes) -> bytes | None:
        """The value at the key."""

    def put(self, key: bytes, value: bytes) -> object:
        """Set the value at the key."""

    def delete(self, key: bytes) -> bool:
        """Remove the key; False if it was not there."""

    def first(self, prefix: bytes) -> tuple[bytes, bytes] | None:
        """The first pair whose key starts with the prefix."""

    def scan(self, prefix: bytes, after: bytes = b"", limit: int = 0) -> Iterator[tuple[bytes, bytes]]:
        """The pairs whose keys start with the prefix, in order, behind the key `after`, at most `limit` (0: all).

        A snapshot taken at the call: the caller may put and delete while iterating.
        """

    def wake(self, waiter: Waiter) -> None:
        """Ring for the waiter, once this transaction is committed."""

    def unlink(self, blob: str) -> None:
        """Remove the blob's file, once this transaction is committed."""


class Store(Protocol):
    """Runs ops, each atomically: all of it or, when it raises, nothing."""

    def transact(self, op: Callable[..., T], *args: Any) -> T:
        """Run the op as one transaction and commit it."""

    def read(self, op: Callable[..., T], *args: Any) -> T:
        """Run an op that only reads, on a snapshot."""

    def close(self) -> None:
        """Let go of the store. Harmless when done twice."""
