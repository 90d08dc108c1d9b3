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
- LMDB believes what it maps, and a damaged page ends the process with a signal: so whoever opens a store that nobody
  has open looks at its pages first, in plain Python.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeVar

import lmdb

from ..errors import HallDamaged, Misuse, StoreFull
from . import forks
from .mutex import OWNER, UNSEEN, WriterMutex, look
from .records import UNREADABLE, damaged, torn
from .transaction import Waiter

T = TypeVar("T")

MAX_READERS = 1024
FIRST_BYTES = 1 << 20
GROW_BYTES = 8 << 20
BALLAST_BYTES = 512 << 10
INSIST_BYTES = BALLAST_BYTES // 2
"""In a nearly full store, what must stay free also for those who insist; others leave twice the ballast."""
LOW_BYTES = 4 << 20
"""A store in which less than this can still be written is nearly full: somebody should be told."""
DISK_MAP_BYTES = 64 << 30
FORMAT = b"\x01f"
"""The key of the store's format, laid when it is made."""
_VERSION = b"1"
LOOSE_BYTES = 1 << 20
_DAMAGE = (lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError, lmdb.PanicError, lmdb.BadValsizeError)
"""The last one: no key of ours is too long for LMDB, unless it was made from a record that is damaged."""
_REMEDY = "restore it from a copy, or remove the hall's directory to begin anew"
_LOCK_FILE_BYTES = 64 * (MAX_READERS - 1) + 192
CHECKED_BYTES = 64 << 20
"""A larger file is not looked at page by page when it is opened: it takes 7 us a page, and 2 us for each record."""
_TREE_FLAGS = ((44, 8), (92, 0))
"""Where a meta page keeps the flags of its two trees, and what they are in a store of ours: the free pages sorted as
numbers, the records as bytes. LMDB takes others for another kind of tree, and stumbles over the first page of it."""
_FLOCK = struct.Struct("hhqqi")
_UNDONE = "_guildhall_undone"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EIO)

_stores: weakref.WeakSet[LmdbStore] = weakref.WeakSet()
_laid: set[tuple[int, int]] = set()
"""Files that this process has just made."""


class Usage(NamedTuple):
    """What a store takes of the room that it has, in bytes.

    `used` is in pages that hold something, of the `file`; the rest of the file is written before it grows. `room` is
    what its file system can still give. `has_ballast`: what it gives up when there is no room is there.
    """

    used_bytes: int
    file_bytes: int
    room_bytes: int
    is_in_memory: bool
    has_ballast: bool

    @property
    def left_bytes(self) -> int:
        """What can still be written."""
        return self.room_bytes + self.file_bytes - self.used_bytes

    @property
    def is_nearly_full(self) -> bool:
        return self.left_bytes < LOW_BYTES


class Reader(NamedTuple):
    """A slot of LMDB's table of readers. One with a transaction keeps every page that it might look at."""

    pid: int
    transaction: int | None


class LmdbSnapshot:
    """A transaction that reads. A store has one of these and points it at each in turn (the gate is held)."""

    __slots__ = ("_raw", "get")

    def begin(self, raw: Any) -> None:
        """Point at a new transaction."""
        self._raw = raw
        self.get = raw.get

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


class LmdbTxn(LmdbSnapshot):
    """A transaction that writes, and whom to tell after the commit: who is to be woken, which blobs are to go.

    The store points it at the next one by itself.
    """

    __slots__ = ("delete", "put", "unlinked", "woken")

    put: Callable[[bytes, bytes], object]
    delete: Callable[[bytes], bool]

    def __init__(self) -> None:
        self.woken: list[Waiter] = []
        self.unlinked: list[str] = []

    @property
    def revision(self) -> int:
        return self._raw.id()  # type: ignore[no-any-return]

    def wake(self, waiter: Waiter) -> None:
        self.woken.append(waiter)

    def unlink(self, blob: str) -> None:
        self.unlinked.append(blob)


