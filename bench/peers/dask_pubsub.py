"""The last release of dask.distributed that had Pub and Sub, in a virtual environment of its own."""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path
from typing import Any

from lib.peer import Peer, does


class DaskPubSub(Peer):
    name = "Dask 2025.3"
    package = "distributed"
    python = str(Path(sys.prefix) / "dask-pubsub" / "bin" / "python")
    most_processes = 16

    def inherit(self) -> None:
        warnings.simplefilter("ignore")  # They are deprecated, in each call.
        import distributed

        self.lib = distributed

    def start(self) -> None:
        self.client = self.lib.Client(n_workers=1, threads_per_worker=1, dashboard_address=None, silence_logs=50)

    def stop(self) -> None:
        self.client.close()

    def address(self) -> str:
        return str(self.client.scheduler.address)

    def join(self) -> None:
        self.client = self.lib.Client(self.at)

    @does("fan-out")
    def fan_out(self, number: int) -> Any:
        if number < 0:
            pub = self.lib.Pub("news")
            time.sleep(2)  # Both sides learn of each other later; what is put before is lost.
            return pub.put
        sub = self.lib.Sub("news")

        def get(timeout: float) -> bool:
            try:
                sub.get(timeout=timeout)
            except Exception:  # Of asyncio or of tornado, by how it is late.
                return False
            return True

        return get
