"""Threads of which one runs at a time: who has the baton. Which one is next, and what time it is, a seed decides.

Time is a number that goes on with each step and jumps when nobody can go on before some moment.
"""

from __future__ import annotations

import heapq
import random
import threading
from collections.abc import Callable

LIMIT_NS, STEPS = 600 * 10**9, 100_000
"""A program that lasts longer hangs."""
SLEEPS_ALONE = 10_000
STEP_NS = 200_000
"""A step takes up to so long."""


class Over(BaseException):
    """The thread is to end, whatever it does: no handler of it can do anything any more."""


class Bell:
    """What one sleeper hears."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.is_rung = False


class Runner:
    """One of the threads."""

    def __init__(self) -> None:
        self.go = threading.Lock()
        self.go.acquire()
        self.bell: Bell | None = None
        self.wakes_ns: int | None = None
        self.stopped_until_ns = 0
        self.is_roused = False
        """It is to wake as soon as it may, for somebody died."""
        self.is_dead = False

    def ready_ns(self) -> int | None:
        """From when on it can go on; None: when it is rung."""
        if self.is_dead:
            return 0
        if self.bell is None or self.bell.is_rung or self.is_roused:
            return self.stopped_until_ns
        return None if self.wakes_ns is None else max(self.wakes_ns, self.stopped_until_ns)


class Baton:
    """The one baton, and the clock."""

    def __init__(self, dice: random.Random, switch: float, now_ns: int, limit_steps: int = STEPS) -> None:
        self.dice = dice
        self.switch = switch
        self.start_ns = self.now_ns = now_ns
        self.steps = 0
        self.limit_steps = limit_steps
        self.mine: Runner | None = None
        """Who has it; None outside of a run."""
        self.error: BaseException | None = None
        """What ended the program before its end."""
        self.before_next: Callable[[], None] = lambda: None
        """Called whenever the baton is handed on."""
        self._slept_alone = 0
        self._rings: list[tuple[int, int, Bell]] = []
        self._runners: list[Runner] = []
        self._ended = threading.Lock()

    @property
    def runners(self) -> tuple[Runner, ...]:
        """Those that have not come to their end."""
        return tuple(self._runners)

    def run(self, plays: list[Callable[[Runner], None]]) -> None:
        """Until all have come to their end. Raises what went wrong in any, or TimeoutError if they hang."""
        self._runners = [Runner() for _ in plays]
        pairs = zip(self._runners, plays, strict=True)
        threads = [threading.Thread(target=self._play, args=pair, daemon=True) for pair in pairs]
        self._ended.acquire()
        for thread in threads:
            thread.start()
        self._hand_on(self._runners[0])
        self._ended.acquire()
        self._ended.release()
        self.mine = None
        for thread in threads:
            thread.join()
        if self.error is not None:
            raise self.error

    def _play(self, runner: Runner, play: Callable[[Runner], None]) -> None:
        runner.go.acquire()
        try:
            play(runner)
        except Exception as error:
            self.error = self.error or error
        except BaseException as error:  # A Ctrl-C that left its call must not look like one of our own.
            self.error = self.error or RuntimeError(f"{type(error).__name__} came out of a process")
        self._runners.remove(runner)
        if self._runners:
            self._hand_on(self._next())
        else:
            self._ended.release()

    def _hand_on(self, runner: Runner) -> None:
        self.mine = runner
        runner.go.release()

    # -- steps --------------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """A step: time goes on, and perhaps somebody else does."""
        self.steps += 1
        if self.mine is None:
            return
        if self.steps > self.limit_steps or self.now_ns - self.start_ns > LIMIT_NS:
            self.error = self.error or TimeoutError("it hangs: nobody comes to an end")
        if self.error is not None:
            raise Over
        self.now_ns += int(self.dice.random() * STEP_NS)
        if self.dice.random() < self.switch:
            self._pass(self.mine)

    def stop(self, for_ns: int) -> None:
        """The runner does nothing for so long, and does not know it."""
        me = self.mine
        assert me is not None, "only who runs can be stopped"
        me.stopped_until_ns = self.now_ns + for_ns
        self._pass(me)
        if self.error is not None:
            raise Over

    def sleep(self, bell: Bell, wakes_ns: int) -> bool:
        """Until rung, roused, or it is time. Whether it was roused."""
        me = self.mine
        if me is None:
            self._sleep_alone(bell, wakes_ns)
            return False
        me.bell, me.wakes_ns = bell, wakes_ns
        self._pass(me)
        was_roused, me.is_roused = me.is_roused, False
        me.bell = me.wakes_ns = None
        bell.is_rung = False
        if self.error is not None:
            raise Over
        return was_roused

    def _sleep_alone(self, bell: Bell, wakes_ns: int) -> None:
        """Outside of a run nobody else is there: time jumps."""
        self._slept_alone += 1
        if self._slept_alone > SLEEPS_ALONE:
            self._slept_alone = 0
            raise TimeoutError("it hangs: nobody is there to wake it")
        if not bell.is_rung:
            self.now_ns = max(self.now_ns, min([wakes_ns, *(due for due, _, rung in self._rings if rung is bell)]))
            self._deliver()
        bell.is_rung = False

    def ring(self, bell: Bell, after_ns: int = 0) -> None:
        """It is heard then."""
        if after_ns:
            heapq.heappush(self._rings, (self.now_ns + after_ns, bell.number, bell))
        else:
            bell.is_rung = True

    def _deliver(self) -> None:
        while self._rings and self._rings[0][0] <= self.now_ns:
            heapq.heappop(self._rings)[2].is_rung = True

    def _pass(self, me: Runner) -> None:
        following = self._next()
        if following is not me:
            self._hand_on(following)
            me.go.acquire()

    def _next(self) -> Runner:
        """One of those who can go on; if nobody can, time jumps."""
        self.before_next()
        while True:
            self._deliver()
            ready = [one for one in self._runners if self.error is not None or self._is_ready(one)]
            if ready:
                return ready[self.dice.randrange(len(ready))]
            moments = [moment for one in self._runners if (moment := one.ready_ns()) is not None]
            self.now_ns = min([*moments, *(due for due, _, _ in self._rings[:1])])

    def _is_ready(self, one: Runner) -> bool:
        moment = one.ready_ns()
        return moment is not None and moment <= self.now_ns
