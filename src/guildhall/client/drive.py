"""The one loop under everything that blocks: ask; parked? look for a moment; sleep until rung; look again.

Written once, as a flow that yields when there is nothing to do but wait, and run by a synchronous and an asynchronous
driver. If the wait is left (timeout, Ctrl-C, cancellation), the flow withdraws: then either nothing was granted, or
what was granted is taken (timeout) or given back (the others).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Generator
from typing import Any, NamedTuple, TypeVar

from .. import deadline
from ..hosts.doorbell import LOOK_S, Bell
from ..hosts.embedded import EmbeddedHost
from ..primitives import waiters
from ..primitives.op import Answer
from ..store.transaction import Waiter

T = TypeVar("T")
GIVE_WAY_S = 0.005


class Pause(NamedTuple):
    """Nothing to do: look for the waiter's grant (if given) for a moment, or sleep until the bell rings."""

    bell: Bell
    left_s: float | None
    looking: Waiter | None = None


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
) -> Flow[Any]:
    """Ask until it is granted. `collect` fetches a grant (or answers BUSY: ask anew), `undo` gives it back.

    `leave` ends a wait whose time is up, or says that it was granted meanwhile; by default it only leaves the line.
    `due` does what the time has come for, and answers in how many seconds to call it again (None: when rung).
    """
    if timeout_s == 0:
        answer = ask(None)
        return LATE if isinstance(answer, Answer) else answer
    until = deadline.after(timeout_s)
    waiter, bell = host.waiter()
    try:
        try:
            while True:
                answer = ask(waiter)
                if not isinstance(answer, Answer):
                    return answer
                yield Pause(bell, deadline.left(until), waiter)
                parked = not host.read(waiters.is_granted, waiter) and host.transact(waiters.arm, waiter, bell.number)
                while parked:
                    left_s = deadline.left(until)
                    if left_s == 0:
                        if leave(waiter) if leave is not None else host.transact(waiters.withdraw, waiter):
                            return LATE
                        break
                    due_s = None if due is None else due(waiter)
                    yield Pause(bell, left_s if due_s is None else due_s if left_s is None else min(left_s, due_s))
                    parked = not host.read(waiters.is_granted, waiter)
                answer = collect(waiter)
                if not isinstance(answer, Answer):
                    return answer
        finally:
            host.done(bell)
    except BaseException:  # Also Ctrl-C in giving the bell back, when it was granted already.
        undo(waiter)
        raise


def run(host: EmbeddedHost, flow: Flow[T]) -> T:
    """Drive a flow from a thread. In a task that waits for longer than a moment, others run meanwhile."""
    go_on = None
    try:
        while True:
            try:
                bell, left_s, looking = next(flow)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            try:
                if looking is not None:
                    host.flush()
                    look(host, left_s, waiters.is_granted, looking)
                elif go_on is None and host.give_way is not None:
                    if bell.wait(GIVE_WAY_S if left_s is None else min(GIVE_WAY_S, left_s)):
                        host.bury_dead()
                    elif left_s is None or left_s > GIVE_WAY_S:
                        go_on = host.give_way()
                else:
                    host.sleep(bell, left_s)
            except BaseException as error:
                flow.throw(error)
    finally:
        if go_on is not None:
            go_on()


def look(host: EmbeddedHost, left_s: float | None, op: Callable[..., bool], *args: Any) -> None:
    """Until the op says yes, for a moment. Whoever else can run on this core goes first."""
    until = deadline.now() + (LOOK_S if left_s is None else min(LOOK_S, left_s))
    while not host.read(op, *args) and deadline.now() < until:
        os.sched_yield()


async def arun(host: EmbeddedHost, flow: Flow[T]) -> T:
    """Drive a flow from an event loop."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            bell, left_s, looking = next(flow)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        if looking is not None:
            continue
        host.follow()
        rung = loop.create_future()

        def ring(rung: asyncio.Future[None] = rung) -> None:
            if not rung.done():
                rung.set_result(None)

        timer = loop.call_later(0.05 if left_s is None else min(0.05, left_s), ring)
        loop.add_reader(bell.socket, ring)
        try:
            await rung
            bell.hush()
            if host.watch.fallen():
                host.bury_dead()
        except BaseException as error:
            flow.throw(error)
        finally:
            timer.cancel()
            loop.remove_reader(bell.socket)
