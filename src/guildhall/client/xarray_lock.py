"""Writes of xarray from several workers to one file: safe, by locks that all processes of a hall share.

The only place that imports xarray. Its own locks hold within one process, except with dask.distributed, which it knows
by name. `install_xarray_lock` makes it know us, too, here and in every worker that a lock of ours comes to.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

from .client import Client
from .handles import Lock


def install_xarray_lock() -> None:
    """From now on `to_netcdf` of a dataset in chunks is safe with `dask.config.set(scheduler=client)`.

    Each worker opens the file for its write, under a lock in the client's hall that has the file's name, and closes it
    again. Twice is once. Raises ImportError without xarray.

    A worker that dies in a write leaves the lock to the next; what it was writing may be damaged, as with every writer.
    """
    try:
        from xarray.backends import locks, writers
    except ImportError as error:
        raise ImportError("install_xarray_lock needs xarray: pip install 'guildhall[xarray]'") from error
    if getattr(locks.get_dask_scheduler, "is_guildhall", False):
        return
    their_scheduler, their_maker, their_identity = (
        locks.get_dask_scheduler,
        locks._get_lock_maker,
        locks._lock_identity,
    )

    def get_dask_scheduler(get: Any = None, collection: Any = None) -> Any:
        """What xarray does for "distributed", opening and closing for each write, is what is needed here."""
        return their_scheduler(get, collection) if _client() is None else "distributed"

    def get_lock_maker(scheduler: str | None = None) -> Any:
        client = _client() if scheduler == "distributed" else None
        return their_maker(scheduler) if client is None else lambda key: FileLock(_name_of(key), client)

    def lock_identity(lock: Any) -> int:
        """By this xarray takes several locks: those between processes first, everywhere in the same order."""
        return lock.order if isinstance(lock, FileLock) else their_identity(lock)

    get_dask_scheduler.is_guildhall = True  # type: ignore[attr-defined]
    locks.get_dask_scheduler = writers.get_dask_scheduler = get_dask_scheduler
    locks._get_lock_maker = get_lock_maker
    locks._lock_identity = lock_identity


def _client() -> Client | None:
    """The client that computes Dask's collections now."""
    from .graphs import scheduler_now

    found = getattr(scheduler_now(), "__self__", None)
    return found if isinstance(found, Client) else None


def _name_of(key: Any) -> tuple[str, str]:
    """The lock's name: that of the file, whichever way it is written."""
    return "xarray", os.path.realpath(key) if isinstance(key, str | os.PathLike) else str(key)


class FileLock:
    """A lock of the hall, as xarray uses locks. Pickles by name."""

    def __init__(self, name: tuple[str, str], client: Client | None = None) -> None:
        self.name = name
        self.order = -1 - int.from_bytes(hashlib.sha1(repr(name).encode(), usedforsecurity=False).digest()[:7], "big")
        self._lock = Lock(name, hall=client)

    def acquire(self, blocking: bool = True) -> bool:
        return self._lock.acquire(blocking=blocking)

    def release(self) -> None:
        self._lock.release()

    def locked(self) -> bool:
        return self._lock.locked()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exc: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (self.name,)

    def __repr__(self) -> str:
        return f"<FileLock {self.name[1]}>"


def _arrived(name: tuple[str, str]) -> FileLock:
    """A lock that comes to another process, where xarray must know its place in the order."""
    install_xarray_lock()
    return FileLock(name)
