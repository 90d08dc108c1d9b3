"""Clusters of Dask for tests: a scheduler and workers, each a process of its own, on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from distributed import Client

import guildhall
from guildhall.hosts import dask

START_S = 60
DASK = [sys.executable, "-m", "dask"]
QUIET = {
    "DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE": "False",
    "PYTHONPATH": str(Path(__file__).parent),  # Functions of test modules travel by name.
    "DASK_DISTRIBUTED__ADMIN__LARGE_GRAPH_WARNING_THRESHOLD": "1GB",
}


class Cluster:
    """One scheduler and its workers. A context manager."""

    def __init__(
        self,
        place: Path,
        n_workers: int = 2,
        threads: int = 2,
        *,
        protocol: str = "tcp",
        options: Sequence[str] = (),
        scheduler_options: Sequence[str] = ("--preload", "guildhall.hosts.dask"),
        worker_options: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        prefix: Sequence[str] = (),
        host: str = "127.0.0.1",
        has_nannies: bool = True,
    ) -> None:
        self.place = place
        self.threads = threads
        self._options = [*options, "--protocol", protocol]
        self._worker_options = [*worker_options] if has_nannies else [*worker_options, "--no-nanny"]
        self._environment = {**os.environ, **QUIET, **(environment or {})}
        self._host = host
        self.processes: list[subprocess.Popen[bytes]] = []
        place.mkdir(exist_ok=True)
        self._file = place / "scheduler.json"
        self.scheduler = self._start(
            "scheduler", "--host", host, "--port", "0", "--no-dashboard", "--scheduler-file", str(self._file),
            "--no-show", *self._options, *scheduler_options, prefix=prefix,
        )  # fmt: skip
        self.address = self._address()
        if n_workers:
            self.add_workers(n_workers)

    def _start(self, kind: str, *arguments: str, prefix: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        with open(self.place / f"{kind}-{len(self.processes)}.log", "wb") as log:
            process = subprocess.Popen(
                [*prefix, *DASK, kind, *arguments], stdout=log, stderr=log, env=self._environment, cwd=self.place,
                start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def _address(self) -> str:
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            with suppress(OSError, ValueError):
                return str(json.loads(self._file.read_text())["address"])
            assert self.scheduler.poll() is None, self.log()
            time.sleep(0.02)
        raise AssertionError(f"the scheduler did not start: {self.log()}")

    def add_workers(
        self, n: int, *, host: str | None = None, prefix: Sequence[str] = (), options: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        """So many more, under one `dask worker`."""
        return self._start(
            "worker", self.address, "--nworkers", str(n), "--nthreads", str(self.threads), "--no-dashboard",
            "--host", host or self._host, "--local-directory", str(self.place), *self._options[:-2],
            *self._worker_options, *options, prefix=prefix,
        )  # fmt: skip

    def script(self, text: str) -> subprocess.Popen[bytes]:
        """A process that is a client: `client` is one, `hall` is entered, and the primitives are there."""
        head = (
            "import os, signal, sys, time\n"
            "from distributed import Client\n"
            "import guildhall\nfrom guildhall import *\nfrom guildhall.hosts import current, dask\n"
            f"client = __import__('distributed').Client({self.address!r})\n"
            "hall = guildhall.Hall(dask.connect(client))\ncurrent.add_default(hall.host)\n"
        )
        process = subprocess.Popen([sys.executable, "-c", head + text], stdout=subprocess.PIPE)
        self.processes.append(process)
        return process

    @contextmanager
    def hall(self, **options: Any) -> Iterator[tuple[Client, guildhall.Hall]]:
        """A client of Dask's in this process, at the hall."""
        with Client(self.address, **options) as client, guildhall.Hall(dask.connect(client)) as hall:
            yield client, hall

    def log(self) -> str:
        """What all of them have said."""
        return "\n".join(f"{path.name}:\n{path.read_text()}" for path in sorted(self.place.glob("*.log")))

    def close(self) -> None:
        """End all of them: they are told to, and killed if that takes long."""
        family = []
        for process in self.processes:
            with suppress(psutil.Error):
                family += psutil.Process(process.pid).children(recursive=True)
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs(family, timeout=2)
        for one in alive:
            with suppress(psutil.Error):
                one.kill()
        for process in self.processes:
            try:
                process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
        psutil.wait_procs(family, timeout=5)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def wait_for(fact: Callable[[], Any], within_s: float = 10.0) -> float:
    """In how many seconds the fact became true. Fails if it does not in time."""
    began = time.monotonic()
    while not fact():
        assert time.monotonic() - began < within_s, "it did not come true in time"
        time.sleep(0.005)
    return time.monotonic() - began
