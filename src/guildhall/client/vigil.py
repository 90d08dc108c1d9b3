"""An endless wait for what others hold: it says what its agent holds, and is told when it could never end."""

from __future__ import annotations

from _thread import get_ident
from collections.abc import Callable
from typing import NamedTuple

from .. import deadline
from ..engine.local import tasks
from ..errors import DeadlockError, StoreFull
from ..hosts.embedded import EmbeddedHost
from ..primitives import deadlock, waiters
from ..primitives.deadlock import Statement
from ..store.transaction import Waiter
from . import agents


class Owned(NamedTuple):
    """What is waited for: what the waiter stands in line for, or the end of any of several objects. If it `is_open`,
    other threads of the process may add one."""

    any_of: tuple[bytes, ...] = ()
    is_open: bool = False


AGAIN_S = 1.0
"""A circle may also be closed by what nobody waits for, such as the end of a thread: so it is looked for this often."""
FAR_AGAIN_S = 16.0
"""In a hall that is far, at last this often."""
SOON_S = 0.04
"""So long a wait far from the hall lasts before it is declared, if it has nothing to state."""


class Vigil:
    """One endless wait, from falling asleep on. `state` says what its agent holds, when asked: at once, or (True) with
    all that can be found out."""

    def __init__(self, host: EmbeddedHost, waiter: Waiter, state: Callable[[bool], Statement | None]) -> None:
        self._host = host
        self._waiter = waiter
        self._bell = 0
        self._state = state
        self._stated: Statement | None = None
        self._is_declared = False
        self._next_s = 0.0
        self._again_s = AGAIN_S

    def begin(self, bell: int) -> bool:
        """Fall asleep, to be woken by that bell. False if it is granted; raises DeadlockError if it never could be."""
        self._bell = bell
        state = self._state(False)
        if self._host.is_far:
            is_asleep = self._host.arm(waiters.arm, self._waiter, bell)
            self._bell = self._waiter.bell  # What rings there, whatever is woken here.
            if state is None or not is_asleep:  # To declare would be a round trip, and most waits are short.
                self._is_declared = not is_asleep
                self._next_s = deadline.now() + SOON_S
                return is_asleep
        return self._declare(state)

    def again(self) -> None:
        """It goes on. Raises DeadlockError if it has turned out that it could never end."""
        if deadline.now() < self._next_s:
            return
        state = self._state(True)
        if (
            state != self._stated
            or not self._is_declared
            or (state is not None and self._host.read(deadlock.closes, self._waiter, tasks.awaits))
        ):
            self._declare(state, is_late=self._is_declared)
        if self._host.is_far:  # Each look is a round trip, and of very many waits together a load.
            self._again_s = min(2 * self._again_s, FAR_AGAIN_S)
        self._next_s = deadline.now() + self._again_s

    @property
    def left_s(self) -> float | None:
        """In how many seconds to call `again`; None if there is no hurry: nobody can have to wait for the agent."""
        if self._is_declared and self._stated is None:
            return None
        return max(0.0, self._next_s - deadline.now())

    def _declare(self, state: Statement | None, *, is_late: bool = False) -> bool:
        try:
            answer = self._host.transact(deadlock.declare, self._waiter, self._bell, state, tasks.awaits, is_late)
        except StoreFull:  # It may still be room enough to wait, and to say nothing.
            state, answer = None, self._host.transact(waiters.arm, self._waiter, self._bell)
        if isinstance(answer, deadlock.Circle):
            raise DeadlockError(*answer)
        self._stated, self._is_declared = state, True
        self._next_s = deadline.now() + AGAIN_S
        return answer


class ThreadsVigil(Vigil):
    """That of this thread, which counts as asleep from its making until `end`."""

    def __init__(self, host: EmbeddedHost, waiter: Waiter, owned: Owned) -> None:
        super().__init__(
            host, waiter, lambda thorough: agents.of_thread(host, waiter.number, *owned, sees_joins=thorough)
        )
        self.owned = owned
        self._before = host.asleep.get(get_ident())
        self.resume()  # Before it looks who else is asleep: of two at a time, the later to say so sees both.

    def resume(self) -> None:
        """It is asleep again."""
        self._host.asleep[get_ident()] = self._waiter.number

    def end(self) -> None:
        """It is awake; or asleep as before, if this was the wait of a signal handler, or of a task inside a task."""
        if self._before is None:
            self._host.asleep.pop(get_ident(), None)
        else:
            self._host.asleep[get_ident()] = self._before
