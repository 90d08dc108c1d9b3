"""Who waits, and what that agent alone can give back: facts for telling a wait that lasts from one that never ends.

An agent is a thread or a task of asyncio. What must hold here: nothing is claimed that another agent could give back.

- What a `with` block took is given back by the frame that the block is in. So it is the agent's as long as that frame
  is on its stack; a block in a generator that somebody else may resume is nobody's.
- What a plain `acquire` took, any thread may release. It stays for certain only while no thread of the process can do
  anything: each waits without end, or for such a one to finish (`Thread.join`). Then the last to fall asleep says so.
- An RLock is its owner's, however it was taken.
- A task ends when the thread that runs it goes on.

Nothing of this costs those who need not wait more than a note of the frame. A signal handler counts as nobody.
"""

from __future__ import annotations

import gc
import itertools
import sys
import threading
from _thread import get_ident
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from ..hosts import current
from ..hosts.embedded import EmbeddedHost
from ..primitives.deadlock import Hold, Statement

owner_numbers = itertools.count(1)
"""Owners of RLocks, threads and tasks of asyncio alike."""


class Context(Protocol):
    """What a `with` block is of."""

    def holds(self, host: EmbeddedHost) -> Iterable[Hold]:
        """What the block gives back when it is left, in that hall."""


entered: dict[Any, FrameType] = {}
"""The frames of the `with` blocks that this process is in, by what they are of: a context, or a context and the frame.

Written by the context that is entered, in an assignment: behind a call Ctrl-C may come, when the thing is held already.
"""


def forget(context: Any, frame: FrameType) -> None:
    """The block in that frame is left; or, of an `ExitStack`, one that was entered in another frame."""
    if entered.pop((context, frame), None) is None:
        for key in entered.copy():
            if type(key) is tuple and key[0] is context:
                entered.pop(key, None)
                return


_HANDLES = f"{__package__}.handles"
"""The module without which nothing can be held."""


class _Thread(threading.local):
    """The number of this thread as an owner. Unlike the system's, it is not given again when the thread has ended."""

    number = 0


_thread = _Thread()
_numbers_of_tasks: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


def thread_number() -> int:
    """This thread, as the owner of RLocks."""
    number = _thread.number
    if not number:
        number = _thread.number = next(owner_numbers)
    return number


def task_number(task: Any) -> int:
    """The task of asyncio, as the owner of RLocks."""
    number = _numbers_of_tasks.get(task)
    if number is None:
        number = _numbers_of_tasks[task] = next(owner_numbers)
    return number


# -- threads ----------------------------------------------------------------------------------------------------------


def of_thread(
    host: EmbeddedHost, number: int, any_of: tuple[bytes, ...] = (), is_open: bool = False, *, sees_joins: bool = False
) -> Statement | None:
    """What this thread states before its wait of that number; None if nobody can have to wait for it.

    `sees_joins`: with what those threads hold that wait for this one to finish. That takes a look at all threads.
    """
    ident = get_ident()
    frames = set(_stack(sys._getframe(1)))
    runs = _running(host, ident)
    stacks = stacks_of_process() if sees_joins else {}
    stacks.pop(ident, None)  # This very frame, which would hold itself, and with it all that its callers hold.
    for other in _joining(ident, stacks):
        frames.update(_stack(stacks[other]))
        runs += _running(host, other)
    holds = _holds(host, frames)
    owners = (_thread.number,) if _thread.number else ()
    sealed = _sealed(host, ident, number, stacks) if _HANDLES in sys.modules else ()
    if not (holds or owners or runs or sealed or any_of):
        return None
    return Statement(f"thread {threading.current_thread().name}", holds, owners, runs, sealed, any_of, is_open)


def threads_of_process() -> list[threading.Thread]:
    """All threads that the threading module started or has met. A simulated process has but one."""
    return threading.enumerate()


def stacks_of_process() -> dict[int, FrameType]:
    """Where each thread stands that runs Python. With this very frame, so do not keep it.

    No garbage is collected meanwhile: until Python 3.11.9, what a collection frees inside of that call may wait for a
    lock which the call holds (python/cpython#106883).
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return sys._current_frames()
    finally:
        if was_enabled:
            gc.enable()


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _holds(host: EmbeddedHost, frames: set[FrameType]) -> tuple[Hold, ...]:
    found: list[Hold] = []
    for key, frame in entered.copy().items():
        if frame in frames:
            found += (key[0] if type(key) is tuple else key).holds(host)
    return tuple(found)


def _running(host: EmbeddedHost, ident: int | None) -> tuple[bytes, ...]:
    """The tasks that the thread runs, one inside the other, the newest first. A task's forked child runs none."""
    run = current.runs.get(ident) if host.give_way is not None and ident is not None else None
    found: tuple[bytes, ...] = ()
    while run is not None:
        if run.current is not None:
            found += (run.current,)
        run = run.around
    return found


