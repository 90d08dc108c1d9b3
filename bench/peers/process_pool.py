"""concurrent.futures.ProcessPoolExecutor."""

from __future__ import annotations

from .executors import ExecutorPeer


class ProcessPool(ExecutorPeer):
    name = "ProcessPoolExecutor"
    imports = "concurrent.futures.process"
    before_fresh = "from concurrent.futures import ProcessPoolExecutor"
    fresh = "e = ProcessPoolExecutor(2)\nlist(e.map(abs, range(4)))"
    after_fresh = "e.shutdown()"

    def start(self) -> None:
        from concurrent.futures import ProcessPoolExecutor

        self.executor = ProcessPoolExecutor(2)
