"""One peer as who leads sees it: its process, told what to do, and ended however it behaves."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any

import psutil

from .peer import Peer

BENCH = Path(__file__).parents[1]
START_S = 60.0


class Missing(Exception):
    """The peer cannot take part, for the reason that is told."""


class LeftOut(Exception):
    """The peer does not do this work at this size, for the reason that is told."""


class Side:
    def __init__(self, module: str, kind: type[Peer]) -> None:
        self.module = module
        self.kind = kind
        self.name = kind.name
        self.version = ""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start its process, unless it runs. Raises Missing."""
        if self._process is not None:
            return
        if not Path(self.kind.python).exists():
            raise Missing(f"{self.kind.python} is not there")
        self._link, theirs = Pipe()
        self._process = subprocess.Popen(
            [self.kind.python, "-m", "lib.player", self.module, str(theirs.fileno())],
            cwd=BENCH,
            env=environment(),
            pass_fds=[theirs.fileno()],
            stdout=subprocess.DEVNULL,
            stderr=sys.stderr if os.environ.get("BENCH_DEBUG") else subprocess.DEVNULL,
        )
        theirs.close()
        try:
            self.version = self._answer(START_S)
        except LeftOut as why:
            self.stop()
            raise Missing(str(why)) from None

    def ask(self, *order: Any, within_s: float = 120.0) -> Any:
        """Raises LeftOut; a peer that does not answer is ended."""
        self._link.send(order)
        return self._answer(within_s)

    def _answer(self, within_s: float) -> Any:
        try:
            is_there = self._link.poll(within_s)
            kind, answer = self._link.recv() if is_there else (False, f"no answer within {within_s:.0f} s")
        except (EOFError, OSError):
            is_there, kind, answer = False, False, "its process ended"
        if not is_there:
            self.stop(in_peace=False)
        if kind is not True:
            raise LeftOut(answer.strip().splitlines()[-1])
        return answer

    def stop(self, *, in_peace: bool = True) -> None:
        """End its process and all that this one started."""
        process, self._process = self._process, None
        if process is None:
            return
        family: list[psutil.Process] = []
        with suppress(psutil.Error):
            family = psutil.Process(process.pid).children(recursive=True)
        if not in_peace:
            process.kill()
        self._link.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        _, alive = psutil.wait_procs(family, timeout=3)
        for one in alive:
            with suppress(psutil.Error):
                one.kill()
        process.kill()
        process.wait()


def environment() -> dict[str, str]:
    """Workers of every peer find `lib.functions`."""
    return {**os.environ, "PYTHONPATH": str(BENCH), "PYTHONWARNINGS": "ignore"}
