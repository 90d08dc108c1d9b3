"""Workers that are threads of the client: for tasks that release the interpreter's lock, or are to be debugged."""

from __future__ import annotations

import threading

from ...errors import Misuse
from ...hosts.embedded import EmbeddedHost
from .options import WorkerOptions

CLOSE_S = 5.0


class Threads:
    """In the place of a pool of processes. Tasks run in `options.threads` threads of this process, and in helpers."""

    def __init__(self, host: EmbeddedHost, options: WorkerOptions) -> None:
        from . import worker

        self._worker = worker.Worker(host, options)
        worker.serve(self._worker, is_process=False)

    def scale(self, n_workers: int) -> None:
        """Not possible: raises Misuse."""
        raise Misuse("scale: the workers are threads; start the cluster with processes=True, or with more threads")

    def restart(self) -> None:
        """Threads cannot be killed: what runs goes on. What waits has been cancelled."""

    def close(self) -> None:
        """End the threads when their tasks have ended, or leave them to it."""
        self._worker.retire()
        for thread in threading.enumerate():
            if thread in self._worker.threads and thread is not threading.current_thread():
                thread.join(CLOSE_S)