def _sealed(host: EmbeddedHost, ident: int, number: int, stacks: dict[int, FrameType]) -> tuple[int, ...]:
    """The waits of all threads of this process that run users' code, if none of them can do anything."""
    if current.has_guests or host.is_behind:
        return ()
    asleep = host.asleep.copy()
    stuck = {ident, *asleep}
    joined = {other: _joined(frame) for other, frame in stacks.items()}
    while more := {other for other, end in joined.items() if end in stuck} - stuck:
        stuck |= more
    threads = threads_of_process()
    if any(thread.ident not in stuck and _runs_code_of_users(host, thread) for thread in threads):
        return ()
    known = {thread.ident for thread in threads}
    if any(other not in known for other in stacks_of_process()):
        return ()  # One that was not started by the threading module.
    return tuple(sorted({number, *(asleep[one] for one in known if one in asleep)}))


def _runs_code_of_users(host: EmbeddedHost, thread: threading.Thread) -> bool:
    """Whether it does, or may at any moment. A worker's threads do so only in tasks, which give back what they took."""
    is_workers_main = host.role == "worker" and thread is threading.main_thread()
    if is_workers_main or thread.name.startswith(("guildhall-slot-", "guildhall-helper")):
        return thread.ident in current.runs
    return not thread.name.startswith("guildhall-") or thread.name.startswith(
        ("guildhall-callbacks", "guildhall-actor-")
    )


def _joining(ident: int, stacks: dict[int, FrameType]) -> set[int]:
    """The threads that wait for this one to finish, without end, and those that wait for them."""
    joined = {other: _joined(frame) for other, frame in stacks.items() if other != ident}
    found: set[int] = set()
    while more := {other for other, end in joined.items() if end == ident or end in found} - found:
        found |= more
    return found


def _joined(frame: FrameType | None) -> int | None:
    """The thread whose end is waited for in this frame, the innermost one of its thread; None if there is no such wait,
    or it has a timeout."""
    for each in (frame, frame and frame.f_back):
        if each is not None and each.f_code is threading.Thread.join.__code__:
            at = each.f_locals
            thread = at.get("self")
            return thread.ident if at.get("timeout") is None and isinstance(thread, threading.Thread) else None
    return None


# -- tasks of asyncio -------------------------------------------------------------------------------------------------


def of_coroutine(host: EmbeddedHost) -> Statement | None:
    """What the current task of asyncio states before it waits; None if nobody can have to wait for it.

    Nor if a timer of its loop may end the wait, such as that of `asyncio.timeout`.
    """
    import asyncio

    task = asyncio.current_task()
    if task is None:
        return None
    frames = _frames_of(task)
    runs: tuple[bytes, ...] = ()
    below = _run_until(frames[-1], task) if frames else None
    if below is not None:  # The thread goes on when this task has ended.
        frames += _stack(below)
        runs = _running(host, get_ident())
    holds = _holds(host, set(frames))
    number = _numbers_of_tasks.get(task)
    if not (holds or runs or number) or _has_timer(task):
        return None
    return Statement(f"asyncio task {task.get_name()}", holds, (number,) if number else (), runs)


def _frames_of(task: Any) -> list[FrameType]:
    """The frames of the coroutines that the current task is in, the outermost last. None of those that run the loop."""
    root = getattr(task.get_coro(), "cr_frame", None)
    frames = []
    for frame in _stack(sys._getframe(2)):
        frames.append(frame)
        if frame is root:
            return frames
    return []


def _run_until(frame: FrameType, task: Any) -> FrameType | None:
    """The frame of this thread that runs the loop until the task has ended, and then goes on."""
    from asyncio import BaseEventLoop

    for below in itertools.islice(_stack(frame.f_back), 8):
        if below.f_code is BaseEventLoop.run_until_complete.__code__:
            return below if below.f_locals.get("future") is task else None
    return None


def _has_timer(task: Any) -> bool:
    """Whether a timer of the loop has to do with the task itself: it may cancel it. True if that cannot be seen."""
    timers = getattr(task.get_loop(), "_scheduled", None)
    if timers is None:
        return True
    return any(_concerns(task, timer) for timer in list(timers) if not timer.cancelled())


def _concerns(task: Any, timer: Any) -> bool:
    import gc

    call = getattr(timer, "_callback", None)
    about = [*(getattr(timer, "_args", None) or ()), call, getattr(call, "__self__", None)]
    if any(each is task for each in about):
        return True
    inside = gc.get_referents(about[-1]) if about[-1] is not None else []
    inside += [one for each in inside if type(each) in (dict, set, list, tuple) for one in gc.get_referents(each)]
    return any(each is task for each in inside)
