"""Where the coroutines of one event loop wait: one bell for all of them, and one look at the store for each ring.

A bell is a socket. One for each coroutine would end a program that awaits a thousand futures.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from weakref import WeakKeyDictionary

from ..hosts.doorbell import Bell
from ..hosts.embedded import EmbeddedHost
from ..primitives import waiters
from ..store.transaction import Waiter

_lounges: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[EmbeddedHost, Lounge]]
_lounges = WeakKeyDictionary()


def lounge_of(host: EmbeddedHost) -> Lounge:
    """The running loop's, for that hall."""
    lounges = _lounges.setdefault(asyncio.get_running_loop(), {})
    lounge = lounges.get(host)
    if lounge is None or not lounge.is_of(host):
        lounge = lounges[host] = Lounge(host, asyncio.get_running_loop())
    return lounge


class Lounge:
    """All coroutines of a loop that wait in one hall. Listens only while somebody waits."""

    def __init__(self, host: EmbeddedHost, loop: asyncio.AbstractEventLoop) -> None:
        self._host = host
        self._loop = loop
        self._session = host.session
        self._waiting: dict[Waiter, asyncio.Future[None]] = {}
        self._bell: Bell | None = None
        self._timer: asyncio.TimerHandle | None = None

    def is_of(self, host: EmbeddedHost) -> bool:
        """False in a forked child, whose session is another one."""
        return self._session == host.session

    def arm(self, waiter: Waiter, hang: Callable[[int], bool] | None = None) -> bool:
        """Have the waiter's grant ring here. False if it is granted already. `hang` does it in another way."""
        if self._bell is None:
            self._open()
        assert self._bell is not None
        bell, is_armed = self._bell.number, False
        try:
            is_armed = hang(bell) if hang is not None else self._host.arm(waiters.arm, waiter, bell)
        finally:
            if not is_armed:
                self.rest()
        return is_armed

    def rest(self) -> None:
        """Listen no longer if nobody waits. For the end of a wait: between two pauses, what is armed must be heard."""
        if not self._waiting:
            self._close()

    async def pause(self, waiter: Waiter, left_s: float | None) -> None:
        """Until the waiter is granted, the time is up, or it is time to look again."""
        look_s = self._host.look_again_s
        limit_s = look_s if left_s is None else min(left_s, look_s)
        rung = self._waiting[waiter] = self._loop.create_future()
        timer = self._loop.call_later(limit_s, _let_go, rung)
        self._host.follow()
        try:
            await rung
        finally:
            timer.cancel()
            del self._waiting[waiter]

    def _open(self) -> None:
        self._bell = self._host.bell()
        self._loop.add_reader(self._bell.socket, self._hear)
        self._loop.add_reader(self._host.watch.fd, self._see_death)
        self._timer = self._loop.call_later(self._host.look_again_s, self._look_again)

    def _close(self) -> None:
        bell, self._bell = self._bell, None
        if bell is not None:
            self._loop.remove_reader(bell.socket)
            self._loop.remove_reader(self._host.watch.fd)
            self._host.done(bell)
        if self._timer is not None:
            self._timer.cancel()

    def _hear(self) -> None:
        assert self._bell is not None
        self._bell.hush()
        for waiter in self._host.which_told(waiters.which_granted, tuple(self._waiting)):
            _let_go(self._waiting[waiter])

    def _see_death(self) -> None:
        self._host.bury_dead()
        self._host.follow()

    def _look_again(self) -> None:
        """Rings may be lost, and deaths that no pidfd told are found by looking."""
        self._timer = self._loop.call_later(self._host.look_again_s, self._look_again)
        self._host.bury_dead()


def _let_go(rung: asyncio.Future[None]) -> None:
    if not rung.done():
        rung.set_result(None)
