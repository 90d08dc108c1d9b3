"""The handle of MultiLock."""

from __future__ import annotations

from collections.abc import Iterable
from sys import _getframe
from typing import TYPE_CHECKING, Any, Self

from ... import deadline
from ...deadline import Timeout
from ...errors import Misuse, NotHeld, WrongType
from ...hosts import current
from ...hosts.embedded import EmbeddedHost
from ...primitives import multilock
from ...primitives.deadlock import Hold
from ...primitives.op import BUSY, Answer
from ...store.keys import name_of
from ...store.transaction import Waiter
from ..agents import entered
from ..hall import host_of, packed
from .held import Held, give_up, patience_s

if TYPE_CHECKING:
    from .statistics import Statistics


class MultiLock(Held):
    """Several names at once: all of them, or any `num_locks` of them; never a part.

        with MultiLock(["left fork", "right fork"]):
            ...
        with MultiLock(["gpu 0", "gpu 1", "gpu 2"], num_locks=2) as lock:
            use(lock.held)

    The names are granted in one step, so crossing orders cannot block each other. Fair: a request waits for who holds
    one of its names, and for earlier requests that share a name with it; a later one never overtakes it. The price: a
    free name that an earlier request waits for is not given to a later one. Names of MultiLocks are apart from those of
    Locks. The holder is this object; not re-entrant.

    If you stop waiting, you leave all lines. If the holder dies, its names are free at once, and go to who waits.
    """

    _kind = "multilock"

    def __init__(
        self, names: Iterable[Any] = (), num_locks: int | None = None, *, hall: Any = None, client: Any = None
    ) -> None:
        if isinstance(names, str | bytes) or not isinstance(names, Iterable):
            raise WrongType(f"multilock: names: expected a list of names, got {type(names).__name__} {names!r:.60}")
        given = [tuple(name) if isinstance(name, list) else name for name in names]
        if not given:
            raise Misuse("multilock: no names given; expected at least one")
        self._keys = tuple(packed(self._kind, name) for name in given)
        if len(set(self._keys)) < len(given):
            twice = next(name for place, name in enumerate(given) if self._keys.index(self._keys[place]) < place)
            raise Misuse(f"multilock: name {twice!r:.60} is given twice; give each once")
        super().__init__(hall=hall, client=client)
        self.names = given
        self.num_locks = self._count(num_locks)
        self._grant: multilock.Grant | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.names, self.num_locks)

    def _count(self, num_locks: int | None) -> int:
        if num_locks is None:
            return len(self.names)
        if isinstance(num_locks, bool) or not isinstance(num_locks, int):
            raise WrongType(f"multilock: num_locks: expected a whole number or None (all), got {num_locks!r:.30}")
        if not 1 <= num_locks <= len(self.names):
            raise Misuse(f"multilock: num_locks {num_locks}: expected 1 to {len(self.names)}, the number of names")
        return num_locks

    def acquire(self, blocking: bool = True, timeout: Timeout = None, num_locks: int | None = None) -> bool:
        """True when the names are held, False when the time was up: then none is. `blocking=False` tries once.

        `num_locks` asks for another number of names than the object was made with. Raises Misuse (ValueError) if this
        object holds already.
        """
        count, timeout_s = self._terms(blocking, timeout, num_locks)
        return self._take(count, timeout_s)  # Not `*terms`: after such a call Ctrl-C may come when it is held already.

    def _terms(self, blocking: bool, timeout: Timeout, num_locks: int | None) -> tuple[int, float | None]:
        count = self.num_locks if num_locks is None else self._count(num_locks)
        timeout_s = patience_s(f"multilock {self.names!r:.60}", blocking, timeout)
        self._refuse_twice()
        return count, timeout_s

    def _refuse_twice(self) -> None:
        if self._grant is not None:
            raise Misuse(f"multilock {self.names!r:.60}: this object holds it already; release it, or make another one")

    def _ask(self, host: EmbeddedHost, want: int, number: int, waiter: Waiter | None) -> Any:
        answer = host.transact(multilock.acquire, self._keys, want, host.session, number, deadline.now(), waiter)
        if not isinstance(answer, Answer):
            self._grant = answer
        return answer

    def _granted(self, host: EmbeddedHost, want: int, waiter: Waiter) -> Any:
        got = host.read(multilock.granted, self._keys, waiter)
        if got is None:
            return BUSY
        self._grant = got
        return True

    def _undo(self, host: EmbeddedHost, want: int, waiter: Waiter) -> None:
        grant = self._grant
        if grant is not None and (grant.held.session, grant.held.grant) == (waiter.session, waiter.number):
            self._grant = None
        host.let_go(multilock.withdraw, self._keys, waiter, deadline.now())

    def _leave(self, host: EmbeddedHost, want: int, waiter: Waiter) -> bool:
        return host.transact(multilock.leave, waiter, deadline.now())

    def release(self) -> bool:
        """Give all up. Raises NotHeld (ValueError, RuntimeError) if this object does not hold."""
        grant, self._grant = self._grant, None
        try:
            if grant is None or not self._let_go(grant):
                raise NotHeld(
                    f"multilock {self.names!r:.60}: released too often, or by another than its holder; "
                    "release it through the object that acquired it, once"
                )
            return True
        except Exception:
            raise
        except BaseException:  # Ctrl-C: whether it is released already or not, it is released now.
            if grant is not None:
                self._let_go(grant)
            raise

    def _let_go(self, grant: multilock.Grant) -> bool:
        host = self._given or current.now or host_of(None)
        return host.transact(multilock.release, grant.names, host.session, grant.held.grant, deadline.now())

    def locked(self) -> bool:
        """Whether this object holds."""
        return self._grant is not None

    @property
    def held(self) -> tuple[Any, ...]:
        """The names that this object holds, in the order they were given."""
        return () if self._grant is None else tuple(name_of(name) for name in self._grant.names)

    @property
    def fencing_token(self) -> int | None:
        """A number that grows with every grant in the hall; None when this object does not hold."""
        return None if self._grant is None else self._grant.held.token

    @property
    def previous_holder_died(self) -> bool:
        """Whether this object got the names because a holder died."""
        return self._grant is not None and self._grant.held.is_inherited

    def statistics(self) -> Statistics:
        """Who holds any of the names and who waits for any, now."""
        from .statistics import of_multilock  # Here: with it come the records of all kinds.

        return self._host.read(of_multilock, tuple(self.names), self._keys)

    def holds(self, host: EmbeddedHost) -> Iterable[Hold]:
        """What a `with` block of this object gives back."""
        grant = self._grant
        if grant is None or grant.held.session != host.session or not self._is_in(host):
            return ()
        return [(multilock.MULTILOCKS + name, grant.held.grant, 1) for name in grant.names]

    def __enter__(self) -> Self:
        frame = _getframe(1)
        self._refuse_twice()
        self._take(self.num_locks, None)
        entered[self] = frame
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        grant = self._grant
        try:
            entered.pop(self, None)
            give_up(error, self.release)
        except Exception:
            raise
        except BaseException:
            entered.pop(self, None)
            if grant is not None:
                self._grant = None
                self._let_go(grant)
            raise
