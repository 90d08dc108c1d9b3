"""Messages that go from one process to the other, where the hall is far and each can dial the other.

The hall only introduces them (primitives/introduction.py has the invariants). Loaded by who publishes or subscribes in
a process that is a station; one that is not asks for `announced`, too, as it changes what routes say.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import repeat
from typing import Any, NamedTuple

from ... import deadline
from ...engine.local import payload
from ...errors import Broken
from ...hosts.embedded import LOOK_AGAIN_S, EmbeddedHost
from ...primitives import introduction, values
from ...primitives.introduction import MAIL, NEWS, ROUTE_S
from ...primitives.subscription import Fetched
from ...store.transaction import Waiter
from .. import drive
from ..drive import GIVE_WAY_S, Flow

Entry = tuple[int, bytes | None, bytes | None]
"""As of topic.py, which loads this file."""
FETCH = 512
"""So many relayed messages are collected at a time."""
SELDOM_S = 8.0
"""A subscription that hears nothing looks at last this seldom whether it is still there."""
_ROUTE_MARGIN_S = 0.25
"""So much sooner than the hall counts on it a route is used no more: clocks do not run quite alike."""


class Way(NamedTuple):
    """A route, as this process uses it: until then, over these channels, to subscriptions here if there are any."""

    until: float
    revision: int
    is_heard: bool
    is_here: bool
    bound: int
    channels: Sequence[Any]
    sessions: Sequence[int]


class Desk:
    """What a station knows of the topics that it publishes on and subscribes to."""

    def __init__(self, host: EmbeddedHost, office: Any) -> None:
        self.host, self.office, self.session = host, office, office.session
        self._gate = threading.RLock()  # A subscription that is collected leaves, wherever that is.
        self._boxes: dict[bytes, tuple[Box, ...]] = {}
        self._by_number: dict[int, Box] = {}
        self._ways: dict[bytes, Way] = {}
        self.sending, self._asking = threading.RLock(), threading.RLock()
        self._forgotten = 0
        """How often all routes were forgotten: one that was asked for before that is not to be used."""
        office.deliver, office.on_knock = self.deliver, self._hear

    # -- publishing ---------------------------------------------------------------------------------------------------

    def way(self, name: bytes) -> Way:
        """Where messages of the topic go now."""
        way = self._ways.get(name)
        if way is not None and deadline.now() < way.until:
            return way
        with self._asking:  # The hall takes who asks again for somebody who uses no older route.
            way = self._ways.get(name)
            return way if way is not None and deadline.now() < way.until else self._ask(name)

    def _ask(self, name: bytes) -> Way:
        while True:
            before, asked = self._forgotten, deadline.now()
            route = self.host.transact(introduction.route, name, self.session, self.host.now())
            others = [one for one in route.stations if one[0] != self.session]
            way = Way(
                asked + ROUTE_S - _ROUTE_MARGIN_S, route.revision, route.is_heard, len(others) < len(route.stations),
                route.bound, self.office.channels(others), tuple(session for session, _ in route.stations),
            )  # fmt: skip
            with self._gate:
                if self._forgotten == before:
                    self._ways[name] = way
                    return way

    def forget(self) -> None:
        """Ask anew for each route."""
        with self._gate:
            self._forgotten += 1
            self._ways.clear()

    def _hear(self, bell: int, number: int) -> None:
        if bell == NEWS:
            self.forget()
            self.office.errand(lambda: self._has_forgotten(number))
        elif bell == MAIL and (box := self._by_number.get(number)) is not None:
            self.office.errand(lambda: self.collect(box))

    def _has_forgotten(self, revision: int) -> None:
        self.host.transact(introduction.forget, self.session, revision, self.host.now())

    # -- subscribing --------------------------------------------------------------------------------------------------

    def join(self, name: bytes, member: bytes, maxlen: int) -> Box | None:
        """Subscribe. None if the topic's subscriptions belong into the hall."""
        box = Box(self, name, member, maxlen)
        with self._gate:
            self._boxes[name] = (*self._boxes.get(name, ()), box)
            self._by_number[box.mail.number] = box
        try:
            revision = self.host.transact(
                introduction.join, name, member, self.session, self.office.address, box.mail
            )  # fmt: skip
            if revision is None:
                self._remove(box)
                return None
            box.begin(revision)
            self.forget()
            announce(self.host, name)
        except BaseException:
            self.leave_soon(box)
            raise
        return box

    def leave(self, box: Box) -> None:
        """The subscription ends."""
        self._remove(box)
        box.close()
        self.host.transact(introduction.leave, box.member, box.mail)

    def leave_soon(self, box: Box) -> None:
        """As `leave`, for a finalizer."""
        self._remove(box)
        box.close()
        self.host.defer(introduction.leave, box.member, box.mail)
        self.host.hurry()

    def _remove(self, box: Box) -> None:
        with self._gate:
            self._by_number.pop(box.mail.number, None)
            rest = tuple(one for one in self._boxes.get(box.name, ()) if one is not box)
            if rest:
                self._boxes[box.name] = rest
            else:
                self._boxes.pop(box.name, None)

    def deliver(self, name: bytes, revision: int, bound: int, messages: Sequence[bytes]) -> None:
        """Messages by a route of that number, for all subscriptions of this process that were made before. So many are
        the topic's bound, for those that have none of their own."""
        count = sum(box.take_in(messages, revision, bound) for box in self._boxes.get(name, ()))
        for message in messages:
            if uses := values.uses_of(message):  # They are held once, by whoever sent it.
                self.settle_holds(uses, count - 1)

    def settle_holds(self, uses: Sequence[bytes], more: int) -> None:
        """So many readers more, or one hold less, than there are holds."""
        if more < 0:
            self.host.defer(values.release_for, self.session, uses)
        for _ in range(more):
            self.host.defer(values.hold_for, self.session, uses)

    def collect(self, box: Box) -> None:
        """Take what was relayed to the subscription."""
        while not box.is_closed:
            found: list[Fetched] = []
            self.host.transact(introduction.collect, found, box.name, box.member, FETCH, box.mail)
            if not found:
                return
            box.take_in(found[0].messages, bound=found[0].bound)


