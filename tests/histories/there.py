"""The ground of `make chaos` that is a Dask cluster: a scheduler with the hall, and workers, on loopback.

This module is also what the scheduler preloads: it writes the commits down, and has the sky's time.

What is promised there is another thing than on one machine: who is dead is what the scheduler counts as dead. A process
that is stopped keeps its connection, so it is waited for; one whose connection is gone for three seconds has lost what
it held, towards the hall, and learns that from its next operation (`SessionOver`), or a holder from its release.
The scheduler is stopped, too, and never killed: a hall goes with it.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import distributed
import pytest
from dask import config

from guildhall import Client, Hall
from guildhall.hosts import dask
from guildhall.hosts.dask.comms import NAME, worker_facts
from guildhall.primitives import queue, sessions
from guildhall.store.keys import pack_id
from guildhall.testing.clock import turned_by_hand
from guildhall.testing.far import recording_calls, recording_commits
from guildhall.testing.recorder import Files

HERE = Path(__file__).parent
RECORDS, BROKEN = "CHAOS_RECORDS", "CHAOS_BROKEN"
BURIED_S = 15.0
"""So soon after all others have gone the scheduler must have given back what they held."""


@dataclass(frozen=True)
class There:
    """The hall in the scheduler at that address."""

    address: str
    is_on_disk: bool = False
    pace_s: ClassVar[float] = 0.15
    """A process needs some time to come in."""
    not_told: ClassVar[tuple[str, ...]] = ("circles",)
    """A client of distributed has threads of its own, any of which might release what a plain `acquire` holds: so
    circles through such holds are not told there."""

    @property
    def name(self) -> str:
        return "Dask cluster, on disk" if self.is_on_disk else "Dask cluster"

    def recording(self, logs: Path) -> AbstractContextManager[Files]:
        return recording_calls(logs)

    def join(self) -> Hall:
        """As one of the worker whose task runs here, or as a client of its own, which ends with the process."""
        if (worker := worker_facts()) is None:
            return Hall(dask.connect(distributed.Client(self.address, set_as_default=False)))
        # Not the one that all tasks of the worker share: of two tasks in one session, models do not know whose is what.
        return Hall(dask._made(*worker, "worker"))

    def client(self) -> Client:
        return Client(self.address)

    def bury_dead(self, hall: Hall) -> None:
        """Until the scheduler has noticed that all others are gone."""
        until = time.monotonic() + BURIED_S
        with distributed.Client(self.address, set_as_default=False) as client:
            while others := client.run_on_scheduler(_others, hall.host.session):
                if time.monotonic() > until:
                    raise TimeoutError(f"nobody is there any more, and the hall keeps sessions {others}")
                time.sleep(0.05)

    def left_behind(self, hall: Hall) -> list[bytes]:
        with distributed.Client(self.address, set_as_default=False) as client:
            found: list[bytes] = client.run_on_scheduler(_left_behind, hall.host.session)
        return found


def _others(session: int, dask_scheduler: Any) -> list[int]:
    return [number for number in dask_scheduler.extensions[NAME].seats if number != session]


def _left_behind(session: int, dask_scheduler: Any) -> list[bytes]:
    from runs import left_behind

    hall = dask_scheduler.extensions[NAME]
    mine = (sessions.SESSIONS + pack_id(session), queue.HANDS + pack_id(session))
    keys = [key for key in hall.store.read(left_behind) if not key.startswith(mine)]
    return [*keys, *(blob.encode() for blob in hall.blobs.sizes())]


# -- the cluster ------------------------------------------------------------------------------------------------------


class Cluster:
    """The scheduler, which comes before all others and goes after them."""

    def __init__(self, directory: Path, store: Path | None, broken: str | None) -> None:
        sys.path.append(str(HERE.parent / "dask"))
        from clusters import Cluster as Processes

        paths = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
        environment = {"PYTHONPATH": paths, RECORDS: str(directory), "DASK_TEMPORARY_DIRECTORY": str(directory)}
        if broken:
            environment[BROKEN] = broken
        if store is not None:
            environment["GUILDHALL_STORE"] = str(store)
        preload = ["--preload", "there", "--preload", "guildhall.hosts.dask"]
        self._processes = Processes(directory / "cluster", 0, scheduler_options=preload, environment=environment)
        self.ground = There(self._processes.address, store is not None)
        self.scheduler: int = self._processes.scheduler.pid

    def close(self) -> None:
        self._processes.close()


@contextmanager
def cluster(directory: Path, store: Path | None, broken: str | None) -> Iterator[Cluster]:
    with config.set(temporary_directory=str(directory)):
        made = Cluster(directory, store, broken)
        try:
            yield made
        finally:
            made.close()


def work(scene: Any) -> None:
    """Be a worker of the cluster. Without a nanny: who is killed is replaced by who kills."""
    scene.enroll()
    asyncio.run(_work(scene))


async def _work(scene: Any) -> None:
    place = str(scene.directory / "workers")
    async with distributed.Worker(scene.ground.address, nthreads=1, local_directory=place, dashboard=False) as worker:
        await worker.finished()


_open = ExitStack()


def dask_setup(server: Any) -> None:
    """Called by the scheduler, before it has a hall."""
    from crowd import Sky

    directory = Path(os.environ[RECORDS])
    sky = Sky(directory / "sky")
    _open.enter_context(turned_by_hand(time.monotonic_ns, sky.wall_ns))
    _open.enter_context(recording_commits(directory / "logs"))
    if BROKEN in os.environ:
        from broken import FAULTS

        for fault, _, _ in FAULTS:
            if fault.__name__ == os.environ[BROKEN]:
                fault(pytest.MonkeyPatch())
                break
