"""What the tests of faults share: forked children that report, scripts, and a look at what is left."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

SRC = Path(__file__).parent.parent / "src"


class Child:
    """A forked child that runs a function. `result` gives what it returned, or raises what it said went wrong."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        read, write = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            status = 1
            try:
                os.close(read)
                answer = _outcome(function, args)
                with os.fdopen(write, "wb") as file:
                    pickle.dump(answer, file)
                status = 0
            finally:
                os._exit(status)
        os.close(write)
        self._read = read

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._read)

    def result(self) -> Any:
        with os.fdopen(self._read, "rb") as file:
            data = file.read()
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        assert status == 0, f"child ended with {status}"
        good, value = pickle.loads(data)
        assert good, value
        return value


def _outcome(function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[bool, Any]:
    try:
        return True, function(*args)
    except BaseException:
        return False, traceback.format_exc()


class Pressed:
    """A transaction in whose commit Ctrl-C is heard, before or behind it."""

    def __init__(self, raw: Any, *, is_committed: bool) -> None:
        self._raw = raw
        self._is_committed = is_committed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def commit(self) -> None:
        if self._is_committed:
            self._raw.commit()
        raise KeyboardInterrupt


def script(text: str, path: Path, **env: str) -> subprocess.Popen[str]:
    """Run the text as a script of its own, with its output in pipes."""
    file = path / f"script-{os.urandom(3).hex()}.py"
    file.write_text(text)
    return subprocess.Popen(
        [sys.executable, str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **env},
    )


def spills() -> list[str]:
    """Blobs that were put into the temporary directory."""
    return [name for name in os.listdir(tempfile.gettempdir()) if name.startswith(f"guildhall-{os.getuid()}-")]


def eventually(fact: Callable[[], Any], within_s: float = 5.0) -> bool:
    """Whether the fact becomes true in time."""
    until = time.monotonic() + within_s
    while not fact():
        if time.monotonic() > until:
            return False
        time.sleep(0.002)
    return True
