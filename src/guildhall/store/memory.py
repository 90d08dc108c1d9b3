"""The reference store: a sorted list of keys beside a dict. For tests, and for hosts that live in one process."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from ..errors import StoreFull
from .records import UNREADABLE, damaged, torn
from .transaction import Waiter

T = TypeVar("T")

_MISSING = object()


class MemoryTxn:
    """One transaction over the dict, with a journal of what to put back when it is aborted."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.undo: list[tuple[bytes, Any]] = []
        self.woken: list[Waiter] = []
        self.unlinked: list[str] = []
        self._revision = 0

    @property
    def revision(self) -> int:
        if not self._revision:
            self._revision = self._store.revision + 1
        return self._revision

    def get(self, key: bytes) -> bytes | None:
        return self._store.data.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        data = self._store.data
        old = data.get(key, _MISSING)
        self.undo.append((key, old))
        if old is _MISSING:
            insort(self._store.keys, key)
            self._store.size += len(key)
        else:
            self._store.size -= len(data[key])
        self._store.size += len(value)
        data[key] = bytes(value)

    def delete(self, key: bytes) -> bool:
        data = self._store.data
        if key not in data:
            return False
        self.undo.append((key, data[key]))
        self._store.size -= len(key) + len(data.pop(key))
        keys = self._store.keys
        del keys[bisect_left(keys, key)]
        return True

    def first(self, prefix: bytes) -> tuple[bytes, bytes] | None:
        return next(self.scan(prefix, limit=1), None)

    def scan(self, prefix: bytes, after: bytes = b"", limit: int = 0) -> Iterator[tuple[bytes, bytes]]:
        keys = self._store.keys
        at = bisect_right(keys, after) if after >= prefix else bisect_left(keys, prefix)
        found: list[tuple[bytes, bytes]] = []
        while at < len(keys) and keys[at].startswith(prefix) and not (limit and len(found) >= limit):
            found.append((keys[at], self._store.data[keys[at]]))
            at += 1
        return iter(found)

    def wake(self, waiter: Waiter) -> None:
        self.woken.append(waiter)

    def unlink(self, blob: str) -> None:
        self.unlinked.append(blob)


class MemoryStore:
    """All of a store in one dict.

    `ring` and `remove` are called with what each commit woke and unlinked. `max_bytes` bounds keys and values
    together: an op that makes the store larger than that raises StoreFull and leaves no trace.
    """

    def __init__(
        self,
        ring: Callable[[Waiter], None] = lambda waiter: None,
        remove: Callable[[str], None] = lambda blob: None,
        max_bytes: int | None = None,
    ) -> None:
        self.data: dict[bytes, bytes] = {}
        self.keys: list[bytes] = []
        self.size = 0
        self.revision = 0
        self._ring = ring
        self._remove = remove
        self._max_bytes = max_bytes
        self._gate = threading.RLock()

    def transact(self, op: Callable[..., T], *args: Any) -> T:
        with self._gate:
            txn = MemoryTxn(self)
            before = self.size
            try:
                result = op(txn, *args)
                if self._max_bytes is not None and self.size > max(before, self._max_bytes):
                    raise StoreFull(f"the store holds its {self._max_bytes} bytes: delete something first")
            except BaseException as error:
                self._put_back(txn.undo)
                if isinstance(error, UNREADABLE):
                    raise damaged(error) from error
                if (damage := torn(error)) is not None:
                    raise damage from error
                raise
            if txn.undo or txn._revision:
                self.revision += 1
        for waiter in txn.woken:
            self._ring(waiter)
        for blob in txn.unlinked:
            self._remove(blob)
        return result

    def read(self, op: Callable[..., T], *args: Any) -> T:
        with self._gate:
            try:
                return op(MemoryTxn(self), *args)
            except UNREADABLE as error:
                raise damaged(error) from error
            except Exception as error:
                if (damage := torn(error)) is not None:
                    raise damage from error
                raise

    def close(self) -> None:
        """Nothing to let go of."""

    def _put_back(self, undo: list[tuple[bytes, Any]]) -> None:
        back = MemoryTxn(self)
        for key, old in reversed(undo):
            back.delete(key) if old is _MISSING else back.put(key, old)
