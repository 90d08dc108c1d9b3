"""What the tests of faults share: forked children that report, scripts, and a look at what is left."""

from __future__ import annotations

import gc
import inspect
import itertools
import linecache
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from guildhall.primitives import values

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


class Ahead:
    """Numbers for calls that are sent ahead of the results given: how far, and what that takes in the hall."""

    def __init__(self, host: Any, count: int) -> None:
        self._host, self._count = host, count
        self.sent = self.given = self.most = 0
        """How many were sent and given, and the most that were sent and not given."""
        self._before = self._objects()

    def __iter__(self) -> Iterator[int]:
        for number in range(self._count):
            self.sent += 1
            self.most = max(self.most, self.sent - self.given)
            yield number

    def objects(self) -> int:
        """How many more objects there are than before."""
        return self._objects() - self._before

    def _objects(self) -> int:
        self._host.settle()
        return int(self._host.read(lambda txn: len(list(txn.scan(values.OBJECTS)))))


class Press(KeyboardInterrupt):
    """Ctrl-C, where the test wants it."""


def pressed_everywhere(
    case: Callable[[], tuple[Callable[[], Any], Callable[[str], None]]], *, keeps_error: bool = False
) -> int:
    """Press Ctrl-C at each place of a call in turn, until the call comes through. Returns how many places there were.

    The case makes a new call for each press, and a check of what is left behind, which is told the place. Python looks
    for signals at the first line of a function and behind calls of C: there, and nowhere else, a profiler raises.
    `keeps_error`: the exception, and with it all that the call had in hand, is there until the check, as at a prompt.
    """
    gc.collect()
    gc.freeze()  # So that a collection costs nothing.
    try:
        for place in itertools.count():
            call, check = case()
            found, error = _pressed(call, place)
            if not keeps_error:
                error = None
            check(found or "the end")
            del error
            if not found:
                break
        return place
    finally:
        gc.unfreeze()


def _outward(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_thrown_into(frame: FrameType) -> bool:
    """Whether a generator goes on with an exception: the profiler hears of it, but signals are not looked for there."""
    if frame.f_lasti <= 0:
        return False
    while frame.f_code.co_flags & inspect.CO_GENERATOR and frame.f_back is not None:
        frame = frame.f_back
    return ".throw(" in linecache.getline(frame.f_code.co_filename, frame.f_lineno)


def _pressed(call: Callable[[], Any], place: int) -> tuple[str, Press | None]:
    """Where the press came, and as what; "" if there is no such place."""
    here, left, found = call.__code__, [place], [""]

    def profile(frame: FrameType, event: str, arg: Any) -> None:
        if event not in ("call", "c_return") or frame.f_code is here or arg is sys.setprofile:
            return
        if event == "call" and _is_thrown_into(frame):
            return
        left[0] -= 1
        if left[0] < 0:
            stack = [*itertools.takewhile(lambda frame: frame.f_code is not here, _outward(frame))]
            if any(frame.f_code.co_name == "__del__" for frame in stack):
                return  # What is raised in a finalizer, Python ignores.
            sys.setprofile(None)
            calls = " < ".join(f"{frame.f_code.co_qualname}:{frame.f_lineno}" for frame in stack)
            found[0] = f"{event} {getattr(arg, '__name__', '')} in {calls}"
            raise Press

    gc.collect()
    gc.disable()
    try:
        sys.setprofile(profile)
        call()
    except Press as error:
        return found[0], error
    finally:
        sys.setprofile(None)
        gc.enable()
    return found[0], None
