"""The worker processes of one client: started, watched, replaced, ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

from ...errors import Broken
from ...hosts.embedded import EmbeddedHost
from ...primitives import sessions

START_S = 60.0


class Pool:
    """`n_workers` processes in the host's hall. A supervisor thread replaces those that die."""

    def __init__(self, host: EmbeddedHost, n_workers: int) -> None:
        self.host = host
        self.n_workers = n_workers
        self.exits: dict[int, str] = {}
        self._closing = threading.Event()
        self.processes = [self._start() for _ in range(n_workers)]
        self._thread = threading.Thread(target=self._supervise, daemon=True, name="guildhall-supervisor")
        self._thread.start()
        self._await_workers()

    def _await_workers(self) -> None:
        """Until every worker has joined the hall. Raises Broken if one ends instead."""
        until = time.monotonic() + START_S
        while True:
            joined = sum(s.role == "worker" for s in self.host.read(sessions.everybody))
            if joined >= self.n_workers:
                return
            if self.exits or time.monotonic() > until:
                ends = ", ".join(f"pid {pid}: {how}" for pid, how in self.exits.items()) or "none ended"
                self.close()
                raise Broken(f"{joined} of {self.n_workers} workers started in {START_S:g} s; ends seen: {ends}")
            time.sleep(0.001)

    def _start(self) -> subprocess.Popen[bytes]:
        private = "1" if self.host.is_private else "0"
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "guildhall.engine.local.worker",
                self.host.directory,
                str(os.getpid()),
                private,
                *_path(),
            ],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(_path())},
        )

    def _supervise(self) -> None:
        _, bell = self.host.waiter()
        while not self._closing.is_set():
            self.host.sleep(bell, 1.0)
            for place, process in enumerate(self.processes):
                status = process.poll()
                if status is not None and not self._closing.is_set():
                    self.exits[process.pid] = describe_exit(status)
                    self.host.bury_dead()
                    self.processes[place] = self._start()
        self.host.done(bell)

    def close(self) -> None:
        """End all workers, at once."""
        self._closing.set()
        for process in self.processes:
            process.send_signal(signal.SIGKILL)
        for process in self.processes:
            process.wait()
        self._thread.join(5)
        with suppress(Exception):
            self.host.bury_dead()


def describe_exit(status: int) -> str:
    """How a process ended, in words."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"exit code {status}"


def _path() -> list[str]:
    return [entry or os.getcwd() for entry in sys.path]