class Box(deque[Entry]):
    """The messages of one subscription that were not read yet. Whoever brings some puts them in; get takes them out.

    With `maxlen` (called `most` here, as a deque has one of its own) the oldest go when there are more, and who reads
    is told how many went.
    """

    bound = missed = 0
    answer: Sequence[Fetched] = ()
    """As of what a fetch brought (topic.py)."""

    def __init__(self, desk: Desk, name: bytes, member: bytes, most: int) -> None:
        super().__init__()
        self.desk, self.name, self.member, self.most = desk, name, member, most
        self.mail = desk.host.waiter()._replace(bell=MAIL)
        self.end = 0
        """The number of the next message."""
        self.dropped = 0
        self.is_closed = False
        self._begun: int | None = None
        self._is_own = bool(most)
        self._bound_by = 0
        self._early: list[tuple[Sequence[bytes], int, int]] = []
        self._gate = threading.RLock()
        self.rung = threading.Event()
        self.wakers: list[Callable[[], None]] = []

    def begin(self, revision: int) -> None:
        """It was made by that commit. What came before that was known is sorted out."""
        with self._gate:
            self._begun = revision
            early, self._early = self._early, []
            for messages, by, bound in early:
                if not self.take_in(messages, by, bound):
                    for message in messages:
                        self._release(message)

    def take_in(self, messages: Sequence[bytes], revision: int | None = None, bound: int = 0) -> bool:
        """Messages that came, by a route of that number or relayed. False if they are from before it was made."""
        with self._gate:
            if self.is_closed:
                return False
            if revision is not None:
                if self._begun is None:
                    self._early.append((messages, revision, bound))
                    return True
                if revision <= self._begun:
                    return False
                if revision > self._bound_by and not self._is_own:
                    self.most, self._bound_by = bound, revision
            elif not self._is_own:
                self.most = bound
            start = self.end
            self.end += len(messages)
            self.extend(zip(range(start, self.end), messages, repeat(None)))
            if self.most:
                self._drop_oldest()
        self._ring()
        return True

    def _drop_oldest(self) -> None:
        dropped = 0
        while len(self) - (self[0][1] is None) > self.most:
            number, message, _ = super().popleft()
            if message is None:
                dropped += number
            else:
                dropped += 1
                self.dropped += 1
                self._release(message)
        if dropped:
            if self[0][1] is None:
                dropped += super().popleft()[0]
            self.appendleft((dropped, None, None))

    def popleft(self) -> Entry:
        """The first one. With a bound nobody may see the next message before it is told of those that went."""
        if not self.most:
            return self._first()
        with self._gate:
            return self._first()

    def _first(self) -> Entry:
        entry: Entry = super().popleft()
        return entry

    def _release(self, message: bytes) -> None:
        if uses := values.uses_of(message):
            self.desk.settle_holds(uses, -1)

    def _ring(self) -> None:
        self.rung.set()
        while self.wakers:
            with suppress(IndexError):
                self.wakers.pop()()

    def statistics(self, topic: Any) -> Any:
        """The topic's, with what is known here."""
        with self._gate:
            lag = sum(message is not None for _, message, _ in self)
            return replace(
                topic, first=self.end - lag, end=self.end, published=self.end, kept=lag, lag=lag, dropped=self.dropped
            )

    def close(self) -> None:
        """Nothing more comes; who waits sees that."""
        with self._gate:
            self.is_closed = True
            rest = [message for _, message, _ in self if message is not None]
            rest += [message for messages, _, _ in self._early for message in messages]
            self.clear()
            for message in rest:
                self._release(message)
        self._ring()


def desk_of(host: EmbeddedHost) -> Desk | None:
    """This process's, if it is a station."""
    office = host.post_office()
    if office is None:
        return None
    if office.desk is None:
        with host.once:
            office.desk = office.desk or Desk(host, office)
    return office.desk  # type: ignore[no-any-return]


# -- announcing -------------------------------------------------------------------------------------------------------


