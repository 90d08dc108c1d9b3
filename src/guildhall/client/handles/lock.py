"""The handle of Lock."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from sys import _getframe
from typing import TYPE_CHECKING, Any, Self

from ... import deadline
from ...deadline import Timeout, now
from ...errors import LockLost, Misuse
from ...hosts import current
from ...hosts.embedded import EmbeddedHost
from ...hosts.seats import is_about, seat_of, word_of
from ...primitives import lock
from ...primitives.condition import Guard
from ...primitives.deadlock import Hold
from ...primitives.op import BUSY, Answer
from ...store.transaction import Waiter
from .. import drive
from ..agents import entered
from ..drive import LATE, Flow
from ..hall import host_of
from .handle import Handle
from .held import _attempts, attempt_of, first_waiter, give_up, patience_s

if TYPE_CHECKING:
    from .statistics import Statistics

_handles = itertools.count(1)
LOOKS = 16
"""Who looks for a lock is told that it was let go; by itself it looks into the store once in so many times."""


class Lock(Handle):
    """A lock with one holder in the whole hall, fair, freed when its holder's process dies.

    The holder is this object: any thread of the process may release it through the object that acquired it, no other
    object may (`NotHeld`). Not reentrant: who holds it and waits for it again without a timeout gets DeadlockError, as
    does whoever else closes a circle of waits.

        with Lock("accounts"):
            ...

    `lease_s` limits how long a holder that is alive but stuck can keep the others out: when so many seconds have passed
    since the grant or the last `renew`, the longest waiter may take over. Who may be stuck calls `renew` while it gets
    on, and `ensure_held` before what must not be done twice; what lies outside the hall is guarded by `fencing_token`.
    Without a lease the lock is held until it is released or its holder dies.

        with Lock("nightly", lease_s=30) as lock:
            for part in parts:
                lock.renew()
                work_on(part)

    If you stop waiting, you leave the line, and a grant that came meanwhile goes to the next. If the holder dies, the
    longest waiter holds the lock from then on; `previous_holder_died` tells it, or `took_over` after a lease ran out.
    Threads that share the object share its grant: with a lease, give each thread an object of its own.
    """

    _kind = "lock"

    def __init__(self, name: Any = None, *, lease_s: Timeout = None, hall: Any = None, client: Any = None) -> None:
        super().__init__(name, hall=hall, client=client)
        self.lease_s = None if lease_s is None else deadline.lease(lease_s)
        self._handle = next(_handles)
        self._grant: lock.Lock | None = None
        self._was_busy = False  # When last asked for: then the next acquire looks first.
        self._seat, self._about = seat_of(self._key)

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (type(self), self.name, self.lease_s)

    def acquire(self, blocking: bool = True, timeout: Timeout = None) -> bool:
        """True when it is held, False when the time was up. `blocking=False` tries once."""
        timeout_s = None if blocking and timeout is None else self._patience_s(blocking, timeout)
        host = self._given or current.now or host_of(None)
        if host.is_far:
            return self._acquire_far(host, timeout_s)
        if host.seats[self._seat] < 0 and timeout_s != 0:
            self._let_pass(host, timeout_s)
        session = host._session if host._mark[0] else host.session  # Half a call, which here can be measured.
        attempt = -next(_attempts)
        try:
            if self._was_busy and timeout_s != 0:
                answer = self._from_seat(host, session, attempt, timeout_s)
            else:
                answer = host.transact(
                    lock.acquire, self._key, session, self._handle, attempt, None, now(), self.lease_s
                )
                if answer is BUSY and timeout_s != 0:
                    answer = self._from_seat(host, session, attempt, timeout_s)
            if answer is BUSY:  # Once is once: a flow that tries again could not give back what it then got.
                return timeout_s != 0 and drive.run(host, self._acquire_flow(host, timeout_s))
            self._grant = answer
            return True
        except Exception:
            raise
        except BaseException:  # Ctrl-C may come when it is ours already, and nobody would release it.
            host.let_go(lock.withdraw, self._key, Waiter(host.session, attempt, 0), now())
            raise

    def _acquire_far(self, host: EmbeddedHost, timeout_s: float | None) -> bool:
        """As `acquire`, in one round trip if it is free."""
        waiter = first_waiter(host, timeout_s)
        asked = waiter or Waiter(host.session, attempt_of(None), 0)
        try:
            answer = self._ask(host, waiter, asked.number)
            if isinstance(answer, Answer):
                return timeout_s != 0 and drive.run(host, self._acquire_flow(host, timeout_s, waiter))
            self._grant = answer
            return True
        except Exception:
            raise
        except BaseException:  # As above.
            host.let_go(lock.withdraw, self._key, asked, now())
            raise

    def _let_pass(self, host: EmbeddedHost, timeout_s: float | None) -> None:
        """The lock was let go for one who looks: let it have it."""
        seats, seat = host.seats, self._seat
        word = seats[seat]
        if not is_about(word, self._about):
            return
        until = now() + host.look_s(timeout_s)
        while seats[seat] == word:
            if now() >= until:
                seats[seat] = 0  # It has died, perhaps.
                return
            host.relax()

    def _from_seat(self, host: EmbeddedHost, session: int, attempt: int, timeout_s: float | None) -> Any:
        """Look for a moment, before standing in line, and take it when it is let go. Else BUSY.

        Not if there is a line, or another looks already.
        """
        seats, seat = host.seats, self._seat
        if seats[seat]:
            return BUSY
        until = now() + host.look_s(timeout_s)
        word = seats[seat] = word_of(self._about, session, attempt)
        self._was_busy = False
        try:
            for count in itertools.count():
                found = seats[seat]
                is_open = found == -word or (not count % LOOKS and host.read(lock.is_open, self._key))
                if is_open:
                    answer = host.transact(
                        lock.acquire, self._key, session, self._handle, attempt, None, now(), self.lease_s
                    )
                    if answer is not BUSY:
                        self._was_busy = count > 0
                        return answer
                    if found == -word:
                        seats[seat] = word
                elif is_open is None or found != word or now() >= until:
                    return BUSY
                host.relax()
        finally:
            if seats[seat] in (word, -word):
                seats[seat] = 0

    def _patience_s(self, blocking: bool, timeout: Timeout) -> float | None:
        return patience_s(f"lock {self.name!r:.60}", blocking, timeout)

    def _ask(self, host: EmbeddedHost, waiter: Waiter | None, number: int) -> lock.Lock | Answer:
        key = self._key
        due = (lock.next_lapse, key, waiter)
        return host.park(
            waiter, (lock.look, key), due, lock.acquire, key, host.session, self._handle, number, waiter, now(),
            self.lease_s,
        )  # fmt: skip

    def _acquire_flow(self, host: EmbeddedHost, timeout_s: float | None, parked: Waiter | None = None) -> Flow[bool]:
        key = self._key
        self._was_busy = False

        def granted(waiter: Waiter) -> Any:
            self._was_busy = True
            held = host.read_granted(waiter, lock.look, key)
            mine = held is not None and (held.session, held.grant) == (waiter.session, waiter.number)
            return held if mine else BUSY

        answer = yield from drive.waiting(
            host,
            lambda waiter: self._ask(host, waiter, attempt_of(waiter)),
            granted,
            lambda waiter: host.let_go(lock.withdraw, key, waiter, now()),
            timeout_s,
            leave=lambda waiter: host.transact(lock.leave, key, waiter),
            due=lambda waiter: self._due(host, waiter),
            is_owned=True,
            parked=parked,
        )
        if answer is LATE:
            return False
        self._grant = answer
        return True

    def _due(self, host: EmbeddedHost, waiter: Waiter) -> float | None:
        """See to it that who waits takes over when the holder's lease is over; in how many seconds to look again."""
        lapse_at = host.read_due(waiter, lock.next_lapse, self._key, waiter)
        if lapse_at is None:
            return None
        left_s = lapse_at - host.now()
        if left_s <= 0:
            host.transact(lock.lapse, self._key, now())
            host.forget_due(waiter)
        return max(0.0, left_s)

    def _guard(self, host: EmbeddedHost) -> Guard:
        """This lock and its holder, as a condition needs them."""
        return Guard(lock.LOCKS + self._key, host.session, self._handle, self.lease_s, self._grant)

    def _keep(self, grant: lock.Lock | None) -> None:
        """This object holds that grant (None: none) from now on."""
        self._grant = grant

    def _hold(self) -> lock.Lock | None:
        """What `_end` is to give up."""
        return self._grant

    def _end(self, hold: lock.Lock | None) -> None:
        Lock.release(self)

    def release(self) -> bool:
        """Give it up. Raises NotHeld (RuntimeError, ValueError) if this object does not hold it, LockLost
        (RuntimeError) if its lease ran out and another took over."""
        # Before: a thread that waits with this object has its own grant from the commit on.
        grant, self._grant = self._grant, None
        try:
            host = self._given or current.now or host_of(None)
            session = host._session if host._mark[0] else host.session
            host.transact(lock.release, self._key, session, self._handle, now(), grant, self.lease_s is not None)
            seats, seat = host.seats, self._seat
            if seats[seat] > 0:
                seats[seat] = -seats[seat]
            return True
        except Exception:
            raise
        except BaseException:  # Ctrl-C: whether it is released already or not, it is released now.
            self._let_go(grant)
            raise

    def _token(self, host: EmbeddedHost, grant: lock.Lock | None) -> int | None:
        """That of the grant, unless it is none or, in a forked child, its parent's."""
        return grant.token if grant is not None and grant.session == host.session else None

    def _let_go(self, grant: lock.Lock | None) -> None:
        """What was to be given up is, if that was interrupted."""
        if self._grant is grant:  # Ctrl-C came before the release began.
            self._grant = None
        if grant is not None:
            self._host.transact(lock.let_go, self._key, grant.token, now())

    def ensure_held(self) -> None:
        """Nothing, if this object holds the lock now. A read: for before each step that must not be done twice.

        Raises LockLost if another took over or, as the lease ran out, may at any moment (if none has, `renew` still
        succeeds); NotHeld if this object never had it or released it.
        """
        host, grant = self._host, self._grant
        held = host.read(lock.look, self._key)
        token = self._token(host, grant)
        if token is None or held is None or held.token != token:
            raise lock.refusal(self._key, held, host.session, self._handle, token)
        late_s = 0.0 if held.until is None else host.now() - held.until
        if late_s > 0:
            raise LockLost(
                f"lock {self.name!r:.60}: its lease of {self.lease_s:g} s ran out {late_s:.3f} s ago, and another may "
                "take over at any moment; renew() goes on if none has"
            )

    def renew(self) -> None:
        """The lease lasts `lease_s` from now. Raises LockLost if another took over, NotHeld if this object never had
        the lock or released it, Misuse if it has no `lease_s`."""
        if self.lease_s is None:
            raise Misuse(f"lock {self.name!r:.60}: it has no lease to renew; make it with lease_s")
        host, grant = self._host, self._grant
        token = self._token(host, grant)
        if token is None:
            raise lock.refusal(self._key, host.read(lock.look, self._key), host.session, self._handle, None)
        host.transact(lock.renew, self._key, host.session, self._handle, token, now(), self.lease_s)

    def locked(self) -> bool:
        """Whether anybody holds the lock of this name. A lease that ran out counts as free: whoever asks gets it."""
        host = self._host
        held = host.read(lock.look, self._key)
        return held is not None and not (held.until is not None and lock.has_lapsed(held, host.now()))

    @property
    def fencing_token(self) -> int | None:
        """A number that grows with every grant of any lock in the hall; None when this object does not hold it."""
        return None if self._grant is None else self._grant.token

    @property
    def previous_holder_died(self) -> bool:
        """Whether this object got the lock because its holder died."""
        return self._grant is not None and self._grant.is_inherited

    @property
    def took_over(self) -> bool:
        """Whether this object got the lock because the lease of its holder ran out."""
        return self._grant is not None and self._grant.is_taken_over

    def statistics(self) -> Statistics:
        """Who holds it and who waits, now."""
        from .statistics import of_lock  # Here: with it come the records of all kinds.

        return self._host.read(of_lock, self.name, self._key)

    def holds(self, host: EmbeddedHost) -> Iterable[Hold]:
        """What a `with` block of this object gives back."""
        grant = self._grant
        if grant is None or grant.session != host.session or not self._is_in(host):
            return ()
        return ((lock.LOCKS + self._key, grant.grant, 1),)

    def __enter__(self) -> Self:
        frame = _getframe(1)
        self.acquire()
        entered[self] = frame
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        grant = self._grant
        try:
            entered.pop(self, None)
            if error is None:
                self.release()
            else:
                give_up(error, self.release)
        except Exception:
            raise
        except BaseException:
            entered.pop(self, None)
            self._let_go(grant)
            raise


def _made(kind: type[Lock], name: Any, lease_s: float | None) -> Lock:
    return kind(name, lease_s=lease_s)
