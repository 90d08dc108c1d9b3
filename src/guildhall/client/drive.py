"""The one loop under everything that blocks: ask; parked? sleep until rung; look again.

Written once, as a flow that yields what to sleep on, and run by a synchronous and an asynchronous driver. If the wait
is left (timeout, Ctrl-C, cancellation), the flow withdraws: then either nothing was granted, or what was granted is
taken (timeout) or given back (the others).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from .. import deadline
from ..hosts.doorbell import Bell
from ..hosts.embedded import EmbeddedHost
from ..primitives import waiters
from ..primitives.op import Answer
from ..store.transaction import Waiter

T = TypeVar("T")
GIVE_WAY_S = 0.005
SPINS = 8

Sleep = tuple[Bell, float | None]
Flow = Generator[Sleep, None, T]


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
    number: int | None = None,
) -> Flow[Any]:
    """Ask until it is granted. `collect` fetches a grant (or answers BUSY: ask anew), `undo` gives it back.

    `leave` ends a wait whose time is up, or says that it was granted meanwhile; by default it only leaves the line.
    `number` is the wait's, if the caller must know it beforehand.
    """
    answer = ask(None)
    if not isinstance(answer, Answer):
        return answer
    if timeout_s == 0:
        return LATE
    until = deadline.after(timeout_s)
    waiter, bell = host.waiter(number)
    try:
        while True:
            answer = ask(waiter)
            if not isinstance(answer, Answer):
                return answer
            spins = SPINS
            while host.read(waiters.is_parked, waiter):
                left_s = deadline.left(until)
                if left_s == 0:
                    if leave(waiter) if leave is not None else host.transact(waiters.withdraw, waiter):
                        return LATE
                    break
                if spins:
                    spins -= 1
                else:
                    yield bell, left_s
            answer = collect(waiter)
            if not isinstance(answer, Answer):
                return answer
    except BaseException:
        undo(waiter)
        raise
    finally:
        host.done(bell)


def run(host: EmbeddedHost, flow: Flow[T]) -> T:
    """Drive a flow from a thread. In a task that waits for longer than a moment, others run meanwhile."""
    go_on = None
    try:
        while True:
            try:
                bell, left_s = next(flow)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            try:
                if go_on is None and host.give_way is not None:
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


async def arun(host: EmbeddedHost, flow: Flow[T]) -> T:
    """Drive a flow from an event loop."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            bell, left_s = next(flow)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
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
