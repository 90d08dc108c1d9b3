"""The handle of Condition."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from sys import _getframe
from types import FrameType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from ... import deadline
from ...deadline import Timeout, now
from ...errors import LockLost, NotHeld, WrongType
from ...hosts.embedded import EmbeddedHost
from ...primitives import condition, waiters
from ...primitives.condition import Guard
from ...primitives.deadlock import Hold
from ...primitives.op import PARKED
from ...store.transaction import Waiter
from .. import drive
from ..agents import entered, forget
from ..drive import Flow, Pause
from .handle import Handle, whole
from .held import give_up
from .lock import Lock
from .rlock import RLock

if TYPE_CHECKING:
    from .statistics import ConditionStatistics

T = TypeVar("T")


class Condition(Handle):
    """Waiting for news about what a lock guards, as `threading.Condition`, across processes.

        changed = Condition("stock")
        with changed:                                    # its lock is RLock("stock")
            changed.wait_for(lambda: stock.get() > 0)
            stock.set(stock.get() - 1)
        with changed:
            stock.set(stock.get() + 5)
            changed.notify(5)

    `lock` is the Lock or RLock that it goes with, by default the RLock of its name, as in `threading`; several
    conditions may share one: `Condition("not full", lock)`, `Condition("not empty", lock)`. `Condition(lock)` has the
    lock's name. Only who holds the lock, through the object `lock` here, may wait and notify (`NotHeld`).

    Releasing the lock, however often it is held, and standing in line is one commit, so no news is missed. A waiter
    that is notified stands in line for the lock from that commit on, and is woken once, when it has it, as often as
    before. The lease of a lock is a new one then; who lost it before it waits or notifies learns that by `LockLost`.

    If you stop waiting (timeout, Ctrl-C, cancellation), `wait` gets the lock back before it returns or raises, as in
    `threading`; a second Ctrl-C meanwhile ends it without, and then `with` has nothing to release. What it had been
    told is passed on to the next waiter unless `wait` returns. If a process dies, so is what it had been told, and its
    lock. To wait for a value, `Queue` and `Variable` do; for a flag, `Event` does.
    """

    _kind = "condition"
    _locks: tuple[type[RLock], type[Lock]] = (RLock, Lock)
    _owner = staticmethod(RLock._owner)

    def __init__(
        self, name: Any = None, lock: Lock | RLock | None = None, *, hall: Any = None, client: Any = None
    ) -> None:
        if isinstance(name, Lock | RLock):
            if lock is not None:
                raise WrongType("condition: two locks were given; expected a name and a lock, or either")
            name, lock = None, name
        if lock is not None and not any(getattr(type(lock), "acquire", None) is kind.acquire for kind in self._locks):
            raise WrongType(f"condition {name!r:.60}: lock: expected a {self._expected()}, got {lock!r:.60}")
        super().__init__(lock.name if lock is not None and name in (None, "") else name, hall=hall, client=client)
        self.lock = self._locks[0](self.name, hall=hall, client=client) if lock is None else lock
        self._given = self._given or self.lock._given
        self._left: set[int] = set()
        """Owners whose wait was interrupted twice and came back without the lock."""
        self._away: set[object] = set()
        """The waits through this object, whose blocks do not hold the lock: others do, perhaps by the same object."""

    @classmethod
    def _expected(cls) -> str:
        return " or ".join(f"{kind.__module__}.{kind.__name__}" for kind in cls._locks)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self.lock)

    def acquire(self, blocking: bool = True, timeout: Timeout = None) -> bool:
        """As the lock's."""
        self._arrive()
        return self.lock.acquire(blocking, timeout)

    def _arrive(self) -> None:
        if self._left:
            self._left.discard(self._owner())

    def release(self) -> bool:
        """As the lock's."""
        return self.lock.release()

    def locked(self) -> bool:
        """Whether anybody holds the lock."""
        return self.lock.locked()

    def holds(self, host: EmbeddedHost) -> Iterable[Hold]:
        """What a `with` block gives back, of a Lock; an RLock has its owner."""
        is_held = isinstance(self.lock, Lock) and not self._left and not self._away
        return self.lock.holds(host) if is_held else ()  # type: ignore[union-attr]

    def __enter__(self) -> Self:
        frame = _getframe(1)
        note = self, frame
        self._arrive()
        self.lock.acquire()
        entered[note] = frame
        return self

    def _forget(self, frame: FrameType) -> None:
        """The block in that frame is left."""
        forget(self, frame)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        lock: Any = self.lock
        hold, has_left = None, False
        try:
            self._forget(_getframe(1))
            has_left = error is not None and bool(self._left) and self._owner() in self._left
            if not has_left:
                hold = lock._hold()
                give_up(error, lambda: lock._end(hold))
        except Exception:
            raise
        except BaseException:  # Ctrl-C: whether it is released already or not, it is released now.
            self._forget(_getframe(1))
            if not has_left:
                lock._let_go(hold or lock._hold())
            raise

    def wait(self, timeout: Timeout = None) -> bool:
        """Release the lock, wait to be notified, and acquire it again. False if the time was up before that.

        Getting the lock back is not limited by the timeout.
        """
        timeout_s = deadline.seconds(timeout)
        host = self._host
        return drive.run(host, self._wait_flow(host, timeout_s))

    def wait_for(self, predicate: Callable[[], T], timeout: Timeout = None) -> T:
        """Wait until the predicate, called with the lock held, is true. Returns what it answered last."""
        until = deadline.after(deadline.seconds(timeout))
        answer = predicate()
        while not answer and (left_s := deadline.left(until)) != 0:
            self.wait(left_s)
            answer = predicate()
        return answer

    def notify(self, n: int = 1) -> None:
        """The longest waiters, at most so many, get the lock in turn, when it is released."""
        self._notify(whole(self, "n", n))

    def notify_all(self) -> None:
        """All waiters get the lock in turn, when it is released."""
        self._notify(None)

    def _notify(self, number: int | None) -> None:
        host = self._host
        host.transact(condition.notify, self._key, self.lock._guard(host), number, now())

    def _wait_flow(self, host: EmbeddedHost, timeout_s: float | None) -> Flow[bool]:
        away = object()
        self._away.add(away)
        try:
            return (yield from self._away_flow(host, timeout_s))
        finally:
            self._away.discard(away)

    def _away_flow(self, host: EmbeddedHost, timeout_s: float | None) -> Flow[bool]:
        lock: Any = self.lock
        owner = self._owner()
        guard, waiter, until = lock._guard(host), host.waiter(), deadline.after(timeout_s)
        try:
            lock._keep(None)  # Before: a thread that shares it has its own from the commit on.
            host.transact(condition.wait, self._key, guard, waiter, now())
            is_late = yield from self._stand_flow(host, waiter, until)
            yield from self._hold_again_flow(host, host.transact(condition.collect, guard, waiter))
            return not is_late
        except (NotHeld, LockLost):
            raise
        except BaseException as error:
            yield from self._come_back_flow(host, guard, waiter, owner, error)
            raise

    def _stand_flow(self, host: EmbeddedHost, waiter: Waiter, until: float | None) -> Flow[bool]:
        """Stand in line, of the condition and then of the lock, until the lock is granted. Whether it was late."""
        is_late = False
        is_granted = yield drive.Glance(waiter, deadline.left(until))
        while not is_granted and not host.read(waiters.is_granted, waiter):
            left_s = deadline.left(until)
            if left_s == 0:  # From here on it waits for the lock only, as one who was told does.
                is_late, until = host.transact(condition.time_up, self._key, waiter, now()), None
            else:
                yield Pause(waiter, drive.sooner(left_s, self.lock._due(host, waiter)))
        return is_late

    def _hold_again_flow(self, host: EmbeddedHost, granted: Any) -> Flow[None]:
        lock: Any = self.lock
        if granted is None:  # Its lease ran out since it was granted.
            yield from lock._acquire_flow(host, None)
        else:
            lock._keep(granted)

    def _come_back_flow(
        self, host: EmbeddedHost, guard: Guard, waiter: Waiter, owner: int, why: BaseException
    ) -> Flow[None]:
        """A wait that is left early has the lock again, as its caller's `with` expects. Interrupted once more, it has
        not."""
        lock: Any = self.lock
        try:
            if isinstance(why, GeneratorExit):  # Nobody is there to wait any more.
                raise why
            held = host.transact(condition.turn_back, self._key, guard, waiter, now())
            if held is PARKED:
                yield from self._stand_flow(host, waiter, None)
                held = host.transact(condition.collect, guard, waiter)
            yield from self._hold_again_flow(host, held)
        except BaseException:
            held = host.transact(condition.abandon, guard, waiter, now())
            if held is None:
                self._left.add(owner)
            else:
                lock._keep(held)
            raise

    def statistics(self) -> ConditionStatistics:
        """Who waits to be notified."""
        from .statistics import ConditionStatistics, of_condition  # Here: with them come the records of all kinds.

        waiting = self._host.read(of_condition, self.name, self._key).waiting
        return ConditionStatistics(self.name, self.lock.name, self.lock.locked(), waiting)
