"""Leaving and taking one's slot by hand, in a task. Rarely needed: a wait in guildhall does it by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import local
from typing import TYPE_CHECKING

from ..engine.local.worker import slot
from ..errors import Misuse
from ..hosts import current
from .client import get_client

if TYPE_CHECKING:
    from .client import Client


class _Away(local):
    """In the thread of a task that seceded: what it runs for, and what to call to take the slot again."""

    run: object = None
    come_back: Callable[[], None] | None = None


_away = _Away()


def secede() -> None:
    """Give the task's slot up: another task runs meanwhile, until `rejoin` or the task's end.

    For tasks that wait for something outside of guildhall, a web server for example. Raises Misuse outside of a task.
    """
    host = current.task
    if _is_on_dask():
        from ..engine import dask

        return dask.secede()
    if host is None or host.give_way is None:
        raise Misuse("secede: there is no task here; call it in a function that was submitted")
    if _away.come_back is None or _away.run is not slot.run:  # Else an earlier task of this thread did not rejoin.
        _away.run, _away.come_back = slot.run, host.give_way()


def rejoin() -> None:
    """The task counts again. Raises Misuse if it has not seceded."""
    if _is_on_dask():
        from ..engine import dask

        return dask.rejoin()
    come_back, _away.come_back = _away.come_back, None
    if come_back is None or _away.run is not slot.run:
        raise Misuse("rejoin: this task has not seceded; call secede() first")
    come_back()


def _is_in_task() -> bool:
    if not _is_on_dask():
        return current.task is not None
    from ..engine import dask

    return dask.in_task()


def _is_on_dask() -> bool:
    """Whether the task around, if there is one, is of a Dask cluster: whose slots are Dask's."""
    host = current.now if current.task is None else current.task
    return host is not None and host.is_far


@contextmanager
def worker_client(timeout: float | None = None, separate_thread: bool = True) -> Iterator[Client]:
    """The client, in a task that has seceded meanwhile. `separate_thread=False` keeps the slot.

    `timeout` changes nothing: there is nothing to connect to. Raises NoHall where there is no client.
    """
    client = get_client()
    if not separate_thread or not _is_in_task():
        yield client
        return
    secede()
    try:
        yield client
    finally:
        rejoin()
