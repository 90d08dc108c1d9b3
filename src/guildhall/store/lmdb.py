"""The embedded store: one LMDB environment in a hall's directory, shared by every process that opens it.

What must live here: everything that knows LMDB. What this file must not know: halls, sessions, primitives.

The rules that keep it exact, each paid for by somebody's lost data (docs/decisions has the measurements):

- Opened and created only under an flock on `guard`: an opener killed at the wrong moment loses others' commits.
- One gate around every transaction of a process, taken across fork; nothing of LMDB is open while a process forks.
- On a memory file system the map is written directly, and is never larger than the space reserved for it by
  `posix_fallocate`, so a full file system is an error and not a signal. The map grows only under the guard, and
  always to the size that the file has, so no process ever cuts off what another one reserved.
- Elsewhere pages are written with pwrite, which reports a full disk by itself.
- A ballast file is given up when space runs out, so that deleting, which needs pages too, still works.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import lmdb

from ..errors import HallDamaged, Misuse, StoreFull
from .transaction import Waiter

T = TypeVar("T")

MAX_READERS = 1024
FIRST_BYTES = 1 << 20
GROW_BYTES = 8 << 20
BALLAST_BYTES = 512 << 10
DISK_MAP_BYTES = 64 << 30
REVISION = b"\x01r"
LOOSE_BYTES = 1 << 20
_DAMAGE = (lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError, lmdb.PanicError)
_REMEDY = "restore it from a copy, or remove the hall's directory to begin anew"
_LOCK_FILE_BYTES = 64 * (MAX_READERS - 1) + 192
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EIO)

_stores: weakref.WeakSet[LmdbStore] = weakref.WeakSet()


class LmdbTxn:
    """One LMDB transaction. A store has one of these and points it at each transaction in turn (the gate is held)."""

    __slots__ = ("_raw", "_revision", "delete", "dirty", "get", "grown", "put", "unlinked", "woken")

    def begin(self, raw: Any, counted: bool) -> None:
        """Point at a new transaction; `counted` keeps the sum of bytes put less bytes deleted."""
        self._raw = raw
        self.get = raw.get
        self.put = self._counted_put if counted else raw.put
        self.delete = self._counted_delete if counted else raw.delete
        self._revision = 0
        self.grown = 0
        self.woken: list[Waiter] = []
        self.unlinked: list[str] = []

    @property
    def revision(self) -> int:
        if not self._revision:
            stored = self.get(REVISION)
            self._revision = (int.from_bytes(stored, "big") if stored else 0) + 1
        return self._revision

    def _counted_put(self, key: bytes, value: bytes) -> None:
        old = self._raw.get(key)
        self.grown += len(value) - len(old) if old is not None else len(key) + len(value)
        self._raw.put(key, value)

    def _counted_delete(self, key: bytes) -> bool:
        old = self._raw.get(key)
        if old is None:
            return False
        self.grown -= len(key) + len(old)
        return bool(self._raw.delete(key))

    def first(self, prefix: bytes) -> tuple[bytes, bytes] | None:
        cursor = self._raw.cursor()
        found = None
        if cursor.set_range(prefix):
            key, value = cursor.item()
            if key.startswith(prefix):
                found = key, value
        cursor.close()
        return found

    def scan(self, prefix: bytes, after: bytes = b"", limit: int = 0) -> Iterator[tuple[bytes, bytes]]:
        found: list[tuple[bytes, bytes]] = []
        with self._raw.cursor() as cursor:
            if not cursor.set_range(after if after > prefix else prefix):
                return iter(found)
            for key, value in cursor:
                if not key.startswith(prefix) or (limit and len(found) >= limit):
                    break
                if key > after:
                    found.append((key, value))
        return iter(found)

    def wake(self, waiter: Waiter) -> None:
        self.woken.append(waiter)

    def unlink(self, blob: str) -> None:
        self.unlinked.append(blob)


class LmdbStore:
    """The store in a directory that exists. `create` makes one; `in_memory` says that it is on tmpfs.

    `ring` and `remove` are called with what each commit woke and unlinked. `durable`: a commit is on disk before the
    call returns. Raises StoreFull when there is no room, HallDamaged when the file is not a store.
    """

    def __init__(
        self,
        directory: str,
        *,
        in_memory: bool,
        durable: bool = False,
        ring: Callable[[Waiter], None] = lambda waiter: None,
        remove: Callable[[str], None] = lambda blob: None,
        is_new: bool = False,
    ) -> None:
        self.directory = directory
        self._in_memory = in_memory
        self._durable = durable
        self._ring = ring
        self._remove = remove
        self._gate = threading.RLock()
        self._pid = os.getpid()
        self._txn = LmdbTxn()
        self._busy = False
        self._draining = False
        self._closed = False
        self._is_down = False
        self._open(is_new)
        _stores.add(self)

    @classmethod
    def create(cls, directory: str, *, in_memory: bool) -> None:
        """Lay the files of a new store. The directory must be private to the caller until it is renamed into place."""
        with open(os.path.join(directory, "guard"), "wb"):
            pass
        for name, size in (("lock.mdb", _LOCK_FILE_BYTES), ("ballast", BALLAST_BYTES)):
            _reserve(os.path.join(directory, name), size)
        if in_memory:
            _reserve(os.path.join(directory, "data.mdb"), FIRST_BYTES)
            os.truncate(os.path.join(directory, "data.mdb"), 0)
        store = cls(directory, in_memory=in_memory, is_new=True)
        store.transact(lambda txn: txn.revision and None)
        store.close()

    # -- opening ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        fd = os.open(os.path.join(self.directory, "guard"), os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _open(self, is_new: bool = False) -> None:
        data = os.path.join(self.directory, "data.mdb")
        try:
            with self._guarded():
                size = DISK_MAP_BYTES
                found = os.stat(data).st_size if os.path.exists(data) else 0
                if not is_new and not found:  # LMDB would make a new store of it, and nobody would know.
                    raise HallDamaged(f"hall {self.directory}: its data.mdb is empty or gone; {_REMEDY}")
                if self._in_memory:
                    size = found
                    if is_new:
                        _reserve(data, FIRST_BYTES)
                        os.truncate(data, 0)  # LMDB takes only an empty file for a new store.
                        size = FIRST_BYTES
                self._env = lmdb.open(
                    self.directory,
                    map_size=size,
                    mode=0o600,
                    writemap=self._in_memory,
                    sync=self._durable,
                    metasync=self._durable,
                    max_readers=MAX_READERS,
                    max_spare_txns=4,
                    meminit=False,
                    readahead=False,
                    lib_version=0,
                )
                if not is_new:
                    self._check_length(data, found)
                if self._in_memory:
                    _reserve(data, size)
                self._map_bytes = size
                self._env.reader_check()
        except lmdb.Error as error:
            raise HallDamaged(f"hall {self.directory}: not a store that can be opened ({error}); {_REMEDY}") from error
        except OSError as error:
            raise _full(self.directory, error) from error
        self._begin = self._env.begin
        self._pid = os.getpid()

    def _check_length(self, data: str, found: int) -> None:
        """Refuse a file that was cut off: reading a mapped page that is not there ends the process with a signal."""
        needed = (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]
        if not self._in_memory:
            found = os.stat(data).st_size  # Others may be writing: looked at second, it is never too short.
        if needed > found + (0 if self._in_memory else LOOSE_BYTES):
            self._env.close()
            raise HallDamaged(f"hall {self.directory}: its data.mdb has {found} bytes of {needed}; {_REMEDY}")
        if needed > found:  # Pages used and given up in one transaction are never written: so the last ones may lack.
            _reserve(data, needed)

    def close(self) -> None:
        with self._gate:
            if not self._closed:
                self._closed = self._is_down = True
                self._env.close()

    # -- transactions -------------------------------------------------------------------------------------------------

    def transact(self, op: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        txn = self._txn
        with self._gate:
            if self._busy or self._is_down or os.getpid() != self._pid:
                self._prepare()
            self._busy = True
            try:
                while True:
                    raw = None
                    try:
                        raw = self._begin(write=True)
                        txn.begin(raw, self._draining)
                        result = op(txn, *args, **kwargs)
                        self._seal(txn, raw)
                        break
                    except BaseException as error:
                        if raw is not None:
                            with suppress(lmdb.Error):
                                raw.abort()
                        if not isinstance(error, lmdb.Error):
                            raise
                        self._recover(error)
                woken, unlinked = txn.woken, txn.unlinked
            finally:
                self._busy = False
        for waiter in woken:
            self._ring(waiter)
        for blob in unlinked:
            self._remove(blob)
        return result

    def read(self, op: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        txn = self._txn
        with self._gate:
            if self._busy or self._is_down or os.getpid() != self._pid:
                self._prepare()
            self._busy = True
            try:
                while True:
                    try:
                        raw = self._begin()
                        break
                    except lmdb.Error as error:
                        self._recover(error)
                try:
                    txn.begin(raw, False)
                    return op(txn, *args, **kwargs)
                except _DAMAGE as error:
                    raise self._damaged(error) from error
                finally:
                    raw.abort()
            finally:
                self._busy = False

    def _seal(self, txn: LmdbTxn, raw: Any) -> None:
        """Commit, with the revision. What wrote nothing is not a commit: LMDB gives such a transaction no page."""
        if self._draining and txn.grown > 0 and not self._has_room():
            raise _full(self.directory, None)
        raw.put(REVISION, txn.revision.to_bytes(8, "big"))
        raw.commit()

    def _prepare(self) -> None:
        """The rare cases before a transaction: one inside another, a closed store, a forked child."""
        if self._closed:
            raise Misuse(f"hall {self.directory}: it is closed; open it again")
        if self._is_down:
            self._open()
            self._is_down = False
        elif os.getpid() != self._pid:
            self._reopen_after_fork()
        elif self._busy:
            raise Misuse(
                f"hall {self.directory}: used inside one of its own operations, from a signal handler or a finalizer; "
                "let the handler set a flag and act on it outside"
            )

    # -- space --------------------------------------------------------------------------------------------------------

    def _recover(self, error: lmdb.Error) -> None:
        """Make room or adopt what others made, so that the op can run again; raise if there is none."""
        if isinstance(error, lmdb.MapFullError):
            self._grow()
        elif isinstance(error, lmdb.MapResizedError):
            with self._guarded():
                self._adopt()
        elif isinstance(error, lmdb.ReadersFullError):
            if not self._env.reader_check():
                raise Misuse(f"hall {self.directory}: more than {MAX_READERS} concurrent readers") from error
        elif isinstance(error, lmdb.DiskError) or "No space" in str(error) or "Input/output" in str(error):
            if not self._drop_ballast():
                raise _full(self.directory, None) from error
            self._draining = True
        elif isinstance(error, _DAMAGE):
            raise self._damaged(error) from error
        else:
            raise error

    def _damaged(self, error: lmdb.Error) -> HallDamaged:
        return HallDamaged(f"hall {self.directory}: the store is damaged ({error}); {_REMEDY}")

    def _grow(self) -> None:
        data = os.path.join(self.directory, "data.mdb")
        with self._guarded():
            size = os.stat(data).st_size
            if size > self._map_bytes:
                self._adopt()
                return
            for step in (max(GROW_BYTES, size // 4 & ~0xFFFFF), 1 << 20):
                try:
                    _reserve(data, size + step)
                    self._adopt()
                    self._draining = False
                    return
                except OSError as error:
                    failure = error
            self._draining = True
            if not self._drop_ballast():
                raise _full(self.directory, failure)
            _reserve(data, size + BALLAST_BYTES)
            self._adopt()

    def _adopt(self) -> None:
        """Map what the file holds. Only under the guard, so that the file cannot change its size meanwhile."""
        self._map_bytes = os.stat(os.path.join(self.directory, "data.mdb")).st_size
        self._env.set_mapsize(self._map_bytes)
        if not os.path.exists(os.path.join(self.directory, "ballast")):
            self._draining = True

    def _drop_ballast(self) -> bool:
        try:
            os.unlink(os.path.join(self.directory, "ballast"))
        except FileNotFoundError:
            return False
        return True

    def _has_room(self) -> bool:
        """While draining: whether the free pages inside the map make up for the ballast, or it can be laid again."""
        stat = self._env.stat()
        used = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        if self._in_memory:
            return bool(self._map_bytes // stat["psize"] - used > 2 * BALLAST_BYTES // stat["psize"])
        try:
            _reserve(os.path.join(self.directory, "ballast"), BALLAST_BYTES)
        except OSError:
            self._drop_ballast()
            return False
        self._draining = False
        return True

    # -- fork ---------------------------------------------------------------------------------------------------------

    def _step_aside(self) -> None:
        """Before a fork: let go of the environment; parent and child open it again when they need it.

        LMDB cannot be inherited: a child that closes its copy frees the reader slots of its parent.
        """
        if not self._is_down:
            self._is_down = True
            self._env.close()

    def _reopen_after_fork(self) -> None:
        """After a fork that Python did not see."""
        self._busy = False
        with suppress(lmdb.Error):
            self._env.close()
        self._open()


def _reserve(path: str, size: int) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, size)
    finally:
        os.close(fd)


def _full(directory: str, error: OSError | None) -> OSError:
    if error is not None and error.errno not in _NO_SPACE:
        return error
    return StoreFull(errno.ENOSPC, f"hall {directory}: no room left; take or delete something, or free its file system")


def _before_fork() -> None:
    for store in list(_stores):
        store._gate.acquire()
        if not store._busy:
            store._step_aside()


def _after_fork_in_parent() -> None:
    for store in list(_stores):
        with suppress(RuntimeError):
            store._gate.release()


def _after_fork_in_child() -> None:
    for store in list(_stores):
        store._gate = threading.RLock()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
