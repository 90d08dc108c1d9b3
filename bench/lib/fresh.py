"""Of peers that are started anew: how long it takes, how much memory they have, and what they cost while idle."""

from __future__ import annotations

import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

from .peer import Peer
from .side import BENCH, START_S, LeftOut, environment

SCRIPT = """
import sys, time
{imports}
if __name__ == "__main__":
    began = time.perf_counter()
{start}
    print(time.perf_counter() - began, file=sys.__stderr__, flush=True)
    sys.stdin.readline()
{end}
"""


def imported(kind: type[Peer]) -> dict[str, float]:
    code = f"import time; t = time.perf_counter(); import {kind.imports}; print(time.perf_counter() - t)"
    ran = subprocess.run([kind.python, "-c", code], capture_output=True, text=True, env=environment(), cwd=BENCH)
    if ran.returncode:
        raise LeftOut(ran.stderr.strip().splitlines()[-1])
    return {"import": float(ran.stdout) * 1e3}


def started(kind: type[Peer], idle_s: float) -> dict[str, float]:
    """Milliseconds until it is ready, MiB of all its processes, percent of a core while nothing happens."""

    def indented(text: str) -> str:
        return "\n".join(f"    {line}" for line in text.splitlines())

    code = SCRIPT.format(imports=kind.before_fresh, start=indented(kind.fresh), end=indented(kind.after_fresh))
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [kind.python, "-c", code], stdin=pipe, stdout=subprocess.DEVNULL, stderr=pipe, text=True,
        env=environment(), cwd=BENCH,
    )  # fmt: skip
    took = _told(process)
    if took is None:
        process.kill()
        process.wait()
        raise LeftOut(f"it did not start within {START_S:.0f} s")
    time.sleep(1)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    before = _processor_s(family)
    time.sleep(idle_s)
    idle = (_processor_s(family) - before) / idle_s * 100
    memory = sum(_memory(one) for one in family) / 2**20
    with suppress(subprocess.TimeoutExpired):
        process.communicate("\n", timeout=20)
    for one in psutil.wait_procs(family, timeout=3)[1]:
        with suppress(psutil.Error):
            one.kill()
    process.wait()
    return {"start": took * 1e3, "memory": memory, "idle": idle}


def _told(process: subprocess.Popen[str]) -> float | None:
    """The first number that it says, if it says one in time."""
    assert process.stderr
    late = threading.Timer(START_S, process.kill)
    late.start()
    try:
        for line in process.stderr:
            with suppress(ValueError):
                return float(line)
        return None
    finally:
        late.cancel()


def _memory(process: psutil.Process) -> int:
    with suppress(psutil.Error):
        return int(process.memory_full_info().pss)
    return 0


def _processor_s(family: list[psutil.Process]) -> float:
    """Exact, where the times of processes are counted in hundredths."""
    spent = 0
    for process in family:
        for file in Path(f"/proc/{process.pid}/task").glob("*/schedstat"):
            with suppress(OSError):
                spent += int(file.read_text().split()[0])
    return spent / 1e9
