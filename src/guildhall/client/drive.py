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
from .vigil import Owned, ThreadsVigil, Vigil

T = TypeVar("T")
GIVE_WAY_S = 0.005
LEND_AGAIN_S = 0.05
"""How often a waiting thread that is to lend a hand looks for a task, as nobody tells it of one."""


class Pause(NamedTuple):
    """Nothing to do until the waiter is granted, the time is up, or it is time to look again.

    A flow that stands in several lines, all with one bell of its own, gives that, too. `owned`: the wait is for what
    others hold or do, and has no other end.
    """

    waiter: Waiter | None
    left_s: float | None
    bell: Bell | None = None
    owned: Owned | None = None


class Glance(NamedTuple):
    """Before a first pause, or when the time has nearly come: a thread looks for a moment whether the waiter is
    granted, and says so if it is. A coroutine lets others of its loop go on."""

    waiter: Waiter
    left_s: float | None
    is_near: bool = False


DONE = Pause(None, 0.0)
"""What a flow gives when it has what it waited for: the driver lets go of what it slept with, and until that is done
the flow can still give back."""

Flow = Generator[Pause | Glance, bool | None, T]


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
    near_s: float = 0.0,
    is_owned: bool = False,
    parked: Waiter | None = None,
    has_looked: bool = False,
) -> Flow[Any]:
    """Ask until it is granted. `collect` fetches a grant (or answers BUSY: ask anew), `undo` gives it back.

    `leave` ends a wait whose time is up, or says that it was granted meanwhile; by default it only leaves the line.
    `due` does what the time has come for, and answers in how many seconds to call it again (None: when rung). So long
    before that, `near_s`, it is not slept any more: for what must not be late by as much as being woken takes.
    `is_owned`: it is for what others hold or do, so without a timeout it may raise DeadlockError. `parked` stands in
    line already. `has_looked`: the caller has looked for a moment already, so it is time to sleep.
    """
    if timeout_s == 0:
        answer = ask(None)
        return LATE if isinstance(answer, Answer) else answer
    until = deadline.after(timeout_s)
    near_s = 0.0 if host.is_far else near_s  # It would be awake at each look for longer than a ring takes.
    owned = Owned() if is_owned and timeout_s is None else None
    while True:
        waiter = parked or host.waiter()
        try:
            if parked is None:
                answer = ask(waiter)
                if not isinstance(answer, Answer):
                    return answer
            parked = None
            looks = near_s == 0 and not has_looked
            is_granted = looks and (yield Glance(waiter, deadline.left(until)))
            while not is_granted and not host.is_told(waiters.is_granted, waiter):
                left_s = deadline.left(until)
                if left_s == 0:
                    if leave(waiter) if leave is not None else host.transact(waiters.withdraw, waiter):
                        return LATE
                    break
                wake_s = left_s if due is None else sooner(left_s, due(waiter))
                if near_s and wake_s is not None and wake_s <= near_s:
                    is_granted = yield Glance(waiter, wake_s, is_near=True)
                else:
                    yield Pause(waiter, None if wake_s is None else wake_s - near_s, owned=owned)
            answer = collect(waiter)
            if not isinstance(answer, Answer):
                yield DONE
                return answer
        except BaseException:
            try:  # Not in a function of its own: Ctrl-C may come at the first line of that.
                undo(waiter)
            except Exception:
                raise
            except BaseException:  # Ctrl-C in it: whether it was done by then or not, it is done now. Twice is once.
                undo(waiter)
                raise
            raise


def sooner(one_s: float | None, other_s: float | None) -> float | None:
    """The smaller of two times; None is never."""
    if one_s is None or other_s is None:
        return other_s if one_s is None else one_s
    return min(one_s, other_s)


def run(host: EmbeddedHost, flow: Flow[T]) -> T:
    """Drive a flow from a thread."""
    sleeper = _Sleeper(host)
    is_granted: bool | None = None
    try:
        while True:
            try:
                while True:  # In here, so that the flow hears of Ctrl-C also between two steps.
                    is_granted = sleeper.step(flow.send(is_granted))
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            except BaseException as error:
                is_granted = None
                flow.throw(error)
    finally:
        if sleeper.is_open:  # Else no call, in which Ctrl-C could come when the flow can give back nothing any more.
            sleeper.close()