def announce(host: EmbeddedHost, name: bytes) -> None:
    """What routes of the topic say (of all topics: an empty name) has changed: wait until everybody goes by that."""
    desk = desk_of(host)
    if desk is not None:
        desk.forget()
    drive.run(host, _announce_flow(host, name))


def _announce_flow(host: EmbeddedHost, name: bytes) -> Flow[None]:
    session = host.session

    def ask(waiter: Waiter | None) -> Any:
        return host.transact(introduction.announce, name, session, host.now(), waiter)

    yield from drive.waiting(
        host,
        ask,
        lambda waiter: None,
        lambda waiter: None,
        None,
        due=lambda waiter: host.transact(introduction.expire, name, host.now()),
    )


# -- publishing -------------------------------------------------------------------------------------------------------


def prepare(pub: Any, host: EmbeddedHost, desk: Desk, items: Sequence[Any]) -> tuple[Way, list[bytes]]:
    """Where the messages go, and they themselves, with all that they hold held for those who get them."""
    found = [payload.whole(host, item, f"topic {pub.name!r:.60}: the value") for item in items]
    way = desk.way(pub._key)
    messages = [message for message, _ in found]
    uses = [use for _, some in found for use in some]
    if uses and way.sessions:
        host.transact(introduction.hand_over, way.sessions, uses)
    return way, messages


def relay(host: EmbeddedHost, name: bytes) -> bytes:
    """What is to be published for those whom this process cannot dial: b"" if it can."""
    return introduction.relay_of(name) if host.post_office() is None else b""


def expect_unused(host: EmbeddedHost, name: bytes) -> None:
    """Raises Misuse while anybody subscribes to the topic elsewhere than in the hall."""
    host.read(introduction.expect_unused, name)


def send(pub: Any, desk: Desk, way: Way, messages: Sequence[bytes]) -> None:
    """To all of them, in one order."""
    with desk.sending:
        if way.channels:
            desk.office.send(way.channels, (pub._key, way.revision, way.bound, messages))
        if way.is_here:
            desk.deliver(pub._key, way.revision, way.bound, messages)


# -- reading ----------------------------------------------------------------------------------------------------------


def next_entry(sub: Any, host: EmbeddedHost, box: Box, timeout_s: float | None) -> Entry:
    """The next message, or that some were dropped. Threads that share the subscription stand behind each other."""
    until = deadline.after(timeout_s)
    left_s = deadline.left(until)
    if not sub._turn.acquire(timeout=-1 if left_s is None else min(left_s, threading.TIMEOUT_MAX)):
        raise sub._late(timeout_s or 0.0)
    try:
        return _next(sub, host, box, until, timeout_s)
    finally:
        sub._turn.release()


def _next(sub: Any, host: EmbeddedHost, box: Box, until: float | None, timeout_s: float | None) -> Entry:
    pause_s, go_on = GIVE_WAY_S, None
    try:
        while True:
            box.rung.clear()
            with suppress(IndexError):
                return box.popleft()
            left_s = expect_more(sub, host, box, until, timeout_s)
            if not box.rung.wait(drive.sooner(pause_s, left_s)):
                if go_on is None and host.give_way is not None:
                    go_on = host.give_way()
                pause_s = look(box, pause_s)
    finally:
        if go_on is not None:
            go_on()


async def anext_entry(sub: Any, host: EmbeddedHost, box: Box, timeout_s: float | None) -> Entry:
    """As `next_entry`, for a coroutine."""
    import asyncio

    loop, rung = asyncio.get_running_loop(), asyncio.Event()
    until, pause_s = deadline.after(timeout_s), LOOK_AGAIN_S

    def wake() -> None:
        with suppress(RuntimeError):  # The loop has ended.
            loop.call_soon_threadsafe(rung.set)

    box.wakers.append(wake)
    try:
        while True:
            rung.clear()
            if wake not in box.wakers:
                box.wakers.append(wake)
            with suppress(IndexError):
                return box.popleft()
            left_s = expect_more(sub, host, box, until, timeout_s)
            try:
                await asyncio.wait_for(rung.wait(), drive.sooner(pause_s, left_s))
            except TimeoutError:
                pause_s = look(box, pause_s)
    finally:
        with suppress(ValueError):
            box.wakers.remove(wake)


def look(box: Box, pause_s: float) -> float:
    """Nothing came for so long: ask the hall whether it is still there. How long to wait the next time."""
    if pause_s >= LOOK_AGAIN_S:
        box.desk.office.errand(lambda: box.desk.collect(box))
        return min(2 * pause_s, SELDOM_S)
    return LOOK_AGAIN_S


def expect_more(sub: Any, host: EmbeddedHost, box: Box, until: float | None, timeout_s: float | None) -> float | None:
    """How long may be waited for a message. Raises TimedOut if the time is up, Misuse if the subscription was closed,
    Broken if the hall has counted this process as dead."""
    left_s = deadline.left(until)
    if left_s == 0:
        raise sub._late(timeout_s or 0.0)
    if not sub._is_open:
        raise sub._closed()
    if host.session != box.desk.session:
        raise Broken(
            f"subscription to {sub.name!r:.60}: session {box.desk.session} was counted as dead while it waited; "
            "messages may be missing: get again, from now on"
        )
    return left_s