class CountingTxn(LmdbTxn):
    """A transaction that keeps the sum of bytes put less bytes deleted: for a store that is nearly full."""

    __slots__ = ("grown",)

    def begin(self, raw: Any) -> None:
        self.put = self._put
        self.delete = self._delete
        self.grown = 0

    def _put(self, key: bytes, value: bytes) -> None:
        old = self._raw.get(key)
        self.grown += len(value) - len(old) if old is not None else len(key) + len(value)
        self._raw.put(key, value)

    def _delete(self, key: bytes) -> bool:
        old = self._raw.get(key)
        if old is None:
            return False
        self.grown -= len(key) + len(old)
        return bool(self._raw.delete(key))


class LmdbStore:
    """The store in a directory that exists. `create` makes one; `in_memory` says that it is on tmpfs; `at` is a path to
    it that stays the same when the directory does not.

    `ring` and `remove` are called with what each commit woke and unlinked; `before` is called before a write when there
    are `errands`, and in a process that has forked or was forked. `durable`: a commit is on disk before the call
    returns. `is_read_only`: nothing is laid, reserved or cleaned up. Raises StoreFull when there is no room,
    HallDamaged when the file is not a store.
    """

    def __init__(
        self,
        directory: str,
        *,
        at: str = "",
        in_memory: bool,
        durable: bool = False,
        ring: Callable[[Waiter], None] = lambda waiter: None,
        remove: Callable[[str], None] = lambda blob: None,
        errands: Sized = (),
        before: Callable[[], None] = lambda: None,
        is_new: bool = False,
        is_read_only: bool = False,
    ) -> None:
        self.directory = directory
        self._at = at or directory
        self._is_read_only = is_read_only
        self._in_memory = in_memory
        self._durable = durable
        self._ring = ring
        self._remove = remove
        self._errands = errands
        self._before = before
        self.gate = threading.RLock()
        """Held by the thread that runs a transaction."""
        self.undone = 0
        """How many transactions were undone: for who is interrupted and has to know whether its one was."""
        self._txn = LmdbTxn()
        self._snapshot = LmdbSnapshot()
        self._counting: CountingTxn | None = None
        self._reserve_bytes = 2 * BALLAST_BYTES
        self._is_closed = False
        self._is_down = True
        self._is_ready = False
        self._is_checked = is_new
        """Behind a fork, parent and child open again what they have had open."""
        self._env: Any = None
        self._mutex: WriterMutex | None = None
        self._writer = UNSEEN
        """The writer mutex: the thread that has it, and some bits."""
        _stores.add(self)
        with self.gate:  # No fork by another thread meanwhile: its child would keep the guard.
            try:
                self._open(is_new)
            except BaseException:
                self._close_env()
                raise

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
        store.transact(_lay_format)
        store.close()
        _laid.add(_identity(os.path.join(directory, "data.mdb")))

    # -- opening ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        fd = os.open(os.path.join(self._at, "guard"), os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            with suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)  # Closing is not enough: a child forked meanwhile has it open, too.
            os.close(fd)

    def _open(self, is_new: bool = False) -> None:
        data = os.path.join(self._at, "data.mdb")
        self._close_env()  # An open that was interrupted may have left it.
        try:
            with self._guarded():
                size = DISK_MAP_BYTES
                found = os.stat(data).st_size if os.path.exists(data) else 0
                if not is_new and not found:  # LMDB would make a new store of it, and nobody would know.
                    raise HallDamaged(f"hall {self.directory}: its data.mdb is empty or gone; {_REMEDY}")
                if not self._is_checked and not self._is_open_elsewhere():
                    self._check_pages(data, found)
                if self._in_memory:
                    size = found
                    if is_new:
                        _reserve(data, FIRST_BYTES)
                        os.truncate(data, 0)  # LMDB takes only an empty file for a new store.
                        size = FIRST_BYTES
                if not self._is_read_only:
                    self._mutex = WriterMutex(os.path.join(self._at, "lock.mdb"))
                    self._writer = self._mutex.word
                self._env = lmdb.open(
                    self._at,
                    map_size=size,
                    mode=0o600,
                    readonly=self._is_read_only,
                    writemap=self._in_memory and not self._is_read_only,
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
                if not self._is_checked:
                    self._check_format()
                    self._is_checked = True
                self._map_bytes = size
                if not self._is_read_only:
                    if self._in_memory:
                        _reserve(data, size)
                    self._note_ballast()
                    self._env.reader_check()
        except lmdb.Error as error:
            raise HallDamaged(f"hall {self.directory}: not a store that can be opened ({error}); {_REMEDY}") from error
        except OSError as error:
            raise _full(self.directory, error) from error
        self._begin = self._env.begin
        self._mark = forks.mark()
        self._is_down = False
        self._is_ready = True

    def make_durable(self) -> None:
        """From the next transaction on, which opens the environment anew, a commit is on disk when the call returns."""
        with self.gate:
            if not self._durable:
                self._durable = True
                self._step_aside()

    def _close_env(self) -> None:
        if self._env is not None:
            with suppress(lmdb.Error):
                self._env.close()
        if self._mutex is not None:
            self._writer = UNSEEN
            self._mutex.close()

    def _is_open_elsewhere(self) -> bool:
        """Whether another process has it open: LMDB keeps a byte of its lock file locked as long.

        Only while this process has not, as closing the file drops that lock; and under the guard, so that nobody opens
        the store, and begins to write, while its pages are looked at.
        """
        fd = os.open(os.path.join(self._at, "lock.mdb"), os.O_RDONLY | os.O_CLOEXEC)
        try:
            asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
            return bool(_FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))[0] != fcntl.F_UNLCK)
        finally:
            os.close(fd)

    def _check_pages(self, data: str, size: int) -> None:
        """Refuse a file of which LMDB would believe what is not so. A large one is not looked at but for its head."""
        if _identity(data) in _laid:
            _laid.discard(_identity(data))
            return
        found = _wrong_in_head(data)
        if not found and size <= CHECKED_BYTES:
            from lmdb import verify  # Whoever comes to a store that is in use needs none of it.

            try:
                found = verify.verify(data, subdir=False)  # type: ignore[no-untyped-call]
            except verify.VerifyError as error:
                found = [str(error)]
        if found:
            raise HallDamaged(f"hall {self.directory}: not a store that can be opened ({found[0]:.200}); {_REMEDY}")

    def _check_format(self) -> None:
        """Refuse an LMDB file of something else, and a store of another version."""
        with self._env.begin() as txn:
            found = txn.get(FORMAT)
        if found != _VERSION:
            whose = "no store of guildhall" if found is None else f"a store of format {found[:20]!r}, not {_VERSION!r}"
            raise HallDamaged(f"hall {self.directory}: its data.mdb is {whose}; {_REMEDY}")

    def _check_length(self, data: str, found: int) -> None:
        """Refuse a file that was cut off: reading a mapped page that is not there ends the process with a signal."""
        needed = (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]
        if not self._in_memory:
            found = os.stat(data).st_size  # Others may be writing: looked at second, it is never too short.
        if needed > found + (0 if self._in_memory else LOOSE_BYTES):
            raise HallDamaged(f"hall {self.directory}: its data.mdb has {found} bytes of {needed}; {_REMEDY}")
        # Pages used and given up in one transaction are never written: so the last ones may lack.
        if needed > found and not self._is_read_only:
            _reserve(data, needed)

    def close(self) -> None:
        with self.gate:
            if not self._is_closed:
                self._is_closed = True
                self._is_ready = False
                self._close_env()

    # -- transactions -------------------------------------------------------------------------------------------------

    def transact(self, op: Callable[..., T], *args: Any) -> T:
        gate = self.gate
        aftermath = None
        try:
            try:
                gate.acquire()  # `with` costs twice as much, which here is a tenth of the whole.
                if self._errands or not self._is_ready or not self._mark[0]:
                    self._prepare()
                self._is_ready = False
                txn = self._counting or self._txn
                raw = None
                try:
                    if self._writer[0] & OWNER:
                        look(self._writer)
                    txn._raw = raw = self._begin(None, None, True)
                    txn.get, txn.put, txn.delete = raw.get, raw.put, raw.delete
                    if self._counting:
                        self._counting.begin(raw)
                    result = op(txn, *args)
                    if self._counting:
                        self._refuse_growth(self._counting)
                    raw.commit()
                except BaseException as error:
                    self._undo(txn, raw, error)
                    self._is_ready = True
                    return self.transact(op, *args)  # Room was made.
                finally:
                    self._is_ready = True
                if not txn.woken and not txn.unlinked:
                    return result
                aftermath = txn.woken, txn.unlinked
                txn.woken, txn.unlinked = [], []
            finally:
                try:  # noqa: SIM105 (`suppress` would cost more than the transaction's begin)
                    gate.release()
                except RuntimeError:  # Ctrl-C before it was taken.
                    pass
            self._tell(*aftermath)
        except BaseException:
            if aftermath is not None:  # Ctrl-C behind the commit: who was woken must hear it all the same.
                self._tell(*aftermath)
            raise
        return result

    def rouse(self) -> None:
        """Wake whoever sleeps at the writer mutex, to look again. For when a process died.

        A writer lets the mutex go and then wakes who sleeps there. If it is killed between the two, the kernel wakes
        one in its place, but not when another process took the free mutex in between: then nobody knows of the sleeper,
        which sleeps until somebody else has to wait for the mutex. In a hall that is idle, that is for ever.
        """
        with self.gate:
            if self._is_ready and self._mark[0] and self._mutex is not None:
                self._mutex.rouse()

    def read(self, op: Callable[..., T], *args: Any) -> T:
        gate = self.gate
        try:
            gate.acquire()
            if not self._is_ready or not self._mark[0]:
                self._prepare()
            self._is_ready = False
            raw = None
            try:
                raw = self._begin()
                self._snapshot.begin(raw)
                return op(self._snapshot, *args)
            except lmdb.Error as error:
                self._recover(error)
            except UNREADABLE as error:
                raise damaged(error) from error
            except Exception as error:
                if (damage := torn(error)) is not None:
                    raise damage from error
                raise
            finally:
                self._is_ready = True
                if raw is not None:
                    raw.abort()
        finally:
            try:  # noqa: SIM105 (`suppress` would cost more than the transaction's begin)
                gate.release()
            except RuntimeError:  # Ctrl-C before it was taken.
                pass
        return self.read(op, *args)  # What was wrong is mended.

    def _undo(self, txn: LmdbTxn, raw: Any, error: BaseException) -> None:
        """Abort; make room if that was the trouble, so that the op can run again, or raise."""
        is_committed = False
        try:
            if raw is not None:
                raw.id()  # `abort` says nothing of a transaction that is over, this does.
                raw.abort()
        except lmdb.Error:
            is_committed = not isinstance(error, lmdb.Error)
        if is_committed:  # Ctrl-C right behind the commit: who was woken must hear it.
            self._tell(txn.woken, txn.unlinked)
        else:
            self.undone += 1
            vars(error)[_UNDONE] = True
        txn.woken, txn.unlinked = [], []
        if isinstance(error, UNREADABLE):
            raise damaged(error) from error
        if not isinstance(error, lmdb.Error):
            if (damage := torn(error)) is not None:
                raise damage from error
            raise error
        self._recover(error)

    def _tell(self, woken: list[Waiter], unlinked: list[str]) -> None:
        """Empties the lists, so that what is left can be told when Ctrl-C came.

        A bell is rung once, for all who share it: the coroutines of a loop, the lines of one wait.
        """
        if len(woken) > 1:
            woken[:] = {(waiter.session, waiter.bell): waiter for waiter in woken}.values()
        while woken:
            self._ring(woken[0])
            del woken[0]
        while unlinked:
            self._remove(unlinked[0])
            del unlinked[0]

    def _prepare(self) -> None:
        """The rare cases before a transaction: errands, a forked child, a closed store, one inside another."""
        if self._is_closed:
            raise Misuse(f"hall {self.directory}: it is closed; open it again")
        if self._is_down:
            self._open()
        elif not self._mark[0]:
            self._open()  # A fork that Python did not see.
        elif not self._is_ready:
            raise Misuse(
                f"hall {self.directory}: used inside one of its own operations, from a signal handler or a finalizer; "
                "let the handler set a flag and act on it outside"
            )
        self._before()

    # -- looking at the store itself ----------------------------------------------------------------------------------

    @contextmanager
    def _ready(self) -> Iterator[None]:
        """The environment is open, and stays so."""
        with self.gate:
            if not self._is_ready or not self._mark[0]:
                self._prepare()
            yield

    def revision(self) -> int:
        """The number of a commit that every read which begins from now on sees."""
        with self._ready():
            return int(self._env.info()["last_txnid"])

    def usage(self) -> Usage:
        with self._ready():
            stat = self._env.stat()
        pages = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        return Usage(
            pages * stat["psize"],
            os.stat(os.path.join(self._at, "data.mdb")).st_size,
            self._room_bytes(),
            self._in_memory,
            os.path.exists(os.path.join(self._at, "ballast")),
        )

    def readers(self) -> list[Reader]:
        """Every slot of the table of readers that somebody has, also those of processes that died."""
        with self._ready():
            table = self._env.readers()
        rows = (line.split() for line in table.splitlines()[1:])
        return [Reader(int(pid), None if txn == "-" else int(txn)) for pid, _, txn in rows]

    def clear_readers(self) -> int:
        """Free the slots of dead readers. Returns how many."""
        with self._ready():
            return int(self._env.reader_check())

    def restock(self) -> bool:
        """Lay the ballast again if there is room for it. Whether it is there."""
        with self._guarded():
            return self._lay_ballast()

    def _lay_ballast(self) -> bool:
        path = os.path.join(self._at, "ballast")
        if not os.path.exists(path) and self._room_bytes() >= 2 * BALLAST_BYTES:
            try:
                _reserve(path, BALLAST_BYTES)
            except OSError:
                self._drop_ballast()
        return os.path.exists(path)

    def _room_bytes(self) -> int:
        """What the file system can still give."""
        system = os.statvfs(self._at)
        return system.f_bavail * system.f_frsize

    # -- space --------------------------------------------------------------------------------------------------------

    def _recover(self, error: lmdb.Error) -> None:
        """Make room or adopt what others made, so that the op can run again; raise if there is none."""
        if isinstance(error, lmdb.MapFullError):
            if not self._env.reader_check():  # One that was killed keeps all that was given up since.
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
            self._counting = CountingTxn()
        elif isinstance(error, _DAMAGE):
            raise self._damaged(error) from error
        else:
            raise error

    def _damaged(self, error: lmdb.Error) -> HallDamaged:
        return HallDamaged(f"hall {self.directory}: the store is damaged ({error}); {_REMEDY}")

    def _grow(self) -> None:
        data = os.path.join(self._at, "data.mdb")
        with self._guarded():
            size = os.stat(data).st_size
            if size > self._map_bytes:
                self._adopt()
                return
            for step in (max(GROW_BYTES, size // 4 & ~0xFFFFF), 1 << 20):
                try:
                    _reserve(data, size + step)
                    self._lay_ballast()
                    self._adopt()
                    self._counting = None
                    return
                except OSError as error:
                    failure = error
            self._counting = CountingTxn()
            if not self._drop_ballast():
                raise _full(self.directory, failure)
            _reserve(data, size + BALLAST_BYTES)
            self._adopt()

    def _adopt(self) -> None:
        """Map what the file holds. Only under the guard, so that the file cannot change its size meanwhile."""
        self._map_bytes = os.stat(os.path.join(self._at, "data.mdb")).st_size
        self._env.set_mapsize(self._map_bytes)
        self._note_ballast()

    def _note_ballast(self) -> None:
        """Without ballast the store is nearly full, whoever gave it up: what is left is for those who empty it."""
        if not os.path.exists(os.path.join(self._at, "ballast")):
            self._counting = CountingTxn()

    def _drop_ballast(self) -> bool:
        try:
            os.unlink(os.path.join(self._at, "ballast"))
        except FileNotFoundError:
            return False
        return True

    def insist(self, op: Callable[..., T], *args: Any) -> T:
        """As `transact`, for what somebody must be able to write who comes to empty a full store."""
        with self.gate:
            before, self._reserve_bytes = self._reserve_bytes, INSIST_BYTES
            try:
                return self.transact(op, *args)
            finally:
                self._reserve_bytes = before  # In a forked child, joining insists inside of what it insisted on.

    def _refuse_growth(self, txn: CountingTxn) -> None:
        """While nearly full, only what does not make the store larger is committed, until there is room again."""
        if txn.grown > 0 and not self._has_room():
            if self._in_memory and self._room_bytes() >= GROW_BYTES // 4:
                raise lmdb.MapFullError("others have freed their file system")
            raise _full(self.directory, None)

    def _has_room(self) -> bool:
        """Whether the free pages inside the map make up for the ballast, or it can be laid again."""
        if self._in_memory:
            stat = self._env.stat()
            used = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
            return bool(self._map_bytes - used * stat["psize"] > self._reserve_bytes)
        try:
            _reserve(os.path.join(self._at, "ballast"), BALLAST_BYTES)
        except OSError:
            self._drop_ballast()
            return self._reserve_bytes == INSIST_BYTES
        self._counting = None
        return True

    # -- fork ---------------------------------------------------------------------------------------------------------

    def _step_aside(self) -> None:
        """Let go of the environment; whoever needs it opens it again. Before a fork both parent and child do:

        LMDB cannot be inherited: a child that closes its copy frees the reader slots of its parent.
        """
        if self._is_ready:
            self._is_ready = False
            self._is_down = True
            self._close_env()


def was_undone(error: BaseException) -> bool:
    """Whether the transaction in which the error was raised, Ctrl-C maybe, was not committed."""
    return bool(vars(error).pop(_UNDONE, False))


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _wrong_in_head(data: str) -> list[str]:
    """What is wrong with the kinds of trees that the two meta pages name."""
    with open(data, "rb") as file:
        head = file.read(1 << 16)
    size = int.from_bytes(head[40:44], sys.byteorder)
    for page in (0, size):
        for at, wanted in _TREE_FLAGS:
            if (flags := int.from_bytes(head[page + at : page + at + 2], sys.byteorder)) != wanted:
                return [f"a tree of kind {flags:#x} where one of kind {wanted:#x} belongs"]
    return []


def _lay_format(txn: LmdbTxn) -> None:
    txn.put(FORMAT, _VERSION)


def _reserve(path: str, size: int) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, size)
    finally:
        os.close(fd)


def _full(directory: str, error: OSError | None) -> OSError:
    if isinstance(error, FileNotFoundError):
        return HallDamaged(f"hall {directory}: a part of it is gone, or all of it was removed; open it again")
    if error is not None and error.errno not in _NO_SPACE:
        return error
    return StoreFull(errno.ENOSPC, f"hall {directory}: no room left; take or delete something, or free its file system")


def _before_fork() -> None:
    for store in list(_stores):
        store.gate.acquire()
        store._step_aside()


def _after_fork_in_parent() -> None:
    for store in list(_stores):
        with suppress(RuntimeError):
            store.gate.release()


def _after_fork_in_child() -> None:
    for store in list(_stores):
        store.gate = threading.RLock()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
