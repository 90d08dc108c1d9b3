"""A real Dask cluster on loopback: processes that the tests start and kill."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from distributed import Client

import guildhall
from guildhall.hosts import dask


class Cluster:
    """A scheduler, workers, and scripts that are clients."""

    def __init__(self, place: Path, *, preload: bool = False, **env: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self._place = place
        self._env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), **env}
        self._processes: list[subprocess.Popen[str]] = []
        self.workers: list[subprocess.Popen[str]] = []
        self.preload = preload
        self.start_scheduler()

    def start_scheduler(self) -> None:
        extra = ["--preload", "guildhall.hosts.dask"] if self.preload else []
        self.scheduler = self._run("distributed.cli.dask_scheduler", "--no-dashboard", "--no-show", *extra)

    def add_worker(self, nthreads: int = 2) -> subprocess.Popen[str]:
        """A worker, without a nanny that would start it again."""
        worker = self._run("distributed.cli.dask_worker", self.address, "--no-nanny", "--nthreads", str(nthreads))
        self.workers.append(worker)
        return worker

    def _run(self, module: str, *args: str) -> subprocess.Popen[str]:
        if module.endswith("scheduler"):
            args = (*args, "--host", "127.0.0.1", "--port", str(self.port))
        else:
            args = (*args, "--no-dashboard", "--host", "127.0.0.1", "--local-directory", str(self._place))
        log = open(self._place / "cluster.log", "a")  # noqa: SIM115
        process = subprocess.Popen(
            [sys.executable, "-m", module, *args], stdout=log, stderr=log, text=True, env=self._env
        )
        log.close()
        self._processes.append(process)
        return process

    def script(self, text: str) -> subprocess.Popen[str]:
        """A process that is a client: `client` is one, `hall` is entered, and the primitives are there."""
        head = (
            "import os, signal, sys, time\n"
            "from distributed import Client\n"
            "import guildhall\nfrom guildhall import *\nfrom guildhall.hosts import current, dask\n"
            f"client = __import__('distributed').Client({self.address!r})\n"
            "hall = guildhall.Hall(dask.connect(client))\ncurrent.add_default(hall.host)\n"
        )
        process = subprocess.Popen([sys.executable, "-c", head + text], stdout=subprocess.PIPE, text=True)
        self._processes.append(process)
        return process

    @contextmanager
    def hall(self, **options: Any) -> Iterator[tuple[Client, guildhall.Hall]]:
        """A client in this process, at the hall."""
        with Client(self.address, **options) as client, guildhall.Hall(dask.connect(client)) as hall:
            yield client, hall

    def close(self) -> None:
        for process in reversed(self._processes):
            with suppress(psutil.NoSuchProcess):
                process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def log(self) -> str:
        return (self._place / "cluster.log").read_text()


def wait_for(fact: Any, within_s: float = 10.0) -> float:
    """In how many seconds the fact became true. Fails if it does not in time."""
    began = time.monotonic()
    while not fact():
        assert time.monotonic() - began < within_s, "it did not come true in time"
        time.sleep(0.005)
    return time.monotonic() - began
