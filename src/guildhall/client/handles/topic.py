"""The handles of topics: Pub and Sub."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from itertools import repeat
from typing import TYPE_CHECKING, Any, Self

from ... import deadline
from ...deadline import Timeout
from ...engine.local import payload
from ...errors import GuildhallError, Lagged, Misuse, TimedOut, WrongType
from ...hosts import current
from ...hosts.embedded import EmbeddedHost
from ...primitives import pattern, subscription, topic, values, waiters
from ...primitives.op import BUSY
from ...primitives.subscription import BLOCK, DROP, DURABLE_MAXLEN, FREE, OLDEST, Fetched
from ...store.keys import name_of
from ...store.transaction import Waiter
from .. import drive
from ..drive import LATE, Flow
from ..hall import host_of, packed
from .handle import Handle

if TYPE_CHECKING:
    from types import ModuleType

    from .statistics import TopicStatistics

Start = int | str | timedelta | None
Entry = tuple[int, bytes | None, bytes | None]
"""A message on its way to the user: its number, itself, and where it was published if that is not the topic. Without a
message, the number says how many were dropped here."""
Stored = tuple[bytes, tuple[bytes, ...]]

_MAX = 1 << 48
_wall = deadline.wall
_POLICIES = {"drop-oldest": DROP, "block": BLOCK}


class Pub(Handle):
    """Publishes on a topic: everybody who subscribed before gets the message, in one order.

        Pub("prices", maxlen=100).put(3.5)

    `maxlen=n` bounds the topic: its last n messages are kept, also when nobody subscribes, for `Sub(start=...)`; and a
    subscription that asks for no bound of its own has this one, with `policy` "drop-oldest" (the default) or "block",
    as `Sub` tells. `keep=n`: so many are kept, bound or not. These are settings of the topic: the newest ones given
    count, and 0 ends them. Patterns have only the bounds that they ask for.

    `put` waits for nobody, except for subscribers with policy "block" that are full: then publishers stand in one line.
    If you stop waiting, nothing was published. If the publisher dies, what it had published stays.
    Work to be done once, by one taker, belongs into a `Queue`.
    """

    _kind = "topic"

    def __init__(
        self,
        name: Any = None,
        keep: int | None = None,
        *,
        maxlen: int | None = None,
        policy: str | None = None,
        hall: Any = None,
        client: Any = None,
    ) -> None:
        super().__init__(name, hall=hall, client=client)
        if pattern.shape_of(self._key):
            raise Misuse(f"topic {self.name!r:.60}: a pattern, which only a Sub takes; publish on one topic of it")
        self._options = {"keep": keep, "maxlen": maxlen, "policy": policy}
        """Settings that the topic was not given yet."""
        self._settings = self._checked(keep, maxlen, policy)
        if self._settings is not None and (self._given or current.now or os.environ.get("GUILDHALL")):
            self._set_up(self._host)

    def _checked(self, keep: Any, maxlen: Any, policy: Any) -> tuple[int | None, tuple[int, int] | None] | None:
        bound = None
        if maxlen is not None:
            policy_number = _policy(self, policy) if policy is not None else DROP
            bound = (policy_number, maxlen) if _number(self, "maxlen", maxlen, 0) else (FREE, 0)
        elif policy is not None:
            raise _unbounded(self, policy)
        if keep is not None:
            keep = _number(self, "keep", keep, 0)
        elif maxlen is not None:
            keep = maxlen
        return None if keep is None else (keep, bound)

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (type(self), self.name, self._options)

    def _set_up(self, host: EmbeddedHost) -> None:
        if self._settings is not None:
            host.transact(subscription.configure, self._key, *self._settings)
            if host.is_far:
                _direct().announce(host, self._key)
            self._settings, self._options = None, {}

    def put(self, value: Any, timeout: Timeout = None) -> None:
        """Publish a message, any value that pickles. Raises TimedOut if subscribers stayed full; then it was not."""
        timeout_s = None if timeout is None else deadline.seconds(timeout)
        host = self._given or current.now or host_of(None)
        if host.is_far:
            self._put_far(host, [value], timeout_s)
            return
        stored, spent = self._store(host, value)
        try:
            if self._settings is not None:
                self._set_up(host)
            if host.transact(topic.publish, self._key, (stored,), _wall(), None) is BUSY:
                drive.run(host, self._put_flow(host, (stored,), timeout_s))
        finally:
            if spent:
                host.defer(values.release_for, host.session, spent)

    def put_many(self, items: Iterable[Any], timeout: Timeout = None) -> None:
        """Publish several messages in one step: no other comes between them, and all of them are published or none.

        A subscriber that blocks must have room for all, or have read everything.
        """
        timeout_s = None if timeout is None else deadline.seconds(timeout)
        host = self._given or current.now or host_of(None)
        items = list(items)  # Futures that only a generator made hold their results until the topic does.
        if host.is_far:
            self._put_far(host, items, timeout_s)
        else:
            self._put_in_hall(host, items, timeout_s)

    def _put_far(self, host: EmbeddedHost, items: list[Any], timeout_s: float | None) -> None:
        """To those who subscribe in other processes, without the hall if both can be dialled; it has the others."""
        desk = _direct().desk_of(host)
        if not items or desk is None:
            self._put_in_hall(host, items, timeout_s)
            return
        if self._settings is not None:
            self._set_up(host)
        way, messages = _direct().prepare(self, host, desk, items)
        if way.is_heard:  # First, as it may block: then nothing was published.
            self._put_in_hall(host, items, timeout_s)
        if way.channels:
            desk.office.await_room(way.channels)
        _direct().send(self, desk, way, messages)

    def _put_in_hall(self, host: EmbeddedHost, items: list[Any], timeout_s: float | None) -> None:
        kept: list[Stored] = []
        try:
            kept.extend(self._store(host, value) for value in items)
            messages = [stored for stored, _ in kept]
            if messages and self._publish(host, messages, None) is BUSY:
                drive.run(host, self._put_flow(host, messages, timeout_s))
        finally:
            self._let_go(host, kept)

    def _let_go(self, host: EmbeddedHost, kept: list[Stored]) -> None:
        if spent := tuple(oid for _, some in kept for oid in some):
            host.defer(values.release_for, host.session, spent)

    def _publish(self, host: EmbeddedHost, messages: Sequence[bytes], waiter: Waiter | None) -> Any:
        if self._settings is not None:
            self._set_up(host)
        if host.is_far:
            return host.transact(topic.publish, self._key, messages, _wall(), waiter, _direct().relay(host, self._key))
        return host.transact(topic.publish, self._key, messages, _wall(), waiter)

    def _put_flow(self, host: EmbeddedHost, messages: Sequence[bytes], timeout_s: float | None) -> Flow[None]:
        answer = yield from drive.waiting(
            host,
            lambda waiter: self._publish(host, messages, waiter),
            lambda waiter: True,
            lambda waiter: host.let_go(topic.withdraw, self._key, waiter, messages),
            timeout_s,
            leave=lambda waiter: host.transact(topic.withdraw, self._key, waiter, messages),
        )
        if answer is LATE:
            raise TimedOut(f"topic {self.name!r:.60}: a subscriber was still full after {timeout_s:g} s")

    def delete(self) -> None:
        """Leave nothing of the topic, its settings and what it keeps. Raises Misuse while anybody subscribes to it."""
        host = self._host
        if host.is_far:
            _direct().expect_unused(host, self._key)
        host.transact(subscription.delete, self._key)

    def statistics(self) -> TopicStatistics:
        """The topic at this moment."""
        from .statistics import of_topic  # Here: with it come the records of all kinds.

        return self._host.read(of_topic, self.name, self._key)


class _Arrivals(deque[Entry]):
    """Messages of one fetch that were not read yet."""

    at = 0
    """The number of the message behind them."""
    missed = 0
    """How many were dropped here without telling."""
    bound = 0
    """How many of the topic's last messages are still to be read; 0: all."""
    answer: Sequence[Fetched] = ()
    """What they came in."""


