"""The one loop under everything that blocks: ask; parked? look for a moment; sleep until rung; look again.

Written once, as a flow that yields when there is nothing to do but wait, and run by a synchronous and an asynchronous
driver. If the wait is left (timeout, Ctrl-C, cancellation), the flow withdraws: then either nothing was granted, or
what was granted is taken (timeout) or given back (the others).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NamedTuple, TypeVar

from .. import deadline
from ..hosts.doorbell import Bell
from ..hosts.embedded import EmbeddedHost
from ..primitives import waiters
from ..primitives.op import Answer
from ..store.transaction import Waiter
from . import agents
from .vigil import ThreadsVigil, Vigil

T = TypeVar("T")
GIVE_WAY_S = 0.005
LOOK_AGAIN_S = 0.05
"""How often a coroutine that waits looks again by itself: its loop does not hear of deaths."""


class Pause(NamedTuple):
    """Nothing to do until the waiter is granted, the time is up, or it is time to look again.

    A flow that stands in several lines, all with one bell of its own, gives that, too. If the wait is for what others
    hold or do, and has no other end, `owned` says so: it is () or, where any of several objects would end it, those.
    """

    waiter: Waiter | None
    left_s: float | None
    bell: Bell | None = None
    owned: tuple[bytes, ...] | None = None


Flow = Generator[Pause, None, T]


class Late:
    """Answered by a flow when time was up."""


LATE = Late()


def waiting(
    host: EmbeddedHost,
    ask: Callable[[Waiter | None], Any],
    collect: Callable[[Waiter], Any],
    undo: Callable[[Waiter], Any],
    timeout_s: float | None,
    leave: Callable[[Waiter], bool] | None = None,
    due: Callable[[Waiter], float | None] | None = None,
    *,
    is_owned: bool = False,
) -> Flow[Any]:
    """Ask until it is granted. `collect` fetches a grant (or answers BUSY: ask anew), `undo` gives it back.

    `leave` ends a wait whose time is up, or says that it was granted meanwhile; by default it only leaves the line.
    `due` does what the time has come for, and answers in how many seconds to call it again (None: when rung).
    `is_owned`: it is for what others hold or do, so without a timeout it may raise DeadlockError.
    """
    if timeout_s == 0:
        answer = ask(None)
        return LATE if isinstance(answer, Answer) else answer
    until = deadline.after(timeout_s)
    owned = () if is_owned and timeout_s is None else None
    while True:
        waiter = host.waiter()
        try:
            answer = ask(waiter)
            if not isinstance(answer, Answer):
                return answer
            while not host.read(waiters.is_granted, waiter):
                left_s = deadline.left(until)
                if left_s == 0:
                    if leave(waiter) if leave is not None else host.transact(waiters.withdraw, waiter):
                        return LATE
                    break
                due_s = None if due is None else due(waiter)
                wake_s = left_s if due_s is None else due_s if left_s is None else min(left_s, due_s)
                yield Pause(waiter, wake_s, owned=owned)
            answer = collect(waiter)
            if not isinstance(answer, Answer):
                return answer
        except BaseException:
            undo(waiter)
            raise


def run(host: EmbeddedHost, flow: Flow[T]) -> T:
    """Drive a flow from a thread."""
    sleeper = _Sleeper(host)
    try:
        while True:
            try:
                pause = next(flow)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            try:
                sleeper.pause(pause)
            except BaseException as error:
                flow.throw(error)
    finally:
        sleeper.close()


class _Sleeper:
    """A thread that waits: it looks for a moment, then hangs its bell and sleeps."""

    def __init__(self, host: EmbeddedHost) -> None:
        self._host = host
        self._bell: Bell | None = None
        self._armed: Waiter | None = None
        self._go_on: Callable[[], None] | None = None
        self._vigil: ThreadsVigil | None = None

    def pause(self, pause: Pause) -> None:
        bell = self._arm(pause) if pause.bell is None else self._keep_vigil(pause, pause.bell)
        if bell is not None:
            self._sleep(bell, pause.left_s)

    def _arm(self, pause: Pause) -> Bell | None:
        """The bell that rings for the waiter; None if it is granted."""
        waiter = pause.waiter
        assert waiter is not None, "a pause has a waiter or a bell"
        if self._armed != waiter:
            self._host.flush()
            if self._host.look(pause.left_s, waiters.is_granted, waiter):
                return None
            self._bell = self._bell or self._host.bell()
        assert self._bell is not None, "who is armed has a bell"
        if pause.owned is not None:
            return self._keep_vigil(pause, self._bell)
        if self._armed != waiter and not self._host.transact(waiters.arm, waiter, self._bell.number):
            return None
        self._armed = waiter
        return self._bell

    def _keep_vigil(self, pause: Pause, bell: Bell) -> Bell | None:
        """As `_arm`, for a wait that has no end of its own, and for one that is armed already."""
        if pause.owned is None or pause.waiter is None:
            return bell
        if self._vigil is not None and self._armed == pause.waiter:
            self._vigil.again()
            return bell
        self._end_vigil()
        self._vigil = ThreadsVigil(self._host, pause.waiter, pause.owned)
        if not self._vigil.begin(bell.number):
            return None
        self._armed = pause.waiter
        return bell

    def _end_vigil(self) -> None:
        if self._vigil is not None:
            self._vigil.end()
            self._vigil = None

    def _sleep(self, bell: Bell, left_s: float | None) -> None:
        """In a task that waits for longer than a moment, others run meanwhile."""
        host = self._host
        if self._go_on is not None or host.give_way is None:
            host.sleep(bell, left_s)
        elif bell.wait(GIVE_WAY_S if left_s is None else min(GIVE_WAY_S, left_s)):
            host.bury_dead()
        elif left_s is None or left_s > GIVE_WAY_S:
            self._go_on = host.give_way()

    def close(self) -> None:
        self._end_vigil()
        if self._bell is not None:
            self._host.done(self._bell)
        if self._go_on is not None:
            self._go_on()


async def arun(host: EmbeddedHost, flow: Flow[T]) -> T:
    """Drive a flow from an event loop. In a task that waits for longer than a moment, others run meanwhile."""
    from .lounge import lounge_of  # With asyncio, which takes three times as long to load as all of guildhall.

    lounge = lounge_of(host)
    armed: Waiter | None = None
    vigil: Vigil | None = None
    go_on: Callable[[], None] | None = None
    try:
        while True:
            try:
                pause = next(flow)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            waiter, left_s = pause.waiter, pause.left_s
            assert waiter is not None, "a flow with a bell of its own is for threads"
            try:
                if armed != waiter:
                    vigil = None if pause.owned is None else Vigil(host, waiter, lambda _: agents.of_coroutine(host))
                    if not lounge.arm(waiter, vigil.begin if vigil else None):
                        continue
                    armed = waiter
                elif vigil is not None:
                    vigil.again()
                gives_way = go_on is None and host.give_way is not None and (left_s is None or left_s > GIVE_WAY_S)
                await lounge.pause(waiter, GIVE_WAY_S if gives_way else left_s)
                if gives_way and host.give_way is not None and not host.read(waiters.is_granted, waiter):
                    go_on = host.give_way()
            except BaseException as error:
                flow.throw(error)
    finally:
        if go_on is not None:
            go_on()