class _Sleeper:
    """A thread that waits: it hangs its bell and sleeps."""

    def __init__(self, host: EmbeddedHost) -> None:
        self._host = host
        self._bell: Bell | None = None
        self._armed: Waiter | None = None
        self._go_on: Callable[[], None] | None = None
        self._vigil: ThreadsVigil | None = None
        self.is_open = False
        """Whether it has anything to let go of."""

    def step(self, step: Pause | Glance) -> bool | None:
        """Do what the flow gives. True if its waiter is granted, seen in a glance."""
        if isinstance(step, Glance):
            return self.glance(step)
        if step is DONE:
            self.close()
        else:
            self.is_open = True
            self.pause(step)
        return None

    def glance(self, glance: Glance) -> bool:
        if glance.is_near and glance.left_s is not None:
            return self._host.stay_awake(glance.left_s, waiters.is_granted, glance.waiter)
        self._host.flush()
        if self._host.is_far:
            return self._host.is_told(waiters.is_granted, glance.waiter)
        return self._host.look(glance.left_s, waiters.is_granted, glance.waiter)

    def pause(self, pause: Pause) -> None:
        bell = self._arm(pause) if pause.bell is None else self._keep_vigil(pause, pause.bell)
        if bell is not None:
            self._sleep(bell, pause.left_s)

    def _arm(self, pause: Pause) -> Bell | None:
        """The bell that rings for the waiter; None if it is time to look."""
        waiter = pause.waiter
        assert waiter is not None, "a pause has a waiter or a bell"
        self._bell = self._bell or self._host.bell()
        if self._armed != waiter:
            self._end_vigil()
        if pause.owned is not None:
            return self._keep_vigil(pause, self._bell)
        if self._armed != waiter:
            if self._host.arm(waiters.arm, waiter, self._bell.number):
                self._armed = waiter
            return None  # Armed: the flow looks once more, for what happened before that rang for nobody.
        return self._bell

    def _keep_vigil(self, pause: Pause, bell: Bell) -> Bell | None:
        """As `_arm`, for a wait that has no end of its own, and for one that is armed already."""
        if pause.owned is None or pause.waiter is None:
            return bell
        if self._vigil is not None and self._armed == pause.waiter and self._vigil.owned == pause.owned:
            self._vigil.again()
            return bell
        self._end_vigil()
        self._vigil = ThreadsVigil(self._host, pause.waiter, pause.owned)
        if self._vigil.begin(bell.number):
            self._armed = pause.waiter
        return None

    def _end_vigil(self) -> None:
        if self._vigil is not None:
            self._vigil.end()
            self._vigil = None

    def _sleep(self, bell: Bell, left_s: float | None) -> None:
        """In a task that waits for longer than a moment, others run meanwhile."""
        host = self._host
        if self._go_on is not None or host.give_way is None:
            did = self._lend_hand()
            if not did:
                host.sleep(bell, left_s if did is None else sooner(left_s, LEND_AGAIN_S))
        elif bell.wait(GIVE_WAY_S if left_s is None else min(GIVE_WAY_S, left_s)):
            host.bury_dead()
        elif left_s is None or left_s > GIVE_WAY_S:
            self._go_on = host.give_way()

    def _lend_hand(self) -> bool | None:
        """While a task runs in this thread it is not asleep: that one does what it likes."""
        if self._vigil is None:
            return self._host.lend_hand()
        self._vigil.end()
        try:
            return self._host.lend_hand()
        finally:
            self._vigil.resume()

    def close(self) -> None:
        self._end_vigil()
        bell, self._bell = self._bell, None
        if bell is not None:
            self._host.done(bell)
        go_on, self._go_on = self._go_on, None
        if go_on is not None:
            go_on()
        self.is_open = False


async def _next_turn(flow: Flow[T]) -> None:
    """Let the others of the loop run once. The flow hears of a cancellation."""
    import asyncio

    try:
        await asyncio.sleep(0)
    except BaseException as error:
        flow.throw(error)


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
            if pause is DONE:
                continue  # A coroutine sleeps with nothing of its own.
            if isinstance(pause, Glance):  # It does not hold up its loop.
                if pause.is_near:
                    await _next_turn(flow)
                continue
            waiter, left_s = pause.waiter, pause.left_s
            assert waiter is not None, "a flow with a bell of its own is for threads"
            try:
                if armed != waiter:
                    vigil = None if pause.owned is None else Vigil(host, waiter, lambda _: agents.of_coroutine(host))
                    if lounge.arm(waiter, vigil.begin if vigil else None):
                        armed = waiter
                    continue  # As for threads: the flow looks once more.
                if vigil is not None:
                    vigil.again()
                    left_s = sooner(left_s, vigil.left_s)
                gives_way = go_on is None and host.give_way is not None and (left_s is None or left_s > GIVE_WAY_S)
                await lounge.pause(waiter, GIVE_WAY_S if gives_way else left_s)
                if gives_way and host.give_way is not None and not host.is_told(waiters.is_granted, waiter):
                    go_on = host.give_way()
            except BaseException as error:
                flow.throw(error)
    finally:
        lounge.rest()
        if go_on is not None:
            go_on()