class Sub(Handle):
    """Subscribes to a topic: gets every message published from its making on, in order. Its own endless iterator.

        with Sub("prices", start="oldest") as prices:
            for price in prices:
                ...

    `start`: None for what comes, "oldest" for all that the topic keeps (`Pub(keep=n)`), a message's number (as `seq`
    tells it), a negative one for so many before the end, or a duration (a timedelta, or text such as "10s") for what
    was published since then, while the topic kept history.

    `maxlen=n` bounds what waits in the hall for this subscription; without it the topic's bound does, if it has one
    (`Pub(maxlen=n)`). With policy "drop-oldest" (the default) only the newest n unread messages stay: `get` raises
    `Lagged` once, whose `n` says how many went, and goes on behind them. With "block" publishers wait while n are
    unread; with 32 or more, up to n / 16 more may be on their way to `get` in this process.

    `subscription="name"` makes a durable one: it stays where it is when its processes are gone, and goes on there with
    the next Sub of that name; several share it, each message goes to one of them. A message is done when its Sub asks
    for the next one or is closed, and comes again if the process dies before, so it comes at least once. As it may
    never be read again it has a bound, 10 000 messages unless told otherwise, and while no process has it open it drops
    the oldest, also with "block". `start` is for its making only. `unsubscribe` ends it.

    A name such as "jobs.*" or "jobs.>" is a pattern: `*` stands for one segment between dots, `>` at the end for one or
    more. It hears all topics that fit, also those that come later, each message in one order for each topic and
    publisher; `topic` says where the last one was published. It takes neither `start` nor "block".

    If you stop waiting, nothing is taken; Ctrl-C may lose the message that `get` had in hand, and nothing else (a
    durable subscription gives it again; the memory of a large one comes back when this process ends). If the process
    dies, its subscription goes and holds no memory; a durable one stays, within its bound. A forked child gets a
    subscription of its own when it uses the object, from then on. Threads may share a Sub: each message goes to one of
    them; one that is durable should be opened once for each thread. Messages are numbered from 0 as long as anybody
    subscribes or the topic has settings, and then anew.
    """

    _kind = "topic"
    _FETCH = 512
    _box: Any = None
    """Where messages come from other processes, if they do not come from the hall."""

    def __init__(
        self,
        name: Any = None,
        *,
        start: Start = None,
        maxlen: int | None = None,
        policy: str | None = None,
        subscription: str | None = None,
        hall: Any = None,
        client: Any = None,
    ) -> None:
        super().__init__(name, hall=hall, client=client)
        self._options = {"start": start, "maxlen": maxlen, "policy": policy, "subscription": subscription}
        self._is_pattern = bool(pattern.shape_of(self._key))
        self._start = self._checked_start(start)
        self._maxlen, self._policy = self._checked_bound(maxlen, policy, subscription)
        self._durable = b"" if subscription is None else self._checked_subscription(subscription)
        self._limit = 1 if self._durable else self._FETCH
        self.seq: int | None = None
        """The number of the message that `get` returned last."""
        self.topic: Any = None if self._is_pattern else self.name
        """Where that was published."""
        host = self._given = self._host
        self._subscribe(host, self._start)

    def _checked_start(self, start: Any) -> int | float | str | None:
        what = f"topic {self.name!r:.60}: start {start!r:.60}"
        if start is not None and self._is_pattern:
            raise Misuse(f"{what}: a pattern keeps no history; give it to a Sub of one topic")
        if start is None or start == OLDEST:
            return start  # type: ignore[no-any-return]
        if isinstance(start, int) and not isinstance(start, bool):
            if abs(start) >= _MAX:
                raise Misuse(f"{what}: expected the number of a message")
            return start
        if not isinstance(start, str | timedelta):
            raise WrongType(f"{what}: expected None, 'oldest', a number, a timedelta or text such as '10s'")
        try:
            ago_s = deadline.seconds(start)
        except ValueError:
            raise Misuse(f"{what}: expected None, 'oldest', a number, or a time such as '10s'") from None
        return OLDEST if ago_s is None else _wall() - ago_s

    def _checked_bound(self, maxlen: Any, policy: Any, name: Any) -> tuple[int, int]:
        what = f"topic {self.name!r:.60}"
        number = DROP if policy is None else _policy(self, policy)
        if policy == "block" and self._is_pattern:
            raise Misuse(f"{what}: a pattern cannot block publishers; use policy 'drop-oldest', or a Sub of one topic")
        if maxlen is None:
            if policy is not None and name is None:
                raise _unbounded(self, policy)
            return (DURABLE_MAXLEN, number) if policy else (0, FREE)
        return _number(self, "maxlen", maxlen, 1), number

    def _checked_subscription(self, name: Any) -> bytes:
        if not isinstance(name, str) or not name:
            raise WrongType(f"topic {self.name!r:.60}: subscription {name!r:.60}: expected a name, as text")
        found = packed("subscription", name)
        if len(found) + len(self._key) > 440:
            raise Misuse(f"topic {self.name!r:.60}: subscription {name!r:.60}: too long together; use shorter names")
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (type(self), self.name, self._options)

    def _subscribe(self, host: EmbeddedHost, start: int | float | str | None) -> None:
        session, member = host.session, host.new_object()
        if host.is_far and self._join(host, session, member):
            return
        fetched, name = _Arrivals(), self._durable or member
        try:
            fetched.at = host.transact(
                subscription.subscribe, self._key, member, name, start, self._policy, self._maxlen
            )
            self._member, self._id = member, name
            self._turn = threading.RLock()
            """Held by the thread that fetches, also while it waits."""
            self._fetched = fetched
            self._answer: list[Fetched] = []
            """What the newest fetch brought, taken or not: see `_mend`."""
            self._had: int | None = None
            self._is_open = True
            self._session = session  # Last: other threads take it for a subscription that may be used.
            if host.is_far:
                _direct().announce(host, b"" if self._is_pattern else self._key)
        except BaseException:  # Ctrl-C may come behind the commit.
            host.defer(subscription.leave, member)
            raise

    def _join(self, host: EmbeddedHost, session: int, member: bytes) -> bool:
        """Subscribe to what other processes send, if this one can be dialled and nothing needs the hall: what is kept
        or may block, several topics, several readers."""
        self._box = None
        if self._durable or self._is_pattern or self._start is not None or self._policy == BLOCK:
            return False
        desk = _direct().desk_of(host)
        box = None if desk is None else desk.join(self._key, member, self._maxlen)
        if box is None:
            return False
        self._member = self._id = member
        self._turn = threading.RLock()
        self._box = self._fetched = box
        self._answer, self._had = [], None
        self._is_open = True
        self._session = session
        return True

    def _subscribe_anew(self, host: EmbeddedHost) -> None:
        """In a forked child, where several threads may find out at once."""
        with host.once:
            if self._session != host.session:
                self._subscribe(host, None)

    def _opened(self) -> EmbeddedHost:
        """The hall, sure that the subscription is ours: a forked child gets one of its own, from now on."""
        host = self._given or current.now or host_of(None)
        if not self._is_open:
            raise self._closed()
        if self._session != host.session:
            self._subscribe_anew(host)
        return host

    def _closed(self) -> Misuse:
        return Misuse(f"subscription to {self.name!r:.60}: it is closed; make another Sub")

    # -- getting ------------------------------------------------------------------------------------------------------

    def get(self, timeout: Timeout = None) -> Any:
        """The next message; waits for one. Raises TimedOut, and Lagged where messages were dropped.

        Threads that share the subscription get each message once: one of them fetches, the others wait behind it.
        """
        timeout_s = None if timeout is None else deadline.seconds(timeout)
        host = self._opened()
        if self._fetched.bound and self._fetched:
            self._drop_stale(host)
        try:
            entry = self._fetched.popleft()
        except IndexError:
            entry = self._await_entry(host, timeout_s)
        return self._given_out(host, entry)

    def _given_out(self, host: EmbeddedHost, entry: Entry) -> Any:
        number, message, source = entry
        if message is None:
            raise Lagged(number, f"subscription to {self.name!r:.60}")
        try:
            value = payload.unpack(host, message)
        except Exception:  # What cannot be read is done, too: it would not be better the next time.
            self.seq = self._had = number
            raise
        if source is not None:
            self.topic = name_of(source)
        self.seq = self._had = number  # Last: a message that Ctrl-C kept from the user was not had.
        return value

    def _await_entry(self, host: EmbeddedHost, timeout_s: float | None) -> Entry:
        if self._box is not None:
            entry: Entry = _direct().next_entry(self, host, self._box, timeout_s)
            return entry
        until = deadline.after(timeout_s)
        while True:
            left_s = deadline.left(until)
            try:  # Ctrl-C right behind the acquire must not keep the turn.
                if not self._turn.acquire(timeout=-1 if left_s is None else min(left_s, threading.TIMEOUT_MAX)):
                    raise self._late(timeout_s)
                if not self._fetched:
                    # Nobody is ahead of us here: to look before standing in line is fair, and costs no commit.
                    if not host.read(subscription.has_news, self._key, self._id):
                        host.look(left_s, subscription.has_news, self._key, self._id)
                    if self._fetch(host, None) is BUSY and not drive.run(
                        host, self._fetch_flow(host, deadline.left(until))
                    ):
                        raise self._late(timeout_s)
            finally:
                try:  # noqa: SIM105 (after `suppress()`, Ctrl-C may come before the release)
                    self._turn.release()
                except RuntimeError:  # It was never taken.
                    pass
            with suppress(IndexError):
                return self._fetched.popleft()

    def _fetch_flow(self, host: EmbeddedHost, timeout_s: float | None) -> Flow[bool]:
        """Fetch what there is. False if nothing came in time."""
        answer = yield from drive.waiting(
            host,
            lambda waiter: self._fetch(host, waiter),
            lambda waiter: self._fetch(host, None),
            lambda waiter: host.let_go(waiters.withdraw, waiter),
            timeout_s,
        )
        return answer is not LATE

    def _fetch(self, host: EmbeddedHost, waiter: Waiter | None) -> Any:
        """Fetch what there is, if anything; else stand in line."""
        with self._turn:
            if self._fetched or (self._answer and self._mend(host)):
                return True
            answer: list[Fetched] = []
            self._answer = answer
            outcome = host.transact(
                subscription.fetch_into, answer, self._key, self._member, self._id, self._limit, host.session, waiter,
                self._had,
            )  # fmt: skip
            if outcome is None:
                self._is_open = False
                raise self._closed()
            if answer:
                self._take(answer)
                if not self._is_open:  # Closed by another thread, behind the commit.
                    self._release_fetched(host)
            return outcome

    def _take(self, answer: list[Fetched]) -> None:
        """What was fetched is ours from one step to the next: Ctrl-C comes before it, or behind."""
        start, messages, sources, lagged, bound = answer[0]
        arrivals, lagged = _Arrivals(), lagged + self._fetched.missed
        arrivals.at, arrivals.bound, arrivals.answer = start + len(messages), bound, answer
        if lagged:
            arrivals.append((lagged, None, None))
        arrivals.extend(zip(range(start, arrivals.at), messages, sources or repeat(None)))
        self._fetched = arrivals
        answer.clear()

    def _mend(self, host: EmbeddedHost) -> bool:
        """Take what the newest fetch brought if Ctrl-C came between the commit and the taking: the cursor has passed
        it, and nobody would bring it again. Whether there is something to read."""
        answer = self._answer
        if answer is not self._fetched.answer and host.read(
            subscription.has_given, self._key, self._member, self._id, answer[0]
        ):
            self._take(answer)
            if self._fetched.bound:  # It was fetched by a call before.
                self._drop_stale(host)
        answer.clear()
        return bool(self._fetched)

    def _drop_stale(self, host: EmbeddedHost) -> None:
        """Drop what was fetched and is no longer one of the last maxlen messages."""
        fetched = self._fetched
        floor = host.read(topic.end_of, self._key) - fetched.bound
        if floor <= fetched.at - len(fetched):
            return
        stale: list[bytes] = []
        try:
            if self._turn.acquire(blocking=False):
                self._drop_below(floor, stale)
        finally:
            try:  # noqa: SIM105 (as in `_await_entry`)
                self._turn.release()
            except RuntimeError:
                pass
            self._release(host, stale)

    def _drop_below(self, floor: int, stale: list[bytes]) -> None:
        fetched = self._fetched
        with suppress(IndexError):  # Others that share the subscription take from it meanwhile.
            while True:
                number, message, source = fetched.popleft()
                if message is None:
                    fetched.missed += number
                elif number < floor:
                    fetched.missed += 1
                    stale.append(message)
                else:
                    fetched.appendleft((number, message, source))
                    break
        if fetched and fetched.missed:
            missed, fetched.missed = fetched.missed, 0
            fetched.appendleft((missed, None, None))

    def _release(self, host: EmbeddedHost, messages: Iterable[bytes]) -> None:
        """Give back what messages hold that nobody will read."""
        if uses := tuple(use for message in messages for use in values.uses_of(message)):
            host.defer(values.release_for, self._session, uses)

    def next(self, timeout: Timeout = None) -> Any:
        """The next message, as `get`."""
        return self.get(timeout)

    def __next__(self) -> Any:
        try:
            return self.get()
        except Misuse:
            if self._is_open:
                raise
            raise StopIteration from None

    def __iter__(self) -> Iterator[Any]:
        return self

    # -- leaving ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Leave: the subscription ends, a durable one stays where it is. Who waits with this object or iterates ends.

        What `get` returned last is done. Twice is once.
        """
        self._leave(is_done=True)

    def unsubscribe(self) -> None:
        """Close, and end the durable subscription for everybody who shares it."""
        host = self._given or current.now or host_of(None)
        self.close()
        if self._durable:
            host.transact(subscription.end, self._key, self._id)

    def _leave(self, is_done: bool) -> None:
        if not self._is_open:
            return
        host = self._host
        try:
            self._is_open = False
            with suppress(Misuse):  # The hall is closed: then this is done.
                if self._session == host.session and self._box is not None:
                    self._box.desk.leave(self._box)
                elif self._session == host.session:  # In a forked child it is the parent's.
                    host.transact(subscription.leave, self._member, self._had if is_done else None, True)
                    self._release_fetched(host)
        except BaseException:  # Interrupted, or no room: to be closed again.
            self._is_open = True
            raise

    def _release_fetched(self, host: EmbeddedHost) -> None:
        fetched, self._fetched = self._fetched, _Arrivals()
        self._release(host, (message for _, message, _ in fetched if message is not None))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        self._leave(is_done=kind is None)  # After an error the message at hand was not done: it comes again.

    def __del__(self) -> None:
        if getattr(self, "_is_open", False) and _Arrivals is not None:  # As the interpreter ends, globals are None.
            host = self._host
            if self._session == host._session:  # In a forked child it is the parent's; what was deferred too, there.
                if self._box is not None:
                    self._box.desk.leave_soon(self._box)
                    return
                self._release_fetched(host)
                host.defer(subscription.leave, self._member)
                host.hurry()

    def statistics(self) -> TopicStatistics:
        """The topic at this moment, and how many messages this subscription has before it."""
        from .statistics import of_topic  # Here: with it come the records of all kinds.

        host = self._opened()
        if self._box is not None:
            found: TopicStatistics = self._box.statistics(host.read(of_topic, self.name, self._key))
            return found
        unread = host.read(subscription.unread, self._key, self._id)
        lag = unread + sum(message is not None for _, message, _ in list(self._fetched))
        return host.read(of_topic, self.name, self._key, lag)


def _direct() -> ModuleType:
    """Here: a process needs it only where the hall is far."""
    from . import direct

    return direct


def _made(kind: type[Handle], name: Any, options: dict[str, Any]) -> Handle:
    """A handle that arrived in a pickle: a Sub subscribes anew, where it is."""
    return kind(name, **options)


def _policy(handle: Handle, given: Any) -> int:
    if not isinstance(given, str) or given not in _POLICIES:
        kind = Misuse if isinstance(given, str) else WrongType
        raise kind(f"topic {handle.name!r:.60}: policy {given!r:.60}: expected 'drop-oldest' or 'block'")
    return _POLICIES[given]


def _unbounded(handle: Handle, policy: Any) -> GuildhallError:
    _policy(handle, policy)
    return Misuse(f"topic {handle.name!r:.60}: policy {policy!r} needs a bound; give maxlen=n too")


def _number(handle: Handle, what: str, given: Any, least: int) -> int:
    if isinstance(given, bool) or not isinstance(given, int):
        raise WrongType(f"topic {handle.name!r:.60}: {what}: expected a whole number, got {given!r:.60}")
    if not least <= given < _MAX:
        raise Misuse(f"topic {handle.name!r:.60}: {what} {given!r:.30}: expected {least} to 2**48 - 1")
    return given
