"""loky, joblib's executor."""

from __future__ import annotations

from .executors import ExecutorPeer


class Loky(ExecutorPeer):
    name = "loky"
    package = "loky"
    imports = "loky"
    before_fresh = "from loky import get_reusable_executor"
    fresh = "e = get_reusable_executor(max_workers=2)\nlist(e.map(abs, range(4)))"
    after_fresh = "e.shutdown()"

    def start(self) -> None:
        from loky import get_reusable_executor

        self.executor = get_reusable_executor(max_workers=2, timeout=3600)
